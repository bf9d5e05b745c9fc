//! The vocabulary: what a job is, which lane it rides in, what can go wrong and what follows.
//!
//! Everything here is pure: no I/O, no clock, no Tokio. A decoded [`Job`] is valid, so later stages
//! check nothing again. This module refuses to know how messages travel (`broker`), where outcomes
//! are kept (`ledger`) and how S3 is called (`storage`).

pub mod attempts;
pub mod call;
pub mod digest;
pub mod failure;
mod fields;
pub mod message;
pub mod operation;
pub mod options;
pub mod outcome;
pub mod place;
pub mod report;
mod requests;
pub mod result;
pub(crate) mod text_form;
pub mod timestamp;
pub mod upload;
pub mod wire;

use std::{fmt, sync::Arc};

pub use attempts::{AttemptLog, FailedAttempt};
pub use call::CallName;
pub use digest::RequestDigest;
pub use failure::{Failure, FailureClass};
pub use message::{HeaderValue, Message};
pub use operation::{Operation, OperationName};
pub use options::Headers;
pub use outcome::{Outcome, Settlement, State};
pub use report::Report;
pub use result::JobResult;
pub use timestamp::Timestamp;
pub use upload::{BegunUpload, SaidDigest, SaidDigests, UploadNote};

/// The identity of a job: 1 to 128 characters of `A-Z a-z 0-9 . _ : -`. The same id is the same job.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// Longest id, in characters.
    pub const MAX_LEN: usize = 128;

    /// Reads an id; the error is a sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(format!(
                "message_id must be 1 to {} characters, but has {}",
                Self::MAX_LEN,
                text.chars().count()
            ));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        match text.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(format!(
                "message_id may hold A-Z a-z 0-9 . _ : - only, but holds {c:?}"
            )),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// A new id: a `UUIDv7`. For the edges only, as it asks the clock.
    pub fn fresh() -> Self {
        Self(Arc::from(uuid::Uuid::now_v7().to_string()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One queue with its consumer, its prefetch, its concurrency limit and, but for cleanup, its breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Writes objects; guarded by the upload circuit.
    Upload,
    /// Reads objects and lists buckets; guarded by the download circuit.
    Read,
    /// Best-effort deletes of low priority; no breaker, on purpose.
    Cleanup,
}

impl Lane {
    /// Every lane, in the order in which people are shown them.
    pub const ALL: [Self; 3] = [Self::Upload, Self::Read, Self::Cleanup];

    /// The name in queues, routing keys, settings and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Read => "read",
            Self::Cleanup => "cleanup",
        }
    }

    /// The lane of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == name)
    }

    /// The circuit that guards the lane's S3 calls; cleanup has none.
    pub const fn circuit(self) -> Option<Circuit> {
        match self {
            Self::Upload => Some(Circuit::Upload),
            Self::Read => Some(Circuit::Download),
            Self::Cleanup => None,
        }
    }

    /// Position in [`Lane::ALL`], for tables indexed by lane.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A direction of S3 traffic that has a circuit breaker of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Circuit {
    /// Guards the upload lane.
    Upload,
    /// Guards the read lane.
    Download,
}

impl Circuit {
    /// Both circuits.
    pub const ALL: [Self; 2] = [Self::Upload, Self::Download];

    /// The name in labels, commands and `/api/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// The circuit of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|circuit| circuit.as_str() == name)
    }
}

/// A unit of intent: one operation on S3 with one identity. Survives redelivery and replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The same id is the same job: it takes effect once.
    pub id: JobId,
    /// What to do, fully validated.
    pub operation: Operation,
    /// What all of its requests say, such as who pays.
    pub headers: Headers,
    /// Of both: whether another delivery of the id asks for the same.
    pub digest: RequestDigest,
    /// Fields of the message that this version does not know, as dotted paths in their order; bounded.
    pub ignored: Vec<String>,
    /// The queue that wants the result, if any.
    pub reply_to: Option<String>,
    /// What the result is to be correlated with; the job id when absent.
    pub correlation_id: Option<String>,
    /// When the producer published it, when that is believable.
    pub published_at: Option<Timestamp>,
    /// What earlier deliveries wrote into the headers of our own copies.
    pub carried: Carried,
}

impl Job {
    /// When it was enqueued: the producer's word, or else the first time a worker saw it. Never after that time:
    /// a producer's clock that is ahead would make the job younger than it is.
    pub fn enqueued_at(&self, now: Timestamp) -> Timestamp {
        let first_seen = self.carried.first_seen.map_or(now, |seen| seen.min(now));
        self.published_at
            .map_or(first_seen, |published| published.min(first_seen))
    }
}

/// Our own headers on a delivery: what a parked or replayed copy remembers. The ledger's counts win over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// S3 calls made so far.
    pub attempts: u32,
    /// Steps taken on the parking ladder.
    pub parks: u32,
    /// When a worker saw the job first.
    pub first_seen: Option<Timestamp>,
    /// How many times an operator replayed it.
    pub replay: u32,
    /// When the last replay was.
    pub replayed_at: Option<Timestamp>,
    /// The delivery is a dead letter that was moved here by other means than our tools.
    pub was_dead: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_128_plain_characters() {
        for good in ["a", "0192-ab:c_d.E", &"x".repeat(128)] {
            assert_eq!(
                JobId::parse(good).map(|id| id.as_str().to_owned()),
                Ok(good.to_owned())
            );
        }
        for bad in ["", &"x".repeat(129), "a b", "ä", "a/b", "a\n"] {
            assert!(JobId::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn cleanup_rides_without_a_circuit() {
        assert_eq!(Lane::Cleanup.circuit(), None);
        assert_eq!(Lane::Read.circuit(), Some(Circuit::Download));
        assert_eq!(Lane::Upload.circuit(), Some(Circuit::Upload));
    }

    #[test]
    fn a_job_was_enqueued_before_a_worker_saw_it() {
        let at = Timestamp::from_micros;
        let table = [
            (None, None, 100),
            (Some(50), None, 50),
            (Some(150), None, 100),
            (None, Some(80), 80),
            (Some(50), Some(80), 50),
            (Some(90), Some(80), 80),
            (Some(150), Some(120), 100),
        ];
        for (published, seen, expected) in table {
            let operation = Operation::DeletePrefix(operation::DeletePrefix {
                bucket: "b".to_owned(),
                prefix: "p".to_owned(),
            });
            let job = Job {
                id: JobId::fresh(),
                digest: RequestDigest::of(&operation, &Headers::default()),
                operation,
                headers: Headers::default(),
                ignored: Vec::new(),
                reply_to: None,
                correlation_id: None,
                published_at: published.map(at),
                carried: Carried {
                    first_seen: seen.map(at),
                    ..Carried::default()
                },
            };
            assert_eq!(
                job.enqueued_at(at(100)),
                at(expected),
                "{published:?}, {seen:?}"
            );
        }
    }
}
