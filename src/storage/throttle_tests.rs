//! What the SDK's rate limiter may hold back, and for how long: a call that waits in it is no call yet.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{future::join_all, poll};
use tokio::time::Instant;

use super::*;
use crate::{
    job::{FailureClass, operation::PutOptions},
    resilience::{CircuitSettings, Mode, Snapshot, TokioClock, circuit_breaker::CircuitState},
    storage::script::{Answer, Stage, job, op, settings, shared},
};

/// Answers take so long, so that calls of the same moment are under way together.
const LATENCY: Duration = Duration::from_millis(20);

fn put() -> Operation {
    op::put(PutOptions::default())
}

fn slow_down() -> Answer {
    Answer::After(LATENCY, Box::new(Answer::error(503, "SlowDown")))
}

fn ill() -> Answer {
    Answer::After(LATENCY, Box::new(Answer::error(503, "ServiceUnavailable")))
}

fn ok() -> Answer {
    Answer::status(200).header("etag", "\"e\"")
}

/// Jobs that a lane may have started with its default settings.
const JOBS: usize = 128;

/// A breaker of that threshold, and when it opened first.
fn breaker(failure_threshold: u32) -> (Arc<CircuitBreaker>, Arc<OnceLock<Instant>>) {
    let numbers = CircuitSettings {
        failure_threshold,
        open_base: Duration::from_secs(5),
        open_max: Duration::from_secs(60),
        half_open_permits: 1,
        probe_timeout: Duration::from_secs(60),
    };
    let opened = Arc::new(OnceLock::new());
    let told = Arc::clone(&opened);
    let observer = move |_: CircuitState, to: &Snapshot, _| {
        if to.state == CircuitState::Open {
            told.get_or_init(Instant::now);
        }
    };
    let clock = Arc::new(TokioClock);
    let breaker = CircuitBreaker::new(numbers, clock, || 0.5, Box::new(observer));
    (breaker, opened)
}

/// A stage whose limiter holds the next calls back for a second or two, after one throttled call.
async fn throttled_stage(then: Answer) -> Stage {
    let stage = Stage::new([slow_down(), then]);
    let once = CallContext {
        retry: RetryPolicy {
            max_attempts: 1,
            ..stage.context().retry
        },
        breaker: None,
        ..stage.context()
    };
    assert!(stage.run_in(put(), &once).await.is_err());
    stage
}

/// Polls a run until it waits for the clock.
async fn settle<T>(run: &mut (impl Future<Output = T> + Unpin)) {
    for _ in 0..20 {
        assert!(poll!(&mut *run).is_pending(), "the run has ended");
        tokio::task::yield_now().await;
    }
}

/// Puts at a store that answers so: how long until the circuit opens. Nothing is sent after that, and no run
/// goes on.
async fn opens_after(answer: Answer, slots: usize, threshold: u32) -> Duration {
    let stage = Stage::new([answer]);
    let (breaker, opened) = breaker(threshold);
    let slots = Slots::fixed(slots);
    let contexts: Vec<_> = (0..JOBS)
        .map(|_| CallContext {
            breaker: Some(Arc::clone(&breaker)),
            slots: Arc::clone(&slots),
            ..stage.context()
        })
        .collect();
    let began = Instant::now();
    let runs = contexts.iter().map(|context| stage.run_in(put(), context));
    let ends = join_all(runs).await;
    let ended = Instant::now();
    let opened = *opened.get().expect("the circuit opens");
    assert!(
        ended - opened <= LATENCY,
        "a run went on for {:?} after the opening",
        ended - opened
    );
    let late = stage.seen().iter().filter(|seen| seen.at > opened).count();
    assert_eq!(late, 0, "calls left while open");
    assert_eq!(stage.calls() as usize, stage.requests());
    let refused = ends
        .iter()
        .filter(|end| matches!(end, Err(Stop::Refused(_))));
    let refused = refused.count();
    assert!(refused >= JOBS / 2, "{refused} of {JOBS} were refused");
    opened - began
}

#[tokio::test(start_paused = true)]
async fn a_throttled_store_opens_the_circuit_as_fast_as_an_ill_one() {
    for (slots, threshold) in [(64, 2), (64, 5), (16, 5), (4, 5)] {
        let throttled = opens_after(slow_down(), slots, threshold).await;
        let ill = opens_after(ill(), slots, threshold).await;
        assert!(
            throttled <= ill + Duration::from_secs(1),
            "{slots} slots, threshold {threshold}: {throttled:?} throttled, {ill:?} ill"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_limiter_holds_back_is_refused_at_once_when_the_circuit_opens() {
    let stage = throttled_stage(ok()).await;
    let mut run = Box::pin(stage.run(put()));
    settle(&mut run).await;
    let began = Instant::now();
    stage.breaker.force(Mode::ForceOpen);
    let end = run.await;
    assert!(matches!(end, Err(Stop::Refused(_))), "{end:?}");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((stage.requests(), stage.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_limiter_holds_back_is_no_attempt() {
    let stage = throttled_stage(ok()).await;
    let mut run = Box::pin(stage.run(put()));
    settle(&mut run).await;
    assert_eq!((stage.requests(), stage.calls()), (1, 1));
    drop(run);
    assert_eq!((stage.requests(), stage.calls()), (1, 1));
    stage.run(put()).await.unwrap();
    assert_eq!((stage.requests(), stage.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_asked_when_the_limiter_lets_the_call_through() {
    let stage = throttled_stage(ok()).await;
    let ours = Arc::new(AtomicBool::new(true));
    let question = Arc::clone(&ours);
    let context = CallContext {
        lease: Some(Lease::new(move || {
            let ours = question.load(Ordering::Relaxed);
            Box::pin(async move { Ok(ours) })
        })),
        ..stage.context()
    };
    let mut run = Box::pin(stage.run_in(put(), &context));
    settle(&mut run).await;
    ours.store(false, Ordering::Relaxed);
    assert_eq!(run.await.unwrap_err(), Stop::LeaseLost);
    assert_eq!((stage.requests(), stage.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_call_holds_no_wait_in_the_limiter() {
    let stage = throttled_stage(ok()).await;
    let began = Instant::now();
    stage.run(put()).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "it was held back"
    );
    let labels = ["put_object", "ok"];
    let took = stage.metrics.s3_attempt_duration.with_label_values(&labels);
    assert!(took.get_sample_sum() < 0.5, "{}", took.get_sample_sum());
}

#[tokio::test(start_paused = true)]
async fn every_operation_of_a_throttled_store_counts_the_requests_that_it_sent() {
    let source = tempfile::NamedTempFile::new().unwrap();
    source.as_file().set_len(12 << 20).unwrap();
    let operations = [
        put(),
        op::upload(source.path(), PutOptions::default()),
        op::head(),
        op::get(),
        op::list(1000),
        op::delete(),
        op::delete_many(&["a", "b", "c"]),
    ];
    for operation in operations {
        let name = operation.name();
        let stage = Stage::new([slow_down()]);
        let end = stage.run(operation).await;
        assert!(matches!(end, Err(Stop::Failed(_))), "{name:?}: {end:?}");
        assert_eq!(stage.calls() as usize, stage.requests(), "{name:?}");
        assert!((1..=3).contains(&stage.requests()), "{name:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_limiter_holds_back_ends_at_once_when_a_drain_begins() {
    let stage = throttled_stage(ok()).await;
    let context = stage.context();
    let mut run = Box::pin(stage.run_in(put(), &context));
    settle(&mut run).await;
    let began = Instant::now();
    context.draining.cancel();
    assert_eq!(run.await.unwrap_err(), Stop::Draining);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((stage.requests(), stage.calls()), (1, 1));
    assert_eq!(stage.slots.available(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_between_attempts_ends_at_once_when_a_drain_begins() {
    let hinted = Answer::status(503).header("retry-after", 60);
    let stage = Stage::new([hinted, ok()]);
    let context = stage.context();
    let mut run = Box::pin(stage.run_in(put(), &context));
    settle(&mut run).await;
    let began = Instant::now();
    context.draining.cancel();
    assert_eq!(run.await.unwrap_err(), Stop::Draining);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((stage.requests(), stage.failures_in_a_row()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_alone_what_need_not_wait() {
    let stage = Stage::new([Answer::After(LATENCY, Box::new(ok()))]);
    let context = stage.context();
    context.draining.cancel();
    stage.run_in(put(), &context).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_part_that_the_limiter_holds_back_ends_its_upload_when_the_circuit_opens_or_a_drain_begins()
 {
    let source = tempfile::NamedTempFile::new().unwrap();
    source.as_file().set_len(12 << 20).unwrap();
    let created =
        "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    for drains in [true, false] {
        let stage = Stage::new([Answer::body(200, created), slow_down()]);
        let context = stage.context();
        let operation = op::upload(source.path(), PutOptions::default());
        let mut run = Box::pin(stage.run_in(operation, &context));
        while stage.requests() < 3 {
            assert!(poll!(&mut run).is_pending(), "the run has ended");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (sent, began) = (stage.requests(), Instant::now());
        tokio::time::advance(LATENCY).await;
        settle(&mut run).await;
        if drains {
            context.draining.cancel();
        } else {
            stage.breaker.force(Mode::ForceOpen);
        }
        let end = run.await;
        match end {
            Err(Stop::Draining) => assert!(drains),
            Err(Stop::Refused(_)) => assert!(!drains),
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() <= 2 * LATENCY, "{:?}", began.elapsed());
        assert_eq!(stage.requests(), sent, "a part left after that");
        assert_eq!(stage.calls() as usize, sent);
    }
}

#[tokio::test(start_paused = true)]
async fn the_jobs_of_a_batch_are_asked_for_when_the_limiter_lets_the_call_through() {
    let stage = Stage::new([slow_down(), Answer::deletes(&["k"], &[])]);
    // Its limiter is that of the cleanup client.
    let batch = CallContext {
        breaker: None,
        retry: RetryPolicy {
            max_attempts: 1,
            ..stage.context().retry
        },
        ..stage.context()
    };
    assert!(stage.run_in(op::delete(), &batch).await.is_err());
    let ours = Arc::new(AtomicBool::new(true));
    let mut contexts = Vec::new();
    for _ in 0..2 {
        let question = Arc::clone(&ours);
        contexts.push(CallContext {
            calls: Arc::default(),
            // The first job is lost meanwhile, the second stays ours.
            lease: contexts.is_empty().then(|| {
                Lease::new(move || {
                    let ours = question.load(Ordering::Relaxed);
                    Box::pin(async move { Ok(ours) })
                })
            }),
            ..stage.context()
        });
    }
    let (lost, lost_answer) = stage
        .storage
        .for_batch(&job(op::delete_many(&["a", "b"])), &contexts[0], 1000)
        .unwrap();
    let (kept, kept_answer) = stage
        .storage
        .for_batch(&job(op::delete()), &contexts[1], 1000)
        .unwrap();
    let mut run = Box::pin(stage.storage.delete_batch("b", vec![lost, kept], &batch));
    settle(&mut run).await;
    ours.store(false, Ordering::Relaxed);
    run.await;
    assert_eq!(lost_answer.await.unwrap().unwrap_err(), Stop::LeaseLost);
    kept_answer.await.unwrap().unwrap();
    let seen = stage.seen();
    assert_eq!(seen.len(), 2);
    assert!(!seen[1].body.contains("<Key>a</Key>"), "{}", seen[1].body);
    let calls: Vec<_> = contexts
        .iter()
        .map(|context| context.calls.load(Ordering::Relaxed))
        .collect();
    assert_eq!(calls, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_when_a_drain_begins_ends_all_its_jobs_without_a_call() {
    let stage = Stage::new([Answer::status(500)]);
    let batch = CallContext {
        breaker: None,
        ..stage.context()
    };
    let context = stage.context();
    let (first, first_answer) = stage
        .storage
        .for_batch(&job(op::delete()), &context, 1000)
        .unwrap();
    let (second, second_answer) = stage
        .storage
        .for_batch(&job(op::delete_many(&["a", "b"])), &context, 1000)
        .unwrap();
    let mut run = Box::pin(stage.storage.delete_batch("b", vec![first, second], &batch));
    settle(&mut run).await;
    batch.draining.cancel();
    run.await;
    for answer in [first_answer, second_answer] {
        assert_eq!(answer.await.unwrap().unwrap_err(), Stop::Draining);
    }
    assert_eq!(stage.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_never_come_are_no_call_and_no_silence_of_s3() {
    let stage = unkeyed_stage();
    let failure = stage.failure(put()).await;
    assert_eq!(failure.class, FailureClass::Credentials, "{failure}");
    assert_eq!((stage.requests(), stage.calls()), (0, 0));

    let stage = unkeyed_stage();
    let context = stage.context();
    let mut run = Box::pin(stage.run_in(put(), &context));
    settle(&mut run).await;
    let began = Instant::now();
    context.draining.cancel();
    assert_eq!(run.await.unwrap_err(), Stop::Draining);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// A stage whose credentials never come.
fn unkeyed_stage() -> Stage {
    #[derive(Debug)]
    struct Never;
    impl aws_sdk_s3::config::ProvideCredentials for Never {
        fn provide_credentials<'a>(
            &'a self,
        ) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            aws_credential_types::provider::future::ProvideCredentials::new(std::future::pending())
        }
    }
    let provider = aws_sdk_s3::config::SharedCredentialsProvider::new(Never);
    let shared = shared(None)
        .into_builder()
        .credentials_provider(provider)
        .build();
    // Sooner than the SDK gives its own provider up.
    let settings = StorageSettings {
        attempt_timeout: Duration::from_secs(2),
        ..settings()
    };
    Stage::with([ok()], &settings, &shared)
}
