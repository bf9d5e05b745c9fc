//! A repeat says that it is one, and whether it asks for something else: that is never run under the same id.

use super::*;
use crate::job::{Failure, FailureClass};

/// The put of [`put`] with other bytes.
fn other_put() -> Value {
    json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k", "body": {"text": "other"}})
}

/// Whether a report says `repeated`, and `differs`; absent is not `false`.
fn says(report: &Value) -> [Option<bool>; 2] {
    ["repeated", "differs"].map(|name| report.get(name).map(|value| value.as_bool().unwrap()))
}

const FIRST: [Option<bool>; 2] = [None, None];
const REPEATED: [Option<bool>; 2] = [Some(true), None];
const DIFFERS: [Option<bool>; 2] = [Some(true), Some(true)];

impl Rig {
    /// What the replies say, in their order.
    fn said(&self) -> Vec<[Option<bool>; 2]> {
        self.replies().iter().map(says).collect()
    }

    async fn until_answered(&self) {
        self.until("nothing waits any more", |rig| {
            let is_empty = |delay: &ParkDelay| rig.parked(*delay).is_empty();
            rig.queued() == 0 && ParkDelay::ALL.iter().all(is_empty)
        })
        .await;
    }

    /// The bodies that S3 was sent.
    fn stored(&self) -> Vec<String> {
        let seen = self.stage.seen();
        seen.iter().map(|seen| seen.body.clone()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_finished_job_says_so_and_whether_it_differs() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    for job in [put(), put(), other_put()] {
        rig.publish(asked("j", &job)).await;
        rig.until_settled().await;
    }
    assert_eq!(rig.said(), [FIRST, REPEATED, DIFFERS]);
    let replies = rig.replies();
    assert_eq!(replies[2]["result"], replies[0]["result"]);
    assert_eq!((rig.calls(), rig.duplicates()), (1, 2));
    assert_eq!(
        (rig.repeats_that_differ(), rig.broker.events().len()),
        (1, 1)
    );
    assert_eq!(says(&event(&rig)), FIRST);
    rig.end().await;
}

/// The newest event.
fn event(rig: &Rig) -> Value {
    let (_, event) = rig.broker.events().pop().unwrap();
    serde_json::from_slice(&event.body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn forms_of_one_request_are_the_same_request() {
    let json = |text: &str| Message {
        body: text.to_owned().into(),
        ..asked("j", &put())
    };
    let binary = Message {
        body: "hello".into(),
        content_type: Some("text/plain".to_owned()),
        ..asked("j", &put())
    };
    let header = r#"{"version": 1, "bucket": "b", "key": "k"}"#;
    let same = [
        json(
            r#"{"version":1,"operation":"put_object","bucket":"b","key":"k","body":{"text":"hello"},
            "content_type":"text/plain","tags":{"x":"1","y":"2"}}"#,
        ),
        json(
            r#"{"tags":{"y":"2","x":"1"}, "key" : "k", "body":{"base64":"aGVsbG8=","text":null},
            "metadata":{}, "cache_control":null, "bucket":"b","content_type":"text/plain",
            "operation":"put_object", "version":1.0, "colour":"red"}"#,
        ),
        binary.with_text(
            "brigade-job",
            header.replace("\"k\"", "\"k\", \"tags\": {\"y\": \"2\", \"x\": \"1\"}"),
        ),
    ];
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    for message in same {
        rig.publish(message).await;
        rig.until_settled().await;
    }
    assert_eq!(rig.said(), [FIRST, REPEATED, REPEATED]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_differs_is_answered_from_the_row_and_reads_nothing() {
    let object = || Answer::body(200, "hello");
    let other = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "other"});
    let mut rig = Rig::start(Lane::Read, [object(), object()]);
    for job in [get(), get(), other] {
        rig.publish(asked("j", &job)).await;
        rig.until_settled().await;
    }
    assert_eq!(rig.calls(), 2);
    let replies = rig.broker.replies(ANSWERS);
    let beside = |at: usize| -> Value {
        serde_json::from_str(replies[at].text("brigade-result").unwrap()).unwrap()
    };
    assert_eq!([says(&beside(0)), says(&beside(1))], [FIRST, REPEATED]);
    let report: Value = serde_json::from_slice(&replies[2].body).unwrap();
    assert_eq!(says(&report), DIFFERS);
    assert_eq!(
        (report["key"].as_str(), &report["result"]["size"]),
        (Some("k"), &json!(5))
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_that_attach_say_that_they_repeat_and_whether_they_differ() {
    let mut rig = Rig::start(Lane::Upload, [after(5 * SECOND, stored())]);
    for job in [put(), put(), other_put()] {
        rig.publish(asked("j", &job)).await;
    }
    rig.publish(message("j", &other_put())).await;
    rig.until_settled().await;
    assert_eq!(rig.said(), [FIRST, REPEATED, DIFFERS]);
    assert_eq!((rig.calls(), rig.ledger.claims()), (1, 1));
    assert_eq!(rig.repeats_that_differ(), 2);
    assert_eq!(says(&event(&rig)), FIRST);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_a_job_is_parked_nothing_else_runs_under_its_id() {
    for reply_to in [None, Some(ANSWERS.to_owned())] {
        let answers = times(3, &ill()).into_iter().chain([stored()]);
        let mut rig = Rig::start(Lane::Upload, answers);
        rig.publish(asked("j", &put())).await;
        rig.until_state("j", State::Retrying).await;
        rig.publish(Message {
            reply_to,
            ..message("j", &other_put())
        })
        .await;
        rig.until_answered().await;
        assert_eq!(rig.stored(), ["hello"; 4]);
        assert_eq!(rig.said()[0], FIRST);
        assert!(rig.said()[1..].iter().all(|said| *said == DIFFERS));
        assert_eq!((rig.repeats_that_differ(), rig.dead().len()), (1, 0));
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_attached_with_another_request_is_no_copy_of_a_job_that_is_parked() {
    let answers = [after(SECOND, ill())];
    let answers = answers
        .into_iter()
        .chain(times(2, &ill()))
        .chain([stored()]);
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.publish(asked("j", &put())).await;
    rig.publish(message("j", &other_put())).await;
    rig.publish(asked("j", &other_put())).await;
    rig.until("the first has run", |rig| rig.calls() == 1).await;
    // The job's own delivery comes again, the others stand in for nothing.
    rig.broker.lose_channels();
    rig.until_state("j", State::Completed).await;
    rig.until_answered().await;
    assert_eq!(rig.stored(), ["hello"; 4]);
    assert!(rig.said().contains(&DIFFERS), "{:?}", rig.said());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_job_is_answered_and_what_differs_is_not_its_letter() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied")]);
    for job in [put(), put(), other_put()] {
        rig.publish(asked("j", &job)).await;
        rig.until_settled().await;
    }
    assert_eq!(rig.said(), [FIRST, REPEATED, DIFFERS]);
    assert_eq!((rig.dead().len(), rig.calls()), (1, 1));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_never_reached_the_dead_queue_is_not_another_request() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    let failure = Failure::ours(FailureClass::Permanent, "NoSuchBucket", "so it was");
    rig.end_elsewhere("j", State::DeadLettered, Some(failure))
        .await;
    rig.publish(asked("j", &other_put())).await;
    rig.run(|_| {});
    rig.until_settled().await;
    assert_eq!((rig.said(), rig.dead().len()), (vec![DIFFERS], 0));
    assert!(!rig.ledger.is_buried("j"));
    // By hand, from the dead queue: it goes back there, and stands for nothing.
    let moved = message("j", &other_put()).with_text("brigade-dead-at", "2026-01-01T00:00:00Z");
    rig.publish(moved).await;
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.ledger.is_buried("j")), (1, false));
    // The job's own delivery comes again.
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.ledger.is_buried("j")), (2, true));
    assert_eq!((rig.calls(), rig.repeats_that_differ()), (0, 2));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_another_request_steps_down_the_ladder_until_it_is_too_old() {
    let mut rig = Rig::new(Lane::Upload, []);
    rig.end_elsewhere("j", State::Retrying, None).await;
    rig.publish(asked("j", &other_put())).await;
    rig.run(|limits| limits.max_job_age = HOUR);
    for (parks, delay) in (1..).zip(ParkDelay::ALL) {
        rig.until("it waits", |rig| rig.parked(delay).len() == 1)
            .await;
        let copy = &rig.parked(delay)[0];
        assert_eq!(copy.count("brigade-parks"), Some(parks));
        assert_eq!(copy.text("brigade-error-code"), Some("id_in_use"));
        assert!(rig.replies().is_empty());
    }
    assert_eq!(rig.parked_for("conflict"), 3);
    // Too old: a job that lost its message keeps nobody waiting for ever.
    let first_seen = Timestamp::now().minus(2 * HOUR).to_string();
    let old = asked("k", &other_put()).with_text("brigade-first-seen", first_seen);
    rig.end_elsewhere("k", State::Retrying, None).await;
    rig.publish(old).await;
    rig.until("it is dead", |rig| rig.dead().len() == 1).await;
    rig.until("it is answered", |rig| rig.replies().len() == 1)
        .await;
    assert_eq!(rig.dead()[0].text("brigade-reason"), Some("expired"));
    let reply = &rig.replies()[0];
    assert_eq!(
        (says(reply), &reply["outcome"]),
        (FIRST, &json!("dead_lettered"))
    );
    assert_eq!(reply["error"]["code"], "id_in_use");
    assert_eq!(rig.state("k"), Some(State::Retrying));
    assert_eq!((rig.calls(), rig.repeats_that_differ()), (0, 1));
    assert!(rig.broker.events().is_empty());
    rig.end().await;
}

/// The claim of the one is under way when the other, whose job it is, attaches.
#[tokio::test(start_paused = true)]
async fn a_job_that_attached_to_what_must_wait_for_it_is_run() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    rig.end_elsewhere("j", State::Retrying, None).await;
    rig.publish(message("j", &other_put())).await;
    rig.publish(message("j", &put())).await;
    rig.run(|_| {});
    rig.until("both wait", |rig| rig.queued() == 0).await;
    assert_eq!((rig.ledger.claims(), rig.calls()), (2, 0));
    assert_eq!(
        (rig.parked_for("conflict"), rig.parked_for("leased")),
        (1, 1)
    );
    rig.until_state("j", State::Completed).await;
    rig.until_answered().await;
    assert_eq!(rig.stored(), ["hello"]);
    assert_eq!(rig.repeats_that_differ(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_of_an_older_version_says_only_that_it_is_repeated() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    rig.ledger.forget_requests();
    rig.publish(asked("j", &other_put())).await;
    rig.until_settled().await;
    assert_eq!((rig.said(), rig.repeats_that_differ()), (vec![REPEATED], 0));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_may_replay_the_other_letter_of_an_id() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied"), stored()]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    let replayed = |job: &Value| asked("j", job).with_count("brigade-replay", 1);
    rig.publish(replayed(&other_put())).await;
    rig.until_settled().await;
    rig.publish(replayed(&put())).await;
    rig.until_settled().await;
    assert_eq!(rig.stored(), ["hello", "other"]);
    assert_eq!(rig.said(), [FIRST, DIFFERS]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn fields_that_nobody_knows_are_named_in_the_reply_the_event_and_the_row() {
    let newer = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
        "body": {"text": "hello", "charset": "x"}, "contentType": "text/plain", "colour": null});
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    for job in [newer, put()] {
        rig.publish(asked("j", &job)).await;
        rig.until_settled().await;
    }
    let names = json!(["body.charset", "contentType"]);
    let replies = rig.replies();
    assert_eq!(replies[0]["ignored"], names);
    assert_eq!(event(&rig)["ignored"], names);
    let row = rig.ledger.row("j").unwrap();
    assert_eq!(json!(row.report())["ignored"], names);
    // The repeat asks for the same, and had nothing that was ignored.
    assert_eq!(rig.said(), [FIRST, REPEATED]);
    assert_eq!(replies[1].get("ignored"), None);
    rig.end().await;
}
