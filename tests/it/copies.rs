//! `copy_object` against a real S3 server, in one call and in parts; and the conditional put that meets its own
//! object after a crash.

use std::time::Duration;

use bucket_brigade::{
    dev::s3_server::{Fault, Rule, S3Operation},
    job::{Lane, Message, State},
    storage::StorageSettings,
};
use serde_json::{Value, json};

use crate::stage::{self, Stage, metric};

/// A stage with another bucket; s3s takes no short name for the source of a copy.
async fn with_source() -> Stage {
    let stage = Stage::new().await;
    stage.s3.create_bucket("source");
    stage
}

const MIB: usize = 1 << 20;

fn copy(id: &str, bucket: &str, key: &str) -> Message {
    let job = json!({"version": 1, "operation": "copy_object", "bucket": "b", "key": "copy",
        "source": {"bucket": bucket, "key": key}});
    stage::message(id, &job)
}

async fn ask(stage: &Stage, lane: Lane, message: Message) -> Value {
    let answer = stage.request(lane, message).await;
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_the_metadata_along() {
    let stage = with_source().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let put = json!({"version": 1, "operation": "put_object", "bucket": "source", "key": "a b/ä+",
        "body": {"text": "hello"}, "content_type": "x/y", "metadata": {"who": "me"}});
    ask(&stage, Lane::Upload, stage::message("put", &put)).await;
    let report = ask(&stage, Lane::Upload, copy("c", "source", "a b/ä+")).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["attempts"], 2, "a look and the copy");
    let head = json!({"version": 1, "operation": "head_object", "bucket": "b", "key": "copy"});
    let report = ask(&stage, Lane::Read, stage::message("h", &head)).await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(report["result"]["content_type"], "x/y");
    assert_eq!(report["result"]["metadata"], json!({"who": "me"}));
    assert_eq!(stage.s3.object("b", "copy"), Some(b"hello".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_above_the_limit_is_copied_in_parts_byte_for_byte() {
    let stage = with_source().await;
    let text: String = (0..12 * MIB)
        .map(|n| char::from(b'a' + (n % 26) as u8))
        .collect();
    stage
        .store_in("source", [("big".to_owned(), text.clone())].into_iter())
        .await;
    let rule = Rule::new(Fault::status(503, "ServiceUnavailable"));
    let rule = rule.operation(S3Operation::UploadPartCopy).first(1);
    stage.s3.faults().add(rule);
    let worker = stage
        .worker_with(|storage| storage.copy_whole_up_to = 5 * MIB as u64)
        .await;
    stage.until_consuming(&worker).await;
    let report = ask(&stage, Lane::Upload, copy("c", "source", "big")).await;
    let page = worker.view().metrics.render().unwrap();
    worker.drain(stage::PATIENCE).await;
    assert_eq!(report["result"]["size"], 12 * MIB, "{report}");
    assert!(
        stage.s3.object("b", "copy") == Some(text.into_bytes()),
        "other bytes"
    );
    let journal = stage.s3.journal();
    assert_eq!(journal.count(S3Operation::CopyObject), 0);
    assert_eq!(
        journal.count(S3Operation::UploadPartCopy),
        4,
        "three parts, one twice"
    );
    let parts = r#"s3_operations_total{bucket="b",operation="upload_part_copy",result="success"}"#;
    assert_eq!(metric(&page, parts), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_parts_that_fails_leaves_no_upload_behind() {
    let stage = with_source().await;
    stage
        .store_in(
            "source",
            [("big".to_owned(), "x".repeat(12 * MIB))].into_iter(),
        )
        .await;
    let rule = Rule::new(Fault::status(412, "PreconditionFailed"));
    let rule = rule.operation(S3Operation::UploadPartCopy).after(1);
    stage.s3.faults().add(rule);
    let worker = stage
        .worker_with(|storage| storage.copy_whole_up_to = 5 * MIB as u64)
        .await;
    stage.until_consuming(&worker).await;
    let report = ask(&stage, Lane::Upload, copy("c", "source", "big")).await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(report["error"]["code"], "source_changed", "{report}");
    assert_eq!(stage.s3.object("b", "copy"), None);
    let journal = stage.s3.journal();
    assert_eq!(journal.count(S3Operation::AbortMultipartUpload), 1);
    assert_eq!(stage.s3.uploads_of("b"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_parts_that_was_cut_off_begins_anew_and_leaves_no_upload_behind() {
    let mut stage = with_source().await;
    let text = "x".repeat(12 * MIB);
    stage
        .store_in("source", [("big".to_owned(), text.clone())].into_iter())
        .await;
    let small_parts = |storage: &mut StorageSettings| storage.copy_whole_up_to = 5 * MIB as u64;
    let hang = Rule::new(Fault::Hang).operation(S3Operation::UploadPartCopy);
    stage.s3.faults().add(hang);
    let worker = stage.worker_with(small_parts).await;
    stage.until_consuming(&worker).await;
    stage
        .publish(Lane::Upload, copy("c", "source", "big"))
        .await;
    stage::eventually("the parts are under way", async || {
        let parts = stage.s3.journal().count(S3Operation::UploadPartCopy);
        (parts > 0).then_some(())
    })
    .await;
    worker.drain(Duration::ZERO).await;
    assert_eq!(stage.s3.uploads_of("b"), ["copy"], "nobody could abort it");
    stage.s3.faults().clear();

    let worker = stage.worker_with(small_parts).await;
    stage.until("c", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(stage.s3.uploads_of("b"), Vec::<String>::new());
    assert!(stage.s3.object("b", "copy") == Some(text.into_bytes()));
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_allow_list_counts_the_source_s_bucket_too() {
    let stage = Stage::new().await.set("lanes.upload.buckets", "b");
    stage.s3.create_bucket("secret");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let report = ask(&stage, Lane::Upload, copy("c", "secret", "k")).await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(report["error"]["code"], "not_allowed", "{report}");
    let message = report["error"]["message"].as_str().unwrap();
    assert!(message.contains("secret"), "{message}");
    assert_eq!(stage.s3.journal().total(), 0);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_put_whose_worker_died_after_it_is_done_on_its_redelivery() {
    let mut stage = Stage::new().await.set("ledger.lease", "3s");
    let put = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
        "body": {"text": "mine"}, "if_none_match": "*"});
    stage.declare().await;
    stage.publish(Lane::Upload, stage::message("p", &put)).await;
    let mut worker = stage.armed_process(Lane::Upload, "call.after:1");
    assert_eq!(worker.wait_for_signal().await, Some(6));
    assert_eq!(stage.stored("k"), 1);
    let survivor = stage.worker().await;
    let row = stage.until("p", State::Completed).await;
    survivor.drain(stage::PATIENCE).await;
    assert_eq!(stage.stored("k"), 1, "it was not stored again");
    assert_eq!(row.attempts, 2, "the put that met 412, and the look");
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_copies_and_deletes_by_prefix() {
    use crate::cli::{json, run, text};
    let stage = with_source().await;
    let objects = [("k".to_owned(), "text".to_owned())];
    stage.store_in("source", objects.into_iter()).await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let copy = [
        "enqueue",
        "copy",
        "s3://source/k",
        "s3://b/p/copy",
        "--wait",
    ];
    let copy = run(&stage, &copy).await;
    assert_eq!(copy.status.code(), Some(0), "{}", text(&copy.stderr));
    assert_eq!(stage.s3.object("b", "p/copy"), Some(b"text".to_vec()));
    let delete = [
        "enqueue",
        "delete",
        "--prefix",
        "s3://b/p/",
        "--wait",
        "--output",
        "json",
    ];
    let delete = run(&stage, &delete).await;
    assert_eq!(
        json(&delete)["result"]["deleted"],
        1,
        "{}",
        text(&delete.stderr)
    );
    for wrong in [
        vec!["enqueue", "delete", "--prefix", "s3://b/"],
        vec!["enqueue", "delete", "--prefix", "s3://b/p/", "s3://b/q/"],
    ] {
        assert_eq!(
            run(&stage, &wrong).await.status.code(),
            Some(64),
            "{wrong:?}"
        );
    }
    worker.drain(stage::PATIENCE).await;
}
