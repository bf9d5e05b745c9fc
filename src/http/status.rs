//! `/api/status`: the worker at a glance, for the status page and for `brigade circuit show`.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Instant};

use serde::Serialize;

use super::readiness::{self, Reason};
use crate::{
    job::Timestamp,
    lane::RecentFailure,
    resilience::{Clock, TokioClock},
    worker::{LastFailure, WorkerCircuit, WorkerView},
};

/// The body of `/api/status`; the shape is the contract's.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    worker: String,
    started_at: Timestamp,
    ready: bool,
    reasons: Vec<Reason>,
    lanes: BTreeMap<&'static str, LaneView>,
    circuits: BTreeMap<&'static str, CircuitView>,
    jobs: Jobs,
    recent_failures: Vec<RecentFailure>,
}

#[derive(Debug, Serialize)]
struct LaneView {
    state: &'static str,
    reason: Option<String>,
    in_flight: u32,
    concurrency: usize,
    /// Of these, how many the lane makes use of now.
    concurrency_limit: Option<usize>,
    queue_ready: Option<u32>,
    /// Jobs that wait in retry queues for their next try.
    parked: Option<u32>,
}

/// A breaker as people see it.
#[derive(Debug, Serialize)]
pub(super) struct CircuitView {
    state: &'static str,
    mode: &'static str,
    consecutive_failures: u32,
    retry_in_seconds: Option<f64>,
    since: Timestamp,
    last_failure: Option<LastFailure>,
}

#[derive(Debug, Serialize)]
struct Jobs {
    completed: u64,
    dead_lettered: u64,
    abandoned: u64,
    per_second: f64,
}

pub(super) async fn of(view: &WorkerView) -> Status {
    let queues = view.queues.counts().await;
    let readiness = readiness::of(view);
    let mut lanes = BTreeMap::new();
    for lane in &view.lanes {
        let state = lane.status.state();
        let counts = queues.get(&lane.lane).copied().unwrap_or_default();
        let shown = LaneView {
            state: state.as_str(),
            reason: state.reason().map(str::to_owned),
            in_flight: lane.status.in_flight(),
            concurrency: lane.concurrency,
            concurrency_limit: lane.status.concurrency_limit(),
            queue_ready: counts.ready,
            parked: counts.parked,
        };
        lanes.insert(lane.lane.as_str(), shown);
    }
    let circuits = view
        .circuits
        .iter()
        .map(|it| (it.name.as_str(), circuit(it)))
        .collect();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        worker: view.worker.to_string(),
        started_at: view.started_at,
        ready: readiness.ready,
        reasons: readiness.reasons,
        lanes,
        circuits,
        jobs: Jobs {
            completed: view.totals.completed.load(Ordering::Relaxed),
            dead_lettered: view.totals.dead_lettered.load(Ordering::Relaxed),
            abandoned: view.totals.abandoned.load(Ordering::Relaxed),
            per_second: view.throughput.per_second(),
        },
        recent_failures: view.failures.newest_first(),
    }
}

pub(super) fn circuit(circuit: &WorkerCircuit) -> CircuitView {
    let snapshot = circuit.breaker.snapshot();
    CircuitView {
        state: snapshot.state.as_str(),
        mode: snapshot.mode.as_str(),
        consecutive_failures: snapshot.consecutive_failures,
        retry_in_seconds: snapshot.probe_at.map(seconds_until),
        since: circuit.since(),
        last_failure: circuit.last_failure(),
    }
}

/// Seconds from now, to the tenth, never less than there are.
pub(super) fn seconds_until(at: Instant) -> f64 {
    let wait = at.saturating_duration_since(TokioClock.now());
    (wait.as_secs_f64() * 10.0).ceil() / 10.0
}
