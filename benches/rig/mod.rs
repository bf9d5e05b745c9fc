//! What the benches of the cleanup lane share: a broker prefix, an embedded S3 server, a real worker process and
//! its ledger.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bucket_brigade::{
    broker::{
        Target,
        rabbitmq::{Producer, topology},
    },
    dev::s3_server::S3Server,
    job::{
        JobId, Lane, Operation, State, Timestamp, operation::DeleteObject, options::NO_HEADERS,
        wire,
    },
    ledger::{self, Ledger},
    worker::new_owner,
};
use futures_util::{StreamExt, stream};
use secrecy::SecretString;

/// One run; its queues go with it.
pub(crate) struct Rig {
    pub(crate) s3: S3Server,
    amqp: [SecretString; 1],
    prefix: String,
    producer: Producer,
    directory: tempfile::TempDir,
}

/// A worker at work. Killed however the run ends.
pub(crate) struct Worker {
    child: Child,
    ledger: Arc<dyn Ledger>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only when it has gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The broker's address from the environment.
pub(crate) fn amqp_url() -> anyhow::Result<String> {
    let url = std::env::vars().find(|(name, _)| name == "AMQP_URL");
    match url {
        Some((_, url)) => Ok(url),
        None => anyhow::bail!("AMQP_URL is not set: scripts/rabbitmq run -- cargo bench …"),
    }
}

/// The number after `--NAME` on the command line, if it is there.
pub(crate) fn number(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != &format!("--{name}"));
    match arguments.nth(1) {
        Some(text) => Ok(text.parse()?),
        None => Ok(default),
    }
}

impl Rig {
    pub(crate) async fn start(url: &str) -> anyhow::Result<Self> {
        let s3 = S3Server::start().await?;
        s3.journal().keep_counts_only();
        s3.create_bucket("bench");
        let prefix = format!("bench-{:08x}", fastrand::u32(..));
        let amqp: [SecretString; 1] = [url.to_owned().into()];
        topology::apply(&amqp, &prefix).await?;
        let producer = Producer::connect(&amqp, &prefix, Duration::from_secs(10)).await?;
        Ok(Self {
            s3,
            amqp,
            prefix,
            producer,
            directory: tempfile::tempdir()?,
        })
    }

    pub(crate) async fn publish(
        &self,
        operations: impl Iterator<Item = Operation>,
    ) -> anyhow::Result<()> {
        let producer = &self.producer;
        let results = stream::iter(operations)
            .map(|operation| async move {
                let target = Target::Jobs(operation.name().lane());
                let message =
                    wire::encode(&JobId::fresh(), &operation, &NO_HEADERS, Timestamp::now());
                producer.publish(&target, &message).await
            })
            .buffer_unordered(16);
        let mut results = std::pin::pin!(results);
        while let Some(result) = results.next().await {
            result?;
        }
        Ok(())
    }

    /// Starts a worker process; `extra` are its environment's own variables.
    pub(crate) async fn worker(&self, extra: &[(&str, String)]) -> anyhow::Result<Worker> {
        let file = self.directory.path().join("ledger.db");
        let ledger_url = format!("sqlite://{}", file.display());
        let (access_key, secret_key) = self.s3.keys();
        let child = Command::new(env!("CARGO_BIN_EXE_brigade"))
            .arg("worker")
            .env(
                "AMQP_URL",
                secrecy::ExposeSecret::expose_secret(&self.amqp[0]),
            )
            .env("DATABASE_URL", &ledger_url)
            .env("BRIGADE_AMQP__PREFIX", &self.prefix)
            .env("BRIGADE_S3__ENDPOINT", self.s3.endpoint())
            .env("BRIGADE_HTTP__LISTEN", "127.0.0.1:0")
            .env("BRIGADE_LOG__LEVEL", "error")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", secret_key)
            .envs(extra.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(Stdio::null())
            .spawn()?;
        let ledger = loop {
            match ledger::open_existing(&ledger_url, new_owner(), Duration::from_secs(15)).await {
                Ok(ledger) => break ledger,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        Ok(Worker { child, ledger })
    }

    #[allow(dead_code, reason = "not every bench ends with its worker")]
    pub(crate) async fn stop(self, worker: Worker) -> anyhow::Result<()> {
        drop(worker);
        self.close().await
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.producer.close().await;
        topology::remove(&self.amqp, &self.prefix).await?;
        self.s3.stop().await;
        Ok(())
    }
}

impl Worker {
    /// Jobs of lanes for which `counts` is true that have ended, completed or dead.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) async fn ended(&self, counts: impl Fn(Lane) -> bool) -> anyhow::Result<u64> {
        let rows = self.ledger.stats().await?;
        let ended = rows.iter().filter(|row| {
            counts(row.lane) && matches!(row.state, State::Completed | State::DeadLettered)
        });
        Ok(ended.map(|row| row.count).sum())
    }

    /// Seconds of processor time, and the most memory it ever had, in MiB. Linux only.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) fn usage(&self) -> anyhow::Result<(f64, f64)> {
        let process = format!("/proc/{}", self.child.id());
        let stat = std::fs::read_to_string(format!("{process}/stat"))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: f64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|text| text.parse::<f64>().ok())
            .sum();
        let status = std::fs::read_to_string(format!("{process}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        Ok((ticks / 100.0, peak.unwrap_or(0.0) / 1024.0))
    }
}

/// Deletes of that many keys of bucket `bench`, one a job.
#[allow(dead_code, reason = "not every bench deletes")]
pub(crate) fn deletes(count: usize) -> impl Iterator<Item = Operation> {
    (0..count).map(|n| {
        Operation::DeleteObject(DeleteObject {
            bucket: "bench".to_owned(),
            key: format!("old-{n}"),
            version_id: None,
        })
    })
}
