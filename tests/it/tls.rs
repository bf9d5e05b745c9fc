//! TLS on both sides with an authority of one's own, which a worker is told of in `SSL_CERT_FILE`, or for S3
//! alone in `AWS_CA_BUNDLE`.

use std::{fs, path::PathBuf, process::Command, sync::Arc};

use bucket_brigade::job::{Lane, State};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use crate::{
    cli::text,
    logs::until_said,
    process::WorkerProcess,
    rabbit::Rabbit,
    stage::{self, Stage, eventually},
};

/// An authority and a certificate of it for 127.0.0.1, as files and as the front takes them.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    chain: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, pem: String| fs::write(folder.path().join(name), pem).unwrap();
        write("ca.pem", authority.pem());
        write("server.pem", server.pem());
        write("server.key", key.serialize_pem());
        Self {
            folder,
            chain: server.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A broker that takes AMQP over TLS too; its URL for that.
    fn rabbit(&self) -> (Rabbit, String) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let configuration = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n\
             ssl_options.fail_if_no_peer_cert = false\n",
            self.path("ca.pem"),
            self.path("server.pem"),
            self.path("server.key"),
        );
        let rabbit = Rabbit::configured("tls", &configuration);
        (rabbit, format!("amqps://guest:guest@127.0.0.1:{port}/%2f"))
    }

    /// HTTPS in front of the stage's S3 server, for as long as the set lives; its URL.
    pub(crate) async fn front(&self, stage: &Stage) -> (JoinSet<()>, String) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.chain.clone()], self.key.clone_key())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let target = stage.s3.address();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // A client that does not trust us goes away.
                    let Ok(mut client) = acceptor.accept(client).await else {
                        return;
                    };
                    let mut server = TcpStream::connect(target).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        (serving, url)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("worker.log")
    }
}

/// The stage's settings with some of them otherwise; producers keep to the stage's own.
fn settings(stage: &Stage, other: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut pairs = stage.pairs();
    for (key, value) in other {
        pairs.retain(|(known, _)| known != key);
        pairs.push(((*key).to_owned(), (*value).to_owned()));
    }
    pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn over_amqps_and_https_with_a_private_authority_jobs_run_as_ever() {
    let authority = Authority::new();
    let (rabbit, amqps) = authority.rabbit();
    let mut stage = Stage::on(rabbit).await;
    let (_front, https) = authority.front(&stage).await;
    let settings = settings(&stage, &[("amqp.url", &amqps), ("s3.endpoint", &https)]);
    let ca = authority.path("ca.pem");
    let trust = [("SSL_CERT_FILE", ca.as_str())];
    let mut worker = WorkerProcess::start_with(&settings, stage.s3.keys(), &trust, authority.log());

    stage.publish(Lane::Upload, stage::put("put", "k")).await;
    stage.until("put", State::Completed).await;
    let mut get = stage::on_key("get", "get_object", "k");
    get.reply_to = Some("amq.rabbitmq.reply-to".to_owned());
    let answer = stage.request(Lane::Read, get).await;
    assert_eq!(&answer.body[..], b"text of k");
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command
        .env_clear()
        .envs(trust)
        .args(["enqueue", "delete", "s3://b/k", "--wait"]);
    for (key, value) in &settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    let deleted = tokio::task::block_in_place(|| command.output().unwrap());
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    assert_eq!(stage.s3.object("b", "k"), None);

    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_ca_bundle_is_trusted_for_s3() {
    let authority = Authority::new();
    let mut stage = Stage::new().await;
    let (_front, https) = authority.front(&stage).await;
    let settings = settings(&stage, &[("s3.endpoint", &https)]);
    let ca = authority.path("ca.pem");
    let trust = [("AWS_CA_BUNDLE", ca.as_str())];
    let worker = WorkerProcess::start_with(&settings, stage.s3.keys(), &trust, authority.log());
    stage.publish(Lane::Upload, stage::put("put", "k")).await;
    stage.until("put", State::Completed).await;
    drop(worker);
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_not_trusted_keeps_both_away_and_the_log_says_so() {
    let authority = Authority::new();
    let (rabbit, amqps) = authority.rabbit();
    let mut stage = Stage::on(rabbit).await;
    let (_front, https) = authority.front(&stage).await;
    let other = Authority::new();
    let trust = other.path("ca.pem");
    let trust = [("SSL_CERT_FILE", trust.as_str())];

    let amqp = settings(&stage, &[("amqp.url", &amqps)]);
    let worker = WorkerProcess::start_with(&amqp, stage.s3.keys(), &trust, authority.log());
    let why = serde_json::json!({"role": "consume", "why": "certificate"});
    until_said(&worker, "no connection to RabbitMQ", why).await;
    drop(worker);

    let s3 = settings(&stage, &[("s3.endpoint", &https)]);
    let worker = WorkerProcess::start_with(&s3, stage.s3.keys(), &trust, authority.log());
    stage.publish(Lane::Upload, stage::put("put", "k")).await;
    let why = serde_json::json!({"job": "put", "reason": "unavailable", "error": "certificate"});
    until_said(&worker, "parked", why).await;
    assert_eq!(stage.puts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_can_not_be_used_is_named_and_jobs_wait() {
    let authority = Authority::new();
    let mut stage = Stage::new().await;
    let trust = [("AWS_CA_BUNDLE", "/nowhere/ca.pem")];
    let settings = stage.pairs();
    let worker = WorkerProcess::start_with(&settings, stage.s3.keys(), &trust, authority.log());
    let why = serde_json::json!({"code": "ca_bundle_invalid", "why": "AWS_CA_BUNDLE, /nowhere"});
    until_said(&worker, "S3 can't be called", why).await;
    stage.publish(Lane::Upload, stage::put("put", "k")).await;
    eventually("the job waits", async || {
        let row = stage.row("put").await?;
        (row.state == State::Retrying).then_some(())
    })
    .await;
    assert_eq!(stage.puts(), 0);
}
