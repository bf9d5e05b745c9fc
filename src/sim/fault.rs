//! What can go wrong in a schedule, by name.

use std::fmt;

use crate::{
    job::{Circuit, Lane},
    resilience::circuit_breaker::Mode,
};

/// What S3 does with a request while it is ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weather {
    /// 503 `SlowDown`.
    Throttles,
    /// 503 `SlowDown` with `Retry-After: 3`.
    ThrottlesWithHint,
    /// 500.
    Fails,
    /// The connection is reset before S3 has done anything.
    Resets,
    /// S3 does it, and the connection is reset before its answer.
    LosesAnswers,
    /// Nothing ever comes.
    IsSilent,
    /// S3 does it, and answers after eight seconds.
    IsSlow,
    NoConnection,
    /// 409 `OperationAborted`.
    Conflicts,
    /// 403 `ExpiredToken`.
    Expired,
    /// 403 `AccessDenied`.
    Denies,
    /// 404 `NoSuchBucket`.
    NoBucket,
    /// Something that is no S3 answers 404 with a page.
    Stranger,
    /// 200 with a page, and nothing was done.
    Lies,
    /// Whoever calls panics.
    Panics,
}

impl Weather {
    pub(super) const ALL: [Self; 15] = [
        Self::Throttles,
        Self::ThrottlesWithHint,
        Self::Fails,
        Self::Resets,
        Self::LosesAnswers,
        Self::IsSilent,
        Self::IsSlow,
        Self::NoConnection,
        Self::Conflicts,
        Self::Expired,
        Self::Denies,
        Self::NoBucket,
        Self::Stranger,
        Self::Lies,
        Self::Panics,
    ];
}

/// A queue of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueOf {
    Jobs,
    FirstRetry,
    Dead,
}

/// How one publish of a copy fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Returned,
    Nacked,
    /// The copy stands, and its confirm comes too late.
    LateConfirm,
    /// The copy stands, and the connection breaks before its confirm.
    LostConfirm,
}

/// On which side of a call to the outside its worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Before,
    After,
}

/// One thing that happens. Those with `lasts` milliseconds end by themselves.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    Store {
        weather: Weather,
        /// All lanes without one.
        lane: Option<Lane>,
        /// Of a thousand requests.
        permille: u64,
        lasts: u64,
    },
    ChannelsLost {
        worker: usize,
    },
    Disconnected {
        worker: usize,
        lasts: u64,
    },
    Alarm {
        lasts: u64,
    },
    FullQueue {
        lane: Lane,
        queue: QueueOf,
        lasts: u64,
    },
    MissingQueue {
        lane: Lane,
        queue: QueueOf,
        lasts: u64,
    },
    ConsumersForgotten,
    CopiesRefused {
        refusal: Refusal,
        count: u64,
    },
    AcksLost {
        count: u64,
    },
    LedgerDown {
        lasts: u64,
    },
    CommitsDown {
        lasts: u64,
    },
    LedgerSilent {
        lasts: u64,
    },
    LedgerSlow {
        by: u64,
        lasts: u64,
    },
    LedgerAnswersLost {
        count: u64,
    },
    RowRefused {
        job: usize,
    },
    /// The ledger's clock jumps ahead by more than a lease.
    LeasesRunOut,
    /// The workers' clock jumps, ahead or back.
    ClockAhead {
        by: u64,
    },
    ClockBack {
        by: u64,
    },
    Operator {
        circuit: Circuit,
        mode: Mode,
    },
    WorkerStarts,
    WorkerDrains {
        worker: usize,
    },
    WorkerKilled {
        worker: usize,
    },
    /// At its nth call to broker, ledger or S3 from now on.
    WorkerDies {
        worker: usize,
        call: u64,
        side: Side,
    },
    Panic {
        point: &'static str,
    },
    /// A producer sends a job a second time.
    JobAgain {
        job: usize,
    },
    /// An operator replays all dead letters of a lane.
    Replay {
        lane: Lane,
    },
}

impl Fault {
    /// Names of all kinds, as the coverage report has them.
    pub(super) const KINDS: [&str; 26] = [
        "store",
        "channels lost",
        "disconnected",
        "alarm",
        "full queue",
        "missing queue",
        "consumers forgotten",
        "copies refused",
        "acks lost",
        "ledger down",
        "commits down",
        "ledger silent",
        "ledger slow",
        "ledger answers lost",
        "row refused",
        "leases run out",
        "clock ahead",
        "clock back",
        "operator",
        "worker starts",
        "worker drains",
        "worker killed",
        "worker dies",
        "panic",
        "job again",
        "replay",
    ];

    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Store { .. } => "store",
            Self::ChannelsLost { .. } => "channels lost",
            Self::Disconnected { .. } => "disconnected",
            Self::Alarm { .. } => "alarm",
            Self::FullQueue { .. } => "full queue",
            Self::MissingQueue { .. } => "missing queue",
            Self::ConsumersForgotten => "consumers forgotten",
            Self::CopiesRefused { .. } => "copies refused",
            Self::AcksLost { .. } => "acks lost",
            Self::LedgerDown { .. } => "ledger down",
            Self::CommitsDown { .. } => "commits down",
            Self::LedgerSilent { .. } => "ledger silent",
            Self::LedgerSlow { .. } => "ledger slow",
            Self::LedgerAnswersLost { .. } => "ledger answers lost",
            Self::RowRefused { .. } => "row refused",
            Self::LeasesRunOut => "leases run out",
            Self::ClockAhead { .. } => "clock ahead",
            Self::ClockBack { .. } => "clock back",
            Self::Operator { .. } => "operator",
            Self::WorkerStarts => "worker starts",
            Self::WorkerDrains { .. } => "worker drains",
            Self::WorkerKilled { .. } => "worker killed",
            Self::WorkerDies { .. } => "worker dies",
            Self::Panic { .. } => "panic",
            Self::JobAgain { .. } => "job again",
            Self::Replay { .. } => "replay",
        }
    }

    /// How long it lasts, in milliseconds; `None` for what is over at once.
    pub(super) const fn lasts(&self) -> Option<u64> {
        match self {
            Self::Store { lasts, .. }
            | Self::Disconnected { lasts, .. }
            | Self::Alarm { lasts }
            | Self::FullQueue { lasts, .. }
            | Self::MissingQueue { lasts, .. }
            | Self::LedgerDown { lasts }
            | Self::CommitsDown { lasts }
            | Self::LedgerSilent { lasts }
            | Self::LedgerSlow { lasts, .. } => Some(*lasts),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
