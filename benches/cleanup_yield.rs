//! Do uploads and reads keep their speed while a large cleanup backlog is worked off?
//!
//! Runs the same mix of puts and heads alone and beside a backlog of deletes, in turn, on the broker of
//! `AMQP_URL`, with the embedded S3 server and a real worker process. Prints jobs a second of each run and
//! the ratio beside / alone, pair by pair; the promise is at least 0.95.
//!
//! ```sh
//! scripts/rabbitmq run -- cargo bench --bench cleanup_yield
//! ```

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use bucket_brigade::{
    broker::{
        Target,
        rabbitmq::{Producer, topology},
    },
    dev::s3_server::S3Server,
    job::{
        JobId, Lane, Operation, State, Timestamp,
        operation::{DeleteObject, HeadObject, PutObject, PutOptions},
        wire,
    },
    ledger,
    worker::new_owner,
};
use futures_util::{StreamExt, stream};

const FOREGROUND: usize = 6_000;
const BACKLOG: usize = 20_000;
const PAIRS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::vars().find(|(name, _)| name == "AMQP_URL");
    let Some((_, url)) = url else {
        anyhow::bail!(
            "AMQP_URL is not set: scripts/rabbitmq run -- cargo bench --bench cleanup_yield"
        );
    };
    let mut ratios = Vec::new();
    for pair in 1..=PAIRS {
        let alone = run(&url, 0).await?;
        let beside = run(&url, BACKLOG).await?;
        let ratio = beside / alone;
        println!(
            "pair {pair}: alone {alone:.0} jobs/s, beside {BACKLOG} deletes {beside:.0} jobs/s, ratio {ratio:.3}"
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio: {:.3}", ratios[ratios.len() / 2]);
    Ok(())
}

/// Kills the worker however the run ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Jobs a second of the uploads and reads, queued beforehand.
async fn run(url: &str, backlog: usize) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let mut s3 = S3Server::start().await?;
    s3.journal().keep_counts_only();
    s3.create_bucket("bench");
    let prefix = format!("bench-{:08x}", fastrand::u32(..));
    let amqp = url.to_owned().into();
    topology::apply(&amqp, &prefix).await?;
    let producer = Producer::connect(&amqp, &prefix, Duration::from_secs(10)).await?;
    let deletes = (0..backlog).map(|n| {
        let key = format!("old-{n}");
        Operation::DeleteObject(DeleteObject {
            bucket: "bench".to_owned(),
            key,
            version_id: None,
        })
    });
    let puts_and_heads = (0..FOREGROUND).map(|n| {
        let (bucket, key) = ("bench".to_owned(), format!("k{}", n / 2));
        match n % 2 {
            0 => Operation::PutObject(PutObject {
                bucket,
                key,
                body: vec![b'x'; 1024].into(),
                options: PutOptions::default(),
            }),
            _ => Operation::HeadObject(HeadObject {
                bucket,
                key,
                version_id: None,
            }),
        }
    });
    publish(&producer, deletes).await?;
    publish(&producer, puts_and_heads).await?;

    let ledger_url = format!("sqlite://{}", directory.path().join("ledger.db").display());
    let (access_key, secret_key) = s3.keys();
    let worker = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .arg("worker")
        .env("AMQP_URL", url)
        .env("DATABASE_URL", &ledger_url)
        .env("BRIGADE_AMQP__PREFIX", &prefix)
        .env("BRIGADE_S3__ENDPOINT", s3.endpoint())
        .env("BRIGADE_HTTP__LISTEN", "127.0.0.1:0")
        .env("BRIGADE_LOG__LEVEL", "error")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .stdout(Stdio::null())
        .spawn()?;
    let worker = Running(worker);
    let ledger = loop {
        match ledger::open_existing(&ledger_url, new_owner(), Duration::from_secs(15)).await {
            Ok(ledger) => break ledger,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    // A head may come before its put; then its job ends dead-lettered, which is an answer of S3 as well.
    let ended = async || -> anyhow::Result<u64> {
        let rows = ledger.stats().await?;
        let ended = rows.iter().filter(|row| {
            row.lane != Lane::Cleanup && matches!(row.state, State::Completed | State::DeadLettered)
        });
        Ok(ended.map(|row| row.count).sum())
    };
    let warm = (FOREGROUND / 10) as u64;
    while ended().await? < warm {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (began, first) = (tokio::time::Instant::now(), ended().await?);
    let last = FOREGROUND as u64 * 9 / 10;
    let done = loop {
        let done = ended().await?;
        if done >= last {
            break done;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let rate = (done - first) as f64 / began.elapsed().as_secs_f64();
    drop(worker);
    producer.close().await;
    topology::remove(&amqp, &prefix).await?;
    s3.stop().await;
    Ok(rate)
}

async fn publish(
    producer: &Producer,
    operations: impl Iterator<Item = Operation>,
) -> anyhow::Result<()> {
    let results = stream::iter(operations)
        .map(|operation| async move {
            let target = Target::Jobs(operation.name().lane());
            let message = wire::encode(&JobId::fresh(), &operation, Timestamp::now());
            producer.publish(&target, &message).await
        })
        .buffer_unordered(16);
    let mut results = std::pin::pin!(results);
    while let Some(result) = results.next().await {
        result?;
    }
    Ok(())
}
