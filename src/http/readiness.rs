//! Whether the worker should get work, and if not, what is wrong and in which component.

use serde::Serialize;

use crate::{broker::Link, ledger::writer::LedgerStatus, worker::WorkerView};

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) reasons: Vec<Reason>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    /// `amqp`, `ledger`, `topology` or `drain`.
    component: &'static str,
    message: String,
}

/// Ready: every lane consumes, or is paused on purpose by its breaker.
pub(super) fn of(view: &WorkerView) -> Readiness {
    let mut reasons: Vec<Reason> = Vec::new();
    let mut add = |component, message: String| {
        let reason = Reason { component, message };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    };
    if view.drain.stop.is_cancelled() {
        add("drain", "the worker is stopping".to_owned());
    }
    let broker = view.broker.status().borrow().clone();
    for link in [&broker.consume, &broker.publish] {
        if let Link::Down(why) = link {
            add("amqp", why.clone());
        }
    }
    if let Some(problem) = broker.topology {
        add("topology", problem);
    }
    if let Some(alarm) = broker.blocked {
        let what = "RabbitMQ takes no publishes (memory or disk alarm), free some on the broker";
        add("amqp", format!("{what}: {alarm}"));
    }
    if broker.stalled_publishes > 0 {
        add(
            "amqp",
            format!("{} copies wait to be published", broker.stalled_publishes),
        );
    }
    if let LedgerStatus::Down(why) = &*view.ledger.borrow() {
        add("ledger", why.clone());
    }
    for lane in &view.lanes {
        let state = lane.status.state();
        if !state.is_ready() && reasons.is_empty() {
            let why = state.reason().unwrap_or("not consuming yet");
            reasons.push(Reason {
                component: "amqp",
                message: format!("lane {}: {why}", lane.lane),
            });
        }
    }
    let ready = reasons.is_empty();
    Readiness { ready, reasons }
}
