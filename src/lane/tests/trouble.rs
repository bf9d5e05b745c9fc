//! Events 4, 17, 19 and 20, and "Poison": jobs that panic, kill their worker or take too long, and a ledger that
//! is away, refuses a row or has given it to somebody else.

use super::*;
use crate::ledger::Ending;

impl Rig {
    /// So many workers claim the job, one after the other, and die.
    async fn kill_workers(&self, count: u32, id: &str) {
        for number in 0..count {
            self.claim_elsewhere(&format!("dead-{number}"), id).await;
            self.ledger.pass(LEASE + SECOND);
        }
    }

    /// Another worker takes the job from this one, which lost its lease, and completes it.
    async fn take_over(&self, id: &str) {
        self.ledger.pass(LEASE + SECOND);
        let Claim::Taken(taken) = self.claim_elsewhere("other", id).await else {
            panic!("{id} was not free");
        };
        let ending = Ending {
            id: JobId::parse(id).unwrap(),
            fence: taken.fence,
            state: State::Completed,
            attempts: 7,
            parks: 0,
            panics: 0,
            failure: None,
            result: Some(json!({"etag": "\"theirs\""})),
            failed: Default::default(),
        };
        let other = self.ledger.for_worker("other");
        other.commit(&[ending]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_panics_is_parked_four_times_and_buried_the_fifth() {
    let mut rig = Rig::start(Lane::Upload, [Answer::Panic]);
    rig.publish(asked("j", &put())).await;
    rig.until("it is parked", |rig| rig.queued() == 0).await;
    assert_eq!(
        rig.parked(ParkDelay::TenSeconds)[0].text("brigade-error-code"),
        Some("panic")
    );
    assert_eq!(
        (rig.parked_for("panic"), rig.ledger.costs("j")),
        (1, (1, 0))
    );
    rig.until_state("j", State::DeadLettered).await;
    rig.until_settled().await;
    let letter = &rig.dead()[0];
    assert_eq!(
        (
            letter.text("brigade-reason"),
            letter.text("brigade-error-code")
        ),
        (Some("poison"), Some("panic"))
    );
    assert_eq!(letter.text("brigade-error"), Some("scripted"));
    assert_eq!((rig.calls(), rig.ledger.costs("j")), (5, (5, 0)));
    assert_eq!(rig.parked_for("panic"), 4);
    assert_eq!(rig.replies().len(), 1);
    assert_eq!(rig.stage.breaker.snapshot().consecutive_failures, 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_killed_six_workers_is_buried_without_another_run() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    rig.kill_workers(6, "killer").await;
    rig.kill_workers(5, "unlucky").await;
    rig.publish(message("killer", &put())).await;
    rig.publish(message("unlucky", &put())).await;
    rig.run(|_| {});
    rig.until_settled().await;
    let letter = &rig.dead()[0];
    assert_eq!(letter.message_id.as_deref(), Some("killer"));
    assert_eq!(
        (
            letter.text("brigade-reason"),
            letter.text("brigade-error-code")
        ),
        (Some("poison"), Some("worker_died"))
    );
    assert_eq!(
        letter.text("brigade-error"),
        Some("6 workers died while they ran this job")
    );
    assert_eq!((rig.calls(), rig.dead().len()), (1, 1));
    assert_eq!(rig.state("unlucky"), Some(State::Completed));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time_and_wait_unclaimed() {
    let mut rig = Rig::new(Lane::Upload, [after(5 * SECOND, stored())]);
    for id in ["s1", "s2"] {
        rig.kill_workers(3, id).await;
    }
    rig.kill_workers(2, "fine").await;
    rig.publish_all(&["s1", "s2", "fine"], &put()).await;
    rig.run(|limits| (limits.admission, limits.concurrency) = (3, 3));
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.calls(), 2, "a suspect and the one that is none");
    let states = ["s1", "s2", "fine"].map(|id| rig.state(id).unwrap());
    assert_eq!(states, [State::Running, State::Requeued, State::Running]);
    rig.until_settled().await;
    assert_eq!(rig.calls(), 3);
    assert_eq!(rig.ledger.costs("s2"), (0, 3), "waiting is no death");
    assert_eq!(rig.requeued("drain"), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_waits_is_given_back_when_the_worker_must_go() {
    let mut rig = Rig::new(Lane::Upload, [Answer::Silence]);
    let suspects = Arc::clone(&rig.suspects);
    let _other = suspects.0.lock().await;
    rig.kill_workers(3, "s").await;
    rig.publish(message("s", &put())).await;
    rig.run(|_| {});
    rig.until_state("s", State::Requeued).await;
    rig.stop.cancel();
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.requeued("drain"), 0);
    rig.abort.cancel();
    rig.until("it is given back", |rig| rig.requeued("drain") == 1)
        .await;
    assert_eq!(rig.calls(), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_too_long_is_parked_or_buried_by_its_age() {
    let mut rig = Rig::with(Lane::Upload, [Answer::Silence], |limits| {
        limits.job_deadline = 3 * SECOND
    });
    rig.publish(message("young", &put())).await;
    rig.publish(aged("old", &put(), 25 * HOUR)).await;
    let began = tokio::time::Instant::now();
    rig.until_settled().await;
    let took = began.elapsed();
    assert!((3 * SECOND..4 * SECOND).contains(&took), "{took:?}");
    let copy = &rig.parked(ParkDelay::TenSeconds)[0];
    assert_eq!(
        (copy.message_id.as_deref(), copy.text("brigade-error-code")),
        (Some("young"), Some("deadline"))
    );
    let letter = &rig.dead()[0];
    assert_eq!(
        (
            letter.text("brigade-reason"),
            letter.text("brigade-error-code")
        ),
        (Some("expired"), Some("deadline"))
    );
    assert!(
        letter.text("brigade-error").unwrap().contains("3s"),
        "{letter:?}"
    );
    assert_eq!(rig.parked_for("deadline"), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_nothing_starts_and_everything_is_requeued_once() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.ledger.set(|faults| faults.down = true);
    rig.publish_all(&["a", "b", "c"], &put()).await;
    rig.until("it pauses", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Ledger, _))
    })
    .await;
    let reason = rig.status.state().reason().map(str::to_owned).unwrap();
    assert!(
        reason.starts_with("ledger: ") && reason.contains("unplugged"),
        "{reason}"
    );
    assert!(!rig.status.state().is_ready());
    tokio::time::sleep(60 * SECOND).await;
    let deliveries = rig.broker.deliveries();
    assert!(deliveries <= 6, "no hot loop: {deliveries}");
    assert_eq!(rig.requeued("ledger_down"), deliveries);
    assert_eq!(rig.calls(), 0);
    rig.ledger.set(|faults| faults.down = false);
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.jobs("put_object", "completed")), (3, 3));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_waits_for_the_ledger_and_s3_is_not_asked_twice() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.ledger.set(|faults| faults.commits_down = true);
    rig.publish(asked("j", &put())).await;
    rig.until("S3 has it", |rig| rig.calls() == 1).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!((rig.state("j"), rig.queued()), (Some(State::Running), 1));
    assert!(rig.replies().is_empty());
    rig.ledger.set(|faults| faults.commits_down = false);
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.state("j")), (1, Some(State::Completed)));
    assert_eq!(rig.redeliveries(), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_can_not_be_recorded_before_the_worker_goes_leaves_the_job_in_its_queue() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.ledger.set(|faults| faults.commits_down = true);
    rig.publish(message("j", &put())).await;
    rig.until("S3 has it", |rig| rig.calls() == 1).await;
    rig.stop.cancel();
    rig.abort.cancel();
    rig.until("it is given back", |rig| rig.requeued("drain") == 1)
        .await;
    assert_eq!(rig.jobs("put_object", "requeued"), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_the_database_refuses_stops_nobody_else() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.ledger.set(|faults| {
        faults.refused.insert("bad");
        faults.refused_endings.insert("worse");
    });
    let carried = asked("bad", &put())
        .with_count("brigade-attempts", 5)
        .with_count("brigade-parks", 2);
    rig.publish(carried).await;
    rig.publish(asked("worse", &put())).await;
    rig.publish(message("good", &put())).await;
    rig.until_settled().await;
    assert_eq!(
        (rig.state("good"), rig.dead().len()),
        (Some(State::Completed), 2)
    );
    for letter in rig.dead() {
        assert_eq!(
            (
                letter.text("brigade-reason"),
                letter.text("brigade-error-code")
            ),
            (Some("permanent"), Some("ledger_refused"))
        );
        assert!(
            letter
                .text("brigade-error")
                .unwrap()
                .contains("breaks a rule"),
            "{letter:?}"
        );
        assert!(letter.text("brigade-first-seen").is_some());
    }
    let letters = rig.dead();
    let bad = letters
        .iter()
        .find(|it| it.message_id.as_deref() == Some("bad"))
        .unwrap();
    assert_eq!(
        (bad.count("brigade-attempts"), bad.count("brigade-parks")),
        (Some(5), Some(2))
    );
    let replies = rig.replies();
    let reply = replies.iter().find(|reply| reply["id"] == "bad").unwrap();
    assert_eq!(
        (reply["outcome"].as_str(), reply["attempts"].as_u64()),
        (Some("dead_lettered"), Some(5))
    );
    assert_eq!(reply["error"]["code"], "ledger_refused");
    assert_eq!(rig.calls(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_lease_the_database_refuses_to_renew_is_buried() {
    let mut rig = Rig::start(Lane::Upload, [after(8 * SECOND, ill()), stored()]);
    rig.ledger.set(|faults| {
        faults.refused_renewals.insert("bad");
    });
    rig.publish(asked("bad", &put())).await;
    rig.until_settled().await;
    let letter = &rig.dead()[0];
    assert_eq!(
        (
            letter.text("brigade-reason"),
            letter.text("brigade-error-code")
        ),
        (Some("permanent"), Some("ledger_refused"))
    );
    assert_eq!(rig.state("bad"), Some(State::DeadLettered));
    // Not requeued: it would come again for ever.
    assert_eq!((rig.calls(), rig.ledger.claims()), (1, 1));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_the_lease_makes_no_further_attempt() {
    let mut rig = Rig::start(Lane::Upload, [after(6 * SECOND, ill())]);
    rig.publish(asked("j", &put())).await;
    rig.until("it runs", |rig| rig.calls() == 1).await;
    rig.take_over("j").await;
    rig.until_settled().await;
    assert_eq!(rig.calls(), 1);
    assert_eq!(rig.replies()[0]["result"]["etag"], "\"theirs\"");
    assert_eq!(
        (rig.jobs("put_object", "duplicate"), rig.state("j")),
        (1, Some(State::Completed))
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_loser_does_not_overwrite_the_winner() {
    let mut rig = Rig::start(
        Lane::Upload,
        [after(2 * SECOND, Answer::error(403, "AccessDenied"))],
    );
    rig.publish(asked("j", &put())).await;
    rig.until("it runs", |rig| rig.calls() == 1).await;
    rig.take_over("j").await;
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.dead().len()), (1, 0));
    assert_eq!(rig.replies()[0]["result"]["etag"], "\"theirs\"");
    assert_eq!(rig.ledger.row("j").unwrap().attempts, 7);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_ledger_is_asked_for_earlier_uploads_only_of_jobs_that_ran() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hello").unwrap();
    let upload = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
        "source": {"file": file.path()}});
    rig.kill_workers(1, "died").await;
    // What was claimed was a put.
    rig.ledger.forget_requests();
    rig.run(|limits| {
        limits.rules.source_roots = Roots::new("sources.file_roots", vec![std::env::temp_dir()]);
    });
    rig.publish(message("new", &upload)).await;
    rig.until_state("new", State::Completed).await;
    assert_eq!(rig.ledger.recalls(), 0);
    rig.publish(message("died", &upload)).await;
    rig.until_state("died", State::Completed).await;
    assert_eq!(rig.ledger.recalls(), 1);
    let ran = message("ran", &upload).with_count("brigade-attempts", 1);
    rig.publish(ran).await;
    rig.until_state("ran", State::Completed).await;
    assert_eq!(rig.ledger.recalls(), 2);
    rig.end().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn a_panic_right_after_the_claim_holds_the_row_no_longer_than_its_lease() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    crate::crash::panic_at("job.claimed");
    rig.publish(message("j", &put())).await;
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    // The lane takes nothing more, and its writer goes on renewing what it holds.
    rig.stop.cancel();
    tokio::time::sleep(LEASE + SECOND).await;
    let claim = rig.claim_elsewhere("other", "j").await;
    assert!(matches!(claim, Claim::Taken(_)), "{claim:?}");
    rig.end().await;
}
