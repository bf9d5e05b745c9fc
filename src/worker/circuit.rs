//! A circuit of the worker as people see it: the breaker, since when calls flow or are refused, and what S3
//! did last to make it so. The breaker itself knows neither S3 nor the calendar.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    config::{self, Settings},
    job::{Circuit, Timestamp},
    metrics::Metrics,
    resilience::{
        Cause, CircuitBreaker, CircuitSettings, Clock, Snapshot, TokioClock,
        circuit_breaker::{CircuitState, Observer},
    },
    storage::{LastFailure, LastFailures},
};

/// One circuit, shared with its lane by the breaker.
#[derive(Debug)]
pub struct WorkerCircuit {
    /// Which.
    pub name: Circuit,
    /// Who decides whether calls flow.
    pub breaker: Arc<CircuitBreaker>,
    since: Arc<Since>,
    last_failures: Arc<LastFailures>,
}

impl WorkerCircuit {
    /// A closed one. `last_failures` is where the storage notes what fails.
    pub(super) fn new(
        name: Circuit,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        last_failures: &Arc<LastFailures>,
    ) -> Self {
        let since = Arc::new(Since::now());
        let changes = Changes {
            name,
            metrics: Arc::clone(metrics),
            since: Arc::clone(&since),
            last_failures: Arc::clone(last_failures),
        };
        let observer: Observer =
            Box::new(move |from, after, cause| changes.heard(from, after, cause));
        let numbers = numbers(settings);
        Self {
            name,
            breaker: CircuitBreaker::new(numbers, Arc::new(TokioClock), fastrand::f64, observer),
            since,
            last_failures: Arc::clone(last_failures),
        }
    }

    /// Since when calls flow, or since when they don't: probes in between change nothing of that.
    pub fn since(&self) -> Timestamp {
        self.since.get()
    }

    /// What last spoke against it, if anything ever did.
    pub fn last_failure(&self) -> Option<LastFailure> {
        self.last_failures.of(self.name)
    }
}

/// By the wall clock. Nothing awaits under it.
#[derive(Debug)]
struct Since(Mutex<Timestamp>);

impl Since {
    fn now() -> Self {
        Self(Mutex::new(Timestamp::now()))
    }

    fn get(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, time: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }
}

/// Where the breaker's transitions go: metric, time and log line change together.
struct Changes {
    name: Circuit,
    metrics: Arc<Metrics>,
    since: Arc<Since>,
    last_failures: Arc<LastFailures>,
}

impl Changes {
    fn heard(&self, from: CircuitState, after: &Snapshot, cause: Cause) {
        let to = after.state;
        self.metrics.circuit_changed(self.name, from, to);
        let now = Timestamp::now();
        if from == CircuitState::Closed {
            self.since.set(now);
        }
        // Of a circuit that closes: since when it was not.
        let since = self.since.get();
        if to == CircuitState::Closed {
            self.since.set(now);
        }
        // Another cause has nothing to do with what failed last.
        let failed = matches!(cause, Cause::Failures(_) | Cause::ProbeFailed);
        let last = failed.then(|| self.last_failures.of(self.name)).flatten();
        let last = last.as_ref();
        let wait = after
            .probe_at
            .map(|at| at.saturating_duration_since(TokioClock.now()).as_secs_f64());
        tracing::warn!(
            circuit = self.name.as_str(),
            from = from.as_str(),
            to = to.as_str(),
            why = %cause,
            %since,
            next_probe_s = wait,
            class = last.map(|last| last.class),
            code = last.map(|last| &*last.code),
            error = last.map(|last| &*last.message),
            endpoint = last.map(|last| &*last.endpoint),
            operation = last.map(|last| last.operation),
            bucket = last.map(|last| &*last.bucket),
            "the circuit changed"
        );
    }
}

const fn numbers(settings: &Settings) -> CircuitSettings {
    let config::CircuitSettings {
        failure_threshold,
        open_base,
        open_max,
        half_open_permits,
        probe_timeout,
        ..
    } = settings.circuit;
    CircuitSettings {
        failure_threshold,
        open_base,
        open_max,
        half_open_permits,
        probe_timeout,
    }
}
