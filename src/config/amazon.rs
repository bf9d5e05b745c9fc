//! The variables that the AWS SDK reads by itself, looked at before anything starts.
//!
//! The SDK takes them as they are, and a line break behind a secret makes it panic at the first request. Those that
//! `storage` takes the white space off are noted, all others must have none. It changes nothing.

use super::{
    error::Problems,
    rules::{self, Ruling},
    secrets::masked_url,
    sources::Sources,
};

type Rule = fn(&str) -> Ruling<()>;

/// Never shown.
const SECRETS: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];
const PLACES: [(&str, Rule); 4] = [
    ("AWS_REGION", region),
    ("AWS_DEFAULT_REGION", region),
    ("AWS_ENDPOINT_URL", rules::sdk_endpoint),
    ("AWS_ENDPOINT_URL_S3", rules::sdk_endpoint),
];
/// Where a proxy for S3 may be named; the SDK passes over one that it can't read, and goes straight.
const PROXIES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// What the SDK warns of and passes over.
const CHECKSUMS: [&str; 2] = [
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
];
/// Read by the SDK where nobody can take anything off.
const EXACT: [&str; 11] = [
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

pub(super) fn check(sources: &Sources, problems: &mut Problems) {
    for name in SECRETS {
        let Some(value) = trimmed(sources, name, problems) else {
            continue;
        };
        if let Err(expected) = visible(value) {
            problems.push(format!("{name} must be {expected}; the value is not shown"));
        }
    }
    for (name, rule) in PLACES {
        let Some(value) = trimmed(sources, name, problems) else {
            continue;
        };
        if let Err(expected) = rule(value) {
            let shown = masked_url(value);
            problems.push(format!("{name} must be {expected}, but is {shown:?}"));
        }
    }
    for name in PROXIES {
        let Some(value) = sources.variable(name) else {
            continue;
        };
        if let Err(expected) = rules::proxy(value) {
            problems.push(format!("{name} must be {expected}; the value is not shown"));
        }
    }
    for name in CHECKSUMS {
        let value = sources.variable(name).unwrap_or_default();
        let known = ["", "when_supported", "when_required"];
        if !known.contains(&value.to_ascii_lowercase().as_str()) {
            problems.push(format!(
                "{name} must be when_supported or when_required, but is {value:?}"
            ));
        }
    }
    for name in EXACT {
        let value = sources.variable(name).unwrap_or_default();
        if value.trim() != value || value.contains(char::is_control) {
            problems.push(format!(
                "{name} must have no line break and no white space at its ends; the value is not shown"
            ));
        }
    }
}

/// The proxies that are named, `HTTPS_PROXY=http://user:***@proxy:3128`.
pub(super) fn proxies(sources: &Sources) -> Vec<String> {
    let named = PROXIES
        .iter()
        .chain(&["NO_PROXY", "no_proxy"])
        .filter_map(|name| Some((name, sources.variable(name)?)));
    named
        .map(|(name, value)| format!("{name}={}", masked_url(value)))
        .collect()
}

fn trimmed<'s>(sources: &'s Sources, name: &str, problems: &mut Problems) -> Option<&'s str> {
    let value = sources.variable(name)?;
    if value.trim() != value {
        problems.warn(format!(
            "{name} has white space at its ends, which is left out"
        ));
    }
    Some(value.trim())
}

fn visible(value: &str) -> Ruling<()> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err("visible ASCII characters without spaces or line breaks".to_owned())
}

fn region(value: &str) -> Ruling<()> {
    rules::region(value).map(drop)
}
