//! Events 2, 12, 13 and 14: what a lane takes, and streams of deliveries that end.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lane_takes_its_prefetch_and_starts_as_many_as_are_admitted() {
    let mut rig = Rig::start(Lane::Upload, [after(SECOND, stored())]);
    for number in 0..10 {
        rig.publish(message(&format!("j{number}"), &put())).await;
    }
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!((rig.status.in_flight(), rig.calls()), (2, 2));
    assert_eq!(rig.broker.deliveries(), u64::from(PREFETCH));
    assert_eq!(
        rig.stage
            .metrics
            .jobs_in_flight
            .with_label_values(&["upload"])
            .get(),
        2
    );
    let began = tokio::time::Instant::now();
    rig.until_settled().await;
    let took = began.elapsed();
    assert!(
        (4 * SECOND..6 * SECOND).contains(&took),
        "two at a time: {took:?}"
    );
    assert_eq!(
        rig.stage
            .metrics
            .jobs_in_flight
            .with_label_values(&["upload"])
            .get(),
        0
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_channel_costs_an_ack_and_no_second_call() {
    let mut rig = Rig::start(Lane::Upload, [after(SECOND, stored())]);
    rig.publish(asked("j", &put())).await;
    rig.until("it runs", |rig| rig.calls() == 1).await;
    rig.broker.lose_channels();
    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    assert_eq!(
        (rig.calls(), rig.acks_lost(), rig.redeliveries()),
        (1, 1, 1)
    );
    assert_eq!(
        (
            rig.jobs("put_object", "completed"),
            rig.jobs("put_object", "duplicate")
        ),
        (1, 1)
    );
    assert!(!rig.replies().is_empty());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn on_a_dead_channel_nothing_is_parked_or_buried_and_the_redelivery_decides() {
    for (answer, ended) in [
        (ill(), State::Retrying),
        (Answer::error(403, "AccessDenied"), State::DeadLettered),
    ] {
        let mut rig = Rig::start(Lane::Upload, [after(SECOND, answer)]);
        rig.publish(message("j", &put())).await;
        rig.until("it runs", |rig| rig.calls() == 1).await;
        rig.broker.lose_channels();
        rig.until("the ack is lost", |rig| rig.acks_lost() == 1)
            .await;
        assert_eq!(rig.state("j"), Some(ended));
        rig.until("the redelivery has decided", |rig| rig.queued() == 0)
            .await;
        let copies =
            rig.parked(ParkDelay::TenSeconds).len() + rig.parked(ParkDelay::OneMinute).len();
        assert_eq!(copies + rig.dead().len(), 1);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_had_not_started_when_the_channel_was_lost_are_not_run_from_it() {
    let mut rig = Rig::start(Lane::Upload, [after(SECOND, stored())]);
    rig.publish_all(&["a", "b", "c", "d"], &put()).await;
    rig.until("two run and two wait", |rig| rig.calls() == 2)
        .await;
    rig.broker.lose_channels();
    rig.until_settled().await;
    rig.until("all are done", |rig| {
        rig.jobs("put_object", "completed") == 4
    })
    .await;
    assert_eq!(
        (rig.calls(), rig.ledger.claims()),
        (4, 6),
        "two were claimed again, by their redeliveries"
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_without_a_broker_says_so_and_goes_on_when_it_is_back() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.publish(message("a", &put())).await;
    rig.until_settled().await;
    rig.broker.disconnect("power cut");
    rig.until("it says so", |rig| {
        rig.status.state() == LaneState::Disconnected("power cut".to_owned())
    })
    .await;
    assert!(!rig.status.state().is_ready());
    tokio::time::sleep(100 * SECOND).await;
    rig.broker.reconnect();
    rig.publish(message("b", &put())).await;
    let began = tokio::time::Instant::now();
    rig.until_state("b", State::Completed).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(rig.requeued("drain") + rig.requeued("circuit_open"), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_is_waited_for() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.until("it consumes", |rig| {
        rig.status.state() == LaneState::Consuming
    })
    .await;
    rig.broker.delete_queue("t.upload");
    rig.until("it says so", |rig| {
        let state = rig.status.state();
        let reason = state.reason().unwrap_or_default();
        matches!(state, LaneState::Disconnected(_)) && reason.contains("missing")
    })
    .await;
    let reason = rig.status.state().reason().map(str::to_owned);
    assert_eq!(reason.as_deref(), Some("queue: queue t.upload: missing"));
    // In the middle of the longest wait.
    tokio::time::sleep(310 * SECOND).await;
    rig.broker.declare_queue("t.upload");
    rig.publish(message("j", &put())).await;
    let began = Instant::now();
    rig.until_state("j", State::Completed).await;
    let took = began.elapsed();
    assert!(took < SECOND, "it hears that all is well: {took:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_stream_ended_says_so_until_it_consumes_again() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    let consumes = |rig: &Rig| rig.status.state() == LaneState::Consuming;
    rig.until("it consumes", consumes).await;
    rig.broker.lose_channels();
    rig.until("it says so", |rig| {
        let ended = "the channel was lost: connection reset";
        rig.status.state() == LaneState::Disconnected(ended.to_owned())
    })
    .await;
    assert!(!rig.status.state().is_ready());
    rig.until("it consumes again", consumes).await;
    rig.publish(message("j", &put())).await;
    rig.until_state("j", State::Completed).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_the_broker_has_forgotten_is_made_anew() {
    let mut rig = Rig::start(Lane::Upload, [stored()]);
    rig.until("it consumes", |rig| {
        rig.status.state() == LaneState::Consuming
    })
    .await;
    rig.broker.forget_consumers();
    rig.publish(message("j", &put())).await;
    rig.until_state("j", State::Completed).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_hands_are_full_is_not_taken_for_forgotten() {
    // A suspect holds its delivery for as long as another runs. Deliveries of one job take no place of their own,
    // but they count against the prefetch, as those do that have not started.
    for (ids, admission) in [(["s", "s", "s", "s"], 4), (["s", "p1", "p2", "p3"], 1)] {
        let mut rig = Rig::new(Lane::Upload, [stored()]);
        let suspects = Arc::clone(&rig.suspects);
        let other = suspects.0.lock().await;
        for number in 0..3 {
            rig.claim_elsewhere(&format!("dead-{number}"), "s").await;
            rig.ledger.pass(LEASE + SECOND);
        }
        rig.publish_all(&ids, &put()).await;
        rig.publish_all(&["w1", "w2"], &put()).await;
        rig.run(|limits| limits.admission = admission);
        tokio::time::sleep(100 * SECOND).await;
        assert_eq!(rig.broker.deliveries(), u64::from(PREFETCH));
        drop(other);
        rig.until_settled().await;
        assert_eq!(rig.redeliveries(), 0);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_what_has_not_started_and_lets_the_rest_finish() {
    let mut rig = Rig::start(Lane::Upload, [after(5 * SECOND, stored())]);
    rig.publish_all(&["a", "b", "c", "d", "e", "f"], &put())
        .await;
    rig.until("two run", |rig| rig.calls() == 2).await;
    rig.stop.cancel();
    rig.until("it drains", |rig| rig.status.state() == LaneState::Draining)
        .await;
    rig.until("the others are given back", |rig| {
        rig.requeued("drain") == 2
    })
    .await;
    assert_eq!((rig.status.in_flight(), rig.queued()), (2, 6));
    rig.until("the two are done", |rig| {
        rig.jobs("put_object", "completed") == 2
    })
    .await;
    assert_eq!((rig.calls(), rig.broker.deliveries()), (2, 4));
    assert!(!rig.status.state().is_ready());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlasts_the_drain_is_interrupted_given_back_and_costs_nothing() {
    let mut rig = Rig::start(Lane::Upload, [after(5 * SECOND, stored())]);
    rig.publish(asked("j", &put())).await;
    rig.until("it runs", |rig| rig.calls() == 1).await;
    rig.stop.cancel();
    rig.abort.cancel();
    rig.until("it is given back", |rig| rig.requeued("drain") == 1)
        .await;
    let row = rig.ledger.row("j").unwrap();
    assert_eq!((row.state, row.parks), (State::Interrupted, 0));
    assert_eq!(rig.jobs("put_object", "interrupted"), 1);
    assert!(rig.replies().is_empty());
    assert_eq!(rig.stage.breaker.snapshot().consecutive_failures, 0);
    // Its queue wait was counted at its first start.
    rig.restart();
    rig.until_state("j", State::Completed).await;
    assert_eq!(rig.queue_waits(), 1);
    rig.until_settled().await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_limiter_is_given_back_when_a_drain_begins_and_counts_only_what_was_sent()
 {
    let mut rig = Rig::start(Lane::Upload, [throttled(), stored()]);
    rig.publish_all(&["a", "b"], &put()).await;
    rig.until("one is throttled, the other waits", |rig| {
        rig.calls() == 1 && rig.sent_and_held() == (0, 1)
    })
    .await;
    rig.stop.cancel();
    rig.until("both are given back", |rig| rig.requeued("drain") == 2)
        .await;
    assert_eq!(rig.calls(), 1);
    let attempts = ["a", "b"].map(|id| rig.ledger.row(id).unwrap().attempts);
    assert_eq!(attempts.iter().sum::<u32>(), 1, "{attempts:?}");
    assert_eq!(rig.jobs("put_object", "interrupted"), 2);
    rig.restart();
    for id in ["a", "b"] {
        rig.until_state(id, State::Completed).await;
    }
    rig.until_settled().await;
    rig.end().await;
}
