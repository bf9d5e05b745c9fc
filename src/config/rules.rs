//! What each kind of value must look like.
//!
//! A rule reads a text, or says what would be right in words that follow "must be". It never repeats
//! the value: that may be a secret, and `reader` knows whether it may be shown.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::units::{parse_duration, parse_size, show_duration, show_size};
use crate::job::{Lane, OperationName, options::OPTIONS, place::Origin};

/// What a rule makes of a text.
pub(super) type Ruling<T> = Result<T, String>;

/// A whole number in `range`, both ends included.
pub(super) fn whole<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Ruling<T> {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A number in `range`, both ends included.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&str) -> Ruling<f64> {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("a number from {} to {}", range.start(), range.end()))
    }
}

/// A duration in `range`, both ends included.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Ruling<Duration> {
    move |text| {
        parse_duration(text)
            .filter(|duration| range.contains(duration))
            .ok_or_else(|| {
                let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
                format!("a duration from {least} to {most}, written like 500ms, 3s, 2m, 24h or 14d")
            })
    }
}

/// A duration of whole seconds in `range`, both ends included.
pub(super) fn seconds(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Ruling<Duration> {
    let rule = duration(range);
    move |text| match rule(text) {
        Ok(duration) if duration.subsec_nanos() != 0 => {
            Err("a duration of whole seconds".to_owned())
        }
        ruling => ruling,
    }
}

/// A size in bytes in `range`, both ends included.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Ruling<u64> {
    move |text| {
        parse_size(text)
            .filter(|size| range.contains(size))
            .ok_or_else(|| {
                let (least, most) = (show_size(*range.start()), show_size(*range.end()));
                format!("a size from {least} to {most}, written like 64KiB, 8MiB, 1GiB or in bytes")
            })
    }
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Ruling<bool> {
    text.parse().map_err(|_| "true or false".to_owned())
}

/// One of a few names, at least two.
pub(super) fn one_of<T: Copy>(names: &[(&'static str, T)]) -> impl Fn(&str) -> Ruling<T> {
    move |text| {
        let named = names.iter().find(|(name, _)| *name == text);
        named.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            let last = names.len().saturating_sub(1);
            format!("{} or {}", names[..last].join(", "), names[last..].concat())
        })
    }
}

/// `auto`, or what `rule` allows; an empty text is `auto`, since that is how a shell leaves a variable unset.
pub(super) fn auto<T>(rule: impl Fn(&str) -> Ruling<T>) -> impl Fn(&str) -> Ruling<Option<T>> {
    move |text| match text {
        "" | "auto" => Ok(None),
        text => rule(text)
            .map(Some)
            .map_err(|expected| format!("auto or {expected}")),
    }
}

/// What a message may say for this header of S3's; empty is nothing.
pub(super) fn header_option(header: &'static str) -> impl Fn(&str) -> Ruling<Option<Value>> {
    move |text| {
        let row = OPTIONS.iter().find(|row| row.header == header);
        let Some(row) = row.filter(|_| !text.is_empty()) else {
            return Ok(None);
        };
        let value = row.value_of(text);
        match row.read(&value) {
            Ok(read) => Ok(read.map(|_| value)),
            Err(rule) => Err(format!("empty, or {rule}")),
        }
    }
}

/// An `amqp` or `amqps` URL with a host.
pub(super) fn amqp_url(text: &str) -> Ruling<SecretString> {
    let rest = text
        .strip_prefix("amqp://")
        .or_else(|| text.strip_prefix("amqps://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    let host = authority.and_then(|authority| authority.rsplit('@').next());
    let query = text.split_once('?').map_or("", |(_, query)| query);
    if !query.split('&').all(is_sound_option) {
        return Err(
            "a URL whose heartbeat is in whole seconds, and connection_timeout in milliseconds"
                .into(),
        );
    }
    if host.is_some_and(is_host_and_port) && !text.contains(char::is_whitespace) {
        Ok(text.into())
    } else {
        Err(
            "a URL like amqp://user:password@host:5672/%2f, or amqps:// for TLS, or several with commas \
             between them, with special characters of the password percent-encoded (a comma is %2C)"
                .to_owned(),
        )
    }
}

/// The options of an AMQP URL that are read here; all others are the client's.
fn is_sound_option(pair: &str) -> bool {
    match pair.split_once('=') {
        Some(("heartbeat", value)) => value.parse::<u16>().is_ok(),
        Some(("connection_timeout", value)) => value.parse::<u64>().is_ok(),
        _ => true,
    }
}

/// The virtual host that a sound AMQP URL names, as far as it takes to compare two.
pub(super) fn virtual_host(url: &str) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    match place.split_once('/') {
        Some((_, path)) => path.replace("%2f", "/").replace("%2F", "/"),
        None => "/".to_owned(),
    }
}

/// A `sqlite` or `postgres` URL.
pub(super) fn ledger_url(text: &str) -> Ruling<SecretString> {
    let schemes = ["sqlite:", "postgres://", "postgresql://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    // A file's name may have a space, but one with a line break is a mistake.
    let in_one_line = !text.contains(char::is_control);
    match rest.map(|rest| rest.trim_start_matches('/')) {
        Some(rest) if !rest.is_empty() && in_one_line => Ok(text.into()),
        _ => Err(
            "a URL in one line, like sqlite://brigade.db or postgres://user:password@host/database"
                .to_owned(),
        ),
    }
}

/// An `http` or `https` URL with nothing but a host, a port and a path.
pub(super) fn http_url(text: &str) -> Ruling<String> {
    let authority = http_rest(text).and_then(|rest| rest.split('/').next());
    let is_plain = !text.contains(['?', '#', '@']) && is_visible(text);
    if is_plain && authority.is_some_and(is_host_and_port) {
        Ok(text.to_owned())
    } else {
        Err(
            "a URL like https://s3.example.com or http://127.0.0.1:9000, without user or query"
                .to_owned(),
        )
    }
}

/// A host name, which means `https` on 443, or a scheme with host and port.
pub(super) fn origin(text: &str) -> Ruling<String> {
    match Origin::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(rule) => Err(rule.to_owned()),
    }
}

/// What the SDK takes for an endpoint in its own variables: a user may stand in it.
pub(super) fn sdk_endpoint(text: &str) -> Ruling<()> {
    let authority = http_rest(text).and_then(|rest| rest.split('/').next());
    let host = authority.and_then(|authority| authority.rsplit('@').next());
    if host.is_some_and(is_host_and_port) && !text.contains(['?', '#']) && is_visible(text) {
        Ok(())
    } else {
        Err("a URL like https://s3.example.com or http://127.0.0.1:9000, without query".to_owned())
    }
}

/// A proxy as the SDK takes it: no scheme means `http`.
pub(super) fn proxy(text: &str) -> Ruling<()> {
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) => Some(rest),
        Some(_) => None,
        None => Some(text),
    };
    let authority = rest.and_then(|rest| rest.split('/').next());
    let host = authority.and_then(|authority| authority.rsplit('@').next());
    if host.is_some_and(is_host_and_port) && is_visible(text) {
        Ok(())
    } else {
        Err("a URL like http://proxy.example.com:3128 or http://user:password@proxy:3128, with special \
             characters of the password percent-encoded; there is no support for SOCKS"
            .to_owned())
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn http_rest(text: &str) -> Option<&str> {
    text.strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
}

/// A name or an address, an IPv6 one in brackets, with or without a port.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text
            .find(':')
            .map_or((text, ""), |colon| text.split_at(colon)),
    };
    let is_address = |inside: &str| inside.parse::<std::net::Ipv6Addr>().is_ok();
    let host_is_sound = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inside) => is_address(inside),
        None => is_word(host, "._-"),
    };
    let port_is_sound = match port.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().is_ok_and(|port| port > 0),
        None => port.is_empty(),
    };
    host_is_sound && port_is_sound
}

/// A region's name.
pub(super) fn region(text: &str) -> Ruling<String> {
    if is_word(text, "-_") && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("the name of a region, such as eu-central-1".to_owned())
    }
}

/// The beginning of the names of exchanges and queues.
pub(super) fn prefix(text: &str) -> Ruling<String> {
    // AMQP names end at 255 bytes and `amq.` belongs to the broker.
    if is_word(text, "._-") && text.len() <= 100 && !text.starts_with("amq.") {
        Ok(text.to_owned())
    } else {
        Err("1 to 100 of A-Z a-z 0-9 . _ -, and not begin with amq.".to_owned())
    }
}

/// A bucket's name, as in messages.
pub(super) fn bucket(text: &str) -> Ruling<String> {
    if is_word(text, "._-") && text.len() <= 255 {
        Ok(text.to_owned())
    } else {
        Err("a bucket's name: 1 to 255 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// An operation that rides in `lane`.
pub(super) fn operation_of(lane: Lane) -> impl Fn(&str) -> Ruling<OperationName> {
    move |text| {
        let named = OperationName::parse(text).filter(|operation| operation.lane() == lane);
        named.ok_or_else(|| {
            let own = OperationName::ALL
                .into_iter()
                .filter(|operation| operation.lane() == lane);
            let names: Vec<&str> = own.map(OperationName::as_str).collect();
            format!("an operation of the {lane} lane ({})", names.join(", "))
        })
    }
}

/// An absolute path that does not climb.
pub(super) fn folder(text: &str) -> Ruling<PathBuf> {
    let path = PathBuf::from(text);
    let climbs = path
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    if path.is_absolute() && !climbs {
        Ok(path)
    } else {
        Err("an absolute path without \"..\", such as /srv/files".to_owned())
    }
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Ruling<Option<SocketAddr>> {
    let address = text.parse().map(Some);
    address.map_err(|_| {
        "an address with a port, such as 127.0.0.1:9464, 0.0.0.0:9464 or [::]:9464".to_owned()
    })
}

/// A bearer token; an empty text is none.
pub(super) fn token(text: &str) -> Ruling<Option<SecretString>> {
    match text {
        "" => Ok(None),
        text if is_visible(text) => Ok(Some(text.into())),
        // It travels in an HTTP header.
        _ => Err("visible ASCII characters without spaces".to_owned()),
    }
}

/// A level, or a filter of levels by module.
pub(super) fn log_filter(text: &str) -> Ruling<String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = levels.iter().any(|level| level.eq_ignore_ascii_case(text));
    // A word alone would be a module's name to the filter, which turns everything else off.
    let is_filter = text.contains(['=', ',', '[']) && EnvFilter::try_new(text).is_ok();
    if is_level || is_filter {
        Ok(text.to_owned())
    } else {
        Err("error, warn, info, debug or trace, or a filter such as info,bucket_brigade::lane=debug".to_owned())
    }
}

/// Letters, digits and `others`; at least one.
fn is_word(text: &str, others: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.chars().all(allowed)
}
