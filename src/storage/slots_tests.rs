//! Which operations hold one of their lane's slots, and when.

use std::sync::Arc;

use super::{
    tests::{class, drive, ok, put},
    *,
};
use crate::{
    resilience::{Slots, circuit_breaker::CircuitState},
    storage::{
        line::{Line, Sight},
        script::{Answer, Stage},
    },
};

#[tokio::test(start_paused = true)]
async fn a_waiting_operation_holds_no_slot() {
    let stage = Stage::new([Answer::status(500), ok()]);
    let alone = CallContext {
        slots: Slots::fixed(1),
        ..stage.context()
    };
    let slots = Arc::clone(&alone.slots);
    let mut run = Box::pin(stage.run_in(put(), &alone));
    drive(&mut run, || stage.requests() == 1).await;
    drive(&mut run, || slots.available() == 1).await;
    let other = CallContext {
        slots: Arc::clone(&slots),
        ..stage.context()
    };
    let began = Instant::now();
    stage.run_in(put(), &other).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    run.await.unwrap();
    assert_eq!(stage.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_timed_out_keeps_its_slot_and_is_not_overtaken() {
    let stage = Stage::new([Answer::Silence]);
    let alone = CallContext {
        slots: Slots::fixed(1),
        ..stage.context()
    };
    let mut run = Box::pin(stage.run_in(put(), &alone));
    drive(&mut run, || stage.requests() == 1).await;
    let began = Instant::now();
    let overtaking = async {
        drop(alone.slots.acquire().await);
        began.elapsed()
    };
    let (end, waited) = tokio::join!(run, overtaking);
    assert_eq!(class(&end), Some(FailureClass::TimedOut));
    assert!(waited >= Duration::from_secs(33), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_for_no_slot() {
    let stage = Stage::new([ok()]);
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    let full = CallContext {
        slots: Slots::fixed(1),
        ..stage.context()
    };
    *full.probe.lock().unwrap() = Some(stage.breaker.reserve_probe().unwrap());
    let slots = Arc::clone(&full.slots);
    let _transfer = slots.acquire().await;
    let run = tokio::time::timeout(Duration::from_secs(1), stage.run_in(put(), &full));
    run.await.expect("it waits for the transfer").unwrap();
    assert_eq!(stage.breaker.snapshot().state, CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_long_call_that_is_cut_off_lowers_the_limit_and_a_short_one_does_not() {
    for (seconds, limit) in [(30, 1), (5, 2)] {
        let line = Line::new(256, Duration::ZERO, Sight::Bytes);
        let stage = Stage::over(line);
        let adaptive = CallContext {
            slots: Slots::adaptive(2, Duration::from_secs(10), Box::new(|_| {})),
            ..stage.context()
        };
        let _other = adaptive.slots.acquire().await;
        let mut operation = put();
        if let crate::job::Operation::PutObject(put) = &mut operation {
            put.body = vec![0; 64 * 1024].into();
        }
        let run = stage.run_in(operation, &adaptive);
        let run = tokio::time::timeout(Duration::from_secs(seconds), run);
        assert!(run.await.is_err(), "its deadline comes first");
        assert_eq!(adaptive.slots.limit(), limit, "after {seconds} s");
    }
}
