//! `delete_prefix`: page by page, only what is not newer than the job, and through restarts.

use std::time::{SystemTime, UNIX_EPOCH};

use bucket_brigade::{
    dev::s3_server::{Class, Fault, Rule, S3Operation},
    job::{Lane, Message, State},
};
use serde_json::{Value, json};

use crate::stage::{self, Stage};

fn delete(prefix: &str) -> Message {
    let job = json!({"version": 1, "operation": "delete_prefix", "bucket": "b", "prefix": prefix});
    stage::message("d", &job)
}

fn objects(count: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(|n| (format!("p/{n:05}"), String::new()))
}

fn second() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_prefix_are_deleted_and_newer_objects_are_spared() {
    let stage = Stage::new().await;
    stage.store(objects(2_500)).await;
    stage
        .store([("q".to_owned(), String::new())].into_iter())
        .await;
    let enqueued_at = second();
    stage::eventually("the next second begins", async || {
        (second() > enqueued_at).then_some(())
    })
    .await;
    let newer = ["p/00007", "p/99999"].map(|key| (key.to_owned(), "new".to_owned()));
    stage.store(newer.into_iter()).await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let message = Message {
        timestamp: Some(enqueued_at),
        ..delete("p/")
    };
    let answer = stage.request(Lane::Cleanup, message).await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    worker.drain(stage::PATIENCE).await;
    let why = json!({"newer": 2, "no_date": 0, "clock": 0});
    let result = json!({"deleted": 2_499, "spared": 2, "spared_why": why});
    assert_eq!(report["result"], result, "{report}");
    assert_eq!(stage.s3.keys_of("b"), ["p/00007", "p/99999", "q"]);
    let journal = stage.s3.journal();
    let calls = [S3Operation::ListObjectsV2, S3Operation::DeleteObjects];
    assert_eq!(calls.map(|call| journal.count(call)), [3, 3]);
    assert_eq!(report["attempts"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_two_pages_leaves_the_rest_to_the_next() {
    let mut stage = Stage::new().await.set("ledger.lease", "3s");
    stage.store(objects(2_500)).await;
    stage.declare().await;
    let rule = Rule::new(Fault::Hang).class(Class::Delete).after(1);
    let held = stage.s3.faults().add(rule);
    let mut worker = stage.process();
    stage.publish(Lane::Cleanup, delete("p/")).await;
    stage::eventually("the second page is under way", async || {
        let journal = stage.s3.journal();
        (journal.count(S3Operation::DeleteObjects) >= 2).then_some(())
    })
    .await;
    assert_eq!(stage.s3.keys_of("b").len(), 1_500);
    worker.kill();
    held.remove();
    let survivor = stage.worker().await;
    let row = stage.until("d", State::Completed).await;
    survivor.drain(stage::PATIENCE).await;
    assert!(stage.s3.keys_of("b").is_empty());
    // The call that hung may have taken effect when it was let go.
    let deleted = row.result.unwrap()["deleted"].as_u64();
    assert!(matches!(deleted, Some(500 | 1_500)), "{deleted:?}");
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_key_is_reported_and_the_rest_goes() {
    let stage = Stage::new().await;
    stage.store(objects(1_200)).await;
    let refused = Fault::RefuseKeys {
        prefix: "p/00003".to_owned(),
        code: "AccessDenied".to_owned(),
    };
    stage.s3.faults().add(Rule::new(refused));
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let answer = stage.request(Lane::Cleanup, delete("p/")).await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    worker.drain(stage::PATIENCE).await;
    assert_eq!(report["result"]["deleted"], 1_199, "{report}");
    assert_eq!(report["result"]["failed"][0]["key"], "p/00003");
    assert_eq!(stage.s3.keys_of("b"), ["p/00003"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_xml_cannot_carry_are_listed_as_they_are_and_deleted() {
    let stage = Stage::new().await;
    let keys = ["p/a\u{1}b", "p/a b+c%2B", "p/ä&<", "p/plain"];
    let objects = keys.map(|key| (key.to_owned(), String::new()));
    stage.store(objects.into_iter()).await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let list = json!({"version": 1, "operation": "list_objects", "bucket": "b"});
    let answer = stage.request(Lane::Read, stage::message("l", &list)).await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    let listed = report["result"]["keys"].as_array().unwrap().iter();
    let mut listed: Vec<_> = listed.map(|key| key["key"].as_str().unwrap()).collect();
    let mut expected = keys.to_vec();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    let answer = stage.request(Lane::Cleanup, delete("p/")).await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    worker.drain(stage::PATIENCE).await;
    assert_eq!(
        report["result"],
        json!({"deleted": 4, "spared": 0}),
        "{report}"
    );
    assert!(stage.s3.keys_of("b").is_empty());
}
