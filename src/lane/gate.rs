//! Whether a lane may take deliveries now, and what it waits for when not.

use std::sync::Arc;

use tokio::sync::watch;

use super::LaneContext;
use crate::{
    broker::{BrokerStatus, Link},
    job::outcome::RequeueReason,
    ledger::writer::LedgerStatus,
    resilience::{CircuitBreaker, Permit, Snapshot, circuit_breaker::CircuitState},
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
    /// Copies wait to be published.
    Publishing,
}

impl Pause {
    /// With which reason unstarted deliveries go back; `None` holds or drops them.
    pub(super) const fn requeues(&self) -> Option<RequeueReason> {
        match self {
            Self::Circuit => Some(RequeueReason::CircuitOpen),
            Self::Ledger(_) => Some(RequeueReason::LedgerDown),
            Self::Disconnected(_) | Self::Publishing => None,
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
}

impl Gate {
    pub(super) fn new(context: &LaneContext) -> Self {
        let breaker = context.breaker.clone();
        Self {
            circuit: breaker.as_ref().map(|breaker| breaker.subscribe()),
            breaker,
            broker: context.broker.status(),
            ledger: context.ledger.status(),
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
            if broker.stalled_publishes > 0 {
                return Err(Pause::Publishing);
            }
        }
        if let LedgerStatus::Down(why) = &*self.ledger.borrow() {
            return Err(Pause::Ledger(why.clone()));
        }
        match &self.circuit {
            Some(circuit) if !circuit.borrow().is_closed() => Err(Pause::Circuit),
            _ => Ok(()),
        }
    }

    /// Reserves every probe slot that is free now; `None` when there is none yet.
    pub(super) fn reserve_probes(&self) -> Option<Vec<Permit>> {
        let breaker = self.breaker.as_ref()?;
        let permits: Vec<Permit> = std::iter::from_fn(|| breaker.reserve_probe()).collect();
        (!permits.is_empty()).then_some(permits)
    }

    /// Ends when something changed, or when an open circuit's time has come.
    pub(super) async fn changed(&mut self, pause: &Pause) {
        let probe_at = match (pause, &self.circuit) {
            (Pause::Circuit, Some(circuit)) => circuit.borrow().probe_at,
            _ => None,
        };
        let probe_due = async {
            match probe_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = probe_due => {}
            () = self.anything() => {}
        }
    }

    /// Ends at the next change of broker, ledger or circuit.
    pub(super) async fn anything(&mut self) {
        let circuit = async {
            match &mut self.circuit {
                Some(circuit) => seen(circuit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = circuit => {}
            () = seen(&mut self.broker) => {}
            () = seen(&mut self.ledger) => {}
        }
    }

    /// Ends when both connections stand after one did not.
    pub(super) async fn reconnected(&mut self) {
        let connected = self.broker.borrow().is_connected();
        if connected
            || self
                .broker
                .wait_for(BrokerStatus::is_connected)
                .await
                .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn is_half_open(&self) -> bool {
        self.circuit
            .as_ref()
            .is_some_and(|it| it.borrow().state == CircuitState::HalfOpen)
    }

    /// Ends when an operator or a time-out has moved the circuit on.
    pub(super) async fn not_half_open(&mut self) {
        let moved = match &mut self.circuit {
            Some(circuit) => circuit
                .wait_for(|it| it.state != CircuitState::HalfOpen)
                .await
                .is_ok(),
            None => false,
        };
        if !moved {
            std::future::pending::<()>().await;
        }
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
