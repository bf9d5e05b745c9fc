//! What does a small put cost? Processor time of a worker for each job, and jobs a second.
//!
//! Queues puts of 1 KiB on the broker of `AMQP_URL` and lets a real worker process store them in the embedded S3
//! server, with a SQLite ledger and the default settings. The server and this program share the machine's cores
//! with the worker, so the rate is theirs together; the processor time is the worker's alone, its start included.
//!
//! ```sh
//! scripts/rabbitmq run -- cargo bench --bench put_cost -- --jobs 10000
//! ```

mod rig;

use std::time::Duration;

use bucket_brigade::job::{
    Operation,
    operation::{PutObject, PutOptions},
};
use rig::{Rig, amqp_url, number};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let jobs = number("jobs", 10_000)?;
    let rig = Rig::start(&amqp_url()?).await?;
    let puts = (0..jobs).map(|n| {
        Operation::PutObject(PutObject {
            bucket: "bench".to_owned(),
            key: format!("k{n}"),
            body: vec![b'x'; 1024].into(),
            options: PutOptions::default(),
        })
    });
    rig.publish(puts).await?;
    let began = tokio::time::Instant::now();
    let worker = rig.worker(&[]).await?;
    while worker.ended(|_| true).await? < jobs as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let (cpu, peak_mib) = worker.usage()?;
    println!(
        "{jobs} puts of 1 KiB: {:.0} jobs/s, {:.0} µs of processor time a job, peak memory {peak_mib:.0} MiB",
        jobs as f64 / seconds,
        cpu * 1e6 / jobs as f64,
    );
    rig.stop(worker).await
}
