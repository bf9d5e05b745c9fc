//! Things that are half broken: one queue that takes no copies, a broker that blocks or does not answer while the
//! worker must go, and a part of the worker that ends by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bucket_brigade::{
    dev::s3_server::Class,
    http::{HttpServer, client},
    job::{Lane, Message, State},
};
use serde_json::json;

use crate::{
    rabbit::Rabbit,
    stage::{self, Stage, Totals, eventually},
};

/// A drain with a time-out of a second is over after four. The rest is for a loaded machine; what hung took ten
/// seconds and more.
const DRAINED_WITHIN: Duration = Duration::from_secs(8);

/// A put to a bucket that does not exist.
fn typo() -> Message {
    let job = json!({"version": 1, "operation": "put_object", "bucket": "nowhere", "key": "k",
        "body": {"text": "x"}});
    stage::message("typo", &job)
}

fn ended(completed: usize, dead: usize) -> Totals {
    Totals {
        completed,
        dead,
        ..Totals::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_queue_that_is_missing_stops_no_other_job_and_readyz_names_it() {
    let stage = Stage::new().await;
    stage.declare().await;
    let dead = format!("{}.upload.dead", stage.prefix);
    stage.rabbit.delete_queue(&dead).await;
    let mut stage = stage.set("amqp.topology", "none");
    stage
        .store([("k".to_owned(), "text".to_owned())].into_iter())
        .await;
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), Arc::clone(worker.view()))
        .await
        .unwrap();
    stage.until_consuming(&worker).await;
    stage.publish(Lane::Upload, typo()).await;
    stage.until("typo", State::DeadLettered).await;
    let at = http.address().to_string();
    let ready = eventually("the worker says which queue it is", async || {
        let answer = client::get(&at, "/readyz", Duration::from_secs(2))
            .await
            .ok()?;
        let body = String::from_utf8(answer.body).unwrap();
        body.contains(&dead).then_some((answer.code, body))
    })
    .await;
    assert_eq!(ready.0, 200, "the lane works: {}", ready.1);
    assert!(ready.1.contains("warning"), "{}", ready.1);
    // Its own lane and the others go on.
    stage.publish(Lane::Upload, stage::put("up", "k2")).await;
    stage
        .publish(Lane::Read, stage::on_key("read", "head_object", "k"))
        .await;
    stage
        .publish(Lane::Cleanup, stage::on_key("gone", "delete_object", "k3"))
        .await;
    for id in ["up", "read", "gone"] {
        stage.until(id, State::Completed).await;
    }
    stage.declare().await;
    eventually("the letter is there", async || {
        (stage.dead(Lane::Upload).await.len() == 1).then_some(())
    })
    .await;
    http.stop().await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(stage.total_queue_check().await, ended(3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_in_a_memory_alarm_is_over_in_time_and_loses_no_letter() {
    let rabbit = Rabbit::private("alarm-drain");
    let mut stage = Stage::on(rabbit).await.set("drain.timeout", "1s");
    let mut worker = stage.process();
    stage.publish(Lane::Upload, stage::put("first", "k")).await;
    stage.until("first", State::Completed).await;
    let hanging = stage.s3.faults().add(stage::uploads_hang());
    stage.publish(Lane::Upload, typo()).await;
    eventually("its call is under way", async || {
        (stage.s3.journal().in_flight(Class::Upload) >= 1).then_some(())
    })
    .await;
    stage
        .rabbit
        .ctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    hanging.remove();
    stage.until("typo", State::DeadLettered).await;
    let began = Instant::now();
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    assert!(began.elapsed() < DRAINED_WITHIN, "{:?}", began.elapsed());
    stage.rabbit.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let next = stage.worker().await;
    // Two, if the first worker's was on its way already when the alarm came.
    eventually("the letter is there", async || {
        (!stage.dead(Lane::Upload).await.is_empty()).then_some(())
    })
    .await;
    stage.until_empty(Lane::Upload).await;
    next.drain(stage::PATIENCE).await;
    assert_eq!(stage.total_queue_check().await, ended(1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_over_in_time_when_the_broker_does_not_answer() {
    let stage = Stage::new().await.set("drain.timeout", "100ms");
    let (mut stage, proxy) = stage.behind_a_proxy().await;
    let mut worker = stage.process();
    stage.publish(Lane::Upload, stage::put("j", "k")).await;
    stage.until("j", State::Completed).await;
    proxy.black_hole();
    let began = Instant::now();
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    assert!(began.elapsed() < DRAINED_WITHIN, "{:?}", began.elapsed());
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_or_a_writer_that_ends_by_itself_ends_the_process_with_70_and_says_which() {
    use bucket_brigade::dev::s3_server::{Fault, Rule};
    for (point, says) in [
        ("claims.written", "brigade: the ledger's writer ended"),
        ("requeue.before", "brigade: the upload lane ended"),
    ] {
        let mut stage = Stage::new()
            .await
            .set("circuit.failure_threshold", "1")
            .set("lanes.upload.concurrency", "1")
            .set("retry.max_attempts", "1");
        let fault = Rule::new(Fault::status(503, "ServiceUnavailable"));
        stage.s3.faults().add(fault);
        let mut worker = stage.panicking_process(Lane::Upload, point);
        let puts = (0..20).map(|n| stage::put(&format!("j{n}"), &format!("k{n}")));
        stage.publish_all(Lane::Upload, puts.collect()).await;
        assert_eq!(worker.wait().await, Some(70), "{}", worker.log());
        assert!(worker.log().contains(says), "{}", worker.log());
        stage.s3.faults().clear();
        let next = stage.worker().await;
        stage.until_count(State::Completed, 20).await;
        next.drain(stage::PATIENCE).await;
        stage.assert_all_completed().await;
    }
}
