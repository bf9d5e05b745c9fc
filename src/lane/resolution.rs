//! What is left to do with a delivery once its outcome is known: settlement, report, and the headers
//! that a copy carries. Pure; `settlement.rs` acts on it.

use super::{LaneContext, run::Run};
use crate::{
    job::{
        Failure, FailureClass, Job, Message, Outcome, Report, Settlement, State, Timestamp,
        message::header,
        outcome::{DeadReason, ParkDelay, ParkReason, RequeueReason},
        report::ReportedError,
        wire::BadJob,
    },
    ledger::{Fence, JobRecord, Taken},
    storage::ReplyBody,
};

/// The outcome of a delivery whose job ran before, or runs now.
pub(super) const DUPLICATE: &str = "duplicate";

/// Everything that is left to do with a delivery once the ledger has its word.
#[derive(Debug)]
pub(super) struct Resolution {
    pub(super) settlement: Settlement,
    /// For `brigade_jobs_total`.
    pub(super) outcome: &'static str,
    /// What producers are told, if this is final.
    pub(super) report: Option<Report>,
    pub(super) body: Option<ReplyBody>,
    /// For the headers of a copy.
    pub(super) facts: CopyFacts,
    /// To note the burial with, once the letter is confirmed.
    pub(super) row: Option<Fence>,
}

/// What a copy tells of its job's past.
#[derive(Debug, Clone, Default)]
pub(super) struct CopyFacts {
    pub(super) attempts: u32,
    parks: u32,
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
            row: Some(taken.fence),
        }
    }

    /// A finished job was run once more for its answer; the row stays as it is, and there is no letter.
    pub(super) fn rerun(row: &JobRecord, run: Run) -> Self {
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
            parks: row.parks + u32::from(run.outcome.raises_parks()),
            ..CopyFacts::of(row)
        };
        Self {
            settlement,
            outcome: DUPLICATE,
            report,
            body: run.body,
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
            facts: CopyFacts::of(row),
            row: None,
        }
    }

    /// Dead-lettered before; `bury` when its letter is not known to be in the dead queue.
    pub(super) fn dead_before(row: &JobRecord, bury: Option<Fence>) -> Self {
        // The row keeps class and code, not the reason: the three that a row can have follow from them.
        let code = row.error.as_ref().map(|error| error.code.as_str());
        let class = row
            .error
            .as_ref()
            .and_then(|error| FailureClass::parse(&error.class));
        let reason = match (class, code) {
            (_, Some("panic" | "worker_died")) => DeadReason::Poison,
            (_, Some("forbidden_source")) => DeadReason::ForbiddenSource,
            (Some(FailureClass::Permanent | FailureClass::JobLocal) | None, _) => {
                DeadReason::Permanent
            }
            (Some(_), _) => DeadReason::Expired,
        };
        let settlement = bury.map_or(Settlement::Ack, |_| Settlement::Bury(reason));
        Self {
            settlement,
            row: bury,
            ..Self::finished_before(row)
        }
    }

    /// Another worker runs it: come back later. Not the job's fault, so its counts stay.
    pub(super) fn leased_elsewhere(job: &Job, now: Timestamp) -> Self {
        Self {
            settlement: Settlement::Park(ParkDelay::TenSeconds, ParkReason::Leased),
            outcome: State::Retrying.as_str(),
            report: None,
            body: None,
            facts: CopyFacts {
                attempts: job.carried.attempts,
                parks: job.carried.parks,
                first_seen: Some(job.enqueued_at(now)),
                ..CopyFacts::default()
            },
            row: None,
        }
    }

    /// Nothing was begun, or nothing could be recorded: back to the queue as it came.
    pub(super) fn unclaimed(reason: RequeueReason) -> Self {
        Self {
            settlement: Settlement::Requeue(reason),
            outcome: State::Requeued.as_str(),
            report: None,
            body: None,
            facts: CopyFacts::default(),
            row: None,
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
        };
        Self {
            settlement: Settlement::Bury(bad.reason),
            outcome: State::DeadLettered.as_str(),
            report: Some(report),
            body: None,
            facts: CopyFacts {
                first_seen: Some(first_seen),
                code: Some(code),
                error: Some(bad.message.clone()),
                ..CopyFacts::default()
            },
            row: None,
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
        let report = Report {
            id: Some(job.id.to_string()),
            lane: lane.lane.to_string(),
            operation: Some(job.operation.name().as_str().to_owned()),
            bucket: Some(job.operation.bucket().to_owned()),
            key: job.operation.key().map(str::to_owned),
            outcome: State::DeadLettered.as_str().to_owned(),
            attempts: job.carried.attempts,
            result: None,
            error: Some(ReportedError::from(&failure)),
            enqueued_at: Some(job.enqueued_at(now)),
            started_at: None,
            finished_at: Some(now),
            worker: Some(lane.worker.to_string()),
        };
        Self {
            settlement: Settlement::Bury(DeadReason::Permanent),
            outcome: State::DeadLettered.as_str(),
            report: Some(report),
            body: None,
            facts: CopyFacts {
                attempts: job.carried.attempts,
                parks: job.carried.parks,
                first_seen: Some(job.enqueued_at(now)),
                code: Some(failure.code),
                error: Some(failure.message),
            },
            row: None,
        }
    }
}

impl CopyFacts {
    fn of(row: &JobRecord) -> Self {
        Self {
            attempts: row.attempts,
            parks: row.parks,
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
