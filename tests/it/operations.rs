//! Each operation of the contract, from message to S3 and back, and the rules that hold for all of them.

use base64::{Engine, engine::general_purpose::STANDARD};
use bucket_brigade::job::{HeaderValue, Lane, Message};
use serde_json::{Value, json};

use crate::stage::{self, Stage, metric, unavailable};

async fn ask(stage: &Stage, lane: Lane, id: &str, job: Value) -> Value {
    let answer = stage.request(lane, stage::message(id, &job)).await;
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_in_the_contracts_shape() {
    let stage = Stage::new().await.uploading();
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;

    let put = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "d/a.bin",
        "body": {"base64": STANDARD.encode([0u8, 1, 2, 255])}, "content_type": "x/y",
        "metadata": {"who": "me"}, "content_encoding": "gzip", "expires": "2030-03-17T17:46:40Z",
        "server_side_encryption": {"type": "aws:kms", "key_id": "k"},
        "object_lock": {"legal_hold": true}, "expected_bucket_owner": stage.s3.account()});
    let report = ask(&stage, Lane::Upload, "put", put).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["result"]["size"], 4);
    assert!(report["result"]["etag"].is_string());
    assert_eq!(report["result"]["version_id"], Value::Null);
    for field in ["enqueued_at", "started_at", "finished_at", "worker"] {
        assert!(report[field].is_string(), "{field}: {report}");
    }
    assert_eq!(stage.s3.object("b", "d/a.bin"), Some(vec![0, 1, 2, 255]));
    let found = stage.client().head_object().bucket("b").key("d/a.bin");
    let found = found.send().await.unwrap();
    assert_eq!(found.content_encoding(), Some("gzip"));
    assert_eq!(
        found.expires_string(),
        Some("Sun, 17 Mar 2030 17:46:40 GMT")
    );
    assert_eq!(found.ssekms_key_id(), Some("k"));
    let hold = found
        .object_lock_legal_hold_status()
        .map(|hold| hold.as_str());
    assert_eq!(hold, Some("ON"));

    let file = stage.file("source", b"from a file");
    let upload = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "u",
        "source": {"file": file}, "content_type": "x/y"});
    let report = ask(&stage, Lane::Upload, "upload", upload).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["result"]["size"], 11);
    assert!(report["result"]["etag"].is_string());
    assert_eq!(stage.s3.object("b", "u"), Some(b"from a file".to_vec()));

    let head = json!({"version": 1, "operation": "head_object", "bucket": "b", "key": "d/a.bin"});
    let report = ask(&stage, Lane::Read, "head", head).await;
    assert_eq!(report["result"]["size"], 4);
    assert_eq!(report["result"]["content_type"], "x/y");
    assert_eq!(report["result"]["metadata"], json!({"who": "me"}));

    let get = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "d/a.bin",
        "range": "bytes=1-2"});
    let answer = stage.request(Lane::Read, stage::message("get", &get)).await;
    assert_eq!(&answer.body[..], [1, 2]);
    assert_eq!(answer.content_type.as_deref(), Some("x/y"));
    assert_eq!(answer.correlation_id.as_deref(), Some("get"));
    let report: Value = serde_json::from_str(answer.text("brigade-result").unwrap()).unwrap();
    assert_eq!(report["result"]["size"], 2);

    let list = json!({"version": 1, "operation": "list_objects", "bucket": "b", "prefix": "d/"});
    let report = ask(&stage, Lane::Read, "list", list).await;
    assert_eq!(report["result"]["keys"][0]["key"], "d/a.bin");
    assert_eq!(report["result"]["keys"][0]["size"], 4);
    assert_eq!(report["result"]["truncated"], false);
    let row = stage.row("list").await.unwrap();
    assert_eq!(row.result, Some(json!({"count": 1, "truncated": false})));

    let copy = json!({"version": 1, "operation": "copy_object", "bucket": "b", "key": "p/copy",
        "source": {"bucket": "source", "key": "k"}});
    stage.s3.create_bucket("source");
    let source = [("k".to_owned(), "text".to_owned())];
    stage.store_in("source", source.into_iter()).await;
    let report = ask(&stage, Lane::Upload, "copy", copy).await;
    assert_eq!(report["result"]["size"], 4, "{report}");
    assert!(report["result"]["etag"].is_string());
    assert_eq!(report["key"], "p/copy");
    assert_eq!(stage.s3.object("b", "p/copy"), Some(b"text".to_vec()));

    let delete = json!({"version": 1, "operation": "delete_prefix", "bucket": "b", "prefix": "p/"});
    let report = ask(&stage, Lane::Cleanup, "prefix", delete).await;
    let result = json!({"deleted": 1, "spared": 0});
    assert_eq!(report["result"], result, "{report}");
    assert_eq!(stage.s3.object("b", "p/copy"), None);

    let delete =
        json!({"version": 1, "operation": "delete_object", "bucket": "b", "key": "d/a.bin"});
    let report = ask(&stage, Lane::Cleanup, "delete", delete).await;
    assert_eq!(report["result"], json!({"deleted": 1}));
    assert_eq!(stage.s3.object("b", "d/a.bin"), None);

    let keys: Vec<String> = (0..3).map(|n| format!("gone-{n}")).collect();
    let delete = json!({"version": 1, "operation": "delete_objects", "bucket": "b", "keys": keys});
    let report = ask(&stage, Lane::Cleanup, "deletes", delete).await;
    assert_eq!(
        report["result"],
        json!({"deleted": 3, "failed": []}),
        "{report}"
    );
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_form_stores_the_body_as_it_is() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let job = json!({"version": 1, "bucket": "b", "key": "k"}).to_string();
    let mut message = Message {
        message_id: Some("j1".into()),
        content_type: Some("image/png".into()),
        body: vec![0u8, 159, 146, 150].into(),
        ..Message::default()
    };
    message
        .headers
        .insert("brigade-job".into(), HeaderValue::Text(job));
    let answer = stage.request(Lane::Upload, message).await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(stage.s3.object("b", "k"), Some(vec![0, 159, 146, 150]));
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_that_does_not_match_is_found_before_s3_sees_the_object() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let put = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
        "body": {"text": "x"}, "sha256": "00".repeat(32)});
    let report = ask(&stage, Lane::Upload, "j1", put).await;
    assert_eq!(report["outcome"], "dead_lettered");
    assert_eq!(report["error"]["code"], "checksum_mismatch");
    assert_eq!(report["attempts"], 0);
    assert_eq!(stage.s3.journal().total(), 0);
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_put_knows_its_own_object_and_refuses_a_foreign_one() {
    let stage = Stage::new().await;
    // The store takes the first put, but its answer is lost: the repeat meets 412 for its own object.
    stage.s3.faults().add(stage::answer_lost().first(1));
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let put = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
        "body": {"text": "mine"}, "if_none_match": "*"});
    let report = ask(&stage, Lane::Upload, "mine", put.clone()).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    let report = ask(&stage, Lane::Upload, "other", put).await;
    assert_eq!(report["outcome"], "dead_lettered", "{report}");
    assert_eq!(report["error"]["code"], "PreconditionFailed");
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_too_large_for_a_reply_says_so_and_is_not_fetched() {
    let stage = Stage::new().await.set("limits.max_reply_bytes", "8");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage.request(Lane::Upload, stage::put("p", "k1")).await;
    let get = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k1"});
    let report = ask(&stage, Lane::Read, "g", get).await;
    assert_eq!(report["error"]["code"], "too_large_for_reply");
    assert_eq!(report["error"]["class"], "permanent");
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_does_not_allow_is_refused() {
    let stage = Stage::new()
        .await
        .set("lanes.upload.buckets", "reports")
        .set("lanes.read.operations", "head_object");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    for (lane, message) in [
        (Lane::Upload, stage::put("p", "k")),
        (Lane::Read, stage::on_key("g", "get_object", "k")),
    ] {
        let answer = stage.request(lane, message).await;
        let report: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(report["error"]["code"], "not_allowed", "{report}");
        assert_eq!(report["error"]["class"], "permanent");
    }
    assert_eq!(stage.s3.journal().total(), 0);
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_operations_once_and_attempts_one_by_one() {
    let stage = Stage::new().await;
    stage.s3.faults().add(unavailable().first(2));
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage.request(Lane::Upload, stage::put("p", "k1")).await;
    stage
        .request(Lane::Read, stage::on_key("g", "get_object", "none"))
        .await;
    let view = std::sync::Arc::clone(worker.view());
    // The reply comes before the letter is counted.
    stage::eventually("the letter is there", async || {
        (!stage.dead(Lane::Read).await.is_empty()).then_some(())
    })
    .await;
    worker.drain(stage::PATIENCE).await;
    let page = view.metrics.render().unwrap();
    let expected = [
        (
            r#"s3_operations_total{bucket="b",operation="put_object",result="success"}"#,
            1.0,
        ),
        (
            r#"s3_operation_duration_seconds_count{bucket="b",operation="put_object"}"#,
            1.0,
        ),
        (
            r#"s3_operations_total{bucket="b",operation="get_object",result="error"}"#,
            1.0,
        ),
        (
            r#"brigade_s3_retries_total{class="unavailable",operation="put_object"}"#,
            2.0,
        ),
        (
            r#"brigade_s3_attempt_duration_seconds_count{class="unavailable",operation="put_object"}"#,
            2.0,
        ),
        (
            r#"brigade_s3_attempt_duration_seconds_count{class="ok",operation="put_object"}"#,
            1.0,
        ),
        (
            r#"brigade_s3_attempt_duration_seconds_count{class="permanent",operation="get_object"}"#,
            1.0,
        ),
        (
            r#"brigade_jobs_total{lane="upload",operation="put_object",outcome="completed"}"#,
            1.0,
        ),
        (
            r#"brigade_jobs_total{lane="read",operation="get_object",outcome="dead_lettered"}"#,
            1.0,
        ),
        (
            r#"brigade_dead_lettered_total{lane="read",reason="permanent"}"#,
            1.0,
        ),
        (r#"brigade_s3_bytes_total{direction="out"}"#, 10.0),
        (r#"brigade_replies_total{result="sent"}"#, 2.0),
        (
            r#"brigade_job_queue_wait_seconds_count{lane="upload"}"#,
            1.0,
        ),
    ];
    for (name, value) in expected {
        assert_eq!(metric(&page, name), value, "{name} in\n{page}");
    }
}
