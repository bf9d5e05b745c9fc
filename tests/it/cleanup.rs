//! The cleanup lane: best effort, without a breaker, and never in the way of uploads and reads.

use bucket_brigade::job::{Lane, State, outcome::ParkDelay};
use serde_json::json;

use crate::stage::{self, Stage, Totals};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delete_parks_for_a_minute_and_opens_no_circuit() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(stage::deletes_unavailable());
    let worker = stage.worker().await;
    let jobs = (0..10).map(|n| stage::on_key(&format!("d{n}"), "delete_object", &format!("k{n}")));
    let jobs = jobs.collect();
    stage.until_consuming(&worker).await;
    stage.publish_all(Lane::Cleanup, jobs).await;
    stage.until_count(State::Retrying, 10).await;
    let page = worker.view().metrics.render().unwrap();
    worker.drain(stage::PATIENCE).await;

    assert_eq!(
        stage
            .parked(Lane::Cleanup, ParkDelay::OneMinute)
            .await
            .len(),
        10
    );
    assert!(!page.contains("circuit=\"cleanup\""));
    let totals = stage.total_queue_check().await;
    assert_eq!(
        totals,
        Totals {
            queued: 10,
            ..Totals::default()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_is_too_old_is_abandoned_and_counted() {
    let mut stage = Stage::new().await.set("limits.max_job_age", "1s");
    stage.s3.faults().add(stage::deletes_unavailable());
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let mut old = stage::on_key("d", "delete_object", "k");
    old.timestamp = Some(1_700_000_000);
    stage.publish(Lane::Cleanup, old).await;
    let row = stage.until("d", State::Abandoned).await;
    assert_eq!(
        row.error.map(|error| error.class).as_deref(),
        Some("unavailable")
    );
    let page = worker.view().metrics.render().unwrap();
    assert_eq!(stage::metric(&page, "brigade_cleanup_abandoned_total"), 1.0);
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_is_refused_for_good_is_buried_so_that_a_replay_can_cure_it() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let job =
        json!({"version": 1, "operation": "delete_object", "bucket": "no-such-bucket", "key": "k"});
    stage
        .publish(Lane::Cleanup, stage::message("d", &job))
        .await;
    stage.until("d", State::DeadLettered).await;
    worker.drain(stage::PATIENCE).await;
    let letters = stage.dead(Lane::Cleanup).await;
    assert_eq!(letters[0].text("brigade-error-code"), Some("NoSuchBucket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_reads_go_on_while_deletes_hang() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(stage::deletes_hang());
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let deletes = (0..50)
        .map(|n| stage::on_key(&format!("d{n}"), "delete_object", "k"))
        .collect();
    stage.publish_all(Lane::Cleanup, deletes).await;
    let puts = (0..50)
        .map(|n| stage::put(&format!("p{n}"), &format!("k{n}")))
        .collect();
    stage.publish_all(Lane::Upload, puts).await;
    stage.until_count(State::Completed, 50).await;
    stage.s3.faults().clear();
    stage.until_count(State::Completed, 100).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}
