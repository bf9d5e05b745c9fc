//! The drills. Each breaks something at a quarter of its jobs and mends it again.

use std::time::{Duration, Instant};

use bucket_brigade::dev::s3_server::{Class, Fault, Rule};
use tokio::time::sleep;

use crate::{
    Options,
    process::WorkerProcess,
    rabbit::Rabbit,
    scene::{Scene, Shown, WhileOpen},
};

/// How much of the jobs is done when the fault comes, in percent.
pub(crate) const FAULT_AT: usize = 25;
/// From the mending until the last job: parked jobs wait for 10 s, then for 60 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// How long the lesser faults last.
const SHORT: Duration = Duration::from_secs(15);

/// Every drill, in the order of the table.
pub(crate) const NAMES: [&str; 8] = [
    "s3-outage",
    "s3-brown-out",
    "broker-restart",
    "broker-kill",
    "worker-kill",
    "rolling-restart",
    "ledger-locked",
    "network-cut",
];

pub(crate) async fn run(name: &str, options: &Options) -> Shown {
    let rabbit = match name {
        "broker-restart" | "broker-kill" => Rabbit::private(name),
        _ => Rabbit::shared(),
    };
    let scene = Scene::set(rabbit, options.jobs).await;
    match name {
        "s3-outage" => s3_outage(scene, options.outage).await,
        "s3-brown-out" => s3_brown_out(scene, options.outage / 2).await,
        "broker-restart" => broker(scene, false).await,
        "broker-kill" => broker(scene, true).await,
        "worker-kill" => worker_kill(scene).await,
        "rolling-restart" => rolling_restart(scene).await,
        "ledger-locked" => ledger_locked(scene).await,
        "network-cut" => network_cut(scene).await,
        other => panic!("{other} is no drill; there are {}", NAMES.join(", ")),
    }
}

/// S3 answers 503 to everything.
async fn s3_outage(mut scene: Scene, outage: Duration) -> Shown {
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.best_rate();
    let rule = Rule::new(Fault::status(503, "ServiceUnavailable"));
    let fault = scene.stage.s3.faults().add(rule);
    let began = Instant::now();
    assert!(
        scene.until_circuit("open", SHORT).await,
        "the circuit opens"
    );
    // Calls that were under way when it opened end on their own.
    while scene.stage.s3.journal().in_flight(Class::Upload) > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let (calls, probes) = (scene.puts(), scene.probes().await);
    let (cpu, open) = (worker.cpu(), Instant::now());
    sleep(outage.saturating_sub(began.elapsed())).await;
    let while_open = WhileOpen {
        calls: scene.puts() - calls,
        probes: scene.probes().await - probes,
        closings: 0,
        cpu: Some((worker.cpu() - cpu).as_secs_f64() / open.elapsed().as_secs_f64()),
    };
    fault.remove();
    assert!(
        scene.until_circuit("closed", PATIENCE).await,
        "the circuit closes"
    );
    let full_after = scene.until_full(before).await;
    scene.until_done(PATIENCE).await;
    Shown {
        while_open: Some(while_open),
        full_after,
        ..scene.account(vec![worker]).await
    }
}

/// S3 fails one call in five and takes 300 ms for the others.
async fn s3_brown_out(mut scene: Scene, lasts: Duration) -> Shown {
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.best_rate();
    let faults = scene.stage.s3.faults();
    let slow = faults.add(Rule::new(Fault::Delay(Duration::from_millis(300))));
    let failing = Rule::new(Fault::status(500, "InternalError")).chance(0.2, 7);
    let failing = faults.add(failing);
    sleep(lasts).await;
    slow.remove();
    failing.remove();
    let full_after = scene.until_full(before).await;
    mended(scene, full_after, vec![worker]).await
}

/// The broker goes away, gently or not, and comes back.
async fn broker(mut scene: Scene, kill: bool) -> Shown {
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.best_rate();
    if kill {
        scene.stage.rabbit.kill();
    } else {
        scene.stage.rabbit.stop();
    }
    scene.stage.rabbit.start();
    let full_after = scene.until_full(before).await;
    mended(scene, full_after, vec![worker]).await
}

/// `kill -9` five times, at moments that nobody chose.
async fn worker_kill(mut scene: Scene) -> Shown {
    let mut worker = scene.stage.process();
    for kill in 1..=5 {
        scene.until_share(kill * 12).await;
        sleep(Duration::from_millis(fastrand::u64(0..50))).await;
        worker.kill();
        worker = scene.stage.process();
    }
    mended(scene, None, vec![worker]).await
}

/// Three workers on one PostgreSQL ledger; one after the other is told to drain, and replaced when it has ended.
async fn rolling_restart(mut scene: Scene) -> Shown {
    let stage = scene.stage.set("http.listen", "127.0.0.1:0");
    scene.stage = stage.on_postgres().await;
    let mut workers = [(); 3].map(|()| scene.stage.process());
    for (turn, worker) in (1..).zip(&mut workers) {
        scene.until_share(turn * 20).await;
        worker.terminate();
        let code = worker.wait().await;
        assert_eq!(code, Some(0), "a drained worker exits with 0");
        *worker = scene.stage.process();
    }
    mended(scene, None, workers.into()).await
}

/// Another program holds the ledger's lock.
async fn ledger_locked(mut scene: Scene) -> Shown {
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.best_rate();
    let lock = scene.stage.lock_ledger().await;
    sleep(SHORT).await;
    drop(lock);
    let full_after = scene.until_full(before).await;
    mended(scene, full_after, vec![worker]).await
}

/// No connection between worker and broker.
async fn network_cut(mut scene: Scene) -> Shown {
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT).await;
    let before = scene.best_rate();
    scene.wire.cut();
    sleep(SHORT).await;
    scene.wire.mend();
    let full_after = scene.until_full(before).await;
    mended(scene, full_after, vec![worker]).await
}

pub(crate) async fn mended(
    scene: Scene,
    full_after: Option<Duration>,
    workers: Vec<WorkerProcess>,
) -> Shown {
    scene.until_done(PATIENCE).await;
    Shown {
        full_after,
        ..scene.account(workers).await
    }
}
