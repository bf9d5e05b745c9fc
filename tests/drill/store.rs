//! A store that is half broken: it hangs, it throttles, or it is well and ill by turns. Jobs must cost no more
//! than in a plain outage: no storm of redeliveries, no call while the circuit is open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bucket_brigade::dev::s3_server::{Fault, Rule};
use tokio::time::sleep;

use crate::{
    drills::{FAULT_AT, PATIENCE},
    process::WorkerProcess,
    rabbit::Rabbit,
    scene::{Scene, Shown},
};

/// Every drill of these, in the order of the table.
pub(crate) const NAMES: [&str; 3] = ["s3-hang", "s3-throttle", "s3-flap"];
/// Full throughput comes back within this, from the circuit's closing on.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// The times are what takes long here, not the jobs.
const MOST_JOBS: usize = 6_000;
const HANGS: Duration = Duration::from_secs(30);
const THROTTLES: Duration = Duration::from_secs(60);
const FLAPS: Duration = Duration::from_secs(120);
/// How long it is well, and then ill.
const TURN: Duration = Duration::from_secs(3);
/// How long a call of the throttling store takes, and how many the lane makes at a time.
const CALL: Duration = Duration::from_millis(150);
const THROTTLED_SLOTS: usize = 16;
/// S3 calls of the lane at a time, by default.
const SLOTS: f64 = 64.0;
/// This share of the jobs is enough for all the time in which a flapping store is well.
const LASTS: f64 = 0.6;

pub(crate) async fn run(name: &str, jobs: usize) -> Shown {
    let scene = Scene::set(Rabbit::shared(), jobs.min(MOST_JOBS)).await;
    match name {
        "s3-hang" => hang(scene).await,
        "s3-throttle" => throttle(scene).await,
        _ => flap(scene).await,
    }
}

/// No call of that time is ever answered, though the store is well again for later ones. Attempt time-out and open
/// time are as in the defaults to each other, but shorter: else no operation fails within the time.
async fn hang(mut scene: Scene) -> Shown {
    scene.stage = scene
        .stage
        .set("s3.attempt_timeout", "4s")
        .set("circuit.open_base", "2s");
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.mean_rate();
    let hangs = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&hangs);
    let rule = Rule::new(Fault::Hang).matching(move |_| now.load(Ordering::Relaxed));
    scene.stage.s3.faults().add(rule);
    let began = Instant::now();
    sleep(HANGS).await;
    hangs.store(false, Ordering::Relaxed);
    closed(scene, before, began, worker).await
}

/// Every call is answered `SlowDown`, and the SDK's rate limiter slows down by itself. It comes back from one call in
/// two seconds by doubling, so that full throughput must be a number: the lane's slots over the time of a call.
async fn throttle(mut scene: Scene) -> Shown {
    let delay = Rule::new(Fault::Delay(CALL));
    scene.stage.s3.faults().add(delay);
    scene.stage = scene
        .stage
        .set("lanes.upload.concurrency", &THROTTLED_SLOTS.to_string());
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.mean_rate();
    let rule = Rule::new(Fault::status(503, "SlowDown"));
    let fault = scene.stage.s3.faults().add(rule);
    let began = Instant::now();
    sleep(THROTTLES).await;
    fault.remove();
    closed(scene, before, began, worker).await
}

/// Three seconds well, three seconds ill, again and again. Calls take as long as makes the jobs last.
async fn flap(mut scene: Scene) -> Shown {
    let wanted = scene.jobs as f64 * LASTS / (FLAPS.as_secs_f64() / 2.0);
    let delay = Duration::from_secs_f64(SLOTS / wanted);
    let faults = scene.stage.s3.faults().clone();
    faults.add(Rule::new(Fault::Delay(delay)));
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT / 2).await;
    let before = scene.mean_rate();
    let began = Instant::now();
    while began.elapsed() < FLAPS {
        let fault = faults.add(Rule::new(Fault::status(503, "ServiceUnavailable")));
        sleep(TURN).await;
        fault.remove();
        sleep(TURN).await;
    }
    closed(scene, before, began, worker).await
}

/// The store is well again: from the circuit's closing to the account.
async fn closed(mut scene: Scene, before: f64, began: Instant, worker: WorkerProcess) -> Shown {
    let mended = Instant::now();
    assert!(
        scene.until_circuit("closed", PATIENCE).await,
        "the circuit closes"
    );
    let took = mended.elapsed();
    let full_after = scene.until_full(before).await;
    eprintln!(
        "  {before:.0} jobs/s before; ill for {:.0} s, closed {:.0} s later, then by the second: {}",
        mended.duration_since(began).as_secs_f64(),
        took.as_secs_f64(),
        scene.course(mended)
    );
    scene.until_done(PATIENCE).await;
    let while_open = scene.while_open(&worker);
    Shown {
        while_open: Some(while_open),
        full_after,
        ..scene.account(vec![worker]).await
    }
}
