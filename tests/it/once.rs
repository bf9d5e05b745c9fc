//! The same id takes effect once, however often it is delivered.

use bucket_brigade::{
    dev::s3_server::S3Operation,
    job::{Lane, State},
};
use serde_json::Value;

use crate::stage::{self, Stage, metric};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_copies_of_each_of_fifty_ids_are_fifty_puts() {
    let mut stage = Stage::new().await;
    stage.declare().await;
    let copies = (0..20 * 50).map(|n| stage::put(&format!("j{}", n % 50), &format!("k{}", n % 50)));
    let copies = copies.collect();
    stage.publish_all(Lane::Upload, copies).await;
    let worker = stage.worker().await;
    stage.until_count(State::Completed, 50).await;
    stage.until_empty(Lane::Upload).await;
    let page = worker.view().metrics.render().unwrap();
    worker.drain(stage::PATIENCE).await;

    assert_eq!(stage.puts(), 50);
    assert_eq!(
        metric(&page, "brigade_duplicates_total{lane=\"upload\"}"),
        950.0
    );
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_that_comes_again_is_answered_from_the_ledger() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let ask = async || {
        let answer = stage.request(Lane::Upload, stage::put("j1", "k1")).await;
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    let (first, mut second) = (ask().await, ask().await);
    assert_eq!(first["outcome"], "completed");
    assert_eq!(first["result"]["size"], 10);
    let repeated = second.as_object_mut().unwrap().remove("repeated");
    assert_eq!(repeated, Some(true.into()));
    assert_eq!(first, second);
    assert_eq!(stage.puts(), 1);
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_read_that_comes_again_is_read_again_for_its_answer_and_its_row_stays() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage.request(Lane::Upload, stage::put("p", "k1")).await;
    let read = || stage::on_key("r", "get_object", "k1");
    for _ in 0..2 {
        let answer = stage.request(Lane::Read, read()).await;
        assert_eq!(answer.body, "text of k1");
        let report: Value = serde_json::from_str(answer.text("brigade-result").unwrap()).unwrap();
        assert_eq!(report["outcome"], "completed");
    }
    let row = stage.row("r").await.unwrap();
    assert_eq!((row.state, row.attempts), (State::Completed, 1));
    assert_eq!(stage.s3.journal().count(S3Operation::GetObject), 2);
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_lettered_id_is_not_run_again_by_a_producer() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    for _ in 0..2 {
        let answer = stage
            .request(Lane::Read, stage::on_key("r", "get_object", "none"))
            .await;
        let report: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(report["outcome"], "dead_lettered");
        assert_eq!(report["error"]["code"], "NoSuchKey");
    }
    worker.drain(stage::PATIENCE).await;
    assert_eq!(stage.s3.journal().count(S3Operation::GetObject), 1);
    assert_eq!(stage.dead(Lane::Read).await.len(), 1);
}
