//! A circuit of the worker as people see it: the breaker, since when calls flow or are refused, and what S3
//! did last to make it so. The breaker itself knows neither S3 nor the calendar.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{QueueCounts, WorkerView};
use crate::{
    config::{self, Settings},
    job::{Circuit, Lane, Timestamp},
    metrics::Metrics,
    resilience::{
        Cause, CircuitBreaker, CircuitSettings, Clock, Snapshot, TokioClock,
        circuit_breaker::{CircuitState, Observer},
    },
    storage::{LastFailure, LastFailures},
};

/// How long the line of a change waits for a look at the queues; chosen.
const LOOK: Duration = Duration::from_secs(2);

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
    /// A closed one. `last_failures` is where the storage notes what fails; `lines` leads to [`tell`].
    pub(super) fn new(
        (name, lane): (Circuit, Lane),
        settings: &Settings,
        metrics: &Arc<Metrics>,
        last_failures: &Arc<LastFailures>,
        lines: Lines,
    ) -> Self {
        let since = Arc::new(Since::now());
        let changes = Changes {
            name,
            lane,
            lines,
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

/// Where the breaker's transitions go, under its lock: metric and time change at once, the log line is another's.
struct Changes {
    name: Circuit,
    lane: Lane,
    metrics: Arc<Metrics>,
    since: Arc<Since>,
    last_failures: Arc<LastFailures>,
    lines: Lines,
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
        let wait = after
            .probe_at
            .map(|at| at.saturating_duration_since(TokioClock.now()));
        let change = Change {
            name: self.name,
            lane: self.lane,
            from,
            to,
            cause,
            since,
            wait,
            last: failed.then(|| self.last_failures.of(self.name)).flatten(),
        };
        // After the drain nobody looks at queues any more.
        if let Err(unsent) = self.lines.send(change) {
            unsent.0.log(QueueCounts::default());
        }
    }
}

/// One change of a circuit, to be told.
#[derive(Debug)]
pub(super) struct Change {
    name: Circuit,
    lane: Lane,
    from: CircuitState,
    to: CircuitState,
    cause: Cause,
    since: Timestamp,
    /// Until the next probe.
    wait: Option<Duration>,
    last: Option<LastFailure>,
}

/// Where changes go to be told.
pub(super) type Lines = mpsc::UnboundedSender<Change>;

impl Change {
    /// `counts` are those of its lane's queues.
    fn log(&self, counts: QueueCounts) {
        let last = self.last.as_ref();
        tracing::warn!(
            circuit = self.name.as_str(),
            from = self.from.as_str(),
            to = self.to.as_str(),
            why = %self.cause,
            since = %self.since,
            next_probe_s = self.wait.map(|wait| wait.as_secs_f64()),
            queue_ready = counts.ready,
            parked = counts.parked,
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

/// Logs each change with what waits in its lane's queues, which takes a look at the broker, until `stop`. The change
/// itself waits for nothing.
pub(super) async fn tell(
    mut changes: mpsc::UnboundedReceiver<Change>,
    view: Arc<WorkerView>,
    stop: CancellationToken,
) {
    loop {
        let change = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(change) = changes.recv() => change,
        };
        let counts = counts_of(&view, change.lane, &stop).await;
        change.log(counts);
    }
    changes.close();
    while let Some(change) = changes.recv().await {
        change.log(QueueCounts::default());
    }
}

/// None of a broker that does not answer in time.
async fn counts_of(view: &WorkerView, lane: Lane, stop: &CancellationToken) -> QueueCounts {
    let counts = tokio::select! {
        biased;
        counts = tokio::time::timeout(LOOK, view.queues.counts()) => counts.unwrap_or_default(),
        () = stop.cancelled() => return QueueCounts::default(),
    };
    counts.get(&lane).copied().unwrap_or_default()
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
