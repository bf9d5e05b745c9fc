//! What does gathering deletes gain? The same backlog of delete jobs, one key each, in batches and one by one.
//!
//! On the broker of `AMQP_URL`, with the embedded S3 server and a real worker process. Prints keys a second, calls,
//! the worker's processor time a key and its peak memory. What uploads and reads keep of their speed
//! beside such a backlog is `cleanup_yield`'s.
//!
//! ```sh
//! scripts/rabbitmq run -- cargo bench --bench cleanup_batches -- --jobs 1000000 --single 50000
//! ```

use std::time::Duration;

use bucket_brigade::{dev::s3_server::Class, job::Lane};

mod rig;

use rig::{Rig, deletes, number};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = rig::amqp_url()?;
    let jobs = number("jobs", 50_000)?;
    let batched = run(&url, jobs, "1000").await?;
    let single = run(&url, number("single", 10_000)?, "1").await?;
    println!("in batches {:.1} x as fast as one by one", batched / single);
    Ok(())
}

/// Keys a second.
async fn run(url: &str, jobs: usize, batch_keys: &str) -> anyhow::Result<f64> {
    let rig = Rig::start(url).await?;
    rig.publish(deletes(jobs)).await?;
    let settings = [("BRIGADE_CLEANUP__BATCH_KEYS", batch_keys.to_owned())];
    let began = tokio::time::Instant::now();
    let worker = rig.worker(&settings).await?;
    while worker.ended(|lane| lane == Lane::Cleanup).await? < jobs as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    let calls = rig.s3.journal().count_class(Class::Delete);
    let (seconds, peak) = worker.usage()?;
    let each = seconds * 1e6 / jobs as f64;
    println!(
        "batch_keys {batch_keys}: {jobs} keys, {rate:.0} keys/s, {calls} calls, {:.0} keys a call, {each:.0} us of processor a key, peak {peak:.0} MiB",
        jobs as f64 / calls as f64
    );
    rig.stop(worker).await?;
    Ok(rate)
}
