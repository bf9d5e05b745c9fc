//! Events 3, 5, 6, 7 and 11: how a job ends, and who hears of it.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_job_that_went_well_is_recorded_answered_announced_and_acked() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    let request = Message {
        correlation_id: Some("c-1".to_owned()),
        ..asked("j", &put())
    };
    rig.publish(request).await;
    rig.until_settled().await;
    let row = rig.ledger.row("j").unwrap();
    assert_eq!((row.state, row.attempts), (State::Completed, 1));
    let reply = &rig.broker.replies(ANSWERS)[0];
    assert_eq!(reply.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(reply.message_id.as_deref(), Some("j"));
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    let report = &rig.replies()[0];
    assert_eq!(report["outcome"], "completed");
    assert_eq!(report["result"]["etag"], "\"e\"");
    assert_eq!(report["worker"], "w");
    let (key, event) = rig.broker.events().pop().unwrap();
    assert_eq!(key, "upload.put_object.completed");
    assert_eq!(
        serde_json::from_slice::<Value>(&event.body).unwrap(),
        *report
    );
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.message_id.as_deref(), Some("j"));
    assert_eq!(rig.jobs("put_object", "completed"), 1);
    assert_eq!(rig.total(|totals| &totals.completed), 1);
    let durations = &rig.stage.metrics.job_duration;
    let durations = durations.with_label_values(&["upload"]).get_sample_count();
    assert_eq!((durations, rig.queue_waits()), (1, 1));
    assert_eq!((rig.replies_counted("sent"), rig.redeliveries()), (1, 0));
    assert_eq!((rig.duplicates(), rig.acks_lost()), (0, 0));
    assert!(rig.failures.newest_first().is_empty());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_correlation_id_a_reply_carries_the_jobs() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.publish(asked("j", &put())).await;
    rig.until_settled().await;
    let reply = &rig.broker.replies(ANSWERS)[0];
    assert_eq!(reply.correlation_id.as_deref(), Some("j"));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_who_did_not_ask_is_told_and_no_event_goes_out_unless_they_are_on() {
    let mut rig = Rig::with(Lane::Upload, [stored()], |limits| limits.events = false);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    assert!(rig.broker.events().is_empty());
    assert!(rig.replies().is_empty());
    assert_eq!(rig.jobs("put_object", "completed"), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_for_a_reply_is_its_body_with_the_report_beside_it() {
    let object = Answer::body(200, "hello").header("content-type", "text/plain");
    let mut rig = Rig::start(Lane::Read, [object]);
    rig.publish(asked("j", &get())).await;
    rig.until_settled().await;
    let reply = &rig.broker.replies(ANSWERS)[0];
    assert_eq!(&reply.body[..], b"hello");
    assert_eq!(reply.content_type.as_deref(), Some("text/plain"));
    let report: Value = serde_json::from_str(reply.text("brigade-result").unwrap()).unwrap();
    assert_eq!(report["result"]["size"], 5);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_queue_that_is_gone_loses_the_reply_and_not_the_job() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.broker.delete_queue(ANSWERS);
    rig.publish(asked("j", &put())).await;
    rig.until_settled().await;
    assert_eq!(rig.state("j"), Some(State::Completed));
    let replies = ["undeliverable", "sent"].map(|result| rig.replies_counted(result));
    assert_eq!(replies, [1, 0]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_used_up_park_the_job_which_comes_back_and_goes_on_counting() {
    let ill = Answer::error(503, "ServiceUnavailable");
    let answers = times(3, &ill).into_iter().chain([stored()]);
    let mut rig = Rig::start(Lane::Upload, answers);
    let request = asked("j", &put())
        .with_text("x-death", "no")
        .with_text("traceparent", "00-1");
    rig.publish(request).await;
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    let copy = &rig.parked(ParkDelay::TenSeconds)[0];
    assert_eq!(
        (copy.count("brigade-attempts"), copy.count("brigade-parks")),
        (Some(3), Some(1))
    );
    assert_eq!(copy.text("brigade-error-code"), Some("ServiceUnavailable"));
    assert_eq!(copy.text("traceparent"), Some("00-1"));
    assert_eq!(
        (copy.text("x-death"), copy.text("brigade-reason")),
        (None, None)
    );
    let row = rig.ledger.row("j").unwrap();
    assert_eq!(
        (row.state, row.attempts, row.parks),
        (State::Retrying, 3, 1)
    );
    let failed: Vec<_> = row.failed.iter().map(|it| it.code.as_str()).collect();
    assert_eq!(failed, ["ServiceUnavailable"; 3]);
    assert_eq!(
        copy.text("brigade-first-seen"),
        Some(row.enqueued_at.to_string().as_str())
    );
    rig.until_settled().await;
    assert!(rig.replies().is_empty(), "parked is no end");
    assert_eq!(
        (
            rig.parked_for("unavailable"),
            rig.jobs("put_object", "retrying")
        ),
        (1, 1)
    );

    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    assert_eq!(rig.replies()[0]["attempts"], 4);
    assert_eq!(rig.queue_waits(), 1, "at the first start only");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_for_good_is_answered_and_buried_with_its_reason() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied")]);
    rig.publish(asked("j", &put())).await;
    rig.until_settled().await;
    let letter = &rig.dead()[0];
    assert_eq!(letter.text("brigade-reason"), Some("permanent"));
    assert_eq!(letter.text("brigade-error-code"), Some("AccessDenied"));
    assert_eq!(letter.text("brigade-error"), Some("the message"));
    assert_eq!(letter.count("brigade-attempts"), Some(1));
    assert_eq!(
        (
            letter.count("brigade-parks"),
            letter.count("brigade-replay")
        ),
        (Some(0), Some(0))
    );
    assert!(
        letter.text("brigade-dead-at").is_some() && letter.text("brigade-first-seen").is_some()
    );
    assert_eq!(letter.body, asked("j", &put()).body);
    let report = &rig.replies()[0];
    assert_eq!(
        (
            report["outcome"].as_str(),
            report["error"]["class"].as_str()
        ),
        (Some("dead_lettered"), Some("permanent"))
    );
    assert_eq!(report["error"]["request_id"], "REQ1");
    assert!(rig.ledger.is_buried("j"));
    assert_eq!(
        (
            rig.buried_for("permanent"),
            rig.jobs("put_object", "dead_lettered")
        ),
        (1, 1)
    );
    assert_eq!(rig.access_denied(), 1);
    assert_eq!(rig.total(|totals| &totals.dead_lettered), 1);
    let failure = &rig.failures.newest_first()[0];
    assert_eq!(
        (
            failure.id.as_deref(),
            failure.code.as_str(),
            failure.outcome
        ),
        (Some("j"), "AccessDenied", "dead_lettered")
    );
    assert_eq!(failure.message, "the message");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn only_access_denied_counts_as_such() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(404, "NoSuchBucket")]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    assert_eq!(rig.dead().len(), 1);
    assert_eq!(rig.access_denied(), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_job_is_answered_and_buried_and_touches_neither_s3_nor_the_ledger() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    let bad = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "", "body": {"text": ""}});
    rig.publish(asked("bad", &bad)).await;
    rig.publish(asked("lane", &head())).await;
    let nobody = Message {
        reply_to: Some(String::new()),
        ..message(
            "what",
            &json!({"version": 1, "operation": "no_such", "bucket": "x".repeat(300)}),
        )
    };
    rig.publish(nobody).await;
    rig.until_settled().await;
    let reasons: Vec<_> = rig
        .dead()
        .iter()
        .map(|letter| letter.text("brigade-reason").unwrap().to_owned())
        .collect();
    assert_eq!(reasons, ["malformed", "wrong_lane", "unsupported"]);
    // The newest first; what could not be read, or is no name of a bucket, is not shown.
    let shown = rig.failures.newest_first();
    let shown = shown.iter().map(|failure| {
        let (id, bucket) = (failure.id.as_deref(), failure.bucket.as_deref());
        (id, failure.operation, bucket, failure.code.as_str())
    });
    let expected = [
        (Some("what"), None, None, "unsupported"),
        (Some("lane"), Some("head_object"), Some("b"), "wrong_lane"),
        (Some("bad"), Some("put_object"), Some("b"), "malformed"),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    let letter = &rig.dead()[0];
    assert_eq!(letter.text("brigade-error-code"), Some("malformed"));
    assert!(
        letter.text("brigade-error").unwrap().contains("key"),
        "{letter:?}"
    );
    assert!(letter.text("brigade-first-seen").is_some());
    let replies = rig.replies();
    assert_eq!(replies.len(), 2);
    assert_eq!(
        (
            replies[0]["id"].as_str(),
            replies[0]["error"]["class"].as_str()
        ),
        (Some("bad"), Some("job_local"))
    );
    assert_eq!(
        rig.broker.replies(ANSWERS)[0].correlation_id.as_deref(),
        Some("bad")
    );
    assert_eq!(rig.replies_counted("undeliverable"), 0, "nobody asked");
    assert_eq!((rig.calls(), rig.ledger.claims()), (0, 0));
    assert_eq!(
        (
            rig.jobs("put_object", "dead_lettered"),
            rig.jobs("head_object", "dead_lettered")
        ),
        (1, 1)
    );
    assert_eq!(
        (
            rig.jobs("unknown", "dead_lettered"),
            rig.buried_for("malformed")
        ),
        (1, 1)
    );
    assert!(rig.broker.events().is_empty());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_does_not_allow_is_buried_without_a_call() {
    let mut rig = Rig::with(Lane::Upload, [stored()], |limits| {
        limits.allow.buckets.insert("other".to_owned());
    });
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    assert_eq!(
        rig.dead()[0].text("brigade-error-code"),
        Some("not_allowed")
    );
    assert_eq!(rig.dead()[0].text("brigade-reason"), Some("permanent"));
    assert_eq!(rig.calls(), 0);
    assert_eq!(rig.state("j"), Some(State::DeadLettered));
    rig.end().await;
}

#[test]
fn an_allow_list_names_operations_and_every_bucket_that_a_job_touches() {
    use crate::{
        job::operation::{CopyObject, CopySource, Operation, OperationName, PutOptions},
        storage::script::job,
    };
    let copy = |from: &str, to: &str| {
        job(Operation::CopyObject(CopyObject {
            options: PutOptions::default(),
            bucket: to.to_owned(),
            key: "k".to_owned(),
            source: CopySource {
                bucket: from.to_owned(),
                key: "k".to_owned(),
                version_id: None,
            },
        }))
    };
    let list = |buckets: &[&str], operations: &[OperationName]| AllowList {
        buckets: buckets.iter().map(|it| (*it).to_owned()).collect(),
        operations: operations.iter().copied().collect(),
    };
    let says =
        |list: AllowList, from, to| list.refuse(&copy(from, to)).map(|failure| failure.message);
    assert_eq!(says(list(&[], &[]), "a", "b"), None);
    assert_eq!(
        says(list(&["a", "b"], &[OperationName::CopyObject]), "a", "b"),
        None
    );
    let refused = "bucket c is not in lanes.upload.buckets of this worker".to_owned();
    assert_eq!(
        says(list(&["a", "b"], &[]), "c", "b"),
        Some(refused.clone())
    );
    assert_eq!(says(list(&["a", "b"], &[]), "a", "c"), Some(refused));
    let refused =
        "operation copy_object is not in lanes.upload.operations of this worker".to_owned();
    assert_eq!(
        says(list(&[], &[OperationName::PutObject]), "a", "b"),
        Some(refused)
    );
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_fails_for_too_long_is_abandoned_counted_and_acked() {
    let mut rig = Rig::start(Lane::Cleanup, [ill()]);
    rig.publish(Message {
        reply_to: Some(ANSWERS.to_owned()),
        ..aged("old", &delete(), 25 * HOUR)
    })
    .await;
    rig.until_state("old", State::Abandoned).await;
    rig.until_settled().await;
    assert!(rig.dead().is_empty());
    assert_eq!(rig.replies()[0]["outcome"], "abandoned");
    assert_eq!(rig.stage.metrics.cleanup_abandoned.get(), 1);
    assert_eq!(rig.jobs("delete_object", "abandoned"), 1);
    assert_eq!(rig.total(|totals| &totals.abandoned), 1);
    assert_eq!(rig.failures.newest_first()[0].outcome, "abandoned");
    rig.publish(message("young", &delete())).await;
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::OneMinute).len() == 1
    })
    .await;
    assert_eq!(rig.stage.metrics.cleanup_abandoned.get(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_of_the_foreground_that_fails_for_too_long_is_buried_as_expired() {
    let mut rig = Rig::start(Lane::Upload, [ill()]);
    rig.publish(aged("old", &put(), 25 * HOUR)).await;
    rig.until_settled().await;
    assert_eq!(rig.dead()[0].text("brigade-reason"), Some("expired"));
    rig.end().await;
}
