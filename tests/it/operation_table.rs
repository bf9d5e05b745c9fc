//! The table of operations: one row each, and what every operation owes, tried on each row with a real worker.
//!
//! A new operation does not compile here until it has its row. What is peculiar to one operation is tested elsewhere.

use std::collections::BTreeSet;

use bucket_brigade::{
    dev::s3_server::{Class, Fault, Rule},
    job::{Circuit, Lane, Message, OperationName, State},
    lane::LaneState,
    resilience::Mode,
    worker::Worker,
};
use serde_json::{Value, json};

use crate::stage::{self, Stage};

/// The least that a job of this operation needs beside version, operation and bucket, and the fields of its result.
/// Objects `old` and `gone/…`, and an `old` in bucket `other`, are there before.
fn row(stage: &Stage, name: OperationName) -> (Value, &'static [&'static str]) {
    const STORED: &[&str] = &["etag", "size", "version_id"];
    const OBJECT: &[&str] = &[
        "content_type",
        "etag",
        "last_modified",
        "metadata",
        "size",
        "version_id",
    ];
    let old = || json!({"key": "old"});
    match name {
        OperationName::PutObject => (json!({"key": "put", "body": {"text": "text"}}), STORED),
        OperationName::UploadFileobj => {
            let file = stage.file("source", b"text");
            (json!({"key": "up", "source": {"file": file}}), STORED)
        }
        OperationName::CopyObject => {
            let source = json!({"bucket": "other", "key": "old"});
            (json!({"key": "copy", "source": source}), STORED)
        }
        OperationName::PutObjectTagging => {
            (json!({"key": "old", "tags": {"a": "b"}}), &["version_id"])
        }
        OperationName::GetObject => (old(), OBJECT),
        OperationName::HeadObject => (old(), OBJECT),
        OperationName::ListObjects => (json!({}), &["common_prefixes", "keys", "truncated"]),
        OperationName::DeleteObject => (json!({"key": "gone/1"}), &["deleted"]),
        OperationName::DeleteObjects => (json!({"keys": ["gone/2"]}), &["deleted", "failed"]),
        OperationName::DeletePrefix => (json!({"prefix": "gone/"}), &["deleted", "spared"]),
    }
}

/// The row's job on a bucket; its id is the operation's name.
fn job(stage: &Stage, name: OperationName, bucket: &str) -> Message {
    let (mut job, _) = row(stage, name);
    job["version"] = 1.into();
    job["operation"] = name.as_str().into();
    job["bucket"] = bucket.into();
    stage::message(name.as_str(), &job)
}

async fn stage_with_objects() -> Stage {
    let stage = Stage::new().await.uploading();
    let keys = ["old", "gone/1", "gone/2", "gone/3"];
    let objects = keys.map(|key| (key.to_owned(), "text".to_owned()));
    stage.s3.create_bucket("other");
    for bucket in ["b", "other"] {
        stage.store_in(bucket, objects.clone().into_iter()).await;
    }
    stage
}

/// Where the report of an answer is: beside an object's bytes, or all of it.
fn report(answer: &Message) -> Value {
    let header = answer.text("brigade-result").map(str::as_bytes);
    serde_json::from_slice(header.unwrap_or(&answer.body)).unwrap()
}

fn both_circuits(worker: &Worker, mode: Mode) {
    for circuit in [Circuit::Upload, Circuit::Download] {
        stage::circuit_of(worker, circuit).force(mode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_to_any_operation_is_tried_again_in_place_and_the_answer_has_the_contracts_shape() {
    let stage = stage_with_objects().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    for name in OperationName::ALL {
        let busy = Fault::status(503, "ServiceUnavailable");
        let rule = stage.s3.faults().add(Rule::new(busy).first(1));
        let message = job(&stage, name, "b");
        let report = report(&stage.request(name.lane(), message).await);
        assert_eq!(report["outcome"], "completed", "{report}");
        assert_eq!(rule.fired(), 1, "{name:?} met no 503");
        assert!(report["attempts"].as_u64().unwrap() >= 2, "{report}");
        let found = report["result"].as_object().unwrap().keys();
        let found: BTreeSet<_> = found.map(String::as_str).collect();
        let (_, expected) = row(&stage, name);
        assert_eq!(found, expected.iter().copied().collect(), "{name:?}");
        let row = stage.row(name.as_str()).await.unwrap();
        assert_eq!(row.parks, 0, "{name:?} was parked");
        rule.remove();
    }
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_circuits_hold_every_upload_and_read_back_and_no_delete() {
    let mut stage = stage_with_objects().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    both_circuits(&worker, Mode::ForceOpen);
    for lane in &worker.view().lanes {
        if lane.lane.circuit().is_some() {
            stage::eventually("the lane pauses", async || {
                matches!(lane.status.state(), LaneState::Paused(..)).then_some(())
            })
            .await;
        }
    }
    for name in OperationName::ALL {
        let message = job(&stage, name, "b");
        stage.publish(name.lane(), message).await;
    }
    let names = OperationName::ALL.into_iter();
    let deletes = names.filter(|name| name.lane() == Lane::Cleanup).count();
    stage.until_count(State::Completed, deletes).await;
    let rows = stage.rows().await;
    assert_eq!(rows.len(), deletes, "{rows:?}");
    assert_eq!(stage.s3.journal().count_class(Class::Upload), 0);

    both_circuits(&worker, Mode::Auto);
    stage
        .until_count(State::Completed, OperationName::ALL.len())
        .await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_answer_to_any_operation_buries_its_job_at_once_and_speaks_for_s3() {
    let mut stage = stage_with_objects().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    for name in OperationName::ALL {
        let message = job(&stage, name, "no-such-bucket");
        stage.publish(name.lane(), message).await;
    }
    stage
        .until_count(State::DeadLettered, OperationName::ALL.len())
        .await;
    for name in OperationName::ALL {
        let row = stage.row(name.as_str()).await.unwrap();
        let error = row.error.unwrap();
        assert_eq!(error.class, "permanent", "{name:?}: {error:?}");
        assert_eq!((row.failed.len(), row.parks), (1, 0), "{name:?}");
    }
    for circuit in [Circuit::Upload, Circuit::Download] {
        let snapshot = stage::circuit_of(&worker, circuit).snapshot();
        let untouched = snapshot.is_closed() && snapshot.consecutive_failures == 0;
        assert!(untouched, "{circuit:?}: {snapshot:?}");
    }
    worker.drain(stage::PATIENCE).await;
}
