//! Events 8, 9, 10 and 16: an open circuit, its probes, an operator's word, and copies that can't be published.

use super::*;
use crate::{
    broker::PublishError,
    resilience::circuit_breaker::{CircuitState, Mode},
};

impl Rig {
    fn circuit(&self) -> CircuitState {
        self.stage.breaker.snapshot().state
    }

    async fn until_open(&self) {
        self.until("the lane pauses", |rig| {
            matches!(rig.status.state(), LaneState::Paused(PausedBy::Breaker, _))
        })
        .await;
        assert_eq!(self.circuit(), CircuitState::Open);
        assert!(
            self.status.state().is_ready(),
            "S3 being away makes no worker unready"
        );
        assert_eq!(
            self.status.state().reason(),
            Some("breaker: the circuit is open")
        );
    }

    /// As five failures in a row would.
    async fn trip(&self) {
        for _ in 0..5 {
            self.stage.breaker.acquire().unwrap().failure();
        }
        self.until_open().await;
    }
}

#[test]
fn a_lanes_states_have_the_names_of_the_status_page() {
    let why = || "why".to_owned();
    let states = [
        (LaneState::Consuming, "consuming", None, true),
        (
            LaneState::Paused(PausedBy::Breaker, why()),
            "paused",
            Some("why"),
            true,
        ),
        (
            LaneState::Paused(PausedBy::Ledger, why()),
            "paused",
            Some("why"),
            false,
        ),
        (
            LaneState::Paused(PausedBy::Amqp, why()),
            "paused",
            Some("why"),
            false,
        ),
        (LaneState::Probing, "probing", None, true),
        (
            LaneState::Disconnected(why()),
            "disconnected",
            Some("why"),
            false,
        ),
        (LaneState::Draining, "draining", None, false),
    ];
    for (state, name, reason, is_ready) in states {
        let says = (state.as_str(), state.reason(), state.is_ready());
        assert_eq!(says, (name, reason, is_ready));
    }
}

/// So that the script's answers go to the jobs in their order.
fn one_at_a_time(limits: &mut LaneLimits) {
    (limits.admission, limits.concurrency) = (1, 1);
    limits.retry.base_delay = Duration::from_millis(10);
}

/// What five jobs need to trip the circuit: each its three attempts.
fn outage() -> Vec<Answer> {
    times(15, &ill())
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_gives_back_what_it_holds_once_and_stays_silent() {
    let answers = outage().into_iter().chain([stored()]);
    let mut rig = Rig::with(Lane::Upload, answers, one_at_a_time);
    for number in 0..12 {
        rig.publish(message(&format!("j{number}"), &put())).await;
    }
    rig.until_open().await;
    let opened = tokio::time::Instant::now();
    let (calls, deliveries) = (rig.calls(), rig.broker.deliveries());
    let parked = rig.parked(ParkDelay::TenSeconds).len();
    assert_eq!(
        rig.requeued("circuit_open") as usize + parked,
        deliveries as usize
    );
    assert!(rig.requeued("circuit_open") > 0);
    assert_eq!(rig.queued() + parked, 12, "everything is in a queue");
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!((rig.calls(), rig.broker.deliveries()), (calls, deliveries));
    assert_eq!(
        rig.stage
            .metrics
            .lane_consuming
            .with_label_values(&["upload"])
            .get(),
        0
    );

    rig.until("the probe is out", |rig| rig.calls() > calls)
        .await;
    let waited = opened.elapsed();
    assert!((5 * SECOND..6 * SECOND).contains(&waited), "{waited:?}");
    rig.until("all is done", |rig| {
        rig.jobs("put_object", "completed") == 12
    })
    .await;
    rig.until_settled().await;
    assert_eq!(rig.circuit(), CircuitState::Closed);
    assert_eq!(rig.status.state(), LaneState::Consuming);
    assert_eq!(
        rig.stage
            .metrics
            .lane_consuming
            .with_label_values(&["upload"])
            .get(),
        1
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_one_job_and_one_attempt() {
    let answers = [after(SECOND, ill()), after(SECOND, stored())];
    let mut rig = Rig::with(Lane::Upload, answers, one_at_a_time);
    rig.trip().await;
    rig.publish_all(&["a", "b", "c"], &put()).await;
    let (calls, deliveries) = (rig.calls(), rig.broker.deliveries());
    rig.until("it probes", |rig| rig.status.state() == LaneState::Probing)
        .await;
    assert_eq!(rig.status.state().reason(), None);
    rig.until("the probe has failed", |rig| {
        rig.circuit() == CircuitState::Open
    })
    .await;
    assert_eq!(
        (rig.calls(), rig.broker.deliveries()),
        (calls + 1, deliveries + 1)
    );
    rig.until("the probe is parked", |rig| {
        rig.state("a") == Some(State::Retrying)
    })
    .await;
    assert_eq!(
        rig.ledger.row("a").unwrap().attempts,
        1,
        "no retry in place"
    );
    let opened = tokio::time::Instant::now();
    rig.until("it probes", |rig| rig.circuit() == CircuitState::HalfOpen)
        .await;
    let waited = opened.elapsed();
    assert!(
        (9 * SECOND..11 * SECOND).contains(&waited),
        "twice as long: {waited:?}"
    );
    rig.until("it closes", |rig| rig.circuit() == CircuitState::Closed)
        .await;
    rig.until_settled().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_about_s3_leaves_the_probe_to_the_next() {
    let answers = [stored()];
    let mut rig = Rig::with(Lane::Upload, answers, one_at_a_time);
    rig.trip().await;
    let bad = json!({"version": 1, "operation": "put_object"});
    rig.publish(message("bad", &bad)).await;
    rig.publish(message("good", &put())).await;
    rig.until_state("good", State::Completed).await;
    assert_eq!((rig.circuit(), rig.dead().len()), (CircuitState::Closed, 1));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_answer_closes_the_circuit() {
    let answers = [Answer::error(404, "NoSuchBucket")];
    let mut rig = Rig::with(Lane::Upload, answers, one_at_a_time);
    rig.trip().await;
    rig.publish(message("typo", &put())).await;
    rig.until("it closes", |rig| rig.circuit() == CircuitState::Closed)
        .await;
    rig.until_settled().await;
    assert_eq!(rig.state("typo"), Some(State::DeadLettered));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_keeps_the_probes_slot_until_a_job_comes() {
    let answers = [stored()];
    let mut rig = Rig::with(Lane::Read, answers, one_at_a_time);
    rig.trip().await;
    rig.until("it probes", |rig| rig.status.state() == LaneState::Probing)
        .await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.circuit(), CircuitState::HalfOpen);
    rig.publish(message("late", &head())).await;
    rig.until_state("late", State::Completed).await;
    assert_eq!(rig.circuit(), CircuitState::Closed);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_ends_the_wait_for_a_probes_job() {
    let rig = Rig::start(Lane::Upload, [stored()]);
    rig.trip().await;
    rig.until("it probes", |rig| rig.status.state() == LaneState::Probing)
        .await;
    rig.stage.breaker.force(Mode::ForceClosed);
    rig.until("it consumes", |rig| {
        rig.status.state() == LaneState::Consuming
    })
    .await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_opens_the_circuit_again_whoever_has_its_slot() {
    let mut rig = Rig::new(Lane::Upload, [stored()]);
    for _ in 0..5 {
        rig.stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::sleep(7 * SECOND).await;
    let hangs = rig.stage.breaker.reserve_probe().unwrap();
    rig.publish(message("next", &put())).await;
    rig.run(|_| {});
    let began = tokio::time::Instant::now();
    rig.until("it opens again", |rig| rig.circuit() == CircuitState::Open)
        .await;
    let waited = began.elapsed();
    assert!((59 * SECOND..61 * SECOND).contains(&waited), "{waited:?}");
    // The circuit goes on without it.
    rig.until_state("next", State::Completed).await;
    assert_eq!(rig.circuit(), CircuitState::Closed);
    drop(hangs);
    rig.until_settled().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_delivery_of_a_refused_job_is_given_back_with_it() {
    let mut rig = Rig::start(Lane::Upload, [ill(), stored()]);
    rig.publish(message("j", &put())).await;
    rig.publish(message("j", &put())).await;
    rig.until("the first attempt has failed", |rig| {
        rig.calls() == 1 && rig.running.attached() == 1
    })
    .await;
    rig.stage.breaker.force(Mode::ForceOpen);
    rig.until("both are given back", |rig| {
        rig.requeued("circuit_open") == 2
    })
    .await;
    assert_eq!((rig.queued(), rig.state("j")), (2, Some(State::Requeued)));
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(rig.broker.deliveries(), 2, "a forced circuit has no probes");
    rig.stage.breaker.force(Mode::ForceClosed);
    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    assert_eq!((rig.calls(), rig.acks_lost()), (2, 0));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_hands_are_full_of_copies_holds_its_jobs_and_takes_no_more() {
    let answers = [Answer::error(403, "AccessDenied"), stored()];
    let mut rig = Rig::with(Lane::Upload, answers, one_at_a_time);
    rig.publish(message("j", &put())).await;
    rig.broker.stall_publishes(true);
    rig.until("the lane pauses", |rig| {
        matches!(rig.status.state(), LaneState::Paused(PausedBy::Amqp, _))
    })
    .await;
    assert_eq!(
        rig.status.state().reason(),
        Some("amqp: t.upload.dead takes no copies: no confirm in time")
    );
    assert!(!rig.status.state().is_ready());
    assert_eq!((rig.queued(), rig.dead().len()), (1, 0));
    rig.broker.stall_publishes(false);
    rig.until_settled().await;
    assert_eq!((rig.dead().len(), rig.buried_for("permanent")), (1, 1));
    assert_eq!(
        rig.requeued("drain") + rig.requeued("circuit_open") + rig.requeued("ledger_down"),
        0
    );
    rig.publish(message("next", &put())).await;
    rig.until_state("next", State::Completed).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_refused_is_published_again_and_stands_once() {
    let mut rig = Rig::start(Lane::Upload, [ill()]);
    rig.broker.fail_next_publish(PublishError::Nacked);
    rig.broker
        .fail_next_publish(PublishError::Returned("gone".to_owned()));
    rig.published.insert("j".to_owned());
    let mut failed = 0;
    // The faults meet whoever publishes next, which would be this test.
    while rig
        .broker
        .publish(&Target::Jobs(Lane::Upload), &message("j", &put()))
        .await
        .is_err()
    {
        failed += 1;
    }
    assert_eq!(failed, 2);
    rig.broker.fail_next_publish(PublishError::Nacked);
    rig.until("it is parked", |rig| {
        rig.parked(ParkDelay::TenSeconds).len() == 1
    })
    .await;
    rig.until("the original is acked", |rig| rig.queued() == 0)
        .await;
    assert_eq!(rig.parked_for("unavailable"), 1);
    rig.end().await;
}
