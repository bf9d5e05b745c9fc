//! Whether a lane may take deliveries now, and what it waits for when not.

use std::sync::Arc;

use tokio::time::Instant;

use super::{LaneContext, copies::Stuck, panics::Streak};
use crate::{
    broker::{BrokerStatus, Link},
    job::outcome::RequeueReason,
    ledger::writer::LedgerStatus,
    resilience::{CircuitBreaker, Permit, Snapshot, circuit_breaker::CircuitState},
    watch,
};

/// What keeps a lane from consuming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pause {
    /// A connection or the queue is missing; says which and why.
    Disconnected(String),
    /// The ledger can't be written; says why.
    Ledger(String),
    /// The lane's circuit is not closed.
    Circuit,
    /// The lane's hands are full of jobs whose copies can't be published; says which queue takes none, and why.
    Copies(String),
    /// Jobs panic one after the other; says with what.
    Panicking(String),
}

impl Pause {
    /// With which reason unstarted deliveries go back; `None`: they stay in hand.
    pub(super) const fn requeues(&self) -> Option<RequeueReason> {
        match self {
            Self::Circuit => Some(RequeueReason::CircuitOpen),
            Self::Ledger(_) => Some(RequeueReason::LedgerDown),
            Self::Panicking(_) => Some(RequeueReason::Panic),
            Self::Disconnected(_) | Self::Copies(_) => None,
        }
    }
}

/// Watches everything that opens and closes a lane.
#[derive(Debug)]
pub(super) struct Gate {
    breaker: Option<Arc<CircuitBreaker>>,
    circuit: Option<watch::Receiver<Snapshot>>,
    broker: watch::Receiver<BrokerStatus>,
    ledger: watch::Receiver<LedgerStatus>,
    copies: watch::Receiver<Stuck>,
    /// So many stuck copies leave no place for a job to start.
    most_copies: usize,
    panics: watch::Receiver<Streak>,
}

/// Leave to take one delivery while the lane pauses.
#[derive(Debug)]
pub(super) enum Leave {
    /// Half-open's: one attempt.
    Probe(Permit),
    /// To see whether jobs still panic; with a probe's permit while the circuit is not closed.
    Trial(Option<Permit>),
}

impl Leave {
    /// The permit for the job's first call, if it needs one.
    pub(super) fn into_permit(self) -> Option<Permit> {
        match self {
            Self::Probe(permit) => Some(permit),
            Self::Trial(permit) => permit,
        }
    }
}

impl Gate {
    pub(super) fn new(context: &LaneContext) -> Self {
        let breaker = context.breaker.clone();
        Self {
            circuit: breaker.as_ref().map(|breaker| breaker.subscribe()),
            breaker,
            broker: context.broker.status(),
            ledger: context.ledger.status(),
            copies: context.status.copies().subscribe(),
            most_copies: context.limits.admission,
            panics: context.panics.subscribe(),
        }
    }

    /// Whether the lane may consume at full prefetch, or the first thing against it.
    pub(super) fn look(&self) -> Result<(), Pause> {
        {
            let broker = self.broker.borrow();
            for link in [&broker.consume, &broker.publish] {
                if let Link::Down(why) = link {
                    return Err(Pause::Disconnected(why.clone()));
                }
            }
        }
        if let LedgerStatus::Down(why) = &*self.ledger.borrow() {
            return Err(Pause::Ledger(why.clone()));
        }
        {
            let stuck = self.copies.borrow();
            if stuck.count >= self.most_copies {
                return Err(Pause::Copies(stuck.problem.clone().unwrap_or_default()));
            }
        }
        if let Some((why, _)) = self.panics.borrow().pause() {
            return Err(Pause::Panicking(why));
        }
        match &self.circuit {
            Some(circuit) if !circuit.borrow().is_closed() => Err(Pause::Circuit),
            _ => Ok(()),
        }
    }

    /// Every leave that can be had now to take a delivery in spite of the pause; `None` when there is none yet.
    pub(super) fn leaves(&self, pause: &Pause) -> Option<Vec<Leave>> {
        let leaves: Vec<Leave> = match pause {
            Pause::Circuit => {
                let breaker = self.breaker.as_ref()?;
                let permits = std::iter::from_fn(|| breaker.reserve_probe());
                permits.map(Leave::Probe).collect()
            }
            Pause::Panicking(_) => {
                if self.panics.borrow().pause()?.1 > Instant::now() {
                    return None;
                }
                let permit = match &self.breaker {
                    Some(breaker) if !self.is_closed() => Some(breaker.reserve_probe()?),
                    Some(_) | None => None,
                };
                vec![Leave::Trial(permit)]
            }
            Pause::Disconnected(_) | Pause::Ledger(_) | Pause::Copies(_) => return None,
        };
        (!leaves.is_empty()).then_some(leaves)
    }

    /// Whether a delivery that was taken by such a leave may start.
    pub(super) fn may_probe(&self) -> bool {
        match self.look() {
            Err(Pause::Circuit) => self.is_half_open(),
            Err(Pause::Panicking(_)) => self.is_closed() || self.is_half_open(),
            Ok(()) | Err(Pause::Disconnected(_) | Pause::Ledger(_) | Pause::Copies(_)) => false,
        }
    }

    /// What is wrong with exchanges and queues, if that is not what was known.
    pub(super) fn topology_unlike(&self, known: Option<&str>) -> Option<Option<String>> {
        let broker = self.broker.borrow();
        (broker.topology.as_deref() != known).then(|| broker.topology.clone())
    }

    /// Ends when something changed, or when a leave can be had.
    pub(super) async fn changed(&mut self, pause: &Pause) {
        let leave_at = match pause {
            Pause::Circuit => self.circuit_at(),
            Pause::Panicking(_) => {
                let trial_at = self.panics.borrow().pause().map(|(_, at)| at);
                trial_at.max(self.circuit_at())
            }
            Pause::Disconnected(_) | Pause::Ledger(_) | Pause::Copies(_) => None,
        };
        // One that is past and gave no leave waits for a change.
        let leave_at = leave_at.filter(|at| *at > Instant::now());
        let leave_due = async {
            match leave_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = leave_due => {}
            () = self.anything() => {}
        }
    }

    /// Ends at the next change of whatever [`look`](Self::look) looks at.
    pub(super) async fn anything(&mut self) {
        let circuit = async {
            match &mut self.circuit {
                Some(circuit) => seen(circuit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = circuit => {}
            () = seen(&mut self.broker) => {}
            () = seen(&mut self.ledger) => {}
            () = seen(&mut self.copies) => {}
            () = seen(&mut self.panics) => {}
        }
    }

    /// When the circuit may move on by itself: its next probe, or the end of a probe that makes no progress.
    fn circuit_at(&self) -> Option<Instant> {
        let probe_at = self.circuit.as_ref().and_then(|it| it.borrow().probe_at);
        let overdue = || self.breaker.as_ref().and_then(|it| it.check_probe());
        probe_at.or_else(overdue).map(Instant::from)
    }

    /// Whether half-open has a slot to give: that of a job that said nothing about S3, or waits before its call.
    pub(super) fn has_free_probe(&self) -> bool {
        self.breaker.as_ref().is_some_and(|it| it.has_free_probe())
    }

    fn is_closed(&self) -> bool {
        self.circuit
            .as_ref()
            .is_none_or(|it| it.borrow().is_closed())
    }

    fn is_half_open(&self) -> bool {
        self.circuit
            .as_ref()
            .is_some_and(|it| it.borrow().state == CircuitState::HalfOpen)
    }

    /// Ends when the circuit changed, or when its probe made no progress for too long and re-opened it.
    pub(super) async fn probe_overdue(&mut self) {
        let due = self
            .breaker
            .as_ref()
            .and_then(|breaker| breaker.check_probe());
        let overdue = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = overdue => {}
            () = self.anything() => {}
        }
    }
}

/// Ends at the next change; never when the sender is gone.
async fn seen<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
