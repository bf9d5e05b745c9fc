//! Turns an SDK error into a [`Failure`]: the only place that reads the SDK's errors.
//!
//! Pure: no counter, no log line, no clock. The order is facts s3.md, section 2: error code first, HTTP
//! status second, since `RequestTimeout` and `ExpiredToken` are plain 400s; both are `codes.rs`. What follows from
//! a class is decided in `job/failure.rs`.

use std::{error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::{ByteStreamError, DateTime, DateTimeFormat},
    types,
};

use super::{
    answer::{Answered, NOT_S3, UNREADABLE, called},
    codes::class_of,
    progress::Stalled,
};
use crate::job::{Failure, FailureClass};

/// Classifies a failed call. `called` is false only when the SDK could not even form the request.
pub(super) fn failure<E>(error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match &error {
        SdkError::ServiceError(answer) => {
            let (code, message) = (answer.err().code(), answer.err().message());
            if answer.raw().status().is_success() && code.is_none_or(str::is_empty) {
                unparsed(answer.err(), answer.raw())
            } else {
                of_answer(code, message, answer.raw())
            }
        }
        _ if let Some(Stalled(waited)) = find(&error) => stood_still(*waited),
        SdkError::ResponseError(_) => on_the_way(
            FailureClass::Unavailable,
            "body_cut",
            format!("the answer broke off: {}", DisplayErrorContext(&error)),
        ),
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

/// The same for a HEAD, whose errors have no document: a 404 or 405 that S3 gave is its word. Other refusals say
/// too little, see [`is_bare_refusal`].
pub(super) fn of_head<E>(error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let raw = error.raw_response().map(Answered::of);
    let failure = failure(error);
    match raw.filter(|raw| raw.is_s3).map(|raw| raw.status) {
        Some(404) => Failure {
            class: FailureClass::Permanent,
            code: NOT_FOUND.to_owned(),
            message: "S3 answered HTTP 404: there is no such object, version or bucket".to_owned(),
            ..failure
        },
        Some(405) => Failure {
            class: FailureClass::Permanent,
            ..failure
        },
        _ => failure,
    }
}

/// What a HEAD's 404 is called.
pub(super) const NOT_FOUND: &str = "NotFound";

/// Classifies a body that broke off after its head had come.
pub(super) fn of_body(error: &ByteStreamError) -> Failure {
    if let Some(Stalled(waited)) = find(error) {
        let message = format!("the body stalled for {waited:?}");
        return on_the_way(FailureClass::TimedOut, "body_stalled", message);
    }
    on_the_way(FailureClass::Unavailable, "body_cut", describe(error))
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
    on_the_way(class_of(200, error.code(), error.message()), code, message)
}

/// Whether an answer says so little that a HEAD must be asked again in another way: an error to a HEAD carries no
/// body, so an expired token is a bare 400 and a wrong key a bare 403, and anybody sends a 404.
pub(super) fn is_bare_refusal(failure: &Failure) -> bool {
    failure.class == FailureClass::Misrouted && failure.code.starts_with("http_")
}

fn of_answer(code: Option<&str>, message: Option<&str>, raw: &HttpResponse) -> Failure {
    let status = raw.status().as_u16();
    // The SDK makes up a code for a 404 without a body.
    let is_bare = raw.body().bytes().is_none_or(<[u8]>::is_empty);
    let said = code.filter(|code| !code.is_empty() && !is_bare);
    let message = message.filter(|text| !text.is_empty());
    let class = class_of(status, said, message);
    let answered = Answered::of(raw);
    let message = match (said, message) {
        (Some(_), Some(message)) if class == FailureClass::Misrouted => {
            format!("{message} ({})", answered.sentence())
        }
        (Some(_), Some(message)) => message.to_owned(),
        (Some(_), None) => format!("S3 gave no reason: {}", answered.sentence()),
        (None, _) if class == FailureClass::Misrouted && answered.is_s3 => {
            format!("refused without S3's reason: {}", answered.sentence())
        }
        (None, _) if class == FailureClass::Misrouted => {
            format!(
                "refused by something that is not S3: {}",
                answered.sentence()
            )
        }
        (None, _) => format!("no reason was given: {}", answered.sentence()),
    };
    Failure {
        code: said.map_or_else(|| bare_code(status), str::to_owned),
        request_id: raw.headers().get("x-amz-request-id").map(str::to_owned),
        retry_after: hint(raw),
        ..on_the_way(class, "", message)
    }
}

/// A 2xx that the SDK could not read: S3's trouble with one object, or not S3 at all.
fn unparsed(error: &(dyn Error + 'static), raw: &HttpResponse) -> Failure {
    let answered = Answered::of(raw);
    let body = raw.body().bytes().unwrap_or_default();
    let is_error = std::str::from_utf8(body).is_ok_and(|body| body.contains("<Error"));
    let (class, code, why) = if is_error {
        let why = "an error inside a good answer, without a code".to_owned();
        (class_of(200, None, None), bare_code(200), why)
    } else if answered.is_s3 {
        let why = format!("the answer can't be parsed: {}", describe(error));
        (FailureClass::Unreadable, UNREADABLE.to_owned(), why)
    } else {
        let why = "what answered is not S3".to_owned();
        (FailureClass::Misrouted, NOT_S3.to_owned(), why)
    };
    Failure {
        code,
        request_id: raw.headers().get("x-amz-request-id").map(str::to_owned),
        retry_after: hint(raw),
        ..on_the_way(class, "", format!("{why} ({})", answered.sentence()))
    }
}

/// A call that was given up since nothing moved any more.
fn stood_still(waited: Duration) -> Failure {
    let message = format!("no byte moved and no answer came for {waited:.1?}");
    on_the_way(FailureClass::TimedOut, "attempt_timeout", message)
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
    if let Some(missing) = find::<CredentialsError>(error) {
        let code = match missing {
            CredentialsError::InvalidConfiguration(_) => "credentials_invalid",
            _ => "credentials_missing",
        };
        on_the_way(FailureClass::Credentials, code, describe(error))
    } else if let Some(broken) = find::<hyper::Error>(error).filter(|error| error.is_parse()) {
        of_no_http(&broken.to_string(), describe(error))
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

/// An answer that is no HTTP: a header that no client takes, or another protocol altogether.
fn of_no_http(broken: &str, message: String) -> Failure {
    let other_protocol = ["version", "status"]
        .iter()
        .any(|part| broken.contains(part));
    if other_protocol {
        on_the_way(FailureClass::Misrouted, "not_http", message)
    } else {
        on_the_way(FailureClass::Unreadable, UNREADABLE, message)
    }
}

fn on_the_way(class: FailureClass, code: &str, message: String) -> Failure {
    called(class, code, message)
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
