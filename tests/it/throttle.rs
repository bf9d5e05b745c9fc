//! A store that asks for fewer calls: the SDK's rate limiter holds calls back inside `send()`, and a call that
//! it holds back is none yet.

use std::time::{Duration, Instant};

use bucket_brigade::{
    dev::s3_server::{Class, Fault, Rule},
    job::{Lane, Message},
};

use crate::stage::{self, Stage};

/// As many as a lane starts at a time by default.
const JOBS: usize = 128;
const DRAIN: Duration = Duration::from_secs(40);

fn puts() -> Vec<Message> {
    (0..JOBS)
        .map(|n| stage::put(&format!("put-{n}"), &format!("k{n}")))
        .collect()
}

/// Throttled puts, which take a moment, so that many are under way together.
async fn throttled_stage() -> Stage {
    let mut stage = Stage::new()
        .await
        .set("drain.timeout", &format!("{}s", DRAIN.as_secs()));
    stage.declare().await;
    stage.publish_all(Lane::Upload, puts()).await;
    let faults = stage.s3.faults();
    faults.add(Rule::new(Fault::Delay(Duration::from_millis(50))));
    faults.add(Rule::new(Fault::status(503, "SlowDown")));
    stage
}

/// The ledger's attempts are the requests that S3 has seen.
async fn assert_counted(stage: &Stage) {
    let attempts: u32 = stage.rows().await.values().map(|row| row.attempts).sum();
    assert_eq!(u64::from(attempts), stage.puts());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_store_opens_the_circuit_and_gets_no_call_while_it_is_open() {
    let stage = throttled_stage()
        .await
        .set("circuit.open_base", "60s")
        .set("circuit.open_max", "60s");
    let mut worker = stage.process();
    let queue = format!("{}.upload", stage.prefix);
    stage::eventually("the lane has cancelled its consumer", async || {
        let opened = stage.puts() >= 5;
        (opened && stage.rabbit.counts(&queue).await.1 == 0).then_some(())
    })
    .await;
    let sent = stage.puts();
    // The one place where time itself is what is measured.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.puts(), sent, "calls left while open");
    let began = Instant::now();
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    assert!(began.elapsed() < DRAIN / 4, "{:?}", began.elapsed());
    assert_counted(&stage).await;
    let totals = stage.total_queue_check().await;
    assert_eq!((totals.lost.len(), totals.dead), (0, 0), "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_limiter_holds_back_do_not_hold_up_a_drain() {
    let stage = throttled_stage()
        .await
        .set("circuit.failure_threshold", "1000");
    let mut worker = stage.process();
    // How many were sent before the first answer came is a matter of the machine.
    stage::eventually(
        "the first calls are throttled, the others wait",
        async || {
            let under_way = stage.s3.journal().in_flight(Class::Upload);
            (stage.puts() >= 1 && under_way == 0).then_some(())
        },
    )
    .await;
    let began = Instant::now();
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    assert!(began.elapsed() < DRAIN / 4, "{:?}", began.elapsed());
    assert_counted(&stage).await;
    let totals = stage.total_queue_check().await;
    assert_eq!((totals.lost.len(), totals.dead), (0, 0), "{totals:?}");
}
