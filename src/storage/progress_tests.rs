//! What moves is waited for, and what stands still is not.

use std::sync::Mutex;

use super::*;
use crate::{
    job::{Failure, FailureClass, Operation, operation::PutOptions},
    resilience::circuit_breaker::CircuitState,
    storage::{
        CallContext, Stop,
        line::{Line, Sight},
        script::{Stage, op},
    },
};

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);
/// As the stage has it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A line of 16 KiB/s.
fn line(sight: Sight) -> Line {
    Line::new(16 * KIB, Duration::from_millis(20), sight)
}

fn put(size: usize) -> Operation {
    let mut operation = op::put(PutOptions::default());
    if let Operation::PutObject(put) = &mut operation {
        put.body = vec![0; size].into();
    }
    operation
}

/// The end of one attempt, and how long it took.
async fn once(stage: &Stage, operation: Operation) -> (Result<(), Failure>, Duration) {
    let mut context = stage.context();
    context.retry.max_attempts = 1;
    let began = Instant::now();
    let end = match stage.run_in(operation, &context).await {
        Ok(_) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
        Err(other) => panic!("{other:?}"),
    };
    (end, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_bytes_move_takes_as_long_as_it_takes() {
    let stage = Stage::over(line(Sight::Bytes));
    let (end, took) = once(&stage, put(1024 * KIB)).await;
    assert_eq!(end, Ok(()));
    assert!(took > 6 * PATIENCE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_large_object_does_so_too() {
    let source = tempfile::NamedTempFile::new().unwrap();
    source.as_file().set_len(5 << 20).unwrap();
    let stage = Stage::over(Line::new(256 * KIB, SECOND, Sight::Bytes));
    let operation = op::upload(source.path(), PutOptions::default());
    let (end, took) = once(&stage, operation).await;
    // The first call begins the upload, which this line knows nothing of.
    assert!(end.is_err());
    assert!(took < PATIENCE, "{took:?}");
    let stage = Stage::over(Line::new(64 * KIB, SECOND, Sight::Bytes));
    let (end, took) = once(&stage, put(4096 * KIB)).await;
    assert_eq!(end, Ok(()));
    assert!(took > 6 * PATIENCE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_put_that_stands_still_is_given_up() {
    let stage = Stage::over(line(Sight::Bytes).carrying(320 * KIB));
    let (end, took) = once(&stage, put(1024 * KIB)).await;
    let failure = end.unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::TimedOut, "attempt_timeout")
    );
    // Twenty seconds of bytes. Those behind the last one may be as far behind as it took to get there.
    let moved = 20 * SECOND;
    assert!(
        took >= moved + PATIENCE && took <= 2 * moved + PATIENCE + 2 * SECOND,
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_buffers_took_at_once_is_waited_for_ten_seconds() {
    for (size, good) in [(128 * KIB, true), (192 * KIB, false)] {
        let stage = Stage::over(line(Sight::Nothing));
        let (end, took) = once(&stage, put(size)).await;
        assert_eq!(end.is_ok(), good, "{size}: {took:?}");
        assert!(took <= PATIENCE + SECOND, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_body_that_went_slowly_the_answer_may_be_as_slow() {
    let late = Line::new(16 * KIB, 20 * SECOND, Sight::Bytes);
    let stage = Stage::over(late.clone());
    assert_eq!(once(&stage, put(256 * KIB)).await.0, Ok(()));
    let stage = Stage::over(late);
    let (end, _) = once(&stage, put(16 * KIB)).await;
    assert_eq!(end.unwrap_err().class, FailureClass::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_moves_takes_as_long_as_it_takes_and_one_that_stands_still_does_not() {
    let mut stage = Stage::over(line(Sight::Bytes).with_object(1024 * KIB));
    stage.max_reply_bytes = 2 << 20;
    let (end, took) = once(&stage, op::get()).await;
    assert_eq!(end, Ok(()));
    assert!(took > 6 * PATIENCE, "{took:?}");
    let stuck = line(Sight::Bytes)
        .with_object(1024 * KIB)
        .carrying(320 * KIB);
    let mut stage = Stage::over(stuck);
    stage.max_reply_bytes = 2 << 20;
    let (end, took) = once(&stage, op::get()).await;
    let failure = end.unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::TimedOut, "body_stalled")
    );
    assert!(took <= 20 * SECOND + PATIENCE + SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_moves_does_not_reopen_the_circuit() {
    let stage = Stage::over(line(Sight::Bytes));
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::sleep(10 * SECOND).await;
    let probe = stage.breaker.reserve_probe();
    assert!(probe.is_some());
    let context = CallContext {
        probe: Mutex::new(probe),
        ..stage.context()
    };
    // 96 seconds; the probe has 60 without progress.
    let mut run = std::pin::pin!(stage.run_in(put(1536 * KIB), &context));
    loop {
        tokio::select! {
            biased;
            end = &mut run => {
                end.unwrap();
                break;
            }
            () = tokio::time::sleep(5 * SECOND) => {
                stage.breaker.check_probe();
                assert_eq!(stage.breaker.snapshot().state, CircuitState::HalfOpen);
            }
        }
    }
    assert_eq!(stage.breaker.snapshot().state, CircuitState::Closed);
}
