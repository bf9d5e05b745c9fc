//! The last word on one delivery, and what follows from it for broker, ledger and metrics.
//!
//! Pure functions on values: no outcome is acted on here. The parking ladder, the age limit and the
//! poison limits of RESILIENCE.md are decided in this file and nowhere else.

use std::time::Duration;

use super::{
    Failure, FailureClass, JobResult, Lane, Timestamp,
    failure::{FORBIDDEN_SOURCE, Retry, Then},
};

/// What a job's row in the ledger says: passing states first, final ones last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the names are those of the contract, section 3"
)]
pub enum State {
    Running,
    Retrying,
    Requeued,
    Interrupted,
    Completed,
    DeadLettered,
    Abandoned,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Retrying,
        Self::Requeued,
        Self::Interrupted,
        Self::Completed,
        Self::DeadLettered,
        Self::Abandoned,
    ];

    /// As in the ledger, in labels and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Requeued => "requeued",
            Self::Interrupted => "interrupted",
            Self::Completed => "completed",
            Self::DeadLettered => "dead_lettered",
            Self::Abandoned => "abandoned",
        }
    }

    /// The state of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether nothing but an operator's replay can change it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::DeadLettered | Self::Abandoned)
    }
}

/// Why a letter is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of the contract, sections 2 and 3"
)]
pub enum DeadReason {
    Malformed,
    Unsupported,
    WrongLane,
    ForbiddenSource,
    Permanent,
    Expired,
    Poison,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Unsupported,
        Self::WrongLane,
        Self::ForbiddenSource,
        Self::Permanent,
        Self::Expired,
        Self::Poison,
    ];

    /// As in header `brigade-reason` and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::WrongLane => "wrong_lane",
            Self::ForbiddenSource => "forbidden_source",
            Self::Permanent => "permanent",
            Self::Expired => "expired",
            Self::Poison => "poison",
        }
    }
}

/// Why a delivery goes back to its queue as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of the contract, section 5"
)]
pub enum RequeueReason {
    CircuitOpen,
    Drain,
    LedgerDown,
    /// Jobs panic one after the other, so it is the worker's fault.
    Panic,
}

impl RequeueReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::CircuitOpen,
        Self::Drain,
        Self::LedgerDown,
        Self::Panic,
    ];

    /// As in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::Drain => "drain",
            Self::LedgerDown => "ledger_down",
            Self::Panic => "panic",
        }
    }
}

/// Why a job is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParkReason {
    /// A failure used up its attempts.
    Failed(FailureClass),
    /// Another worker holds the job's lease.
    Leased,
    /// The job's deadline passed.
    Deadline,
    /// The job panicked.
    Panic,
    /// It panicked as the jobs before it did, so it is the worker's fault: it costs the job nothing.
    WorkersPanic,
}

impl ParkReason {
    /// Every reason with a label of its own: the classes that park, then ours.
    pub fn all() -> impl Iterator<Item = Self> {
        FailureClass::ALL
            .into_iter()
            .filter(|class| !matches!(class.policy().exhausted, Then::Bury | Then::Requeue))
            .map(Self::Failed)
            .chain([Self::Leased, Self::Deadline, Self::Panic])
    }

    /// As in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed(class) => class.as_str(),
            Self::Leased => "leased",
            Self::Deadline => "deadline",
            Self::Panic | Self::WorkersPanic => "panic",
        }
    }
}

/// The delays there is a retry queue for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ParkDelay {
    TenSeconds,
    OneMinute,
    TenMinutes,
}

impl ParkDelay {
    /// Every delay.
    pub const ALL: [Self; 3] = [Self::TenSeconds, Self::OneMinute, Self::TenMinutes];

    /// Milliseconds, as in the queue's name.
    pub const fn millis(self) -> u32 {
        match self {
            Self::TenSeconds => 10_000,
            Self::OneMinute => 60_000,
            Self::TenMinutes => 600_000,
        }
    }

    /// The same as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis() as u64)
    }

    /// The ladder: the delay after `parks` earlier parks. Cleanup starts one step down.
    pub const fn step(lane: Lane, parks: u32) -> Self {
        match (lane, parks) {
            (Lane::Upload | Lane::Read, 0) => Self::TenSeconds,
            (Lane::Cleanup, 0) | (Lane::Upload | Lane::Read, 1) => Self::OneMinute,
            _ => Self::TenMinutes,
        }
    }
}

/// How a delivery is settled. Says what; the broker's adapter knows how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done with.
    Ack,
    /// Back to the queue, only ever with our own consumer on it cancelled.
    Requeue(RequeueReason),
    /// A confirmed copy to the retry queue of that delay, then ack.
    Park(ParkDelay, ParkReason),
    /// A confirmed copy to the dead queue, then ack.
    Bury(DeadReason),
}

/// The last word on one delivery. Total: panic, time-out, drain and bad input all end here.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It took effect.
    Completed(JobResult),
    /// It never will.
    DeadLettered(DeadReason, Failure),
    /// A cleanup job given up on, by design.
    Abandoned(Failure),
    /// To be tried again after a delay.
    Retrying(ParkDelay, ParkReason, Failure),
    /// Given back without a fault of its own; the failure is what it had met before, if anything.
    Requeued(RequeueReason),
    /// Stopped by drain; costs nothing.
    Interrupted,
}

impl Outcome {
    /// What the ledger's row says.
    pub const fn state(&self) -> State {
        match self {
            Self::Completed(_) => State::Completed,
            Self::DeadLettered(..) => State::DeadLettered,
            Self::Abandoned(_) => State::Abandoned,
            Self::Retrying(..) => State::Retrying,
            Self::Requeued(_) => State::Requeued,
            Self::Interrupted => State::Interrupted,
        }
    }

    /// What the broker is told.
    pub const fn settlement(&self) -> Settlement {
        match self {
            Self::Completed(_) | Self::Abandoned(_) => Settlement::Ack,
            Self::DeadLettered(reason, _) => Settlement::Bury(*reason),
            Self::Retrying(delay, reason, _) => Settlement::Park(*delay, *reason),
            Self::Requeued(reason) => Settlement::Requeue(*reason),
            Self::Interrupted => Settlement::Requeue(RequeueReason::Drain),
        }
    }

    /// What went wrong, if anything did.
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::DeadLettered(_, failure)
            | Self::Abandoned(failure)
            | Self::Retrying(_, _, failure) => Some(failure),
            Self::Completed(_) | Self::Requeued(_) | Self::Interrupted => None,
        }
    }

    /// What became of it, if it completed.
    pub const fn result(&self) -> Option<&JobResult> {
        match self {
            Self::Completed(result) => Some(result),
            _ => None,
        }
    }

    /// Whether the job's park counter rises: a foreign lease or the worker's own fault is not the job's.
    pub const fn raises_parks(&self) -> bool {
        matches!(self, Self::Retrying(_, reason, _)
            if !matches!(reason, ParkReason::Leased | ParkReason::WorkersPanic))
    }
}

/// What a job has behind it when a failure must be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The lane whose rules apply.
    pub lane: Lane,
    /// Steps taken on the parking ladder.
    pub parks: u32,
    /// Panics counted in the row, this one included.
    pub panics: u32,
    /// Its age counts from here: publish, first sight, or the last replay.
    pub age_from: Timestamp,
}

/// Whether a run leaves something that the next one need not do again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It begins at the beginning.
    None,
    /// It finished parts of an upload.
    Parts,
}

/// The fifth panic buries a job.
pub const MAX_PANICS: u32 = 5;
/// The sixth claim that its worker never finished buries a job.
pub const MAX_UNFINISHED_CLAIMS: u32 = 6;
/// From this many unfinished claims on, a job runs only while no other suspect does.
pub const SUSPECT_AFTER: u32 = 3;

impl History {
    /// What becomes of a job that failed with no attempt left.
    pub fn after(self, failure: Failure, now: Timestamp, max_age: Duration) -> Outcome {
        let class = failure.class;
        let too_old = now.since(self.age_from) >= max_age;
        match class.policy().exhausted.in_lane(self.lane) {
            Then::Bury if failure.code == FORBIDDEN_SOURCE && class == FailureClass::JobLocal => {
                Outcome::DeadLettered(DeadReason::ForbiddenSource, failure)
            }
            Then::Bury | Then::BuryReads => Outcome::DeadLettered(DeadReason::Permanent, failure),
            Then::Requeue => Outcome::Interrupted,
            Then::Park | Then::ParkForever if self.lane == Lane::Cleanup && too_old => {
                Outcome::Abandoned(failure)
            }
            Then::Park if too_old => Outcome::DeadLettered(DeadReason::Expired, failure),
            Then::Park | Then::ParkForever => self.park(ParkReason::Failed(class), failure),
        }
    }

    /// What becomes of a job that panicked; `panics` counts this one.
    pub fn after_panic(self, failure: Failure) -> Outcome {
        if self.panics >= MAX_PANICS {
            Outcome::DeadLettered(DeadReason::Poison, failure)
        } else {
            self.park(ParkReason::Panic, failure)
        }
    }

    /// What becomes of a job that panicked as those before it did.
    pub fn after_workers_panic(self, failure: Failure) -> Outcome {
        self.park(ParkReason::WorkersPanic, failure)
    }

    /// What becomes of a job that was stopped at its deadline. One that gets on is never too old: it goes on
    /// from where it was stopped.
    pub fn after_deadline(
        self,
        failure: Failure,
        now: Timestamp,
        max_age: Duration,
        progress: Progress,
    ) -> Outcome {
        let too_old = progress == Progress::None && now.since(self.age_from) >= max_age;
        match (self.lane, too_old) {
            (_, false) => self.park(ParkReason::Deadline, failure),
            (Lane::Cleanup, true) => Outcome::Abandoned(failure),
            (Lane::Upload | Lane::Read, true) => {
                Outcome::DeadLettered(DeadReason::Expired, failure)
            }
        }
    }

    fn park(self, reason: ParkReason, failure: Failure) -> Outcome {
        Outcome::Retrying(ParkDelay::step(self.lane, self.parks), reason, failure)
    }
}

impl FailureClass {
    /// Whether the same call is worth another try in place.
    pub const fn is_retried(self) -> bool {
        !matches!(self.policy().retry, Retry::No)
    }
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
