//! The bounded kinds of failure and the one table that says what follows from each.
//!
//! `storage/error.rs` alone decides which class an SDK error has; this file alone decides what a
//! class means (RESILIENCE.md, the failure table). Both are pure.

use std::{fmt, time::Duration};

use super::Lane;

/// The kind of a failure: policy key and metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// The service asks for fewer calls: 503 `SlowDown`, 429.
    Throttled,
    /// The service or the way to it is down: other 5xx, DNS, connect, TLS, reset.
    Unavailable,
    /// Nothing moved for the time-out of an attempt, up or down.
    TimedOut,
    /// A race between writers that S3 asks to try again.
    Conflict,
    /// Our credentials are expired, unknown, missing, or the clock is off.
    Credentials,
    /// S3 answered that this will never work: no such key, access denied.
    Permanent,
    /// What answered is not S3, or not the place where the job belongs: a proxy's page, another region, a quota.
    Misrouted,
    /// S3 answered well, but its answer can't be parsed or does not prove the success.
    Unreadable,
    /// The job itself is at fault: source missing, checksum mismatch.
    JobLocal,
    /// Stopped by us: drain, deadline, panic.
    Cancelled,
}

use FailureClass::{
    Cancelled, Conflict, Credentials, JobLocal, Misrouted, Permanent, Throttled, TimedOut,
    Unavailable, Unreadable,
};

/// What follows from a failure class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether the same call is made again after a wait.
    pub retry: Retry,
    /// What the circuit breaker hears.
    pub verdict: Verdict,
    /// What becomes of the job when no attempt is left.
    pub exhausted: Then,
}

/// Whether to call again in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// As often as the settings say.
    Yes,
    /// One more time.
    Once,
    /// Never.
    No,
}

/// What one guarded operation tells the breaker, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The service answered.
    Success,
    /// The service is ill.
    Failure,
    /// Nothing was learnt.
    Neutral,
}

/// What becomes of a job whose attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Step down the parking ladder until the job is too old.
    Park,
    /// Park without an age limit: an expired key must not empty the queue into the dead letters.
    ParkForever,
    /// Dead letter at once.
    Bury,
    /// Dead letter of a read, which would meet the same object again; a write is parked.
    BuryReads,
    /// Give it back as it was.
    Requeue,
}

impl FailureClass {
    /// Every class, in the table's order.
    pub const ALL: [Self; 10] = [
        Throttled,
        Unavailable,
        TimedOut,
        Conflict,
        Credentials,
        Permanent,
        Misrouted,
        Unreadable,
        JobLocal,
        Cancelled,
    ];

    /// The table. Adding a class does not compile until its row exists.
    pub const fn policy(self) -> Policy {
        match self {
            Throttled | Unavailable | TimedOut => {
                Policy::new(Retry::Yes, Verdict::Failure, Then::Park)
            }
            Conflict => Policy::new(Retry::Yes, Verdict::Success, Then::Park),
            Credentials | Misrouted => Policy::new(Retry::No, Verdict::Failure, Then::ParkForever),
            Unreadable => Policy::new(Retry::Once, Verdict::Neutral, Then::BuryReads),
            Permanent => Policy::new(Retry::No, Verdict::Success, Then::Bury),
            JobLocal => Policy::new(Retry::No, Verdict::Neutral, Then::Bury),
            // Drain requeues; deadline and panic park (`outcome.rs`).
            Cancelled => Policy::new(Retry::No, Verdict::Neutral, Then::Requeue),
        }
    }

    /// As in labels, headers and the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Throttled => "throttled",
            Unavailable => "unavailable",
            TimedOut => "timed_out",
            Conflict => "conflict",
            Credentials => "credentials",
            Permanent => "permanent",
            Misrouted => "misrouted",
            Unreadable => "unreadable",
            JobLocal => "job_local",
            Cancelled => "cancelled",
        }
    }

    /// The class of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

impl Then {
    /// What it means for a job of that lane: park, park for ever, bury, or requeue.
    pub const fn in_lane(self, lane: Lane) -> Self {
        match (self, lane) {
            (Self::BuryReads, Lane::Read) => Self::Bury,
            (Self::BuryReads, Lane::Upload | Lane::Cleanup) => Self::Park,
            (then, _) => then,
        }
    }
}

impl Policy {
    const fn new(retry: Retry, verdict: Verdict, exhausted: Then) -> Self {
        Self {
            retry,
            verdict,
            exhausted,
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One failure, classified once, at the adapter that saw it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// What follows.
    pub class: FailureClass,
    /// As S3 gave it, or ours in snake case.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// S3's id of the request, for its operators.
    pub request_id: Option<String>,
    /// How long the server asked us to wait; lengthens our own wait.
    pub retry_after: Option<Duration>,
    /// Whether the SDK set out to call S3. What ends without a call gives the breaker no verdict.
    pub called: bool,
}

/// The code of a failure whose dead letter has that reason, and not `permanent`.
pub const FORBIDDEN_SOURCE: &str = "forbidden_source";

impl Failure {
    /// A place that the settings do not allow; `message` names the setting that decides.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::ours(FailureClass::JobLocal, FORBIDDEN_SOURCE, message)
    }

    /// A failure of ours, found without asking S3.
    pub fn ours(class: FailureClass, code: &str, message: impl Into<String>) -> Self {
        Self {
            class,
            code: code.to_owned(),
            message: message.into(),
            request_id: None,
            retry_after: None,
            called: false,
        }
    }

    /// What the breaker hears of it.
    pub const fn verdict(&self) -> Verdict {
        if self.called {
            self.class.policy().verdict
        } else {
            Verdict::Neutral
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RESILIENCE.md, row by row.
    #[test]
    fn the_failure_table_is_the_documents() {
        let rows = [
            ("throttled", Retry::Yes, Verdict::Failure, Then::Park),
            ("unavailable", Retry::Yes, Verdict::Failure, Then::Park),
            ("timed_out", Retry::Yes, Verdict::Failure, Then::Park),
            ("conflict", Retry::Yes, Verdict::Success, Then::Park),
            (
                "credentials",
                Retry::No,
                Verdict::Failure,
                Then::ParkForever,
            ),
            ("permanent", Retry::No, Verdict::Success, Then::Bury),
            ("misrouted", Retry::No, Verdict::Failure, Then::ParkForever),
            ("unreadable", Retry::Once, Verdict::Neutral, Then::BuryReads),
            ("job_local", Retry::No, Verdict::Neutral, Then::Bury),
            ("cancelled", Retry::No, Verdict::Neutral, Then::Requeue),
        ];
        assert_eq!(rows.len(), FailureClass::ALL.len());
        for (class, (name, retry, verdict, exhausted)) in FailureClass::ALL.into_iter().zip(rows) {
            assert_eq!((class.as_str(), class.to_string().as_str()), (name, name));
            assert_eq!(FailureClass::parse(name), Some(class));
            assert_eq!(
                class.policy(),
                Policy {
                    retry,
                    verdict,
                    exhausted
                },
                "{name}"
            );
        }
    }

    /// The table of docs/explanation/s3-resilience.md says the same, row by row.
    #[test]
    fn the_failure_table_of_the_docs_is_this_one() {
        let page = include_str!("../../docs/explanation/s3-resilience.md");
        let (_, table) = page.split_once("| class | examples |").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), FailureClass::ALL.len());
        for (class, row) in FailureClass::ALL.into_iter().zip(rows) {
            let Policy {
                retry,
                verdict,
                exhausted,
            } = class.policy();
            let retry = match retry {
                Retry::Yes => "yes",
                Retry::Once => "once",
                Retry::No => "no",
            };
            let verdict = match verdict {
                Verdict::Success => "success",
                Verdict::Failure => "failure",
                Verdict::Neutral => "neutral",
            };
            let then = match exhausted {
                Then::Park => "park",
                Then::ParkForever => "park without an age limit",
                Then::Bury => "bury",
                Then::BuryReads => "a read is buried, a write is parked",
                Then::Requeue => "requeue",
            };
            let name = format!("`{class}`");
            assert_eq!(row[0], name);
            assert_eq!(row[2..], [retry, verdict, then], "{class}");
        }
    }

    #[test]
    fn what_ended_without_a_call_gives_no_verdict() {
        let mut failure = Failure::ours(Unavailable, "x", "y");
        assert_eq!(failure.verdict(), Verdict::Neutral);
        failure.called = true;
        assert_eq!(failure.verdict(), Verdict::Failure);
    }
}
