//! Services that are absent, restarted or killed: the worker waits, says so, and goes on.

use std::time::Duration;

use bucket_brigade::{
    dev::s3_server::{Class, Fault, Rule},
    drain::Stopped,
    job::{Lane, State},
};

use crate::{
    rabbit::Rabbit,
    stage::{self, Stage},
};

fn puts(range: std::ops::Range<usize>) -> Vec<bucket_brigade::job::Message> {
    range
        .map(|n| stage::put(&format!("j{n}"), &format!("k{n}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_absent_at_the_start_is_waited_for_and_named() {
    let rabbit = Rabbit::private("absent");
    rabbit.stop();
    let mut stage = Stage::on(rabbit).await;
    let worker = stage.worker().await;
    let view = std::sync::Arc::clone(worker.view());
    let why = stage::eventually("the worker says what it waits for", async || {
        match view.broker.status().borrow().consume.clone() {
            bucket_brigade::broker::Link::Down(why) if why.contains("next try") => Some(why),
            _ => None,
        }
    })
    .await;
    assert!(
        why.contains("127.0.0.1:") && !why.contains("guest:guest"),
        "{why}"
    );
    stage.rabbit.start();
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    stage.until("j1", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_is_absent_at_the_start_is_waited_for() {
    let mut stage = Stage::new().await;
    stage.s3.stop().await;
    let worker = stage.worker().await;
    stage.publish_all(Lane::Upload, puts(0..20)).await;
    let circuit = stage::circuit_of(&worker, bucket_brigade::job::Circuit::Upload);
    stage::eventually("the circuit opens", async || {
        (!circuit.snapshot().is_closed()).then_some(())
    })
    .await;
    stage.s3.begin().await.unwrap();
    stage.until_count(State::Completed, 20).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restarted_and_then_killed_in_mid_stream_loses_no_job() {
    let mut stage = Stage::on(Rabbit::private("restart"))
        .await
        .set("lanes.upload.concurrency", "4");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage.publish_all(Lane::Upload, puts(0..300)).await;
    stage.until_count(State::Completed, 20).await;
    stage.rabbit.stop();
    stage.rabbit.start();
    stage.until_count(State::Completed, 150).await;
    stage.rabbit.kill();
    stage.rabbit.start();
    stage.until_count(State::Completed, 300).await;
    stage.until_empty(Lane::Upload).await;
    let stopped = worker.drain(stage::PATIENCE).await;
    assert_eq!(stopped, Stopped::Drained, "an ack of a lost channel hangs");
    for n in 0..300 {
        let stored = stage.stored(&format!("k{n}"));
        assert_eq!(stored, 1, "k{n} was stored {stored} times");
    }
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_fail_after_their_connection_broke_are_buried_by_way_of_their_redeliveries() {
    let (mut stage, proxy) = Stage::new().await.behind_a_proxy().await;
    let held = stage
        .s3
        .faults()
        .add(Rule::new(Fault::Hang).class(Class::Upload));
    let refused = Rule::new(Fault::status(403, "AccessDenied")).class(Class::Upload);
    stage.s3.faults().add(refused);
    let worker = stage.worker().await;
    stage.publish_all(Lane::Upload, puts(0..8)).await;
    held.until_fired(8).await;
    proxy.cut();
    let redelivered = r#"brigade_redeliveries_total{lane="upload"} 8"#;
    stage::eventually("all jobs are delivered again while they run", async || {
        let page = worker.view().metrics.render().unwrap();
        page.contains(redelivered).then_some(())
    })
    .await;
    held.release();
    stage::eventually("every job has its letter", async || {
        (stage.dead(Lane::Upload).await.len() == 8).then_some(())
    })
    .await;
    stage.until_empty(Lane::Upload).await;
    worker.drain(stage::PATIENCE).await;
    let expected = stage::Totals {
        dead: 8,
        ..stage::Totals::default()
    };
    assert_eq!(stage.total_queue_check().await, expected);
    assert_eq!(stage.puts(), 8, "one call a job");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_under_a_worker_is_declared_and_consumed_again() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage
        .rabbit
        .delete_queue(&format!("{}.upload", stage.prefix))
        .await;
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    stage.until("j1", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_stops_its_lane_only_and_is_never_changed() {
    let mut stage = Stage::new().await;
    stage
        .rabbit
        .declare_plain_queue(&format!("{}.upload", stage.prefix))
        .await;
    let worker = stage.worker().await;
    stage
        .publish(Lane::Read, stage::on_key("l", "list_objects", ""))
        .await;
    stage.until("l", State::Completed).await;
    let problem = worker.view().broker.status().borrow().topology.clone();
    let problem = problem.expect("the worker says what is wrong with the queue");
    assert!(
        problem.contains(&format!("{}.upload", stage.prefix)),
        "{problem}"
    );
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_away_pauses_all_lanes_and_loses_nothing() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage.publish(Lane::Upload, stage::put("first", "k")).await;
    stage.until("first", State::Completed).await;
    let lock = stage.lock_ledger().await;
    stage.publish_all(Lane::Upload, puts(0..50)).await;
    stage::eventually("every lane pauses", async || {
        let paused =
            |lane: &bucket_brigade::worker::LaneView| lane.status.state().as_str() == "paused";
        worker.view().lanes.iter().all(paused).then_some(())
    })
    .await;
    drop(lock);
    stage.until_count(State::Completed, 51).await;
    stage.until_empty(Lane::Upload).await;
    worker.drain(Duration::from_secs(30)).await;
    for n in 0..50 {
        assert_eq!(stage.stored(&format!("k{n}")), 1);
    }
    stage.assert_all_completed().await;
}
