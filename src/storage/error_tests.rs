use FailureClass::{
    Conflict, Credentials, JobLocal, Misrouted, Permanent, Throttled, TimedOut, Unavailable,
};

use super::*;
use crate::{
    job::operation::PutOptions,
    resilience::RetryPolicy,
    storage::{
        CallContext, Stop,
        script::{Answer, Stage, op},
    },
};

/// facts s3.md, section 2, and the failure table of RESILIENCE.md: status, code, class.
const TABLE: &[(u16, &str, FailureClass)] = &[
    (503, "SlowDown", Throttled),
    (503, "RequestLimitExceeded", Throttled),
    (500, "SlowDown", Throttled),
    (503, "SlowDownRead", Throttled),
    (503, "SlowDownWrite", Throttled),
    (429, "TooManyRequests", Throttled),
    (429, "", Throttled),
    (429, "SlowDown", Throttled),
    (429, "TooManyRequestsException", Throttled),
    (509, "BandwidthLimitExceeded", Throttled),
    (400, "Throttling", Throttled),
    (500, "InternalError", Unavailable),
    (500, "", Unavailable),
    (502, "", Unavailable),
    (503, "ServiceUnavailable", Unavailable),
    (503, "", Unavailable),
    (503, "XMinioServerNotInitialized", Unavailable),
    (504, "GatewayTimeout", Unavailable),
    (400, "InternalError", Unavailable),
    (507, "", Unavailable),
    (520, "", Unavailable),
    (524, "", Unavailable),
    (599, "Whatever", Unavailable),
    (400, "IncompleteBody", Unavailable),
    (400, "RequestTimeout", TimedOut),
    (408, "", TimedOut),
    (400, "ExpiredToken", Credentials),
    (400, "InvalidToken", Credentials),
    (400, "TokenRefreshRequired", Credentials),
    (403, "InvalidAccessKeyId", Credentials),
    (403, "SignatureDoesNotMatch", Credentials),
    (403, "RequestTimeTooSkewed", Credentials),
    (403, "AccessDenied", Permanent),
    (404, "NoSuchKey", Permanent),
    (404, "NoSuchBucket", Permanent),
    (416, "InvalidRange", Permanent),
    (301, "PermanentRedirect", Misrouted),
    (307, "TemporaryRedirect", Misrouted),
    (400, "AuthorizationHeaderMalformed", Misrouted),
    (400, "", Misrouted),
    (401, "", Misrouted),
    (401, "Whatever", Misrouted),
    (403, "Whatever", Misrouted),
    (403, "AccountProblem", Misrouted),
    (403, "QuotaExceeded", Misrouted),
    (404, "", Misrouted),
    (407, "", Misrouted),
    (302, "", Misrouted),
    (501, "NotImplemented", Permanent),
    (501, "", Permanent),
    (400, "InvalidRequest", Permanent),
    (400, "Whatever", Permanent),
    (403, "", Misrouted),
    (412, "PreconditionFailed", Permanent),
    (409, "ConditionalRequestConflict", Conflict),
    (409, "OperationAborted", Conflict),
    (409, "InvalidBucketState", Permanent),
    (400, "BadDigest", Unavailable),
    (400, "InvalidDigest", JobLocal),
    (400, "XAmzContentSHA256Mismatch", Unavailable),
];

/// The failure of one attempt.
async fn failure_of(answer: Answer, operation: crate::job::Operation) -> Failure {
    let stage = Stage::new([answer]);
    let retry = RetryPolicy {
        max_attempts: 1,
        ..stage.context().retry
    };
    let context = CallContext {
        retry,
        ..stage.context()
    };
    match stage.run_in(operation, &context).await {
        Err(Stop::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn answer(status: u16, code: &str) -> Answer {
    if code.is_empty() {
        Answer::status(status)
    } else {
        Answer::error(status, code)
    }
}

#[tokio::test(start_paused = true)]
async fn every_answer_of_the_table_has_its_class() {
    for &(status, code, class) in TABLE {
        let operations = [
            op::put(PutOptions::default()),
            op::get(),
            op::list(10),
            op::delete(),
        ];
        for operation in operations {
            if code == "NoSuchKey" && operation == op::delete() {
                continue;
            }
            let failure = failure_of(answer(status, code), operation.clone()).await;
            assert_eq!(
                failure.class, class,
                "{status} {code}: {operation:?} {failure:?}"
            );
            assert!(failure.called);
            let expected = if code.is_empty() {
                format!("http_{status}")
            } else {
                code.to_owned()
            };
            assert_eq!(failure.code, expected, "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_200_is_classed_by_its_code_and_without_a_known_one_throttled() {
    for (code, class) in [
        ("SlowDown", Throttled),
        ("InternalError", Unavailable),
        ("AccessDenied", Permanent),
        ("Whatever", Throttled),
    ] {
        let failure = failure_of(Answer::error(200, code), op::put(PutOptions::default())).await;
        assert_eq!((failure.class, failure.code.as_str()), (class, code));
    }
    assert_eq!(class_of(200, None, None), Throttled);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_no_code_and_goes_by_its_status() {
    for (status, class, code) in [
        (503, Unavailable, "http_503"),
        (500, Unavailable, "http_500"),
        (429, Throttled, "http_429"),
        (404, Permanent, "NotFound"),
        (405, Permanent, "http_405"),
    ] {
        let failure = failure_of(Answer::status(status), op::head()).await;
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (class, code),
            "{status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_classed_by_how_it_ended() {
    for (answer, class, code) in [
        (Answer::Reset, Unavailable, "connection_failed"),
        (Answer::ConnectTimeout, Unavailable, "connect_timeout"),
        (Answer::Silence, TimedOut, "attempt_timeout"),
    ] {
        let failure = failure_of(answer.clone(), op::put(PutOptions::default())).await;
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (class, code),
            "{answer:?}"
        );
        assert!(failure.called, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_s_page_is_tried_again() {
    let failure = failure_of(Answer::body(502, "<html>bad gateway"), op::list(10)).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Unavailable, "http_502")
    );
}

#[tokio::test(start_paused = true)]
async fn code_message_and_request_id_are_as_s3_gave_them() {
    let failure = failure_of(answer(403, "AccessDenied"), op::get()).await;
    assert_eq!(failure.code, "AccessDenied");
    assert_eq!(failure.message, "the message");
    assert_eq!(failure.request_id.as_deref(), Some("REQ1"));
    let failure = failure_of(answer(403, ""), op::get()).await;
    assert_eq!(failure.message, "refused without S3's reason: HTTP 403");
}

#[tokio::test(start_paused = true)]
async fn both_hints_are_read_from_the_answer() {
    let date = |time| format!("Tue, 24 Nov 2026 {time} GMT");
    let later = Answer::status(503).header("date", date("10:00:00"));
    for (answer, seconds) in [
        (Answer::status(503), None),
        (Answer::status(503).header("retry-after", 7), Some(7)),
        (
            Answer::status(503).header("x-amz-retry-after", 2000),
            Some(2),
        ),
        (
            later.clone().header("retry-after", date("10:00:30")),
            Some(30),
        ),
        (later.header("retry-after", date("09:00:00")), Some(0)),
        (Answer::status(503).header("retry-after", "soon"), None),
        (Answer::status(503).header("retry-after", "-1"), None),
    ] {
        let failure = failure_of(answer.clone(), op::get()).await;
        assert_eq!(
            failure.retry_after,
            seconds.map(Duration::from_secs),
            "{answer:?}"
        );
    }
}

#[test]
fn one_keys_error_has_the_class_of_its_code() {
    for (code, class) in [
        (Some("InternalError"), Unavailable),
        (Some("SlowDown"), Throttled),
        (Some("AccessDenied"), Permanent),
        (Some("Whatever"), Throttled),
        (None, Throttled),
    ] {
        let error = types::Error::builder()
            .set_code(code.map(str::to_owned))
            .build();
        assert_eq!(of_key(&error).class, class, "{code:?}");
    }
}
