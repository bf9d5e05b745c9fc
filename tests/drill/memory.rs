//! What a worker holds in memory at most, where much of it is asked for at once: the budget and 64 MiB, by the peak
//! that the system has seen (`VmHWM`) less the pages of the program's own file (`RssFile`).

use std::time::Duration;

use bucket_brigade::{
    broker::Target,
    dev::s3_server::{Class, Fault, Rule},
    job::{HeaderValue, Lane, Message, State, message::header},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    messages::{message, on_key},
    process::WorkerProcess,
    rabbit::Rabbit,
    scene::{Shown, wired},
    sink::{Endless, Sink},
    stage::Stage,
    wire::Wire,
};

pub(crate) const NAMES: [&str; 3] = ["memory-replies", "memory-urls", "memory-messages"];

const MIB: u64 = 1024 * 1024;
/// `upload.memory_budget` of the workers, as it is by default.
const BUDGET: u64 = 64 * MIB;
/// What a worker may take beside it.
const BESIDE: u64 = 64 * MIB;
/// Of that the pages of a released program's own file; those of a debug build are more than twice as many, and are left
/// out of the peak.
const PROGRAM: u64 = 20 * MIB;
const PATIENCE: Duration = Duration::from_secs(1200);

/// The bound of every drill here, in bytes, without the program's own pages.
pub(crate) const BOUND: u64 = BUDGET + BESIDE - PROGRAM;

pub(crate) async fn run(name: &str) -> Shown {
    match name {
        "memory-replies" => replies().await,
        "memory-urls" => urls().await,
        "memory-messages" => messages().await,
        other => panic!("{other} is no drill of memory"),
    }
}

/// 256 reads of 8 MiB for replies, while the ledger can't be written.
async fn replies() -> Shown {
    const JOBS: usize = 256;
    const SIZE: usize = 8 << 20;
    let (stage, wire, _) = wired(Rabbit::shared()).await;
    // As many at a time as the lane may have at all, from the first.
    let mut stage = stage.set("lanes.read.adaptive", "false");
    stage.declare().await;
    let object = ("k".to_owned(), "x".repeat(SIZE));
    stage.store([object].into_iter()).await;
    // Answers that take a while, so that many are claimed and under way when the ledger goes.
    let slow = Rule::new(Fault::Delay(Duration::from_secs(3))).class(Class::Read);
    let slow = stage.s3.faults().add(slow);
    let ids: Vec<String> = (0..JOBS).map(|n| format!("j{n}")).collect();
    stage.published.extend(ids.iter().cloned());
    let worker = stage.process();
    let producer = &stage.producer().await;
    let asking = futures_util::stream::iter(&ids).for_each_concurrent(JOBS, |id| async move {
        let (target, asked) = (Target::Jobs(Lane::Read), on_key(id, "get_object", "k"));
        let answer = producer.request(&target, &asked, PATIENCE).await;
        assert_eq!(answer.unwrap().body.len(), SIZE, "the object");
    });
    let outage = async {
        while stage.s3.journal().in_flight(Class::Read) < 64 {
            sleep(Duration::from_millis(10)).await;
        }
        let lock = stage.lock_ledger().await;
        // All that can be read without the ledger has been read.
        sleep(Duration::from_secs(15)).await;
        slow.remove();
        drop(lock);
    };
    tokio::join!(asking, outage);
    let mut shown = account(stage, &wire, worker, JOBS).await;
    // The answers went over the same wire.
    shown.deliveries_per_job -= 1.0;
    shown
}

/// Eight uploads of 1 GiB from URLs that don't say how long they are.
async fn urls() -> Shown {
    const JOBS: usize = 8;
    let size = 1024 * MIB;
    let (source, sink) = (Endless::start(size).await, Sink::start().await);
    let (stage, wire, _) = wired(Rabbit::shared()).await;
    let mut stage = stage
        .set("s3.endpoint", &sink.url)
        .set("sources.url_hosts", &source.origin)
        .set("sources.allow_private_addresses", "true");
    stage.declare().await;
    let upload = |n: usize| {
        let job = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": format!("k{n}"),
            "source": {"url": format!("{}/{n}", source.origin)}});
        message(&format!("j{n}"), &job)
    };
    stage
        .publish_all(Lane::Upload, (0..JOBS).map(upload).collect())
        .await;
    let worker = stage.process();
    let shown = account(stage, &wire, worker, JOBS).await;
    assert_eq!(sink.received(), JOBS as u64 * size, "every byte, once");
    shown
}

/// 60 messages that carry 15 MiB each.
async fn messages() -> Shown {
    const JOBS: usize = 60;
    let (stage, wire, _) = wired(Rabbit::shared()).await;
    let mut stage = stage.set("limits.max_message_bytes", "16MiB");
    stage.declare().await;
    let body = bytes::Bytes::from(vec![7; 15 << 20]);
    let put = |n: usize| {
        let job = json!({"version": 1, "bucket": "b", "key": format!("k{n}")});
        binary(&format!("j{n}"), &job, body.clone())
    };
    stage
        .publish_all(Lane::Upload, (0..JOBS).map(put).collect())
        .await;
    let worker = stage.process();
    account(stage, &wire, worker, JOBS).await
}

/// A put whose bytes are the message's body.
fn binary(id: &str, job: &Value, body: bytes::Bytes) -> Message {
    let mut message = Message {
        message_id: Some(id.to_owned()),
        body,
        ..Message::default()
    };
    let job = HeaderValue::Text(job.to_string());
    message.headers.insert(header::JOB.to_owned(), job);
    message
}

/// Waits until every job is completed, looks at the worker's peak, ends it, and accounts for every job.
async fn account(stage: Stage, wire: &Wire, mut worker: WorkerProcess, jobs: usize) -> Shown {
    let ledger = stage.ledger().await;
    let began = std::time::Instant::now();
    loop {
        let stats = ledger.stats().await.unwrap_or_default();
        let completed = stats.iter().filter(|row| row.state == State::Completed);
        if completed.map(|row| row.count).sum::<u64>() >= jobs as u64 || began.elapsed() > PATIENCE
        {
            break;
        }
        sleep(Duration::from_millis(250)).await;
    }
    let peak = peak_memory(&worker);
    worker.terminate();
    worker.wait().await;
    let totals = stage.total_queue_check().await;
    Shown {
        jobs,
        lost: totals.lost.len() + totals.queued,
        dead: totals.dead,
        deliveries_per_job: wire.deliveries() as f64 / jobs as f64,
        peak: Some(peak),
        ..Shown::default()
    }
}

/// The most memory that it has held so far (`VmHWM`) without the pages of files that it has mapped, such as its own
/// program (`RssFile`), in bytes.
fn peak_memory(worker: &WorkerProcess) -> u64 {
    let status = worker.proc("status");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse::<u64>().unwrap()
    };
    (kib("VmHWM:") - kib("RssFile:")) * 1024
}
