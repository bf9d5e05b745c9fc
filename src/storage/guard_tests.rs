use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures_util::poll;

use super::*;
use crate::{
    job::{Circuit, FailureClass, JobResult, operation::PutOptions},
    resilience::{Mode, Snapshot, circuit_breaker::CircuitState},
    storage::{
        LedgerTrouble,
        script::{Answer, Stage, keys, lease, op, settings, shared},
    },
};

pub(super) fn put() -> crate::job::Operation {
    op::put(PutOptions::default())
}

fn slow_down() -> Answer {
    Answer::error(503, "SlowDown")
}

pub(super) fn ok() -> Answer {
    Answer::status(200).header("etag", "\"e\"")
}

/// Polls a run, which must not end, until something is so; the clock stands still meanwhile.
pub(super) async fn drive<T>(run: &mut (impl Future<Output = T> + Unpin), so: impl Fn() -> bool) {
    for _ in 0..100 {
        assert!(poll!(&mut *run).is_pending(), "the run has ended");
        if so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came to be so");
}

pub(super) fn class(end: &Result<super::super::Done, Stop>) -> Option<FailureClass> {
    match end {
        Err(Stop::Failed(failure)) => Some(failure.class),
        _ => None,
    }
}

/// The lane spawns runs, so they must be sendable.
#[tokio::test(start_paused = true)]
async fn a_run_may_move_between_threads() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let stage = Stage::new([ok()]);
    let (operation, context) = (put(), stage.context());
    let run = sendable(stage.run_in(operation, &context));
    // Jobs by the hundred hold one each, and a worker thread's stack must bear it in a debug build.
    assert!(
        size_of_val(&run) < 8 * 1024,
        "a run takes {} bytes",
        size_of_val(&run)
    );
    run.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lasting_503_costs_three_requests_and_one_verdict_and_a_throttled_one_no_more_time() {
    // After a throttle the SDK's limiter lets one call through in two seconds: one fits into our waits.
    let rows = [
        (slow_down(), 2),
        (Answer::status(503), 3),
        (Answer::Reset, 3),
    ];
    for (answer, requests) in rows {
        let stage = Stage::new([answer.clone()]);
        let began = Instant::now();
        let end = stage.run(put()).await;
        assert!(class(&end).is_some(), "{answer:?}: {end:?}");
        assert_eq!(stage.requests(), requests, "{answer:?}");
        assert_eq!(stage.calls() as usize, requests, "{answer:?}");
        assert_eq!(stage.failures_in_a_row(), 1, "{answer:?}");
        assert_eq!(stage.operations("put_object", "error"), 1, "{answer:?}");
        // Our waits are 1 s and 2 s; what the limiter holds back may take half a second more.
        assert!(
            began.elapsed() >= Duration::from_secs(3),
            "{answer:?}: {:?}",
            began.elapsed()
        );
        assert!(
            began.elapsed() <= Duration::from_millis(3600),
            "{answer:?}: {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_failures_and_a_success_are_one_success_whose_duration_holds_the_waits() {
    let stage = Stage::new([Answer::status(500), Answer::Reset, ok()]);
    let done = stage.run(put()).await.unwrap();
    assert!(
        matches!(done.result, JobResult::Stored { size: 5, .. }),
        "{done:?}"
    );
    assert_eq!((stage.requests(), stage.calls()), (3, 3));
    let counts =
        ["success", "error", "circuit_open"].map(|end| stage.operations("put_object", end));
    assert_eq!(counts, [1, 0, 0]);
    let duration = stage
        .metrics
        .s3_operation_duration
        .with_label_values(&["put_object", "b"]);
    assert_eq!(duration.get_sample_count(), 1);
    assert!(
        duration.get_sample_sum() >= 3.0,
        "{}",
        duration.get_sample_sum()
    );
    let retries = stage
        .metrics
        .s3_retries
        .with_label_values(&["put_object", "unavailable"]);
    assert_eq!(retries.get(), 2);
    let attempts = |class| {
        let labels = ["put_object", class];
        stage
            .metrics
            .s3_attempt_duration
            .with_label_values(&labels)
            .get_sample_count()
    };
    assert_eq!((attempts("ok"), attempts("unavailable")), (1, 2));
    assert_eq!(stage.failures_in_a_row(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_answer_costs_one_request_and_is_a_success_for_the_breaker() {
    let stage = Stage::new([Answer::status(500), Answer::error(403, "AccessDenied")]);
    stage.breaker.acquire().unwrap().failure();
    let failure = stage.failure(put()).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Permanent, "AccessDenied")
    );
    assert_eq!(
        stage.requests(),
        2,
        "the 500 is tried again, the 403 is not"
    );
    assert_eq!(stage.failures_in_a_row(), 0);
    assert_eq!(stage.operations("put_object", "error"), 1);
}

#[tokio::test(start_paused = true)]
async fn five_failed_operations_open_the_breaker_and_the_sixth_makes_no_request() {
    let stage = Stage::new([Answer::status(503)]);
    for _ in 0..5 {
        assert_eq!(
            class(&stage.run(put()).await),
            Some(FailureClass::Unavailable)
        );
    }
    assert_eq!(stage.requests(), 15);
    let end = stage.run(put()).await;
    let wait = match end {
        Err(Stop::Refused(refused)) => refused.retry_in,
        other => panic!("expected a refusal, got {other:?}"),
    };
    assert_eq!(wait, Some(Duration::from_secs(5)));
    assert_eq!((stage.requests(), stage.calls()), (15, 15));
    assert_eq!(stage.operations("put_object", "circuit_open"), 1);
    let rejections = stage
        .metrics
        .circuit_rejections
        .with_label_values(&["upload"]);
    assert_eq!(rejections.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_makes_one_attempt_and_its_failure_opens_for_longer() {
    let stage = Stage::new([Answer::status(503), ok()]);
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    for (wait, expected) in [(5, CircuitState::Open), (10, CircuitState::Closed)] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        let context = stage.context();
        *context.probe.lock().unwrap() = Some(stage.breaker.reserve_probe().unwrap());
        let before = stage.requests();
        let end = stage.run_in(put(), &context).await;
        assert_eq!(stage.requests() - before, 1, "{end:?}");
        assert_eq!(stage.breaker.snapshot().state, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_not_tried_again_and_count_against_the_breaker() {
    let stage = Stage::new([Answer::error(400, "ExpiredToken")]);
    assert_eq!(stage.failure(put()).await.class, FailureClass::Credentials);
    assert_eq!((stage.requests(), stage.failures_in_a_row()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_credentials_nothing_is_sent_and_the_breaker_hears_a_failure() {
    #[derive(Debug)]
    struct Nothing;
    impl aws_sdk_s3::config::ProvideCredentials for Nothing {
        fn provide_credentials<'a>(
            &'a self,
        ) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            use aws_credential_types::provider::error::CredentialsError;
            let error = CredentialsError::not_loaded("no keys anywhere");
            aws_credential_types::provider::future::ProvideCredentials::ready(Err(error))
        }
    }
    let provider = aws_sdk_s3::config::SharedCredentialsProvider::new(Nothing);
    let shared = shared(None)
        .into_builder()
        .credentials_provider(provider)
        .build();
    let stage = Stage::with([ok()], &settings(), &shared);
    let failure = stage.failure(put()).await;
    assert_eq!(failure.class, FailureClass::Credentials, "{failure:?}");
    assert_eq!(failure.code, "credentials_missing");
    assert!(
        failure.message.contains("no keys anywhere"),
        "{}",
        failure.message
    );
    assert_eq!((stage.requests(), stage.failures_in_a_row()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_setting_makes_jobs_wait_and_is_no_fault_of_theirs() {
    let wrong = super::super::StorageSettings {
        endpoint: Some("s3.test".into()),
        ..settings()
    };
    let stage = Stage::with([ok()], &wrong, &shared(keys()));
    let failure = stage.failure(put()).await;
    assert_eq!(failure.class, FailureClass::Credentials);
    assert_eq!(failure.code, "endpoint_invalid");
    assert_eq!((stage.requests(), stage.failures_in_a_row()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_name_never_changes_the_host_and_its_job_alone_fails_for_it() {
    let host = |bucket: &'static str| async move {
        let stage = Stage::new([ok()]);
        stage.breaker.acquire().unwrap().failure();
        let mut operation = put();
        if let crate::job::Operation::PutObject(put) = &mut operation {
            put.bucket = bucket.to_owned();
        }
        let end = stage.run(operation).await;
        (
            end,
            stage.seen().first().map(|seen| seen.uri.clone()),
            stage.failures_in_a_row(),
        )
    };
    for bucket in ["b--x-s3", "b--xa-s3", "b--op-s3", ".", ".."] {
        let (end, uri, failures) = host(bucket).await;
        assert_eq!(class(&end), Some(FailureClass::Permanent), "{bucket}");
        assert_eq!((uri, failures), (None, 1), "{bucket}");
    }
    for bucket in [
        "a",
        "-",
        "_",
        "a.b",
        "A_",
        "...",
        "arn",
        "a-s3alias",
        "xn--a",
        "127.0.0.1",
    ] {
        let (end, uri, _) = host(bucket).await;
        assert!(end.is_ok(), "{bucket}: {end:?}");
        let expected = format!("http://s3.test:9000/{bucket}/k?x-id=PutObject");
        assert_eq!(uri, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_between_attempts_ends_in_a_refusal_when_the_breaker_opens() {
    let stage = Stage::new([Answer::status(500)]);
    let began = Instant::now();
    let mut run = Box::pin(stage.run(put()));
    drive(&mut run, || {
        stage.requests() == 1 && stage.slots.available() == 2
    })
    .await;
    stage.breaker.force(Mode::ForceOpen);
    let end = run.await;
    assert!(
        matches!(end, Err(Stop::Refused(Refused { retry_in: None }))),
        "{end:?}"
    );
    assert_eq!(stage.requests(), 1);
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(stage.operations("put_object", "circuit_open"), 1);
    assert_eq!(stage.operations("put_object", "error"), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_no_request_is_made() {
    for (answer, expected) in [
        (Ok(false), Stop::LeaseLost),
        (
            Err(LedgerTrouble::Down("disk full".to_owned())),
            Stop::LedgerDown("disk full".to_owned()),
        ),
        (
            Err(LedgerTrouble::Refused("odd row".to_owned())),
            Stop::LedgerRefused("odd row".to_owned()),
        ),
    ] {
        let stage = Stage::new([ok()]);
        let asked = Arc::default();
        let context = CallContext {
            lease: lease(answer, &asked),
            ..stage.context()
        };
        let end = stage.run_in(put(), &context).await;
        assert_eq!(end.unwrap_err(), expected);
        assert_eq!((stage.requests(), asked.load(Ordering::Relaxed)), (0, 1));
        let counts =
            ["success", "error", "circuit_open"].map(|r| stage.operations("put_object", r));
        assert_eq!(counts, [0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_asked_before_every_attempt() {
    let stage = Stage::new([Answer::status(500), ok()]);
    let asked: Arc<AtomicU32> = Arc::default();
    let context = CallContext {
        lease: lease(Ok(true), &asked),
        ..stage.context()
    };
    stage.run_in(put(), &context).await.unwrap();
    assert_eq!((stage.requests(), asked.load(Ordering::Relaxed)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_servers_hint_lengthens_the_wait() {
    for (name, value) in [("retry-after", "7"), ("x-amz-retry-after", "7000")] {
        let stage = Stage::new([Answer::status(503).header(name, value), ok()]);
        stage.run(put()).await.unwrap();
        let seen = stage.seen();
        assert_eq!(seen[1].at - seen[0].at, Duration::from_secs(7), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_gives_slot_and_probe_back_without_a_verdict() {
    let stage = Stage::new([Answer::Silence]);
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    let context = stage.context();
    *context.probe.lock().unwrap() = Some(stage.breaker.reserve_probe().unwrap());
    let mut run = Box::pin(stage.run_in(put(), &context));
    drive(&mut run, || stage.requests() == 1).await;
    drop(run);
    assert_eq!(stage.slots.available(), 2);
    let Snapshot { state, .. } = stage.breaker.snapshot();
    assert_eq!(state, CircuitState::HalfOpen);
    assert!(
        stage.breaker.reserve_probe().is_some(),
        "the probe's place is free again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_times_an_attempt_out_after_ten_seconds_whatever_it_was_sent() {
    for mebibytes in [0, 5] {
        let stage = Stage::new([Answer::Silence]);
        let mut operation = put();
        if let crate::job::Operation::PutObject(put) = &mut operation {
            put.body = vec![0; mebibytes << 20].into();
        }
        let failure = stage.failure(operation).await;
        assert_eq!(failure.class, FailureClass::TimedOut);
        let seen = stage.seen();
        let first = seen[1].at - seen[0].at;
        // The time-out and our first wait of a second.
        assert_eq!(first.as_secs(), 11, "{mebibytes} MiB: {first:?}");
        assert_eq!(seen.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_do_not_share_a_rate_limiter() {
    let stage = Stage::new([slow_down(), slow_down(), Answer::status(204)]);
    stage.failure(put()).await;
    let began = Instant::now();
    for _ in 0..20 {
        stage.run(op::delete()).await.unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn what_speaks_against_the_circuit_is_kept_with_its_sentence_and_nothing_else_is() {
    let stage = Stage::new([Answer::error(404, "NoSuchBucket")]);
    stage.failure(put()).await;
    let last = |stage: &Stage, circuit| stage.storage.last_failures().of(circuit);
    assert_eq!(last(&stage, Circuit::Upload), None);

    let stage = Stage::new([
        Answer::Reset,
        slow_down(),
        ok(),
        Answer::error(404, "NoSuchKey"),
    ]);
    stage.run(put()).await.unwrap();
    // It stays when all is well again: its time says how old it is.
    let failure = last(&stage, Circuit::Upload).unwrap();
    assert_eq!((failure.class, &*failure.code), ("throttled", "SlowDown"));
    assert_eq!((failure.operation, &*failure.bucket), ("put_object", "b"));
    assert_eq!(&*failure.endpoint, "http://s3.test:9000");
    assert_eq!(last(&stage, Circuit::Download), None);

    let long = "x".repeat(9_000);
    let stage = Stage::new([Answer::error(500, &long)]);
    stage.failure(op::head()).await;
    assert!(last(&stage, Circuit::Download).unwrap().to_string().len() < 1_200);
}

/// Else the log line of the change could name no cause.
#[tokio::test(start_paused = true)]
async fn the_failure_is_kept_before_the_circuit_hears_of_it() {
    let stage = Stage::new([Answer::status(503)]);
    let mut changes = stage.breaker.subscribe();
    for _ in 0..5 {
        stage.failure(put()).await;
    }
    changes
        .wait_for(|snapshot| !snapshot.is_closed())
        .await
        .unwrap();
    let failure = stage.storage.last_failures().of(Circuit::Upload).unwrap();
    assert_eq!(failure.code, "http_503");
}
