//! Turns an SDK error into a [`Failure`]: the only place that reads the SDK's errors.
//!
//! Pure: no counter, no log line, no clock. The order is facts s3.md, section 2: error code first, HTTP
//! status second, since `RequestTimeout` and `ExpiredToken` are plain 400s. What follows from a class is
//! decided in `job/failure.rs`.

use std::{error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::{ByteStreamError, DateTime, DateTimeFormat},
    types,
};

use crate::job::{Failure, FailureClass};

/// Classifies a failed call. `called` is false only when the SDK could not even form the request.
pub(super) fn failure<E>(error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match &error {
        SdkError::ServiceError(answer) => {
            of_answer(answer.err().code(), answer.err().message(), answer.raw())
        }
        SdkError::ResponseError(answer) => Failure {
            message: format!(
                "the answer broke off or is no S3: {}",
                DisplayErrorContext(&error)
            ),
            ..of_answer(Some(UNREADABLE), None, answer.raw())
        },
        SdkError::TimeoutError(_) => on_the_way(
            FailureClass::TimedOut,
            "attempt_timeout",
            "no answer in time".to_owned(),
        ),
        SdkError::DispatchFailure(dispatch) => of_dispatch(
            &error,
            dispatch.is_timeout(),
            dispatch.is_io() || dispatch.is_timeout() || dispatch.as_other().is_some(),
        ),
        SdkError::ConstructionFailure(_) => unformed(&error),
        // The SDK's enum may grow; what is not known is tried again.
        _ => on_the_way(FailureClass::Unavailable, "unknown", describe(&error)),
    }
}

/// Classifies a body that broke off after its head had come.
pub(super) fn of_body(error: &ByteStreamError) -> Failure {
    on_the_way(FailureClass::Unavailable, "body_cut", describe(error))
}

/// A body of which nothing came for `limit`.
pub(super) fn stalled(limit: Duration) -> Failure {
    let message = format!("the body stalled for {limit:?}");
    on_the_way(FailureClass::TimedOut, "body_stalled", message)
}

/// A body that ended before its announced length.
pub(super) fn cut_short(got: u64, announced: u64) -> Failure {
    let message = format!("the body ended after {got} of {announced} bytes");
    on_the_way(FailureClass::Unavailable, "body_cut", message)
}

/// Classifies one key's error inside a `DeleteObjects` answer, which is a 200.
pub(super) fn of_key(error: &types::Error) -> Failure {
    let code = error.code().unwrap_or("unknown");
    let message = error.message().unwrap_or("S3 gave no reason").to_owned();
    on_the_way(class_of(200, error.code()), code, message)
}

/// Whether an answer says so little that a HEAD must be asked again in another way: an error to a HEAD
/// carries no body, so an expired token is a bare 400 and a wrong key a bare 403.
pub(super) fn is_bare_refusal(failure: &Failure) -> bool {
    failure.code == bare_code(400) || failure.code == bare_code(403)
}

/// The one place where a code or a status becomes a class.
pub(super) fn class_of(status: u16, code: Option<&str>) -> FailureClass {
    use FailureClass::{
        Conflict, Credentials, JobLocal, Permanent, Throttled, TimedOut, Unavailable,
    };
    match code.unwrap_or_default() {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded" => return Throttled,
        "InternalError"
        | "ServiceUnavailable"
        | "XMinioServerNotInitialized"
        | "IncompleteBody"
        | UNREADABLE => return Unavailable,
        "RequestTimeout" | "RequestTimeoutException" => return TimedOut,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "RequestExpired" => return Credentials,
        "ConditionalRequestConflict" | "OperationAborted" => return Conflict,
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" => return JobLocal,
        // Known by name, since an error inside a 200 has no status to go by.
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "NoSuchKey" | "NoSuchBucket"
        | "NoSuchVersion" | "NoSuchUpload" | "NotFound" | "MethodNotAllowed" | "NotImplemented"
        | "InvalidArgument" | "InvalidRequest" | "InvalidRange" | "InvalidObjectState"
        | "InvalidBucketName" | "KeyTooLongError" | "MalformedXML" | "EntityTooLarge"
        | "PermanentRedirect" | "PreconditionFailed" => return Permanent,
        _ => {}
    }
    match status {
        429 | 509 => Throttled,
        408 => TimedOut,
        501 => Permanent,
        500.. => Unavailable,
        300..=499 => Permanent,
        // An error inside a 200 without a known code.
        ..300 => Throttled,
    }
}

/// Our code for an answer that can't be read as one of S3's.
const UNREADABLE: &str = "response_unreadable";

fn of_answer(code: Option<&str>, message: Option<&str>, raw: &HttpResponse) -> Failure {
    let status = raw.status().as_u16();
    let headers = raw.headers();
    let said = code.filter(|code| !code.is_empty());
    Failure {
        class: class_of(status, said),
        code: said.map_or_else(|| bare_code(status), str::to_owned),
        message: message.filter(|text| !text.is_empty()).map_or_else(
            || format!("S3 answered HTTP {status} and gave no reason"),
            str::to_owned,
        ),
        request_id: headers.get("x-amz-request-id").map(str::to_owned),
        retry_after: hint(raw),
        called: true,
    }
}

/// What an answer without a code is called.
fn bare_code(status: u16) -> String {
    format!("http_{status}")
}

/// How long the server asks us to wait. The SDK reads only the first of the two.
fn hint(raw: &HttpResponse) -> Option<Duration> {
    let header = |name| raw.headers().get(name);
    if let Some(millis) = header("x-amz-retry-after").and_then(|text| text.trim().parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = header("retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // A date: the answer's own date says how far away it is, by the same clock.
    let date = |text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok();
    let wait = date(text)?.secs() - date(header("date")?)?.secs();
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

fn of_dispatch(error: &(dyn Error + 'static), timed_out: bool, network: bool) -> Failure {
    if find::<CredentialsError>(error).is_some() {
        on_the_way(
            FailureClass::Credentials,
            "credentials_missing",
            describe(error),
        )
    } else if timed_out {
        on_the_way(
            FailureClass::Unavailable,
            "connect_timeout",
            describe(error),
        )
    } else {
        let code = if network {
            "connection_failed"
        } else {
            "dispatch_failed"
        };
        on_the_way(FailureClass::Unavailable, code, describe(error))
    }
}

fn on_the_way(class: FailureClass, code: &str, message: String) -> Failure {
    Failure {
        called: true,
        ..Failure::ours(class, code, message)
    }
}

/// No request could be made of the job's fields; nothing is learnt about S3.
fn unformed(error: &(dyn Error + 'static)) -> Failure {
    Failure::ours(FailureClass::JobLocal, "invalid_request", describe(error))
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost reason and what it is wrapped in, as one line.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for error in chain(error) {
        let text = error.to_string();
        // Wrappers like to repeat what they wrap.
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
