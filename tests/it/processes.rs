//! Real worker processes: SIGTERM, `kill -9`, and what is left in the queue after each.

use bucket_brigade::{
    dev::s3_server::Class,
    job::{Lane, State},
};

use crate::{
    process::WorkerProcess,
    stage::{self, Stage, Totals},
};

fn puts(count: usize) -> Vec<bucket_brigade::job::Message> {
    (0..count)
        .map(|n| stage::put(&format!("j{n}"), &format!("k{n}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_runs_requeues_the_rest_and_exits_0() {
    let mut stage = Stage::new()
        .await
        .set("lanes.upload.concurrency", "4")
        .set("lanes.upload.prefetch", "16");
    stage.declare().await;
    stage.publish_all(Lane::Upload, puts(100)).await;
    let held = stage.s3.faults().add(stage::uploads_hang());
    let mut worker = stage.process();
    stage::eventually("four calls are under way", async || {
        (stage.s3.journal().in_flight(Class::Upload) >= 4).then_some(())
    })
    .await;
    worker.terminate();
    stage::eventually(
        "the worker has given back what it had not started",
        async || {
            (stage
                .rabbit
                .counts(&format!("{}.upload", stage.prefix))
                .await
                .0
                >= 80)
                .then_some(())
        },
    )
    .await;
    held.remove();
    assert_eq!(worker.wait().await, Some(0));

    let rows = stage.rows().await;
    let completed = rows
        .values()
        .filter(|row| row.state == State::Completed)
        .count();
    assert!((4..=16).contains(&completed), "{completed} jobs completed");
    let totals = stage.total_queue_check().await;
    let expected = Totals {
        completed,
        queued: 100 - completed,
        ..Totals::default()
    };
    assert_eq!(totals, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_drain_is_interrupted_and_costs_no_attempt() {
    let mut stage = Stage::new().await.set("drain.timeout", "500ms");
    stage.s3.faults().add(stage::uploads_hang());
    let mut worker = stage.process();
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    stage::eventually("the call is under way", async || {
        (stage.s3.journal().in_flight(Class::Upload) >= 1).then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    let row = stage.row("j1").await.unwrap();
    assert_eq!((row.state, row.parks), (State::Interrupted, 0));
    let totals = stage.total_queue_check().await;
    assert_eq!(
        totals,
        Totals {
            queued: 1,
            ..Totals::default()
        }
    );

    stage.s3.faults().clear();
    let worker = stage.worker().await;
    stage.until("j1", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_worker_at_once_with_1_and_loses_nothing() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(stage::uploads_hang());
    let mut worker = stage.process();
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    stage::eventually("the call is under way", async || {
        (stage.s3.journal().in_flight(Class::Upload) >= 1).then_some(())
    })
    .await;
    worker.terminate();
    stage::eventually("it drains", async || {
        worker.log().contains("draining").then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(worker.wait().await, Some(1));
    let log = worker.log();
    assert!(log.contains("a second signal: stopping now"), "{log}");
    stage.until_queued(Lane::Upload, 1).await;
    let totals = stage.total_queue_check().await;
    assert_eq!(
        totals,
        Totals {
            queued: 1,
            ..Totals::default()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_while_it_starts_does_not_finish_that_first() {
    let directory = tempfile::tempdir().unwrap();
    // It takes connections, and answers nobody: a start without a region asks it for one, for seconds.
    let metadata = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = format!("http://{}", metadata.local_addr().unwrap());
    let ledger = directory.path().join("ledger.db");
    let settings = [
        ("amqp.url", "amqp://guest:guest@127.0.0.1:1/%2f".to_owned()),
        ("ledger.url", format!("sqlite://{}", ledger.display())),
        ("http.listen", "127.0.0.1:0".to_owned()),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value));
    let mut worker = WorkerProcess::start_with(
        &settings,
        ("key", "secret"),
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)],
        directory.path().join("log"),
    );
    stage::eventually("it starts", async || {
        worker.log().contains("\"settings\"").then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    let log = worker.log();
    assert!(!log.contains("\"started\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_log_nobody_reads_does_its_jobs_and_drains() {
    let mut stage = Stage::new().await;
    let (mut worker, _unread) = stage.unread_process();
    stage.publish_all(Lane::Upload, puts(20)).await;
    stage.until_count(State::Completed, 20).await;
    stage.until_empty(Lane::Upload).await;
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_log_nobody_reads_ends_at_once_where_it_must() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let stage = Stage::new().await.set("http.listen", &address);
    let (mut worker, _unread) = stage.unread_process();
    assert_eq!(worker.wait().await, Some(1), "its error has nowhere to go");

    let mut stage = stage.set("http.listen", "127.0.0.1:0");
    stage.s3.faults().add(stage::uploads_hang());
    let (mut worker, _unread) = stage.unread_process();
    stage.publish(Lane::Upload, stage::put("j", "k")).await;
    stage::eventually("the call is under way", async || {
        (stage.s3.journal().in_flight(Class::Upload) >= 1).then_some(())
    })
    .await;
    // Two signals that come at once are one.
    stage::eventually("a second signal ends it", async || {
        worker.terminate();
        (!worker.is_running()).then_some(())
    })
    .await;
    assert_eq!(worker.wait().await, Some(1));
    stage.until_queued(Lane::Upload, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_500_jobs_and_a_restart_lose_none() {
    let mut stage = Stage::new().await.set("ledger.lease", "3s");
    stage.declare().await;
    stage.publish_all(Lane::Upload, puts(500)).await;
    for done in [50, 200] {
        let mut worker = stage.process();
        stage.until_count(State::Completed, done).await;
        worker.kill();
    }
    let worker = stage.worker().await;
    stage.until_count(State::Completed, 500).await;
    stage.until_empty(Lane::Upload).await;
    worker.drain(stage::PATIENCE).await;

    for n in 0..500 {
        assert!(stage.s3.object("b", &format!("k{n}")).is_some());
    }
    stage.assert_all_completed().await;
}
