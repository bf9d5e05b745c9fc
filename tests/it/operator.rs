//! `brigade circuit` and `brigade doctor` against what they are for.

use bucket_brigade::{
    broker::Target,
    dev::s3_server::{Class, Fault, Rule, S3Operation},
    http::HttpServer,
    job::Lane,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    cli::{json, run, text},
    stage::{self, Stage},
};

#[tokio::test(flavor = "multi_thread")]
async fn circuits_are_shown_forced_and_let_go() {
    let stage = Stage::new().await.set("http.admin_token", "letmein");
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    let url = format!("http://{}", http.address());
    let circuit = async |arguments: &[&str]| {
        let all = [
            &["circuit"],
            arguments,
            &["--url", &url, "--output", "json"],
        ]
        .concat();
        run(&stage, &all).await
    };
    let show = json(&circuit(&["show"]).await);
    assert_eq!(show["workers"][0]["url"], url.as_str());
    assert_eq!(show["workers"][0]["circuits"]["upload"]["state"], "closed");
    for (verb, state, mode) in [
        ("force-open", "open", "force_open"),
        ("force-closed", "closed", "force_closed"),
        ("auto", "closed", "auto"),
    ] {
        let output = circuit(&[verb, "download"]).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let shown = json(&circuit(&["show"]).await)["workers"][0]["circuits"]["download"].take();
        assert_eq!(
            (&shown["state"], &shown["mode"]),
            (&state.into(), &mode.into())
        );
    }
    assert_eq!(circuit(&["auto", "sideways"]).await.status.code(), Some(64));
    let https = run(&stage, &["circuit", "show", "--url", "https://h:1"]).await;
    assert_eq!(https.status.code(), Some(64));
    // One of two is away: the other is shown all the same.
    let half = circuit(&["show", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(half.status.code(), Some(69));
    assert_eq!(json(&half)["workers"].as_array().map(Vec::len), Some(1));

    let stage = stage.set("http.admin_token", "guess");
    let refused = run(&stage, &["circuit", "force-open", "upload", "--url", &url]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("http.admin_token"),
        "{}",
        text(&refused.stderr)
    );
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_token_says_why_its_circuits_stay() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    let url = format!("http://{}", http.address());
    let refused = run(&stage, &["circuit", "force-open", "upload", "--url", &url]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("404"),
        "{}",
        text(&refused.stderr)
    );
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

/// Runs doctor on bucket `b`: whether all is well, and each finding's verdict and whole text by its check.
async fn doctor(stage: &Stage, more: &[&str]) -> (bool, Vec<(String, String, String)>) {
    let arguments = [&["doctor", "--bucket", "b", "--output", "json"], more].concat();
    let output = run(stage, &arguments).await;
    let report = json(&output);
    let ok = report["ok"].as_bool().unwrap();
    assert_eq!(
        output.status.code(),
        Some(i32::from(!ok)),
        "{}",
        text(&output.stderr)
    );
    let findings = report["findings"].as_array().unwrap().iter();
    let findings = findings.map(|finding| {
        let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let is_cured = finding["verdict"] == "ok" || !finding["cure"].is_null();
        assert!(is_cured, "no cure: {finding}");
        (
            word("check"),
            word("verdict"),
            format!("{} {}", word("message"), word("cure")),
        )
    });
    (ok, findings.collect())
}

/// The finding of that check; its verdict and text.
fn finding<'f>(findings: &'f [(String, String, String)], check: &str) -> (&'f str, &'f str) {
    let found = findings.iter().find(|(name, ..)| name == check);
    let (_, verdict, text) = found.unwrap_or_else(|| panic!("no {check} in {findings:?}"));
    (verdict, text)
}

/// A stage on which nothing is wrong.
async fn healthy() -> Stage {
    let stage = Stage::new().await;
    stage.declare().await;
    assert_eq!(run(&stage, &["migrate"]).await.status.code(), Some(0));
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_healthy_system_healthy_and_leaves_nothing_behind() {
    let stage = healthy().await;
    let (ok, findings) = doctor(&stage, &[]).await;
    assert!(ok, "{findings:?}");
    for check in [
        "s3 b upload",
        "s3 b read",
        "s3 b cleanup",
        "topology",
        "ledger",
        "broker",
    ] {
        assert_eq!(finding(&findings, check).0, "ok");
    }
    assert!(stage.s3.keys_of("b").is_empty());
    assert_eq!(stage.puts(), 1);
    let people = run(&stage, &["doctor"]).await;
    assert_eq!(people.status.code(), Some(0), "{}", text(&people.stdout));
    assert!(
        text(&people.stdout).contains("--bucket"),
        "{}",
        text(&people.stdout)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_each_right_that_is_missing() {
    let stage = healthy().await;
    for (class, check, right) in [
        (Class::Upload, "s3 b upload", "s3:PutObject"),
        (Class::Delete, "s3 b cleanup", "s3:DeleteObject"),
    ] {
        let denied = Rule::new(Fault::status(403, "AccessDenied")).class(class);
        stage.s3.faults().add(denied);
        let (ok, findings) = doctor(&stage, &[]).await;
        assert!(!ok);
        let (verdict, said) = finding(&findings, check);
        assert!(verdict == "mend" && said.contains(right), "{said}");
        let others = findings.iter().filter(|(_, verdict, _)| verdict == "mend");
        assert_eq!(others.count(), 1, "{findings:?}");
        stage.s3.faults().clear();
    }
    for (operation, check) in [
        (S3Operation::GetObject, "s3 b read"),
        (S3Operation::ListObjectsV2, "s3 b list"),
    ] {
        let denied = Rule::new(Fault::status(403, "AccessDenied")).operation(operation);
        stage.s3.faults().add(denied);
        let (ok, findings) = doctor(&stage, &[]).await;
        assert!(!ok && finding(&findings, check).0 == "mend", "{findings:?}");
        stage.s3.faults().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_missing_bucket_wrong_keys_and_a_store_that_is_away() {
    let mut stage = healthy().await;
    let (ok, findings) = doctor(&stage, &["--bucket", "nowhere"]).await;
    assert!(!ok);
    let (verdict, said) = finding(&findings, "s3 nowhere reach");
    assert!(
        verdict == "mend" && said.contains("create bucket nowhere"),
        "{said}"
    );
    assert_eq!(finding(&findings, "s3 b reach").0, "ok");

    let wrong = Rule::new(Fault::status(403, "InvalidAccessKeyId"));
    stage.s3.faults().add(wrong);
    let (ok, findings) = doctor(&stage, &[]).await;
    let (verdict, said) = finding(&findings, "s3 b reach");
    assert!(
        !ok && verdict == "mend" && said.contains("credentials"),
        "{said}"
    );
    stage.s3.faults().clear();

    stage.s3.stop().await;
    let (ok, findings) = doctor(&stage, &[]).await;
    let (verdict, said) = finding(&findings, "s3 b reach");
    assert!(
        !ok && verdict == "mend" && said.contains("s3.endpoint"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_missing_queues_dead_letters_and_jobs_that_nobody_takes() {
    let stage = Stage::new().await;
    assert_eq!(run(&stage, &["migrate"]).await.status.code(), Some(0));
    let (ok, findings) = doctor(&stage, &[]).await;
    let (verdict, said) = finding(&findings, "topology");
    assert!(
        !ok && verdict == "mend" && said.contains("topology apply"),
        "{said}"
    );

    stage.declare().await;
    let producer = stage.producer().await;
    let (job, read) = (
        stage::put("j1", "k"),
        stage::on_key("r1", "get_object", "k"),
    );
    producer
        .publish(&Target::Dead(Lane::Upload), &job)
        .await
        .unwrap();
    producer
        .publish(&Target::Jobs(Lane::Read), &read)
        .await
        .unwrap();
    stage.until_queued(Lane::Read, 1).await;
    stage::eventually("the letter is counted", async || {
        let queue = format!("{}.upload.dead", stage.prefix);
        (stage.rabbit.counts(&queue).await.0 == 1).then_some(())
    })
    .await;
    let (ok, findings) = doctor(&stage, &[]).await;
    assert!(ok, "{findings:?}");
    let (verdict, said) = finding(&findings, "dead letters upload");
    assert!(
        verdict == "warn" && said.contains("brigade dead list"),
        "{said}"
    );
    assert_eq!(finding(&findings, "queue read").0, "warn");
    assert_eq!(finding(&findings, "dead letters read").0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_an_unreachable_broker_and_ledger_as_findings() {
    let stage = Stage::new().await;
    let (ok, findings) = doctor(&stage, &[]).await;
    let (verdict, said) = finding(&findings, "ledger");
    assert!(
        !ok && verdict == "mend" && said.contains("brigade migrate"),
        "{said}"
    );

    let stage = stage
        .set("amqp.url", "amqp://guest:hush@127.0.0.1:1/%2f")
        .set("ledger.url", "sqlite:///no/such/ledger.db");
    let (ok, findings) = doctor(&stage, &[]).await;
    assert!(!ok);
    let (verdict, said) = finding(&findings, "broker");
    assert!(
        verdict == "mend" && said.contains("amqp.url") && !said.contains("hush"),
        "{said}"
    );
    assert_eq!(finding(&findings, "ledger").0, "mend");
    assert_eq!(finding(&findings, "s3 b upload").0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reads_version_and_consumer_timeout_from_the_management_api() {
    let stage = healthy().await;
    for (version, verdict) in [("3.9.29", "mend"), ("4.3.1", "warn"), ("4.2.0", "ok")] {
        let url = management(version, json!({"consumer-timeout": 60_000})).await;
        let (ok, findings) = doctor(&stage, &["--management", &url]).await;
        assert!(!ok);
        let (found, said) = finding(&findings, "broker");
        assert!(found == verdict && said.contains(version), "{said}");
        let (found, said) = finding(&findings, "consumer time-out upload");
        assert!(found == "mend" && said.contains("1m"), "{said}");
    }
}

/// A management API that knows this version and a policy; its URL. Lives as long as the test's runtime.
async fn management(version: &str, policy: Value) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let overview = json!({"rabbitmq_version": version}).to_string();
    let queue = json!({"effective_policy_definition": policy, "arguments": {}}).to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            // Of guest and guest.
            let is_known = request.contains("Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=");
            let answer = match request.split(' ').nth(1) {
                Some("/api/overview") if is_known => format!("HTTP/1.1 200 OK\r\n\r\n{overview}"),
                Some(path) if is_known && path.starts_with("/api/queues/%2F/") => {
                    format!("HTTP/1.1 200 OK\r\n\r\n{queue}")
                }
                _ => "HTTP/1.1 401 Unauthorized\r\n\r\n".to_owned(),
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}
