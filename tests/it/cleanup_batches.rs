//! Deletes by the thousand: many messages, few calls, and still an end of its own for every job.

use bucket_brigade::{
    dev::s3_server::{Class, Fault, Rule, S3Operation},
    job::{Lane, Message, State, outcome::ParkDelay},
    worker::Worker,
};
use serde_json::json;

use crate::stage::{self, Stage, Totals, metric};

fn deletes(count: usize) -> Vec<Message> {
    (0..count).map(|n| delete(n, &format!("k{n}"))).collect()
}

fn delete(n: usize, key: &str) -> Message {
    stage::on_key(&format!("d{n}"), "delete_object", key)
}

/// A stage whose groups wait long enough for a slow machine to fill them.
async fn gathering() -> Stage {
    Stage::new().await.set("cleanup.batch_wait", "2s")
}

/// Queues the jobs, then starts a worker, so that all of them are there at once.
async fn start_on(stage: &mut Stage, jobs: Vec<Message>) -> Worker {
    stage.declare().await;
    stage.publish_all(Lane::Cleanup, jobs).await;
    stage.worker().await
}

fn multi(stage: &Stage) -> u64 {
    stage.s3.journal().count(S3Operation::DeleteObjects)
}

fn single(stage: &Stage) -> u64 {
    stage.s3.journal().count(S3Operation::DeleteObject)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_delete_jobs_take_a_handful_of_calls_and_each_has_its_own_result() {
    const JOBS: usize = 5_000;
    let mut stage = gathering().await;
    let objects = (0..100).map(|n| (format!("k{n}"), "x".to_owned()));
    stage.store(objects).await;
    let worker = start_on(&mut stage, deletes(JOBS)).await;
    stage.until_count(State::Completed, JOBS).await;
    let page = worker.view().metrics.render().unwrap();
    worker.drain(stage::PATIENCE).await;

    assert!(stage.s3.keys_of("b").is_empty());
    let calls = (multi(&stage), single(&stage));
    assert!(calls.0 + calls.1 <= 8, "{calls:?} calls for {JOBS} jobs");
    assert_eq!(metric(&page, "brigade_cleanup_batch_keys_sum"), JOBS as f64);
    let rows = stage.rows().await;
    assert_eq!(rows.len(), JOBS);
    for row in rows.values() {
        let (attempts, result) = (row.attempts, row.result.clone());
        assert_eq!((attempts, result), (1, Some(json!({"deleted": 1}))));
    }
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_key_of_a_thousand_fails_only_its_own_job() {
    const JOBS: usize = 1_000;
    let mut stage = gathering().await;
    let refused = Fault::RefuseKeys {
        prefix: "k777".to_owned(),
        code: "AccessDenied".to_owned(),
    };
    stage.s3.faults().add(Rule::new(refused));
    let worker = start_on(&mut stage, deletes(JOBS)).await;
    stage.until_count(State::Completed, JOBS - 1).await;
    let row = stage.until("d777", State::DeadLettered).await;
    worker.drain(stage::PATIENCE).await;

    assert_eq!(row.error.unwrap().code, "AccessDenied");
    assert!(multi(&stage) <= 3, "{} calls", multi(&stage));
    let letters = stage.dead(Lane::Cleanup).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].text("brigade-error-code"), Some("AccessDenied"));
    let totals = stage.total_queue_check().await;
    let expected = Totals {
        completed: JOBS - 1,
        dead: 1,
        ..Totals::default()
    };
    assert_eq!(totals, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_as_a_whole_goes_through_in_halves() {
    const JOBS: usize = 100;
    let mut stage = gathering().await.set("cleanup.batch_keys", "100");
    let rule = Rule::new(Fault::status(503, "ServiceUnavailable"));
    let rule = rule.operation(S3Operation::DeleteObjects).first(3);
    stage.s3.faults().add(rule);
    let worker = start_on(&mut stage, deletes(JOBS)).await;
    stage.until_count(State::Completed, JOBS).await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(
        (multi(&stage), single(&stage)),
        (5, 0),
        "three and two halves"
    );
    let rows = stage.rows().await;
    assert!(rows.values().all(|row| row.attempts == 4));
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_multi_delete_gets_single_deletes() {
    const JOBS: usize = 200;
    let mut stage = gathering().await;
    let rule = Rule::new(Fault::status(501, "NotImplemented"));
    let rule = rule.operation(S3Operation::DeleteObjects);
    stage.s3.faults().add(rule);
    let worker = start_on(&mut stage, deletes(JOBS)).await;
    stage.until_count(State::Completed, JOBS).await;
    assert!(multi(&stage) <= 2, "it is asked once, or twice at a time");
    let asked = multi(&stage);
    let many = json!({"version": 1, "operation": "delete_objects", "bucket": "b",
        "keys": ["x", "y", "z"]});
    let answer = stage
        .request(Lane::Cleanup, stage::message("many", &many))
        .await;
    let report: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(report["result"]["deleted"], 3, "{report}");
    worker.drain(stage::PATIENCE).await;
    assert_eq!(multi(&stage), asked, "it is remembered");
    assert_eq!(single(&stage), JOBS as u64 + 3);
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_two_jobs_is_sent_once_and_completes_both() {
    let mut stage = gathering().await;
    let jobs = vec![delete(1, "same"), delete(2, "same"), delete(3, "other")];
    let worker = start_on(&mut stage, jobs).await;
    stage.until_count(State::Completed, 3).await;
    let page = worker.view().metrics.render().unwrap();
    worker.drain(stage::PATIENCE).await;
    assert_eq!((multi(&stage), single(&stage)), (1, 0));
    assert_eq!(metric(&page, "brigade_cleanup_batch_keys_sum"), 2.0);
    let counted = r#"s3_operations_total{bucket="b",operation="delete_objects",result="success"}"#;
    assert_eq!(metric(&page, counted), 1.0);
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_parks_each_of_its_jobs_for_a_minute() {
    let mut stage = gathering().await.set("cleanup.batch_keys", "20");
    stage.s3.faults().add(stage::deletes_unavailable());
    let worker = start_on(&mut stage, deletes(20)).await;
    stage.until_count(State::Retrying, 20).await;
    worker.drain(stage::PATIENCE).await;
    let parked = stage.parked(Lane::Cleanup, ParkDelay::OneMinute).await;
    assert_eq!(parked.len(), 20);
    // Three attempts, a half, and a key alone: an ill store is not asked for every key.
    assert_eq!((multi(&stage), single(&stage)), (4, 1));
    let totals = stage.total_queue_check().await;
    assert_eq!((totals.queued, totals.lost), (20, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_sends_what_has_been_gathered_and_requeues_what_has_not_started() {
    const JOBS: usize = 3_000;
    let mut stage = Stage::new().await.set("cleanup.batch_wait", "1m");
    let held = stage.s3.faults().add(stage::deletes_hang());
    stage.declare().await;
    stage.publish_all(Lane::Cleanup, deletes(JOBS)).await;
    let mut worker = stage.process();
    stage::eventually("a batch is under way", async || {
        (stage.s3.journal().in_flight(Class::Delete) >= 1).then_some(())
    })
    .await;
    worker.terminate();
    let queue = format!("{}.cleanup", stage.prefix);
    stage::eventually("the rest is given back", async || {
        (stage.rabbit.counts(&queue).await.0 >= 500).then_some(())
    })
    .await;
    held.remove();
    assert_eq!(worker.wait().await, Some(0));
    let rows = stage.rows().await;
    let completed = rows.values().filter(|row| row.state == State::Completed);
    let completed = completed.count();
    assert!(completed >= 1_000, "{completed} completed");
    let totals = stage.total_queue_check().await;
    let expected = Totals {
        completed,
        queued: JOBS - completed,
        ..Totals::default()
    };
    assert_eq!(totals, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_batch_loses_no_delete() {
    const JOBS: usize = 1_500;
    let mut stage = gathering().await.set("ledger.lease", "3s");
    let held = stage.s3.faults().add(stage::deletes_hang());
    stage.declare().await;
    stage.publish_all(Lane::Cleanup, deletes(JOBS)).await;
    let mut worker = stage.process();
    // All jobs have begun, in two groups, or in more on a slow machine.
    stage.until_count(State::Running, JOBS).await;
    stage::eventually("two batches are under way", async || {
        (stage.s3.journal().in_flight(Class::Delete) >= 2).then_some(())
    })
    .await;
    worker.kill();
    held.remove();
    stage::eventually("the dead worker's calls end", async || {
        (stage.s3.journal().in_flight(Class::Delete) == 0).then_some(())
    })
    .await;
    let batches = multi(&stage);
    let survivor = stage.worker().await;
    stage.until_count(State::Completed, JOBS).await;
    survivor.drain(stage::PATIENCE).await;
    // What was running when the worker died is not batched again.
    assert_eq!(multi(&stage), batches);
    stage.assert_all_completed().await;
}
