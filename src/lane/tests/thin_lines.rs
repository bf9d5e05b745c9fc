//! Many uploads that share a thin line (RESILIENCE.md, event 18): it is the line that is slow, and not S3 that is ill.
//! All numbers are the defaults but the sizes: 100 puts of 8 KiB over 16 KiB/s take as long as 100 of 512 KiB over
//! 1 MiB/s.

use super::*;
use crate::storage::line::{Line, Sight};

const JOBS: u64 = 100;
const SIZE: usize = 8 * 1024;
const PER_SECOND: usize = 16 * 1024;

fn defaults(limits: &mut LaneLimits) {
    (limits.concurrency, limits.admission, limits.adaptive) = (64, 128, true);
}

#[tokio::test(start_paused = true)]
async fn puts_over_a_thin_line_take_the_lines_time_though_no_byte_is_seen_to_move() {
    let line = Line::new(PER_SECOND, Duration::from_millis(20), Sight::Nothing);
    let mut rig = Rig::on(Lane::Upload, Stage::over(line.clone()));
    rig.prefetch = 128;
    let job = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k", "body": {"text": "x".repeat(SIZE)}});
    for number in 0..JOBS {
        rig.publish(message(&format!("job{number}"), &job)).await;
    }
    let began = Instant::now();
    rig.run(defaults);
    rig.until_settled().await;
    let took = began.elapsed();
    let circuit = rig.stage.breaker.snapshot();
    assert_eq!(
        (circuit.generation, rig.jobs("put_object", "completed")),
        (0, JOBS),
        "no opening, and none parked; after {took:?}"
    );
    assert_eq!(line.answered() as u64, JOBS, "no call in vain");
    assert!(took < Duration::from_secs(60), "{took:?}");
    let limit = rig.status.concurrency_limit().unwrap();
    assert!((1..=20).contains(&limit), "{limit}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_opens_the_circuit_of_a_busy_lane_within_a_minute() {
    let mut rig = Rig::new(Lane::Upload, [Answer::Silence]);
    rig.prefetch = 128;
    for number in 0..128 {
        rig.publish(message(&format!("job{number}"), &put())).await;
    }
    let began = Instant::now();
    rig.run(defaults);
    rig.until("the circuit is open", |rig| {
        !rig.stage.breaker.snapshot().is_closed()
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_moves_its_limit_only_while_its_circuit_is_closed() {
    let answers = times(8, &after(SECOND, stored()));
    let answers = answers.into_iter().chain([after(SECOND, stored())]);
    let mut rig = Rig::new(Lane::Upload, answers);
    rig.prefetch = 128;
    rig.run(defaults);
    rig.until("the lane consumes", |rig| {
        rig.status.state() == LaneState::Consuming
    })
    .await;
    assert_eq!(rig.status.concurrency_limit(), Some(8));
    for number in 0..100 {
        rig.publish(message(&format!("job{number}"), &put())).await;
    }
    rig.until("the first calls are on their way", |rig| rig.calls() == 8)
        .await;
    rig.stage.breaker.force(crate::resilience::Mode::ForceOpen);
    rig.until("they have ended", |rig| rig.status.in_flight() == 0)
        .await;
    assert_eq!(rig.status.concurrency_limit(), Some(8));
    rig.stage.breaker.force(crate::resilience::Mode::Auto);
    rig.until_settled().await;
    assert!(rig.status.concurrency_limit() > Some(8), "{:?}", rig.status);
    rig.end().await;
}
