//! Which class a code of S3, or a bare status, has: the failure table of RESILIENCE.md as code. Pure.
//!
//! A code is S3's word only if it came in an error document; who calls says so by giving it. Nobody's job is
//! buried on the word of something that is not S3, so a 3xx or 4xx without a document is trouble on the way.

use crate::job::FailureClass::{
    self, Conflict, Credentials, JobLocal, Misrouted, Permanent, Throttled, TimedOut, Unavailable,
};

/// The one place where a code or a status becomes a class. `code` and `message` are those of an error document;
/// without a document there are none.
pub(super) fn class_of(status: u16, code: Option<&str>, message: Option<&str>) -> FailureClass {
    let Some(code) = code else {
        return class_of_bare(status);
    };
    if let Some(class) = class_of_code(code) {
        let misplaced = class == Permanent && message.is_some_and(tells_of_the_way);
        return if misplaced { Misrouted } else { class };
    }
    match status {
        429 | 509 => Throttled,
        408 => TimedOut,
        501 => Permanent,
        500.. => Unavailable,
        _ if names_the_way(code) || message.is_some_and(tells_of_the_way) => Misrouted,
        300..400 | 401 | 403 | 407 => Misrouted,
        400.. => Permanent,
        // An error inside a 200 without a known code.
        ..300 => Throttled,
    }
}

/// The class of an answer that is no S3 error document.
fn class_of_bare(status: u16) -> FailureClass {
    match status {
        429 | 509 => Throttled,
        408 => TimedOut,
        501 => Permanent,
        500.. => Unavailable,
        300..500 => Misrouted,
        ..300 => Throttled,
    }
}

fn class_of_code(code: &str) -> Option<FailureClass> {
    Some(match code {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded" => Throttled,
        "InternalError"
        | "ServiceUnavailable"
        | "XMinioServerNotInitialized"
        // Bytes that were damaged or lost on the way.
        | "IncompleteBody"
        | "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch" => Unavailable,
        "RequestTimeout" | "RequestTimeoutException" => TimedOut,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidSecurity"
        | SIGNATURE
        | "RequestTimeTooSkewed"
        | "RequestExpired" => Credentials,
        "ConditionalRequestConflict" | "OperationAborted" => Conflict,
        "InvalidDigest" => JobLocal,
        // Known by name, since an error inside a 200 has no status to go by, and a 403 is not always S3's.
        "AccessDenied" | "NoSuchKey" | "NoSuchBucket" | "NoSuchVersion" | "NoSuchUpload"
        | "NoSuchTagSet" | "NotFound" | "MethodNotAllowed" | "NotImplemented"
        | "InvalidArgument" | "InvalidRequest" | "InvalidRange" | "InvalidObjectState"
        | "ObjectLocked" | "InvalidBucketName" | "InvalidTag" | "InvalidPart"
        | "InvalidPartOrder" | "InvalidStorageClass" | "KeyTooLongError" | "MalformedXML"
        | "MetadataTooLarge" | "EntityTooLarge" | "EntityTooSmall" | "PreconditionFailed"
        | "CallerNotAuthorized" | "RequestHeaderSectionTooLarge" => Permanent,
        // Right job, wrong place or wrong account.
        "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "Redirect"
        | "IllegalLocationConstraintException"
        | "InvalidLocationConstraint"
        | "NotSignedUp"
        | "AllAccessDisabled"
        | "UserSuspended"
        | "XMinioStorageFull"
        | "ServerNotReady" => Misrouted,
        _ => return None,
    })
}

/// What S3 says of a signature that it does not get from the same request.
pub(super) const SIGNATURE: &str = "SignatureDoesNotMatch";

/// Words of a code that name the place, the account, or what an operator must lift.
const WAY: [&str; 18] = [
    "region",
    "endpoint",
    "port",
    "redirect",
    "account",
    "accounts",
    "quota",
    "license",
    "licence",
    "maintenance",
    "suspended",
    "subscription",
    "billing",
    "payment",
    "capacity",
    "cap",
    "tenant",
    "readonly",
];

/// Whether an unknown code names region, endpoint, port, account, quota, licence or maintenance, such as
/// `XMinioAdminBucketQuotaExceeded`.
fn names_the_way(code: &str) -> bool {
    words(code).any(|word| WAY.contains(&word.as_str()))
}

/// Phrases with which stores say, under a code of another meaning, that it is not the job.
const PHRASES: [&str; 10] = [
    // MinIO's console, when it is taken for S3.
    "api port",
    "http request to an https",
    "http request was sent to https",
    "cap exceeded",
    "quota exceeded",
    "exceeded your quota",
    "under maintenance",
    "maintenance mode",
    "account is suspended",
    "license expired",
];

fn tells_of_the_way(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    PHRASES.iter().any(|phrase| message.contains(phrase))
}

/// The words of `CamelCase`, `snake_case` and `dotted.names`, in lower case; `XMinioQuota` has x, minio, quota.
fn words(code: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut before: Option<char> = None;
    let mut rest = code.chars().peekable();
    while let Some(c) = rest.next() {
        let starts = c.is_ascii_uppercase()
            && (before.is_some_and(|it| !it.is_ascii_uppercase())
                || rest.peek().is_some_and(char::is_ascii_lowercase));
        if !c.is_ascii_alphanumeric() || starts {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
        before = Some(c);
    }
    words.into_iter().filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_name_the_way_are_told_from_those_that_only_sound_so() {
        for code in [
            "XMinioAdminBucketQuotaExceeded",
            "InvalidRegion",
            "WrongEndpoint",
            "InvalidAPIPort",
            "account_problem",
            "AccountProblem",
            "LicenseExpired",
            "MaintenanceMode",
            "QuotaExceeded",
            "b2.cap_exceeded",
        ] {
            assert_eq!(class_of(400, Some(code), None), Misrouted, "{code}");
        }
        for code in [
            "UnsupportedFormat",
            "TransportBroken",
            "Whatever",
            "Captcha",
        ] {
            assert_eq!(class_of(400, Some(code), None), Permanent, "{code}");
        }
    }

    #[test]
    fn an_unknown_code_with_401_403_or_407_is_nobodys_fault_who_sent_the_job() {
        for status in [301, 302, 307, 401, 403, 407] {
            assert_eq!(class_of(status, Some("Whatever"), None), Misrouted);
        }
        for status in [400, 404, 405, 409, 412] {
            assert_eq!(class_of(status, Some("Whatever"), None), Permanent);
        }
    }

    #[test]
    fn the_consoles_port_and_a_spent_cap_hide_behind_codes_of_other_meaning() {
        let console = Some("S3 API Requests must be made to API port.");
        assert_eq!(class_of(400, Some("InvalidArgument"), console), Misrouted);
        let cap = Some("Transaction cap exceeded, see the Caps & Alerts page");
        assert_eq!(class_of(403, Some("AccessDenied"), cap), Misrouted);
        let policy = Some("with an explicit deny in a VPC endpoint policy of account 1");
        assert_eq!(class_of(403, Some("AccessDenied"), policy), Permanent);
    }
}
