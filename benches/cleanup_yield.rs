//! Do uploads and reads keep their speed while a large cleanup backlog is worked off?
//!
//! Runs the same mix of puts and heads alone and beside a backlog of deletes, in turn, on the broker of
//! `AMQP_URL`, with the embedded S3 server and a real worker process. Prints jobs a second of each run and
//! the ratio beside / alone, pair by pair; the promise is at least 0.95.
//!
//! ```sh
//! scripts/rabbitmq run -- cargo bench --bench cleanup_yield -- --backlog 20000 --pairs 3
//! ```

use std::time::Duration;

use bucket_brigade::job::{
    Lane, Operation,
    operation::{HeadObject, PutObject, PutOptions},
};

mod rig;

use rig::{Rig, deletes, number};

const FOREGROUND: usize = 6_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = rig::amqp_url()?;
    let backlog = number("backlog", 20_000)?;
    let mut ratios = Vec::new();
    for pair in 1..=number("pairs", 3)?.max(1) {
        let (alone, _) = run(&url, 0).await?;
        let (beside, deleted) = run(&url, backlog).await?;
        let ratio = beside / alone;
        println!(
            "pair {pair}: alone {alone:.0} jobs/s, beside {backlog} deletes {beside:.0} jobs/s (and {deleted:.0} deletes/s), ratio {ratio:.3}"
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio: {:.3}", ratios[ratios.len() / 2]);
    Ok(())
}

/// Jobs a second of the uploads and reads, and of the deletes beside them; all queued beforehand.
async fn run(url: &str, backlog: usize) -> anyhow::Result<(f64, f64)> {
    let rig = Rig::start(url).await?;
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
    rig.publish(deletes(backlog)).await?;
    rig.publish(puts_and_heads).await?;

    let worker = rig.worker(&[]).await?;
    // A head may come before its put; then its job ends dead-lettered, which is an answer of S3 as well.
    let ended = async || worker.ended(|lane| lane != Lane::Cleanup).await;
    let deleted = async || worker.ended(|lane| lane == Lane::Cleanup).await;
    let warm = (FOREGROUND / 10) as u64;
    while ended().await? < warm {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (began, first, gone) = (
        tokio::time::Instant::now(),
        ended().await?,
        deleted().await?,
    );
    let last = FOREGROUND as u64 * 9 / 10;
    let done = loop {
        let done = ended().await?;
        if done >= last {
            break done;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let seconds = began.elapsed().as_secs_f64();
    let rates = (
        (done - first) as f64 / seconds,
        (deleted().await? - gone) as f64 / seconds,
    );
    rig.stop(worker).await?;
    Ok(rates)
}
