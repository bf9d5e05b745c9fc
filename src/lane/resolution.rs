//! What is left to do with a delivery once its outcome is known: settlement, report, and the headers
//! that a copy carries. Pure; `settlement.rs` acts on it.

use super::{LaneContext, run::Run};
use crate::{
    job::{
        Failure, FailureClass, Job, Message, Outcome, Report, RequestDigest, Settlement, State,
        Timestamp,
        failure::Then,
        message::header,
        outcome::{DeadReason, History, ParkDelay, ParkReason, RequeueReason},
        report::ReportedError,
        wire::BadJob,
    },
    ledger::{Fence, JobRecord, Taken},
    resilience::Held,
    storage::ReplyBody,
};

/// The outcome of a delivery whose job ran before, or runs now.
pub(super) const DUPLICATE: &str = "duplicate";
/// The code of what waits for another request of its id to end.
pub(super) const ID_IN_USE: &str = "id_in_use";

/// Everything that is left to do with a delivery once the ledger has its word.
#[derive(Debug)]
pub(super) struct Resolution {
    pub(super) settlement: Settlement,
    /// For `brigade_jobs_total`.
    pub(super) outcome: &'static str,
    /// What producers are told, if this is final.
    pub(super) report: Option<Report>,
    pub(super) body: Option<ReplyBody>,
    /// The memory that report and body take.
    pub(super) held: Option<Box<Held>>,
    /// For the headers of a copy.
    pub(super) facts: CopyFacts,
    /// To note the burial with, once the letter is confirmed.
    pub(super) row: Option<Fence>,
    pub(super) standing: Standing,
}

/// How a delivery stands to the job of its id. The digest is that of the request which the job's row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The job has not ended, or has no row.
    Open,
    /// The id is another request's, whose end this delivery has waited for too long.
    Refused,
    /// This delivery ended the job.
    Ended(Option<RequestDigest>),
    /// The job had ended before.
    Repeated(Option<RequestDigest>),
}

impl Standing {
    /// Whether this delivery says how the job of its id ended.
    pub(super) const fn is_an_end(self) -> bool {
        matches!(self, Self::Ended(_) | Self::Repeated(_))
    }

    /// Whether the job that ended is known to be another request than this one.
    pub(super) fn differs_from(self, job: &Job) -> bool {
        match self {
            Self::Open | Self::Refused => false,
            Self::Ended(digest) | Self::Repeated(digest) => {
                digest.is_some_and(|digest| digest != job.digest)
            }
        }
    }
}

/// What a copy tells of its job's past.
#[derive(Debug, Clone, Default)]
pub(super) struct CopyFacts {
    pub(super) attempts: u32,
    parks: u32,
    /// Outside of runs, which no row counts.
    panics: u32,
    first_seen: Option<Timestamp>,
    pub(super) code: Option<String>,
    pub(super) error: Option<String>,
}

impl Resolution {
    /// The job ran, and its outcome is in the row.
    pub(super) fn ran(run: Run, row: &JobRecord, taken: Taken) -> Self {
        let failure = run.outcome.failure();
        Self {
            settlement: run.outcome.settlement(),
            outcome: run.outcome.state().as_str(),
            facts: CopyFacts {
                attempts: run.attempts,
                parks: row.parks,
                panics: 0,
                first_seen: Some(taken.enqueued_at),
                code: failure.map(|failure| failure.code.clone()),
                error: failure.map(|failure| failure.message.clone()),
            },
            report: run.outcome.state().is_final().then(|| Report {
                // The row keeps only counts of a list; the producer gets all of it.
                result: run.outcome.result().map(|result| result.to_json()),
                ..row.report()
            }),
            body: run.body,
            held: run.held,
            row: Some(taken.fence),
            standing: if run.outcome.state().is_final() {
                Standing::Ended(row.digest)
            } else {
                Standing::Open
            },
        }
    }

    /// Everybody has the answer, or will not get it: its memory is not held until the broker has the ack as well.
    pub(super) fn forget_answer(&mut self) {
        (self.report, self.body, self.held) = (None, None, None);
    }

    /// A finished job was run once more for its answer; the row stays as it is, and there is no letter.
    pub(super) fn rerun(job: &Job, row: &JobRecord, run: Run) -> Self {
        let (settlement, report) = match &run.outcome {
            Outcome::Completed(result) => {
                let report = Report {
                    result: Some(result.to_json()),
                    ..row.report()
                };
                (Settlement::Ack, Some(report))
            }
            Outcome::DeadLettered(_, failure) | Outcome::Abandoned(failure) => {
                let report = Report {
                    outcome: State::DeadLettered.as_str().to_owned(),
                    result: None,
                    error: Some(ReportedError::from(failure)),
                    ..row.report()
                };
                (Settlement::Ack, Some(report))
            }
            other => (other.settlement(), None),
        };
        let facts = CopyFacts {
            parks: row.parks.max(job.carried.parks) + u32::from(run.outcome.raises_parks()),
            ..CopyFacts::of(row)
        };
        Self {
            settlement,
            outcome: DUPLICATE,
            standing: match report {
                Some(_) => Standing::Repeated(row.digest),
                None => Standing::Open,
            },
            report,
            body: run.body,
            held: run.held,
            facts,
            row: None,
        }
    }

    /// Completed or abandoned before: answer again, nothing else.
    pub(super) fn finished_before(row: &JobRecord) -> Self {
        Self {
            settlement: Settlement::Ack,
            outcome: DUPLICATE,
            report: Some(row.report()),
            body: None,
            held: None,
            facts: CopyFacts::of(row),
            row: None,
            standing: Standing::Repeated(row.digest),
        }
    }

    /// Dead-lettered before; `buried` when its letter is known to be in the dead queue. What asks for something else
    /// is never that letter; a letter that was moved here by hand goes back in any case.
    pub(super) fn dead_before(row: &JobRecord, job: &Job, buried: bool, fence: Fence) -> Self {
        let is_its_letter = !row.is_for_another(&job.digest);
        let bury = job.carried.was_dead || (is_its_letter && !buried);
        // The row keeps class and code, not the reason: the three that a row can have follow from them.
        let code = row.error.as_ref().map(|error| error.code.as_str());
        let class = row
            .error
            .as_ref()
            .and_then(|error| FailureClass::parse(&error.class));
        let reason = match (class, code) {
            (_, Some("panic" | "worker_died")) => DeadReason::Poison,
            (_, Some("forbidden_source")) => DeadReason::ForbiddenSource,
            (None, _) => DeadReason::Permanent,
            (Some(class), _) => match class.policy().exhausted.in_lane(row.lane) {
                Then::Bury => DeadReason::Permanent,
                _ => DeadReason::Expired,
            },
        };
        let before = Self::finished_before(row);
        if !bury {
            return before;
        }
        Self {
            settlement: Settlement::Bury(reason),
            row: is_its_letter.then_some(fence),
            ..before
        }
    }

    /// Another worker runs it: come back later. Not the job's fault, so its counts stay.
    pub(super) fn leased_elsewhere(job: &Job, now: Timestamp) -> Self {
        Self {
            settlement: Settlement::Park(ParkDelay::TenSeconds, ParkReason::Leased),
            outcome: State::Retrying.as_str(),
            report: None,
            body: None,
            held: None,
            facts: CopyFacts {
                attempts: job.carried.attempts,
                parks: job.carried.parks,
                first_seen: Some(job.enqueued_at(now)),
                ..CopyFacts::default()
            },
            row: None,
            standing: Standing::Open,
        }
    }

    /// The id belongs to another request, which has not ended: this one is never run, and waits on the ladder for
    /// that one's end, to be answered then. Its own age limits how long.
    pub(super) fn other_request(lane: &LaneContext, job: &Job, now: Timestamp) -> Self {
        let message = "its id belongs to another request, which has not ended; this one is not run";
        let failure = Failure::ours(FailureClass::Conflict, ID_IN_USE, message);
        let history = History {
            lane: lane.lane,
            parks: job.carried.parks,
            panics: 0,
            age_from: job.carried.replayed_at.unwrap_or(job.enqueued_at(now)),
        };
        let outcome = history.after(failure, now, lane.limits.max_job_age);
        let state = outcome.state();
        let failure = outcome.failure().filter(|_| state.is_final());
        let standing = match failure {
            Some(_) => Standing::Refused,
            None => Standing::Open,
        };
        Self {
            settlement: outcome.settlement(),
            outcome: DUPLICATE,
            report: failure.map(|failure| unrecorded(lane, job, state, failure, now)),
            body: None,
            held: None,
            facts: CopyFacts {
                attempts: job.carried.attempts,
                parks: job.carried.parks + 1,
                panics: 0,
                first_seen: Some(job.enqueued_at(now)),
                code: Some(ID_IN_USE.to_owned()),
                error: Some(message.to_owned()),
            },
            row: None,
            standing,
        }
    }

    /// It waited in hand for so long that it could not end in time: it comes again as a new delivery. Not the
    /// job's fault, so its counts stay.
    pub(super) fn waited_too_long(job: &Job, now: Timestamp) -> Self {
        Self {
            settlement: Settlement::Park(ParkDelay::TenSeconds, ParkReason::Deadline),
            ..Self::leased_elsewhere(job, now)
        }
    }

    /// Its task panicked outside of the job's run, so many times so far. Nothing more is known of it than what
    /// the message carries.
    pub(super) fn panicked(message: &Message, panics: u32) -> Self {
        let first_seen = message.text(header::FIRST_SEEN);
        let delay = if panics < 2 {
            ParkDelay::TenSeconds
        } else {
            ParkDelay::OneMinute
        };
        Self {
            settlement: Settlement::Park(delay, ParkReason::Panic),
            outcome: State::Retrying.as_str(),
            report: None,
            body: None,
            held: None,
            facts: CopyFacts {
                attempts: message.count(header::ATTEMPTS).unwrap_or(0),
                parks: message.count(header::PARKS).unwrap_or(0),
                panics,
                first_seen: first_seen.and_then(Timestamp::parse_rfc3339),
                code: Some("panic".to_owned()),
                error: None,
            },
            row: None,
            standing: Standing::Open,
        }
    }

    /// Nothing was begun, or nothing could be recorded: back to the queue as it came.
    pub(super) fn unclaimed(reason: RequeueReason) -> Self {
        Self {
            settlement: Settlement::Requeue(reason),
            outcome: State::Requeued.as_str(),
            report: None,
            body: None,
            held: None,
            facts: CopyFacts::default(),
            row: None,
            standing: Standing::Open,
        }
    }

    /// The message is no job: its letter and its reply are all there is of it (RESILIENCE.md, event 3).
    pub(super) fn bad_job(
        lane: &LaneContext,
        bad: &BadJob,
        message: &Message,
        now: Timestamp,
    ) -> Self {
        let first_seen = message
            .text(header::FIRST_SEEN)
            .and_then(Timestamp::parse_rfc3339);
        let first_seen = first_seen.unwrap_or(now);
        let code = bad.reason.as_str().to_owned();
        let report = Report {
            id: bad.known.id.as_ref().map(ToString::to_string),
            lane: lane.lane.to_string(),
            operation: bad.known.operation.map(|name| name.as_str().to_owned()),
            bucket: bad.known.bucket.clone(),
            key: bad.known.key.clone(),
            outcome: State::DeadLettered.as_str().to_owned(),
            attempts: 0,
            result: None,
            error: Some(ReportedError {
                class: FailureClass::JobLocal.as_str().to_owned(),
                code: code.clone(),
                message: bad.message.clone(),
                request_id: None,
            }),
            enqueued_at: Some(first_seen),
            started_at: None,
            finished_at: Some(now),
            worker: Some(lane.worker.to_string()),
            repeated: false,
            differs: false,
            ignored: Vec::new(),
        };
        Self {
            settlement: Settlement::Bury(bad.reason),
            outcome: State::DeadLettered.as_str(),
            report: Some(report),
            body: None,
            held: None,
            facts: CopyFacts {
                first_seen: Some(first_seen),
                code: Some(code),
                error: Some(bad.message.clone()),
                ..CopyFacts::default()
            },
            row: None,
            standing: Standing::Open,
        }
    }

    /// The database refuses this row for good: one message never stops a fleet.
    pub(super) fn refused_by_ledger(
        lane: &LaneContext,
        job: &Job,
        why: &str,
        now: Timestamp,
    ) -> Self {
        let message = format!("the ledger refuses this job: {why}");
        let failure = Failure::ours(FailureClass::Permanent, "ledger_refused", message);
        let report = unrecorded(lane, job, State::DeadLettered, &failure, now);
        Self {
            settlement: Settlement::Bury(DeadReason::Permanent),
            outcome: State::DeadLettered.as_str(),
            report: Some(report),
            body: None,
            held: None,
            facts: CopyFacts {
                attempts: job.carried.attempts,
                parks: job.carried.parks,
                panics: 0,
                first_seen: Some(job.enqueued_at(now)),
                code: Some(failure.code),
                error: Some(failure.message),
            },
            row: None,
            standing: Standing::Open,
        }
    }
}

/// What is told of a job that has no row to tell of.
fn unrecorded(
    lane: &LaneContext,
    job: &Job,
    outcome: State,
    failure: &Failure,
    now: Timestamp,
) -> Report {
    Report {
        id: Some(job.id.to_string()),
        lane: lane.lane.to_string(),
        operation: Some(job.operation.name().as_str().to_owned()),
        bucket: Some(job.operation.bucket().to_owned()),
        key: job.operation.key().map(str::to_owned),
        outcome: outcome.as_str().to_owned(),
        attempts: job.carried.attempts,
        result: None,
        error: Some(ReportedError::from(failure)),
        enqueued_at: Some(job.enqueued_at(now)),
        started_at: None,
        finished_at: Some(now),
        worker: Some(lane.worker.to_string()),
        repeated: false,
        differs: false,
        ignored: Vec::new(),
    }
}

impl CopyFacts {
    fn of(row: &JobRecord) -> Self {
        Self {
            attempts: row.attempts,
            parks: row.parks,
            panics: 0,
            first_seen: Some(row.enqueued_at),
            code: row.error.as_ref().map(|error| error.code.clone()),
            error: row.error.as_ref().map(|error| error.message.clone()),
        }
    }

    /// A copy of `message` for the retry queue.
    pub(super) fn parked(&self, message: &Message) -> Message {
        let mut copy = message
            .copy()
            .with_count(header::ATTEMPTS, self.attempts)
            .with_count(header::PARKS, self.parks);
        if self.panics > 0 {
            copy = copy.with_count(header::PANICS, self.panics);
        }
        if let Some(time) = self.first_seen {
            copy = copy.with_text(header::FIRST_SEEN, time.to_string());
        }
        match &self.code {
            Some(code) => copy.with_text(header::ERROR_CODE, code),
            None => copy,
        }
    }

    /// A copy of `message` for the dead queue.
    pub(super) fn dead(&self, message: &Message, reason: DeadReason, now: Timestamp) -> Message {
        let replays = message.count(header::REPLAY).unwrap_or(0);
        self.parked(message)
            .with_text(header::REASON, reason.as_str())
            .with_text(header::ERROR, self.error.clone().unwrap_or_default())
            .with_text(header::DEAD_AT, now.to_string())
            .with_count(header::REPLAY, replays)
    }
}
