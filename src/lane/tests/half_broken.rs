//! Events 8, 10, 12, 16, 19 and 20 where things are half broken: calls that hang across a change of the circuit,
//! a probe on an empty queue, one queue that takes no copies, and deliveries that wait for long in hand.

use super::*;
use crate::{
    ledger::Fence,
    resilience::circuit_breaker::{CircuitState, Mode},
};

/// Every job of the lane at the same time.
fn four_at_a_time(limits: &mut LaneLimits) {
    (limits.admission, limits.concurrency) = (4, 4);
}

impl Rig {
    fn force(&self, mode: Mode) {
        self.stage.breaker.force(mode);
    }

    async fn until_consuming(&self) {
        self.until("it consumes", |rig| {
            rig.status.state() == LaneState::Consuming
        })
        .await;
    }

    async fn until_probing(&self) {
        self.until("it probes", |rig| rig.status.state() == LaneState::Probing)
            .await;
    }

    /// Opens the circuit as five failures in a row would.
    async fn open_circuit(&self) {
        for _ in 0..5 {
            self.stage.breaker.acquire().unwrap().failure();
        }
        self.until("the lane pauses", |rig| {
            matches!(rig.status.state(), LaneState::Paused(PausedBy::Breaker, _))
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_past_an_open_circuit_cost_no_consumer_each() {
    let hangs = (1..=4).map(|second| after(second * SECOND + 10 * SECOND, ill()));
    let mut rig = Rig::with(
        Lane::Upload,
        hangs.chain([after(SECOND, stored())]),
        four_at_a_time,
    );
    for number in 0..12 {
        rig.publish(message(&format!("j{number}"), &put())).await;
    }
    rig.until("four hang", |rig| rig.calls() == 4).await;
    rig.force(Mode::ForceOpen);
    rig.until("the lane pauses", |rig| {
        rig.status.state().as_str() == "paused"
    })
    .await;
    rig.force(Mode::ForceClosed);
    rig.until_consuming().await;
    rig.until("all are done", |rig| {
        rig.jobs("put_object", "completed") == 12
    })
    .await;
    rig.until_settled().await;
    assert_eq!(
        rig.broker.subscriptions(),
        2,
        "one at the start, one after the circuit closed"
    );
    assert_eq!(
        rig.redeliveries(),
        0,
        "what was refused, and what had not started, stayed in hand"
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_refused_while_a_probe_waits_for_a_delivery_becomes_the_probe() {
    let answers = [after(30 * SECOND, ill()), stored()];
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.publish(message("j", &put())).await;
    rig.until("it hangs", |rig| rig.calls() == 1).await;
    rig.open_circuit().await;
    rig.until_probing().await;
    // No other message ever comes.
    rig.until_state("j", State::Completed).await;
    assert_eq!(rig.stage.breaker.snapshot().state, CircuitState::Closed);
    rig.until_settled().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_forgotten_in_half_open_is_made_anew() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.open_circuit().await;
    rig.until_probing().await;
    rig.broker.forget_consumers();
    rig.publish(message("j", &put())).await;
    rig.until_state("j", State::Completed).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_goes_away_ends_the_wait_for_a_probes_delivery() {
    let rig = Rig::start(Lane::Upload, [stored()]);
    rig.open_circuit().await;
    rig.until_probing().await;
    rig.ledger.set(|faults| faults.down = true);
    // Somebody must write for it to be seen.
    let writer = rig.writer.clone().unwrap();
    drop(
        writer
            .note_buried(JobId::parse("x").unwrap(), Fence(1))
            .await,
    );
    rig.until("the lane says so", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Ledger, _))
    })
    .await;
    rig.ledger.set(|faults| faults.down = false);
    rig.until_probing().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_takes_no_copies_stops_nothing_that_needs_none() {
    let answers = [Answer::error(403, "AccessDenied"), stored()];
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.broker.fill_queue("t.upload.dead", true);
    rig.publish(message("denied", &put())).await;
    rig.until_state("denied", State::DeadLettered).await;
    tokio::time::sleep(SECOND).await;
    rig.publish_all(&["a", "b", "c"], &put()).await;
    for id in ["a", "b", "c"] {
        rig.until_state(id, State::Completed).await;
    }
    assert_eq!(rig.queued(), 1, "the one without a letter is held");
    rig.broker.fill_queue("t.upload.dead", false);
    rig.until_settled().await;
    assert_eq!(rig.dead().len(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_copies_goes_back_when_the_circuit_opens() {
    let answers = [
        Answer::error(403, "AccessDenied"),
        Answer::error(403, "AccessDenied"),
        stored(),
    ];
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.broker.fill_queue("t.upload.dead", true);
    rig.publish_all(&["a", "b", "c", "d"], &put()).await;
    rig.until("its hands are full of copies", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Amqp, _))
    })
    .await;
    assert_eq!(rig.broker.deliveries(), 4);
    rig.force(Mode::ForceOpen);
    rig.broker.fill_queue("t.upload.dead", false);
    rig.until("what had not started is given back", |rig| {
        rig.requeued("circuit_open") == 2
    })
    .await;
    assert_eq!(rig.queued(), 2);
    rig.force(Mode::Auto);
    rig.force(Mode::ForceClosed);
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.acks_lost()), (2, 0));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_with_more_in_hand_than_slots_forgets_none() {
    let answers = [
        Answer::error(403, "AccessDenied"),
        Answer::error(403, "AccessDenied"),
        stored(),
    ];
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.broker.fill_queue("t.upload.dead", true);
    rig.publish_all(&["a", "b", "c", "d"], &put()).await;
    rig.until("its hands are full of copies", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Amqp, _))
    })
    .await;
    for _ in 0..5 {
        rig.stage.breaker.acquire().unwrap().failure();
    }
    // Half-open by the time that the copies are out: two are in hand, and there is one slot.
    tokio::time::sleep(10 * SECOND).await;
    rig.broker.fill_queue("t.upload.dead", false);
    rig.until_settled().await;
    assert_eq!(rig.jobs("put_object", "completed"), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_waited_too_long_in_hand_is_parked_and_not_started() {
    let answers = [after(9 * SECOND, stored()), stored()];
    let mut rig = Rig::with(Lane::Upload, answers, |limits| {
        (limits.admission, limits.concurrency) = (1, 1);
        limits.job_deadline = 16 * SECOND;
    });
    rig.publish_all(&["first", "second"], &put()).await;
    rig.until_state("first", State::Completed).await;
    rig.until("the second is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    assert_eq!((rig.calls(), rig.parked_for("deadline")), (1, 1));
    let parked = &rig.parked(ParkDelay::TenSeconds)[0];
    assert_eq!(
        parked.count("brigade-parks"),
        Some(0),
        "not the job's fault"
    );
    rig.until_state("second", State::Completed).await;
    assert_eq!(rig.calls(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_jobs_deadline_counts_from_its_delivery() {
    let answers = [after(9 * SECOND, stored()), Answer::Silence];
    let mut rig = Rig::with(Lane::Upload, answers, |limits| {
        (limits.admission, limits.concurrency) = (1, 1);
        limits.job_deadline = 25 * SECOND;
    });
    rig.publish_all(&["first", "second"], &put()).await;
    let delivered = tokio::time::Instant::now();
    rig.until_state("second", State::Retrying).await;
    let took = delivered.elapsed();
    assert!((25 * SECOND..26 * SECOND).contains(&took), "{took:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_waits_for_its_turn_is_parked_before_the_brokers_limit() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    let suspects = Arc::clone(&rig.suspects);
    let other = suspects.0.lock().await;
    for number in 0..3 {
        rig.claim_elsewhere(&format!("dead-{number}"), "s").await;
        rig.ledger.pass(LEASE + SECOND);
    }
    rig.publish(message("s", &put())).await;
    rig.run(|limits| limits.job_deadline = 60 * SECOND);
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    assert_eq!((rig.parked_for("deadline"), rig.calls()), (1, 0));
    drop(other);
    rig.until_state("s", State::Completed).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_jobs_whose_copies_can_not_be_published() {
    let mut rig = Rig::start(Lane::Upload, [Answer::error(403, "AccessDenied")]);
    rig.publish(message("j", &put())).await;
    rig.broker.stall_publishes(true);
    rig.until_state("j", State::DeadLettered).await;
    rig.stop.cancel();
    rig.until("it drains", |rig| rig.status.state() == LaneState::Draining)
        .await;
    rig.abort.cancel();
    let began = tokio::time::Instant::now();
    let all = async { while rig.tasks.join_next().await.is_some() {} };
    assert!(tokio::time::timeout(HOUR, all).await.is_ok(), "it ends");
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!((rig.queued(), rig.requeued("drain")), (1, 1));
    // The next worker writes the letter.
    rig.broker.stall_publishes(false);
    rig.restart();
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.calls()), (1, 1));
    rig.end().await;
}

/// Points between delivery and ack at which a task may panic outside of its run.
#[cfg(feature = "failpoints")]
const OUTSIDE_OF_RUNS: [&str; 6] = [
    "job.decoded",
    "job.claimed",
    "outcome.unrecorded",
    "outcome.recorded",
    "reply.before",
    "ack.before",
];

#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn a_panic_wherever_it_happens_costs_neither_the_job_nor_its_place() {
    for point in OUTSIDE_OF_RUNS {
        let mut rig = Rig::start(Lane::Upload, [stored()]);
        crate::crash::panic_at(point);
        rig.publish(asked("j", &put())).await;
        rig.until_state("j", State::Completed).await;
        rig.until("the copy has come back", |rig| {
            rig.parked_for("panic") == 1 && rig.parked(ParkDelay::TenSeconds).is_empty()
        })
        .await;
        rig.until_settled().await;
        assert!(!rig.replies().is_empty(), "{point}");
        assert_eq!(rig.ledger.costs("j"), (0, 0), "{point}");
        // Four more at a time need the whole prefetch.
        rig.publish_all(&["a", "b", "c", "d"], &put()).await;
        rig.until_settled().await;
        assert_eq!(rig.status.state(), LaneState::Consuming, "{point}");
        rig.end().await;
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn a_message_that_panics_its_worker_outside_of_runs_is_buried_the_fifth_time() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    for _ in 0..5 {
        crate::crash::panic_at("job.decoded");
    }
    rig.publish(asked("j", &put())).await;
    rig.until("its letter is there", |rig| rig.dead().len() == 1)
        .await;
    rig.until_settled().await;
    let letter = &rig.dead()[0];
    assert_eq!(letter.text("brigade-reason"), Some("poison"));
    assert_eq!((rig.parked_for("panic"), rig.calls()), (4, 0));
    assert_eq!(rig.replies().len(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn panics_of_different_jobs_in_a_row_pause_the_lane_and_cost_no_job() {
    let mut rig = Rig::start(
        Lane::Upload,
        times(8, &Answer::Panic).into_iter().chain([stored()]),
    );
    for number in 0..12 {
        rig.publish(message(&format!("j{number}"), &put())).await;
    }
    rig.until("the lane pauses", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Panics, _))
    })
    .await;
    assert!(!rig.status.state().is_ready());
    assert_eq!(
        rig.status.state().reason(),
        Some("worker: 3 jobs in a row panicked, the last with: scripted")
    );
    let calls = rig.calls();
    assert!(calls <= 4, "{calls}");
    // One job now and then, and each time later, until one gets through.
    rig.until("all are done", |rig| {
        rig.jobs("put_object", "completed") == 12
    })
    .await;
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.dead().len()), (20, 0));
    let counted: u32 = (0..12)
        .map(|number| rig.ledger.costs(&format!("j{number}")).0)
        .sum();
    assert_eq!(counted, 2, "those before it was known whose fault it is");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_in_two_lanes_is_settled_by_the_lane_of_each_delivery() {
    let mut rig = Rig::start(Lane::Upload, [after(5 * SECOND, ill()), ill()]);
    let mut other = Rig {
        lane: Lane::Read,
        status: Arc::new(LaneStatus::new(Lane::Read, Arc::clone(&rig.stage.metrics))),
        broker: rig.broker.clone(),
        running: Arc::clone(&rig.running),
        ledger: rig.ledger.clone(),
        ..Rig::new(Lane::Read, [stored()])
    };
    other.run(|_| {});
    rig.publish(message("j", &put())).await;
    rig.until("it runs", |rig| rig.calls() == 1).await;
    other.publish(asked("j", &head())).await;
    rig.until("both are parked", |rig| {
        rig.queued() == 0 && other.queued() == 0
    })
    .await;
    assert_eq!(rig.parked(ParkDelay::TenSeconds).len(), 1);
    assert_eq!(
        other.parked(ParkDelay::TenSeconds).len(),
        1,
        "in its own lane"
    );
    rig.end().await;
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn panics_while_the_circuit_is_open_do_not_keep_it_from_its_probes() {
    let answers = times(3, &Answer::Panic).into_iter().chain([stored()]);
    let mut rig = Rig::start(Lane::Upload, answers);
    rig.open_circuit().await;
    rig.publish_all(&["a", "b", "c", "d"], &put()).await;
    rig.until("probe after probe panics", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Panics, _))
    })
    .await;
    for id in ["a", "b", "c", "d"] {
        rig.until_state(id, State::Completed).await;
    }
    assert_eq!(rig.stage.breaker.snapshot().state, CircuitState::Closed);
    rig.until_settled().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_proves_nothing_makes_no_pause_longer() {
    let answers = times(3, &Answer::Panic).into_iter().chain([stored()]);
    let mut rig = Rig::new(Lane::Upload, answers);
    rig.publish_all(&["a", "b", "c"], &put()).await;
    rig.run(|limits| (limits.admission, limits.concurrency) = (1, 1));
    rig.until("the lane pauses", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Panics, _))
    })
    .await;
    let began = tokio::time::Instant::now();
    let bad = json!({"version": 1, "operation": "put_object"});
    for number in 0..8 {
        rig.publish(message(&format!("bad{number}"), &bad)).await;
    }
    rig.publish(message("good", &put())).await;
    rig.until_state("good", State::Completed).await;
    let took = began.elapsed();
    assert!(took < 40 * SECOND, "{took:?}");
    rig.until_settled().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_waits_leaves_its_probe_to_another() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    let suspects = Arc::clone(&rig.suspects);
    let other = suspects.0.lock().await;
    for number in 0..3 {
        rig.claim_elsewhere(&format!("dead-{number}"), "s").await;
        rig.ledger.pass(LEASE + SECOND);
    }
    rig.run(|_| {});
    rig.open_circuit().await;
    rig.publish_all(&["s", "fine"], &put()).await;
    let began = tokio::time::Instant::now();
    rig.until_state("fine", State::Completed).await;
    assert!(began.elapsed() < 30 * SECOND, "{:?}", began.elapsed());
    drop(other);
    rig.until_state("s", State::Completed).await;
    rig.until_settled().await;
    rig.end().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn a_second_panic_over_one_delivery_forgets_it_no_more_than_the_first() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    crate::crash::panic_at("job.claimed");
    // In the settling of the first one.
    crate::crash::panic_at("park.before");
    rig.publish(message("j", &put())).await;
    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    rig.end().await;
}
