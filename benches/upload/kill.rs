//! `kill -9` at random points of uploads to the embedded S3 server.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bucket_brigade::dev::s3_server::{S3Operation, S3Server};
use tokio::time::{Instant, sleep};

use crate::{AT_A_TIME, BUCKET, Broker, MIB};

/// One upload a point: killed there, and finished by the next worker.
pub(crate) async fn at_random_points(url: &str, file: &Path, kills: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let server = S3Server::start().await.unwrap();
    server.create_bucket(BUCKET);
    let endpoint = server.endpoint();
    let broker = Broker::new(url).await;
    let start = || broker.worker(file, &endpoint, [None, None]);
    let worker = start();
    broker.upload("warm-up", file, "whole").await;
    let began = Instant::now();
    broker.upload("alone", file, "whole").await;
    let whole = began.elapsed();
    drop(worker);
    let size = file.metadata().unwrap().len();
    println!(
        "seed {seed}: {kills} uploads of {} MiB, {whole:.1?} each when left alone",
        size / MIB
    );
    let (mut again_in_all, mut most_again) = (0, 0);
    for n in 1..=kills {
        server.journal().take();
        let after = whole.mul_f64(random.f64());
        let id = format!("killed-{n}");
        let job = broker.upload(&id, file, "killed");
        let play = async {
            let worker = start();
            // Measured from where a part is on its way, as a start takes as long as an upload.
            let begun = server.journal().count(S3Operation::CreateMultipartUpload);
            while server.journal().count(S3Operation::CreateMultipartUpload) == begun {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(after).await;
            drop(worker);
            sleep(Duration::from_millis(3_200)).await;
            start()
        };
        let (worker, ()) = tokio::join!(play, job);
        drop(worker);
        let mut parts: BTreeMap<u32, usize> = BTreeMap::new();
        for entry in server.journal().entries() {
            // Also those that the kill interrupted.
            if let Some(number) = entry.call.part_number {
                *parts.entry(number).or_default() += 1;
            }
        }
        let again: usize = parts.values().map(|times| times - 1).sum();
        let same = server.object(BUCKET, "killed").unwrap() == std::fs::read(file).unwrap();
        println!("killed after {after:7.3?}: {again} parts sent again, the same bytes: {same}");
        assert!(same && again <= AT_A_TIME);
        again_in_all += again;
        most_again = most_again.max(again);
    }
    let left: Vec<String> = server.uploads_of(BUCKET);
    println!(
        "{kills} kills: {again_in_all} parts sent again, {most_again} at most; uploads left: {}",
        left.len()
    );
}
