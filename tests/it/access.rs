//! How a worker comes to its credentials and to S3: secrets with a line break, files that are rewritten, proxies.

use std::{
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use bucket_brigade::job::{Lane, State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    cli::text,
    logs::until_said,
    process::WorkerProcess,
    stage::{self, Stage, eventually},
    tls::Authority,
};

/// `brigade` with nothing but these variables.
fn brigade(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brigade"))
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn values_that_can_be_no_header_and_no_url_end_every_command_with_64() {
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "AK\nID"),
        ("AWS_REGION", "eu\ncentral-1"),
        ("AWS_ENDPOINT_URL_S3", "minio:9000"),
        ("DATABASE_URL", "sqlite://led\nger.db"),
    ] {
        for arguments in [&["config", "check"][..], &["doctor"], &["worker"]] {
            let ended = brigade(&[(name, value)], arguments);
            let said = text(&ended.stderr);
            assert_eq!(ended.status.code(), Some(64), "{arguments:?}: {said}");
            assert!(said.contains(name), "{arguments:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn line_breaks_behind_credentials_and_region_cost_no_job() {
    let mut stage = Stage::new().await;
    let (key, secret) = stage.s3.keys();
    let (key, secret) = (format!("{key}\n"), format!("{secret}\r\n"));
    let endpoint = format!("{}\n", stage.s3.endpoint());
    let mut settings = stage.pairs();
    settings.retain(|(name, _)| name != "s3.region" && name != "s3.endpoint");
    let variables = [
        ("AWS_REGION", "us-east-1\n"),
        ("AWS_ENDPOINT_URL_S3", &endpoint),
    ];
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let worker =
        WorkerProcess::start_with(&settings, (&key, &secret), &variables, log.to_path_buf());
    let why = serde_json::json!({"why": "AWS_ACCESS_KEY_ID has white space"});
    until_said(&worker, "a setting was put right", why).await;
    let puts = (0..20).map(|n| stage::put(&format!("put-{n}"), &format!("k{n}")));
    stage.publish_all(Lane::Upload, puts.collect()).await;
    stage.until_count(State::Completed, 20).await;
    stage.assert_all_completed().await;
    assert!(!worker.log().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_credentials_file_is_read_without_a_restart() {
    let mut stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let write = |key: &str, secret: &str| {
        let text =
            format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
        // As a sidecar does it: whole or not at all.
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    write("WRONG", "wrong");
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())];
    let log = folder.path().join("worker.log");
    let worker = WorkerProcess::start_with(&stage.pairs(), ("", ""), &variables, log);
    stage.publish(Lane::Upload, stage::put("put", "k")).await;
    let why = serde_json::json!({"job": "put", "reason": "credentials"});
    until_said(&worker, "parked", why).await;
    let (key, secret) = stage.s3.keys();
    write(key, secret);
    stage.publish(Lane::Upload, stage::put("next", "n")).await;
    stage.until("next", State::Completed).await;
    stage.until("put", State::Completed).await;
    eventually("the log says so", async || {
        worker.log().contains("other S3 credentials").then_some(())
    })
    .await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_that_gives_nonsense_makes_jobs_wait_until_it_does_not() {
    let mut stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |key: &str, secret: &str| {
        let text = serde_json::json!({"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret});
        std::fs::write(path("new"), text.to_string()).unwrap();
        std::fs::rename(path("new"), path("keys.json")).unwrap();
    };
    write("AK\nID", "secret");
    let process = format!(
        "[default]\ncredential_process = /bin/cat {}\n",
        path("keys.json")
    );
    std::fs::write(path("config"), process).unwrap();
    let config = path("config");
    let variables = [("AWS_CONFIG_FILE", config.as_str())];
    let log = folder.path().join("worker.log");
    let worker = WorkerProcess::start_with(&stage.pairs(), ("", ""), &variables, log);
    stage.publish(Lane::Upload, stage::put("put", "k")).await;
    let why = serde_json::json!({"job": "put", "reason": "credentials", "error": "place 3"});
    until_said(&worker, "parked", why).await;
    let (key, secret) = stage.s3.keys();
    write(key, secret);
    stage.until("put", State::Completed).await;
    assert!(!worker.log().contains("panicked"));
    stage.assert_all_completed().await;
}

#[test]
fn an_endpoint_and_a_ledger_that_can_not_work_are_found_before_a_worker_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("config"), "[default]\nendpoint_url = minio:9000\n").unwrap();
    std::fs::write(path("file"), "").unwrap();
    let keys = "[default]\naws_access_key_id = AK ID\naws_secret_access_key = hunter2\n";
    std::fs::write(path("credentials"), keys).unwrap();
    let (nowhere, beneath) = (
        format!("sqlite://{}", path("none/ledger.db")),
        format!("sqlite://{}", path("file/ledger.db")),
    );
    let whole = format!("sqlite://{}", folder.path().display());
    let config = path("config");
    for (variable, said) in [
        (("DATABASE_URL", nowhere.as_str()), "none is not there"),
        (("DATABASE_URL", &beneath), "file is no folder"),
        (("DATABASE_URL", &whole), "which is a folder"),
        (
            ("AWS_CONFIG_FILE", &config),
            "\"minio:9000\" is not an http",
        ),
    ] {
        let checked = brigade(&[variable], &["config", "check"]);
        let why = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(64), "{variable:?}: {why}");
        assert!(why.contains(said), "{variable:?}: {why}");
        // Nothing listens on the default addresses, and doctor tells what it can.
        let found = brigade(&[variable], &["doctor", "--timeout", "3s", "--bucket", "b"]);
        let found_text = text(&found.stdout);
        assert_eq!(found.status.code(), Some(1), "{found_text}");
        assert!(found_text.contains(said), "{variable:?}: {found_text}");
    }
    let checked = brigade(
        &[("AWS_SHARED_CREDENTIALS_FILE", &path("credentials"))],
        &["config", "check"],
    );
    let why = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(64), "{why}");
    assert!(
        why.contains("access key id has a character at place 3"),
        "{why}"
    );
    let good = format!("sqlite://{}", path("ledger.db"));
    let checked = brigade(&[("DATABASE_URL", &good)], &["config", "check"]);
    assert_eq!(text(&checked.stdout), "the settings are sound");
}

/// A proxy that leads every connection to one address, and keeps what was asked of it.
struct Forward {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Forward {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://me:hush@{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, target.clone(), Arc::clone(&noted)));
            }
        });
        Self {
            url,
            asked,
            _serving: serving,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn forward(mut client: TcpStream, target: String, noted: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut more = [0; 4096];
        match client.read(&mut more).await {
            Ok(count) if count > 0 => head.extend_from_slice(&more[..count]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let is_tunnel = text.starts_with("CONNECT ");
    noted.lock().unwrap().push(text);
    let mut server = TcpStream::connect(target).await.unwrap();
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    } else {
        server.write_all(&head).await.unwrap();
    }
    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
}

/// One put by a worker with these variables, to that endpoint.
async fn put_with(stage: &mut Stage, id: &str, endpoint: &str, variables: &[(&str, &str)]) {
    let mut settings = stage.pairs();
    settings.push(("s3.endpoint".to_owned(), endpoint.to_owned()));
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let worker =
        WorkerProcess::start_with(&settings, stage.s3.keys(), variables, log.to_path_buf());
    stage.publish(Lane::Upload, stage::put(id, id)).await;
    stage.until(id, State::Completed).await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_over_http_is_asked_through_the_proxy() {
    let mut stage = Stage::new().await;
    let proxy = Forward::to(stage.s3.address().to_string()).await;
    // Nobody but the proxy knows that host.
    let endpoint = "http://store.invalid:9000";
    put_with(
        &mut stage,
        "through",
        endpoint,
        &[("HTTP_PROXY", &proxy.url)],
    )
    .await;
    let asked = proxy.asked();
    assert!(
        asked[0].starts_with("PUT http://store.invalid:9000/b/through"),
        "{asked:?}"
    );
    let login = "proxy-authorization: basic bwu6ahvzaa==";
    assert!(asked[0].to_lowercase().contains(login), "{asked:?}");
    let endpoint = stage.s3.endpoint();
    let variables = [
        ("HTTP_PROXY", proxy.url.as_str()),
        ("NO_PROXY", "127.0.0.1"),
    ];
    put_with(&mut stage, "straight", &endpoint, &variables).await;
    assert_eq!(proxy.asked().len(), asked.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_over_https_is_asked_through_a_tunnel() {
    let authority = Authority::new();
    let mut stage = Stage::new().await;
    let (_front, https) = authority.front(&stage).await;
    let address = https.trim_start_matches("https://").to_owned();
    let proxy = Forward::to(address.clone()).await;
    let ca = authority.path("ca.pem");
    let variables = [
        ("HTTPS_PROXY", proxy.url.as_str()),
        ("AWS_CA_BUNDLE", ca.as_str()),
    ];
    put_with(&mut stage, "tunnel", &https, &variables).await;
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    let wanted = format!("CONNECT {address} HTTP/1.1");
    assert!(
        asked.iter().all(|head| head.starts_with(&wanted)),
        "{asked:?}"
    );
}
