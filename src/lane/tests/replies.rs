//! Event 16: replies and events get one try, and nobody waits for those of others.

use super::*;

/// So many deliveries of one job, which runs for a second; each asks for its answer.
async fn asked_four_times(change: impl FnOnce(&mut LaneLimits)) -> Rig {
    let mut rig = Rig::with(Lane::Upload, [after(SECOND, stored())], change);
    for _ in 0..4 {
        rig.publish(asked("j", &put())).await;
    }
    rig.until("three have attached to the first", |rig| {
        rig.running.attached() == 3
    })
    .await;
    rig
}

#[tokio::test(start_paused = true)]
async fn in_an_alarm_replies_and_events_are_lost_at_once() {
    let rig = asked_four_times(|_| {}).await;
    rig.broker.stall_publishes(true);
    rig.until_state("j", State::Completed).await;
    let began = Instant::now();
    rig.until_settled().await;
    let took = began.elapsed();
    assert!(took < SECOND, "{took:?}");
    assert_eq!(rig.replies_counted("undeliverable"), 4);
    assert_eq!(rig.stage.metrics.events_lost.get(), 1);
    rig.broker.stall_publishes(false);
    assert!(rig.replies().is_empty());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_alarm_ends_the_wait_for_a_replys_confirm() {
    let mut rig = Rig::with(Lane::Upload, [stored()], |limits| limits.events = false);
    rig.broker.hang_publishes(true);
    rig.publish_unconfirmed(asked("j", &put()));
    rig.until_state("j", State::Completed).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!((rig.queued(), rig.replies_counted("undeliverable")), (1, 0));
    rig.broker.stall_publishes(true);
    let began = Instant::now();
    rig.until_settled().await;
    let took = began.elapsed();
    assert!(took < SECOND, "{took:?}");
    assert_eq!(rig.replies_counted("undeliverable"), 1);
    rig.broker.stall_publishes(false);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_is_settled_after_its_own_reply_whoever_else_waits_for_one() {
    let rig = asked_four_times(|limits| limits.events = false).await;
    rig.broker.hang_publishes(true);
    rig.until_state("j", State::Completed).await;
    let began = Instant::now();
    rig.until("the job's own delivery is acked", |rig| rig.queued() < 4)
        .await;
    let took = began.elapsed();
    assert!(took < 11 * SECOND, "{took:?}");
    // Those of the others have ten seconds together.
    rig.until_settled().await;
    let took = began.elapsed();
    assert!(took < 21 * SECOND, "{took:?}");
    assert_eq!(rig.replies_counted("undeliverable"), 4);
    rig.broker.hang_publishes(false);
    rig.end().await;
}
