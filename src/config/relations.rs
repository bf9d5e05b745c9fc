//! What one setting demands of another. Each value may be sound alone, and the pair still lose jobs.

use std::{fmt, time::Duration};

use secrecy::ExposeSecret;

use super::{
    error::Problems,
    raw::{Raw, RawSetting, RawValue},
    rules::virtual_host,
    settings::Settings,
};
use crate::job::Lane;

/// A probe may use a whole attempt; the rest is for what happens around it (RESILIENCE.md, "Circuit breakers").
const PROBE_MARGIN: Duration = Duration::from_secs(30);

/// Checks sound settings against each other; `raw` is for saying where the values came from.
pub(super) fn check(settings: &Settings, raw: &Raw, problems: &mut Problems) {
    // Else the lanes would consume one queue now and another one after a reconnect.
    let mut hosts = settings
        .amqp
        .url
        .iter()
        .map(|url| virtual_host(url.expose_secret()));
    let first = hosts.next();
    if let Some(other) = hosts.position(|host| Some(host) != first) {
        let named = &settings.amqp.url_named;
        let number = other + 2;
        problems.push(format!(
            "amqp.url must name one virtual host, but number {number} names another than the first ({named})"
        ));
    }

    if let Err(why) = settings.s3.put_defaults.check() {
        problems.push(format!(
            "s3.put_defaults do not fit together, as messages name them: {why}"
        ));
    }

    let mut demand = |holds: bool, key: &str, relation: &str, other: &str| {
        if !holds {
            let (this, that) = (Shown(raw.get(key)), Shown(raw.get(other)));
            problems.push(format!(
                "{key} must be {relation} {other}, but is {this}, and that is {that}"
            ));
        }
    };

    for lane in Lane::ALL {
        let numbers = settings.lanes.of(lane);
        // Else slots would stay empty for ever, and nobody would know why.
        demand(
            usize::from(numbers.prefetch) >= numbers.concurrency,
            &format!("lanes.{lane}.prefetch"),
            "at least",
            &format!("lanes.{lane}.concurrency"),
        );
    }
    demand(
        usize::from(settings.lanes.of(Lane::Cleanup).prefetch) >= settings.cleanup.batch_keys,
        "lanes.cleanup.prefetch",
        "at least",
        "cleanup.batch_keys",
    );
    // Else the broker takes the job back while it runs, and the lane's channel with it.
    demand(
        settings.limits.job_deadline < settings.amqp.consumer_timeout,
        "limits.job_deadline",
        "below",
        "amqp.consumer_timeout",
    );
    // Else a slow answer to a probe would never be heard.
    demand(
        settings.circuit.probe_timeout >= settings.s3.attempt_timeout + PROBE_MARGIN,
        "circuit.probe_timeout",
        "at least 30s more than",
        "s3.attempt_timeout",
    );
    demand(
        settings.circuit.open_base <= settings.circuit.open_max,
        "circuit.open_base",
        "at most",
        "circuit.open_max",
    );
    // Else a job that still runs would be forgotten, with what it has begun and cost.
    demand(
        settings.ledger.retention >= settings.limits.max_job_age,
        "ledger.retention",
        "at least",
        "limits.max_job_age",
    );
    // Else not a single part could be read.
    demand(
        settings.upload.memory_budget >= settings.upload.part_size,
        "upload.memory_budget",
        "at least",
        "upload.part_size",
    );
}

/// A value with where it came from. No secret takes part in a relation.
struct Shown<'r>(Option<&'r RawSetting>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(RawSetting {
                value: RawValue::One(text),
                origin,
            }) => {
                write!(f, "{text:?} (from {origin})")
            }
            _ => f.write_str("not a single value"),
        }
    }
}
