//! Whether the worker should get work, and if not, what is wrong and in which component. S3 being away is told
//! here too, but makes no worker unready: another one could do no more.

use serde::Serialize;

use super::status;
use crate::{
    broker::Link,
    lane::{LaneState, PausedBy},
    ledger::writer::LedgerStatus,
    resilience::Mode,
    worker::{LaneView, WorkerCircuit, WorkerView},
};

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) reasons: Vec<Reason>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    /// `amqp`, `ledger`, `topology`, `drain`, `worker` or `s3`.
    component: &'static str,
    level: Level,
    message: String,
}

/// What a reason means for the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// It should get no work.
    Error,
    /// It works, and a person must mend something.
    Warning,
    /// It rests on purpose, and is ready.
    Info,
}

/// Ready: every lane consumes, or is paused on purpose by its breaker.
pub(super) fn of(view: &WorkerView) -> Readiness {
    let mut reasons: Vec<Reason> = Vec::new();
    let mut add = |component, message: String| {
        let level = Level::Error;
        let reason = Reason {
            component,
            level,
            message,
        };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    };
    if view.drain.stop.is_cancelled() {
        add("drain", "the worker is stopping".to_owned());
    }
    let broker = view.broker.status().borrow().clone();
    for (role, link) in [("consume", &broker.consume), ("publish", &broker.publish)] {
        if let Link::Down(why) = link {
            add("amqp", format!("{role} connection: {why}"));
        }
    }
    if let Some(problem) = broker.topology {
        add("topology", problem);
    }
    if let Some(alarm) = broker.blocked {
        let what = "RabbitMQ takes no publishes (memory or disk alarm), free some on the broker";
        add("amqp", format!("{what}: {alarm}"));
    }
    if let LedgerStatus::Down(why) = &*view.ledger.borrow() {
        add("ledger", why.clone());
    }
    for lane in &view.lanes {
        let (name, state) = (lane.lane, lane.status.state());
        match &state {
            LaneState::Paused(PausedBy::Panics, why) => {
                add("worker", format!("lane {name}: {why}"))
            }
            LaneState::Paused(PausedBy::Amqp, why) => add("amqp", format!("lane {name}: {why}")),
            _ => {}
        }
    }
    for lane in &view.lanes {
        let state = lane.status.state();
        if !state.is_ready() && reasons.is_empty() {
            let why = state.reason().unwrap_or("not consuming yet");
            reasons.push(Reason {
                component: "amqp",
                level: Level::Error,
                message: format!("lane {}: {why}", lane.lane),
            });
        }
    }
    let ready = reasons.is_empty();
    reasons.extend(view.lanes.iter().filter_map(held));
    reasons.extend(view.circuits.iter().filter_map(away));
    Readiness { ready, reasons }
}

/// What a lane holds that waits for a copy, while it goes on with what needs none.
fn held(lane: &LaneView) -> Option<Reason> {
    let stuck = lane.status.copies().now();
    let problem = stuck.problem?;
    let is_paused = matches!(lane.status.state(), LaneState::Paused(PausedBy::Amqp, _));
    (!is_paused).then(|| Reason {
        component: "amqp",
        level: Level::Warning,
        message: format!("lane {}: holds {} jobs: {problem}", lane.lane, stuck.count),
    })
}

/// What a circuit that is not closed has to say.
fn away(circuit: &WorkerCircuit) -> Option<Reason> {
    let snapshot = circuit.breaker.snapshot();
    if snapshot.is_closed() {
        return None;
    }
    let (name, since) = (circuit.name.as_str(), circuit.since());
    let mut message = match snapshot.mode {
        Mode::ForceOpen => {
            format!("paused: S3: an operator holds the {name} circuit open since {since:.0}")
        }
        Mode::Auto | Mode::ForceClosed => {
            let next = snapshot.probe_at.map_or_else(
                || "a probe is under way or waits for a job".to_owned(),
                |at| format!("next probe in {:.0} s", status::seconds_until(at).ceil()),
            );
            format!("paused: S3: the {name} circuit is open since {since:.0}, {next}")
        }
    };
    if snapshot.mode == Mode::Auto
        && let Some(last) = circuit.last_failure()
    {
        message.push_str(&format!("; last failure at {:.0}: {last}", last.at));
    }
    Some(Reason {
        component: "s3",
        level: Level::Info,
        message,
    })
}
