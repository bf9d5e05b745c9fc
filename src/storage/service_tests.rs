use std::time::Duration;

use super::*;
use crate::{
    job::{
        Failure, Headers,
        operation::PutOptions,
        options::{CONTENT_TYPE, STORAGE_CLASS},
    },
    resilience::circuit_breaker::CircuitState,
    storage::script::{Answer, Stage, job, op},
};

fn only_if_absent() -> PutOptions {
    PutOptions {
        if_none_match: true,
        ..PutOptions::default()
    }
}

fn exists() -> Answer {
    Answer::error(412, "PreconditionFailed")
}

fn object(owner: &str, size: u64) -> Answer {
    let head = Answer::status(200)
        .header("etag", "\"e\"")
        .header("content-length", size);
    head.header("x-amz-meta-brigade-job", owner)
}

fn methods(stage: &Stage) -> Vec<String> {
    stage.seen().into_iter().map(|seen| seen.method).collect()
}

#[tokio::test(start_paused = true)]
async fn a_put_sends_its_bytes_and_options_and_tells_etag_version_and_size() {
    let stage = Stage::new([Answer::status(200)
        .header("etag", "\"e\"")
        .header("x-amz-version-id", "v1")]);
    let options = PutOptions {
        headers: Headers::default()
            .with(CONTENT_TYPE, "text/plain")
            .with(STORAGE_CLASS, "STANDARD_IA")
            .with("cache-control", "no-store"),
        metadata: [("owner".to_owned(), "me".to_owned())].into(),
        tags: [
            ("a b".to_owned(), "ä&=".to_owned()),
            ("c".to_owned(), "d".to_owned()),
        ]
        .into(),
        ..PutOptions::default()
    };
    let done = stage.run(op::put(options)).await.unwrap();
    let (etag, version_id) = (Some("\"e\"".to_owned()), Some("v1".to_owned()));
    assert_eq!(
        done.result,
        JobResult::Stored {
            etag,
            version_id,
            size: 5
        }
    );
    let seen = &stage.seen()[0];
    assert_eq!((seen.method.as_str(), seen.body.as_str()), ("PUT", "hello"));
    for (name, value) in [
        ("content-type", "text/plain"),
        ("x-amz-meta-owner", "me"),
        ("x-amz-tagging", "a%20b=%C3%A4%26%3D&c=d"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(
            seen.headers.get(name).map(String::as_str),
            Some(value),
            "{name}"
        );
    }
    assert!(!seen.headers.contains_key("x-amz-meta-brigade-job"));
    assert_eq!(stage.metrics.s3_bytes.with_label_values(&["out"]).get(), 5);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_the_jobs_are_never_sent() {
    let stage = Stage::new([Answer::status(200)]);
    let right: [u8; 32] = Sha256::digest(b"hello").into();
    let wrong = PutOptions {
        sha256: Some([7; 32]),
        ..PutOptions::default()
    };
    let failure = stage.failure(op::put(wrong)).await;
    assert_eq!(failure.class, FailureClass::JobLocal);
    assert_eq!(failure.code, "checksum_mismatch");
    assert_eq!((stage.requests(), stage.calls()), (0, 0));
    let right = PutOptions {
        sha256: Some(right),
        ..PutOptions::default()
    };
    stage.run(op::put(right)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_conditional_put_recognises_its_own_object() {
    let stage = Stage::new([exists(), object("job-1", 5)]);
    let done = stage.run(op::put(only_if_absent())).await.unwrap();
    let etag = Some("\"e\"".to_owned());
    assert_eq!(
        done.result,
        JobResult::Stored {
            etag,
            version_id: None,
            size: 5
        }
    );
    assert_eq!(
        (methods(&stage), stage.calls()),
        (vec!["PUT".to_owned(), "HEAD".to_owned()], 2)
    );
    let sent = &stage.seen()[0].headers;
    assert_eq!(
        sent.get("x-amz-meta-brigade-job").map(String::as_str),
        Some("job-1")
    );
    assert_eq!(sent.get("if-none-match").map(String::as_str), Some("*"));
    assert_eq!(stage.operations("put_object", "success"), 1);
    assert_eq!(stage.operations("head_object", "success"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_conditional_put_fails_for_good_on_anothers_object() {
    for other in [object("job-2", 5), object("job-1", 6), Answer::status(200)] {
        let stage = Stage::new([exists(), other]);
        let failure = stage.failure(op::put(only_if_absent())).await;
        let (class, code) = (failure.class, failure.code.as_str());
        assert_eq!(
            (class, code),
            (FailureClass::Permanent, "PreconditionFailed")
        );
        assert_eq!(stage.requests(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_look_that_fails_for_now_repeats_the_put() {
    for look in [Answer::status(503), Answer::status(404)] {
        let stage = Stage::new([exists(), look, Answer::status(200)]);
        stage.run(op::put(only_if_absent())).await.unwrap();
        assert_eq!(methods(&stage), ["PUT", "HEAD", "PUT"]);
    }
    let stage = Stage::new([
        exists(),
        Answer::status(403),
        Answer::error(403, "AccessDenied"),
    ]);
    let failure = stage.failure(op::put(only_if_absent())).await;
    assert_eq!(failure.code, "PreconditionFailed");
    assert!(
        failure.message.contains("AccessDenied"),
        "{}",
        failure.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_412_to_a_plain_put_gets_no_second_look() {
    let stage = Stage::new([exists()]);
    stage.failure(op::put(PutOptions::default())).await;
    assert_eq!(stage.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_tells_what_is_known_of_the_object() {
    let stage = Stage::new([object("x", 42)
        .header("content-type", "text/plain")
        .header("last-modified", "Tue, 24 Nov 2026 10:00:00 GMT")]);
    let done = stage.run(op::head()).await.unwrap();
    let expected = JobResult::Object {
        size: 42,
        etag: Some("\"e\"".to_owned()),
        version_id: None,
        content_type: Some("text/plain".to_owned()),
        last_modified: Timestamp::parse_rfc3339("2026-11-24T10:00:00Z"),
        metadata: [("brigade-job".to_owned(), "x".to_owned())].into(),
        file: None,
    };
    assert_eq!((done.result, done.body), (expected, None));
}

#[tokio::test(start_paused = true)]
async fn a_bare_refusal_of_a_head_is_judged_by_a_get_of_one_byte() {
    for (status, look, class, code) in [
        (
            400,
            Answer::error(400, "ExpiredToken"),
            FailureClass::Credentials,
            "ExpiredToken",
        ),
        (
            403,
            Answer::error(403, "InvalidAccessKeyId"),
            FailureClass::Credentials,
            "InvalidAccessKeyId",
        ),
        (
            403,
            Answer::error(403, "AccessDenied"),
            FailureClass::Permanent,
            "AccessDenied",
        ),
        (
            403,
            Answer::error(404, "NoSuchKey"),
            FailureClass::Permanent,
            "NoSuchKey",
        ),
    ] {
        let stage = Stage::new([Answer::status(status), look]);
        let failure = stage.failure(op::head()).await;
        assert_eq!((failure.class, failure.code.as_str()), (class, code));
        assert_eq!(
            (methods(&stage), stage.calls()),
            (vec!["HEAD".to_owned(), "GET".to_owned()], 2)
        );
        assert_eq!(
            stage.seen()[1].headers.get("range").map(String::as_str),
            Some("bytes=0-0")
        );
        assert_eq!(stage.operations("head_object", "error"), 1);
        assert_eq!(stage.operations("get_object", "error"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_a_get_contradicts_is_asked_again() {
    for look in [Answer::body(206, "x"), Answer::error(416, "InvalidRange")] {
        let stage = Stage::new([Answer::status(400), look, object("x", 1)]);
        stage.run(op::head()).await.unwrap();
        assert_eq!(methods(&stage), ["HEAD", "GET", "HEAD"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_brings_the_bytes_and_their_size() {
    let stage = Stage::new([Answer::body(206, "hello")
        .header("content-length", 5)
        .header("content-type", "text/plain")]);
    let done = stage.run(op::get_range(Some("bytes=0-4"))).await.unwrap();
    let body = done.body.unwrap();
    assert_eq!(
        (&body.bytes[..], body.content_type.as_deref()),
        (&b"hello"[..], Some("text/plain"))
    );
    assert!(matches!(done.result, JobResult::Object { size: 5, .. }));
    assert_eq!(
        stage.seen()[0].headers.get("range").map(String::as_str),
        Some("bytes=0-4")
    );
    assert_eq!(stage.metrics.s3_bytes.with_label_values(&["in"]).get(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_is_an_object() {
    let stage = Stage::new([Answer::status(200).header("content-length", 0)]);
    let done = stage.run(op::get()).await.unwrap();
    assert_eq!(done.body.unwrap().bytes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_a_reply_fails_for_good_before_it_is_read_if_its_size_is_told() {
    let big = "x".repeat(1001);
    let fits = Answer::body(200, &big[1..]).header("content-length", 1000);
    assert!(Stage::new([fits]).run(op::get()).await.is_ok());
    for (answer, read) in [
        (Answer::body(200, &big).header("content-length", 1001), 0),
        (Answer::body(200, &big), 1001),
    ] {
        let stage = Stage::new([answer]);
        let failure = stage.failure(op::get()).await;
        let (class, code) = (failure.class, failure.code.as_str());
        assert_eq!(
            (class, code),
            (FailureClass::Permanent, "too_large_for_reply")
        );
        assert_eq!(stage.requests(), 1);
        assert_eq!(
            stage.metrics.s3_bytes.with_label_values(&["in"]).get(),
            read
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_cut_in_the_middle_is_unavailable_and_read_again_from_its_start() {
    let cut = Answer::body(200, "hel").header("content-length", 5);
    let stage = Stage::new([
        cut.clone(),
        Answer::body(200, "hello").header("content-length", 5),
    ]);
    let done = stage.run(op::get()).await.unwrap();
    assert_eq!(&done.body.unwrap().bytes[..], b"hello");
    assert_eq!(stage.requests(), 2);

    let stage = Stage::new([cut]);
    let failure = stage.failure(op::get()).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Unavailable, "body_cut")
    );
    assert_eq!(stage.requests(), 3);
    // The first bytes were successes; the cut of the last attempt is a failure after them.
    assert_eq!(stage.failures_in_a_row(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_timed_out() {
    let stage = Stage::new([Answer::Stalls(vec!["hel"])]);
    let began = tokio::time::Instant::now();
    let failure = stage.failure(op::get()).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::TimedOut, "body_stalled")
    );
    assert_eq!(stage.requests(), 3);
    assert_eq!(
        began.elapsed().as_secs(),
        33,
        "three stalls of 10 s, two waits"
    );
}

#[tokio::test(start_paused = true)]
async fn a_probes_first_byte_closes_the_circuit_and_a_later_cut_is_tried_again() {
    let stage = Stage::new([
        Answer::body(200, "hel").header("content-length", 5),
        Answer::body(200, "hello").header("content-length", 5),
    ]);
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    let context = stage.context();
    *context.probe.lock().unwrap() = Some(stage.breaker.reserve_probe().unwrap());
    stage.run_in(op::get(), &context).await.unwrap();
    assert_eq!(stage.requests(), 2);
    assert_eq!(stage.breaker.snapshot().state, CircuitState::Closed);
}

fn page(keys: &[&str], prefixes: &[&str], next: Option<&str>) -> Answer {
    let keys = keys.iter().map(|key| {
        let date = "2026-11-24T10:00:00.000Z";
        format!(
            "<Contents><Key>{key}</Key><Size>3</Size><LastModified>{date}</LastModified></Contents>"
        )
    });
    let prefixes = prefixes
        .iter()
        .map(|prefix| format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>"));
    let next = next.map_or_else(
        || "<IsTruncated>false</IsTruncated>".to_owned(),
        |token| {
            let token = format!("<NextContinuationToken>{token}</NextContinuationToken>");
            format!("<IsTruncated>true</IsTruncated>{token}")
        },
    );
    let content: String = keys.chain(prefixes).collect();
    Answer::body(
        200,
        &format!("<ListBucketResult>{next}{content}</ListBucketResult>"),
    )
}

#[tokio::test(start_paused = true)]
async fn a_list_follows_its_pages_and_counts_once() {
    let stage = Stage::new([
        page(&["b", "c"], &["d/"], Some("t1")),
        Answer::status(503),
        page(&["e"], &[], None),
    ]);
    let done = stage.run(op::list(2000)).await.unwrap();
    let JobResult::Listed {
        keys,
        common_prefixes,
        truncated,
    } = done.result
    else {
        panic!("no list");
    };
    let names: Vec<_> = keys.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(
        (names, common_prefixes),
        (vec!["b", "c", "e"], vec!["d/".to_owned()])
    );
    assert!(!truncated);
    assert_eq!(
        keys[0].last_modified,
        Timestamp::parse_rfc3339("2026-11-24T10:00:00Z")
    );
    assert_eq!(stage.calls(), 3);
    assert_eq!(stage.operations("list_objects", "success"), 1);
    let uris: Vec<_> = stage.seen().into_iter().map(|seen| seen.uri).collect();
    assert!(
        uris[0].contains("start-after=a") && uris[0].contains("max-keys=1000"),
        "{uris:?}"
    );
    assert!(uris[1].contains("continuation-token=t1") && !uris[1].contains("start-after"));
    assert_eq!(uris[1], uris[2]);
}

#[tokio::test(start_paused = true)]
async fn a_list_asks_for_no_more_than_it_may_name_and_says_when_there_is_more() {
    let stage = Stage::new([
        page(&["b", "c"], &[], Some("t1")),
        page(&["d"], &[], Some("t2")),
    ]);
    let done = stage.run(op::list(3)).await.unwrap();
    assert!(
        matches!(done.result, JobResult::Listed { keys, truncated: true, .. } if keys.len() == 3)
    );
    let asked: Vec<_> = stage.seen().into_iter().map(|seen| seen.uri).collect();
    assert!(
        asked[0].contains("max-keys=3") && asked[1].contains("max-keys=1&"),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_a_list_that_somebody_waits_for_can_be_too_large() {
    let key = "k".repeat(900);
    let stage = Stage::new([page(&[&key, &key], &[], None)]);
    assert!(stage.run(op::list(10)).await.is_ok());
    let mut waited_for = job(op::list(10));
    waited_for.reply_to = Some("answers".to_owned());
    let end = stage.storage.run(&waited_for, &stage.context()).await;
    let Err(Stop::Failed(Failure { class, code, .. })) = end else {
        panic!("{end:?}")
    };
    assert_eq!(
        (class, code.as_str()),
        (FailureClass::Permanent, "too_large_for_reply")
    );
    assert_eq!(stage.operations("list_objects", "error"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_probes_with_its_first_page_only() {
    let stage = Stage::new([
        page(&["b"], &[], Some("t1")),
        Answer::status(503),
        page(&["c"], &[], None),
    ]);
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    let context = stage.context();
    *context.probe.lock().unwrap() = Some(stage.breaker.reserve_probe().unwrap());
    stage.run_in(op::list(10), &context).await.unwrap();
    assert_eq!(
        stage.requests(),
        3,
        "the second page is no probe and is tried again"
    );
    assert_eq!(stage.breaker.snapshot().state, CircuitState::Closed);
}
