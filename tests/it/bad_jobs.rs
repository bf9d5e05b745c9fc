//! Messages that are no jobs: buried with their reason, told to who asked, never touching S3 or ledger.

use bucket_brigade::job::{HeaderValue, Lane, Message, State};
use serde_json::{Value, json};

use crate::stage::{self, Stage};

struct Bad {
    lane: Lane,
    message: Message,
    reason: &'static str,
    /// What its sentence must name.
    names: &'static str,
}

fn json_bytes(lane: Lane, body: &[u8], reason: &'static str, names: &'static str) -> Bad {
    let message = Message {
        body: body.to_vec().into(),
        ..stage::message("x", &json!({}))
    };
    Bad {
        lane,
        message,
        reason,
        names,
    }
}

fn bad(job: Value, reason: &'static str, names: &'static str) -> Bad {
    Bad {
        lane: Lane::Upload,
        message: stage::message("x", &job),
        reason,
        names,
    }
}

fn table() -> Vec<Bad> {
    let put = |extra: Value| {
        let mut job = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
            "body": {"text": "x"}});
        job.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        job
    };
    let mut binary = stage::message("x", &json!({}));
    binary
        .headers
        .insert("brigade-job".into(), HeaderValue::Text("{".into()));
    let file = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k",
        "destination": {"file": "/etc/passwd"}});
    vec![
        Bad {
            lane: Lane::Upload,
            message: Message {
                message_id: None,
                ..stage::put("x", "k")
            },
            reason: "malformed",
            names: "message_id",
        },
        Bad {
            lane: Lane::Upload,
            message: Message {
                message_id: Some("no spaces allowed".into()),
                ..stage::put("x", "k")
            },
            reason: "malformed",
            names: "message_id",
        },
        Bad {
            lane: Lane::Upload,
            message: Message {
                content_type: Some("text/csv".into()),
                ..stage::put("x", "k")
            },
            reason: "malformed",
            names: "content_type",
        },
        Bad {
            lane: Lane::Upload,
            message: binary,
            reason: "malformed",
            names: "brigade-job",
        },
        json_bytes(Lane::Upload, b"", "malformed", "JSON"),
        json_bytes(Lane::Upload, b"\xff\xfe", "malformed", "JSON"),
        json_bytes(Lane::Upload, b"[1]", "malformed", "object"),
        json_bytes(
            Lane::Cleanup,
            &vec![b' '; (1 << 20) + 1],
            "malformed",
            "max_message_bytes",
        ),
        bad(json!({"operation": "put_object"}), "malformed", "version"),
        bad(put(json!({"version": 2})), "unsupported", "version 2"),
        bad(put(json!({"operation": "fly"})), "unsupported", "fly"),
        bad(
            json!({"version": 1, "operation": "copy_object", "bucket": "b", "key": "k",
            "source": {"bucket": "b", "key": ""}}),
            "malformed",
            "source.key",
        ),
        bad(put(json!({"bucket": "a/b"})), "malformed", "bucket"),
        bad(put(json!({"key": ""})), "malformed", "key"),
        bad(
            put(json!({"body": {"text": "x", "base64": "eA=="}})),
            "malformed",
            "body",
        ),
        bad(put(json!({"body": {"base64": "%"}})), "malformed", "base64"),
        bad(
            put(json!({"metadata": {"brigade-job": "x"}})),
            "malformed",
            "brigade-job",
        ),
        bad(
            put(json!({"content_type": "a\r\nb"})),
            "malformed",
            "content_type",
        ),
        Bad {
            lane: Lane::Read,
            message: stage::put("x", "k"),
            reason: "wrong_lane",
            names: "upload",
        },
        Bad {
            lane: Lane::Read,
            message: stage::message("x", &file),
            reason: "forbidden_source",
            names: "destinations.file_roots",
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_message_is_buried_with_its_reason_and_the_worker_goes_on() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    let table = table();
    for (index, bad) in table.iter().enumerate() {
        let mut message = bad.message.clone();
        message.correlation_id = Some(index.to_string());
        stage.publish(bad.lane, message).await;
    }
    stage.published.clear();
    stage
        .publish(Lane::Upload, stage::put("good", "good"))
        .await;
    stage.until("good", State::Completed).await;
    stage::eventually("all letters are there", async || {
        let mut letters = 0;
        for lane in Lane::ALL {
            letters += stage.dead(lane).await.len();
        }
        (letters == table.len()).then_some(())
    })
    .await;

    for (index, bad) in table.iter().enumerate() {
        let letters = stage.dead(bad.lane).await;
        let name = Some(index.to_string());
        let letter = letters.iter().find(|letter| letter.correlation_id == name);
        let letter = letter.unwrap_or_else(|| panic!("no letter for row {index}, {}", bad.names));
        let error = letter.text("brigade-error").unwrap_or_default();
        assert_eq!(
            letter.text("brigade-reason"),
            Some(bad.reason),
            "row {index}: {error}"
        );
        assert!(
            error.contains(bad.names),
            "row {index} does not name {}: {error}",
            bad.names
        );
        assert_eq!(letter.body, bad.message.body, "row {index}");
        assert!(
            letter.text("brigade-dead-at").is_some() && letter.text("brigade-first-seen").is_some()
        );
    }
    assert_eq!(
        stage.s3.journal().total(),
        1,
        "only the good job may reach S3"
    );
    assert_eq!(stage.rows().await.len(), 1, "a bad job has no row");
    let view = std::sync::Arc::clone(worker.view());
    for circuit in &view.circuits {
        assert!(circuit.breaker.snapshot().is_closed());
    }
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_job_with_a_reply_queue_is_told_what_is_wrong() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let job = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": ""});
    let answer = stage
        .request(Lane::Upload, stage::message("bad", &job))
        .await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(report["outcome"], "dead_lettered");
    assert_eq!(report["error"]["class"], "job_local");
    assert_eq!(report["error"]["code"], "malformed");
    assert_eq!(
        (&report["id"], &report["bucket"]),
        (&json!("bad"), &json!("b"))
    );
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_job_is_not_hindered_by_a_bad_one_with_its_id() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    stage
        .publish(Lane::Upload, stage::message("same", &json!({"version": 1})))
        .await;
    stage::eventually("the bad one is buried", async || {
        (stage.dead(Lane::Upload).await.len() == 1).then_some(())
    })
    .await;
    stage.publish(Lane::Upload, stage::put("same", "k")).await;
    stage.until("same", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}
