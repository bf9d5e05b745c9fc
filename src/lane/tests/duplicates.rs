//! Event 4: deliveries of jobs that ran before, or run now.

use super::*;
use crate::{
    job::{AttemptLog, Failure, FailureClass},
    ledger::{Claim, Ending},
};

impl Rig {
    /// Another worker runs the job to this end, and does nothing more.
    pub(super) async fn end_elsewhere(&self, id: &str, state: State, failure: Option<Failure>) {
        let Claim::Taken(taken) = self.claim_elsewhere("other", id).await else {
            panic!("{id} was not free");
        };
        let ending = Ending {
            id: JobId::parse(id).unwrap(),
            fence: taken.fence,
            state,
            attempts: taken.attempts + 1,
            parks: taken.parks,
            panics: taken.panics,
            failure,
            result: None,
            failed: AttemptLog::default(),
        };
        let other = self.ledger.for_worker("other");
        other.commit(&[ending]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_completed_is_answered_from_the_ledger_and_not_run_again() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    rig.publish(asked("j", &put())).await;
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.duplicates()), (1, 2));
    assert_eq!(rig.jobs("put_object", "duplicate"), 2);
    assert_eq!(rig.jobs("put_object", "completed"), 1);
    assert_eq!(rig.broker.events().len(), 1, "a repeat is no event");
    let replies = rig.replies();
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0]["result"]["etag"], "\"e\"");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_is_run_again_for_who_asks_and_its_row_stays_as_it_is() {
    let object = || Answer::body(200, "hello");
    let mut rig = Rig::start(Lane::Read, [object(), object()]);
    rig.publish(asked("j", &get())).await;
    rig.until_settled().await;
    let row = rig.ledger.row("j");
    rig.publish(message("j", &get())).await;
    rig.until_settled().await;
    assert_eq!(rig.calls(), 1, "nobody asks");
    rig.publish(asked("j", &get())).await;
    rig.until_settled().await;
    assert_eq!(rig.calls(), 2);
    assert_eq!(&rig.broker.replies(ANSWERS)[1].body[..], b"hello");
    assert_eq!(rig.ledger.row("j"), row);
    assert_eq!(rig.jobs("get_object", "duplicate"), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_list_gets_its_keys_of_which_the_row_keeps_the_count() {
    let xml = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>1</Size>\
        </Contents></ListBucketResult>";
    let list = json!({"version": 1, "operation": "list_objects", "bucket": "b"});
    let mut rig = Rig::start(Lane::Read, [Answer::body(200, xml)]);
    for asked_before in 0..2 {
        rig.publish(asked("j", &list)).await;
        rig.until_settled().await;
        assert_eq!(rig.calls(), asked_before + 1);
        let reply = &rig.replies()[asked_before];
        assert_eq!(reply["result"]["keys"][0]["key"], "a");
    }
    let row = rig.ledger.row("j").unwrap().result.unwrap();
    assert_eq!(
        (row["count"].as_u64(), row["keys"].is_null()),
        (Some(1), true)
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_is_answered_from_its_row() {
    let mut rig = Rig::start(
        Lane::Read,
        [Answer::status(200).header("content-length", 7)],
    );
    rig.publish(message("j", &head())).await;
    rig.publish(asked("j", &head())).await;
    rig.until_settled().await;
    assert_eq!(rig.calls(), 1);
    assert_eq!(rig.replies()[0]["result"]["size"], 7);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_read_that_fails_for_good_is_the_answer_and_no_letter() {
    let answers = [Answer::body(200, "hello"), Answer::error(404, "NoSuchKey")];
    let mut rig = Rig::start(Lane::Read, answers);
    rig.publish(message("j", &get())).await;
    rig.until_settled().await;
    rig.publish(asked("j", &get())).await;
    rig.until_settled().await;
    let report = &rig.replies()[0];
    assert_eq!(report["outcome"], "dead_lettered");
    assert_eq!(
        (report["error"]["code"].as_str(), report["result"].is_null()),
        (Some("NoSuchKey"), true)
    );
    assert!(rig.dead().is_empty());
    assert_eq!(rig.state("j"), Some(State::Completed));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_read_that_can_be_retried_is_parked_and_comes_again() {
    let mut answers = vec![Answer::body(200, "hello")];
    answers.extend(times(3, &ill()));
    answers.push(Answer::body(200, "again"));
    let mut rig = Rig::start(Lane::Read, answers);
    rig.publish(message("j", &get())).await;
    rig.until_settled().await;
    rig.publish(asked("j", &get())).await;
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    let copy = &rig.parked(ParkDelay::TenSeconds)[0];
    assert_eq!(copy.count("brigade-parks"), Some(1));
    assert_eq!(copy.count("brigade-attempts"), Some(1), "the row's");
    assert_eq!(rig.state("j"), Some(State::Completed));
    rig.until("it is answered", |rig| {
        !rig.broker.replies(ANSWERS).is_empty()
    })
    .await;
    assert_eq!(&rig.broker.replies(ANSWERS)[0].body[..], b"again");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_run_again_for_its_answer_ends_with_its_age_and_with_its_first_panic() {
    let ill = times(3, &ill());
    for (answers, age, code) in [
        (ill, 25 * HOUR, "InternalError"),
        (vec![Answer::Panic], HOUR, "panic"),
    ] {
        let answers = [Answer::body(200, "hello")].into_iter().chain(answers);
        let mut rig = Rig::start(Lane::Read, answers);
        rig.publish(message("j", &get())).await;
        rig.until_settled().await;
        let repeat = Message {
            reply_to: Some(ANSWERS.to_owned()),
            ..aged("j", &get(), age)
        };
        rig.publish(repeat).await;
        rig.until_settled().await;
        let report = &rig.replies()[0];
        assert_eq!(
            (&report["outcome"], &report["error"]["code"]),
            (&"dead_lettered".into(), &code.into())
        );
        assert!(rig.dead().is_empty() && rig.parked(ParkDelay::TenSeconds).is_empty());
        assert_eq!(
            (rig.state("j"), rig.ledger.costs("j")),
            (Some(State::Completed), (0, 0))
        );
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_bytes_beside_a_repeat_that_does_not_is_run_again_for_them() {
    let object = || Answer::body(200, "hello");
    let mut rig = Rig::start(Lane::Read, [object(), object()]);
    rig.publish(message("j", &get())).await;
    rig.until_settled().await;
    rig.publish(message("j", &get())).await;
    rig.publish(asked("j", &get())).await;
    rig.until("who asks is parked", |rig| rig.parked_for("leased") == 1)
        .await;
    assert_eq!((rig.calls(), rig.duplicates()), (1, 2));
    rig.until("it is answered", |rig| {
        !rig.broker.replies(ANSWERS).is_empty()
    })
    .await;
    assert_eq!(&rig.broker.replies(ANSWERS)[0].body[..], b"hello");
    rig.until_settled().await;
    assert_eq!(rig.calls(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_job_is_answered_and_not_buried_again() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied")]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    rig.publish(asked("j", &put())).await;
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.calls()), (1, 1));
    let report = &rig.replies()[0];
    assert_eq!(report["error"]["code"], "AccessDenied");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_somebody_moved_back_by_hand_is_buried_again() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied")]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    let moved = message("j", &put()).with_text("brigade-dead-at", "2026-01-01T00:00:00Z");
    rig.publish(moved).await;
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.calls()), (2, 1));
    assert_eq!(
        rig.dead()[1].text("brigade-error-code"),
        Some("AccessDenied")
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_never_reached_the_dead_queue_is_written_with_its_reason() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    let table = [
        ("j1", FailureClass::Permanent, "NoSuchBucket", "permanent"),
        (
            "j2",
            FailureClass::JobLocal,
            "source_not_found",
            "permanent",
        ),
        (
            "j3",
            FailureClass::JobLocal,
            "forbidden_source",
            "forbidden_source",
        ),
        ("j4", FailureClass::Cancelled, "panic", "poison"),
        ("j5", FailureClass::Cancelled, "worker_died", "poison"),
        ("j6", FailureClass::Throttled, "SlowDown", "expired"),
        ("j7", FailureClass::Cancelled, "deadline", "expired"),
    ];
    for (id, class, code, _) in table {
        let failure = Failure::ours(class, code, "so it was");
        rig.end_elsewhere(id, State::DeadLettered, Some(failure))
            .await;
        assert!(!rig.ledger.is_buried(id));
        rig.publish(asked(id, &put())).await;
    }
    rig.run(|_| {});
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.dead().len()), (0, table.len()));
    for (id, _, code, reason) in table {
        let letters = rig.dead();
        let letter = letters
            .iter()
            .find(|it| it.message_id.as_deref() == Some(id))
            .unwrap();
        assert_eq!(letter.text("brigade-reason"), Some(reason), "{id}");
        assert_eq!(letter.text("brigade-error-code"), Some(code), "{id}");
        assert_eq!(letter.text("brigade-error"), Some("so it was"));
        assert_eq!(letter.count("brigade-attempts"), Some(1));
        assert!(rig.ledger.is_buried(id));
    }
    assert_eq!(rig.replies().len(), table.len());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_runs_a_dead_job_again() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied"), stored()]);
    rig.publish(message("j", &put())).await;
    rig.until_settled().await;
    rig.publish(message("j", &put()).with_count("brigade-replay", 1))
        .await;
    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    assert_eq!(rig.ledger.row("j").unwrap().attempts, 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_another_worker_runs_is_parked_and_no_step_of_the_ladder_is_taken() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    rig.claim_elsewhere("other", "j").await;
    let delivery = message("j", &put())
        .with_count("brigade-attempts", 5)
        .with_count("brigade-parks", 2)
        .with_text("brigade-first-seen", "2026-01-02T03:04:05Z");
    rig.publish(delivery).await;
    rig.run(|_| {});
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    let copy = &rig.parked(ParkDelay::TenSeconds)[0];
    assert_eq!(
        (copy.count("brigade-attempts"), copy.count("brigade-parks")),
        (Some(5), Some(2))
    );
    assert_eq!(
        copy.text("brigade-first-seen"),
        Some("2026-01-02T03:04:05.000000Z")
    );
    assert_eq!(copy.text("brigade-error-code"), None);
    assert_eq!(
        (rig.parked_for("leased"), rig.jobs("put_object", "retrying")),
        (1, 1)
    );
    assert_eq!(rig.calls(), 0);
    // Its worker never comes back: the lease runs out.
    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.ledger.costs("j")), (1, (0, 1)));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_of_a_job_that_runs_share_its_end() {
    let mut rig = Rig::start(Lane::Upload, [after(5 * SECOND, stored())]);
    let correlated = |id: &str| Message {
        correlation_id: Some(id.to_owned()),
        ..asked("j", &put())
    };
    rig.publish(correlated("first")).await;
    rig.publish(message("j", &put())).await;
    rig.publish(correlated("third")).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!((rig.queued(), rig.running.attached()), (3, 2));
    rig.until_settled().await;
    assert_eq!(
        (rig.calls(), rig.ledger.claims(), rig.duplicates()),
        (1, 1, 2)
    );
    let replies = rig.broker.replies(ANSWERS);
    let asked: Vec<_> = replies
        .iter()
        .map(|it| it.correlation_id.as_deref().unwrap())
        .collect();
    assert_eq!(asked, ["first", "third"]);
    assert_eq!(
        (
            rig.jobs("put_object", "completed"),
            rig.jobs("put_object", "duplicate")
        ),
        (1, 2)
    );
    assert_eq!(rig.running.attached(), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn when_a_job_is_parked_those_that_wait_for_an_answer_are_parked_too() {
    let mut answers = times(3, &ill());
    answers.push(stored());
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.publish(message("j", &put())).await;
    rig.publish(message("j", &put())).await;
    rig.publish(asked("j", &put())).await;
    rig.until("it is parked", |rig| rig.queued() == 0).await;
    let parked = rig.parked(ParkDelay::TenSeconds);
    let reply_to: Vec<_> = parked.iter().map(|copy| copy.reply_to.as_deref()).collect();
    assert_eq!(reply_to, [None, Some(ANSWERS)]);
    assert_eq!(rig.parked_for("unavailable"), 2);
    rig.until("it is answered", |rig| rig.replies().len() == 1)
        .await;
    assert_eq!(rig.calls(), 4);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_letter_stands_for_all_deliveries_of_a_job() {
    let mut rig = Rig::start(
        Lane::Upload,
        [after(SECOND, Answer::error(403, "AccessDenied"))],
    );
    for _ in 0..3 {
        rig.publish(asked("j", &put())).await;
    }
    rig.until_settled().await;
    assert_eq!(
        (rig.dead().len(), rig.replies().len(), rig.calls()),
        (1, 3, 1)
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_that_attached_is_parked_or_buried_in_the_place_of_the_delivery_that_died() {
    for (answer, reason) in [
        (ill(), None),
        (Answer::error(403, "AccessDenied"), Some("permanent")),
    ] {
        let mut rig = Rig::start(Lane::Upload, [after(SECOND, answer)]);
        rig.publish_all(&["j", "j"], &put()).await;
        rig.until("it runs", |rig| rig.calls() == 1).await;
        rig.broker.lose_channels();
        rig.until("both redeliveries have attached", |rig| {
            rig.running.attached() == 3
        })
        .await;
        rig.until_settled().await;
        let copies = [rig.parked(ParkDelay::TenSeconds), rig.dead()].concat();
        assert_eq!(copies.len(), 1);
        assert_eq!(copies[0].text("brigade-reason"), reason);
        assert_eq!((rig.acks_lost(), rig.ledger.claims()), (2, 1));
        assert!(reason.is_none() || rig.ledger.is_buried("j"));
        rig.end().await;
    }
}
