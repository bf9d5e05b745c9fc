//! The circuit breaker of one direction of S3 traffic (RESILIENCE.md, "Circuit breakers").
//!
//! Closed, calls flow; five guarded operations in a row that fail for an infrastructure reason trip it.
//! Open, every call is refused until the open time has passed; then a lane may reserve a probe, which
//! makes it half-open. The first verdict of a probe closes it or opens it for longer. It knows nothing
//! of S3 and of queues: who waits, retries or pauses, decides elsewhere.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Cause, Clock};

use crate::watch;

/// A streak of openings is forgotten after this long closed without interruption.
const STREAK_MEMORY: Duration = Duration::from_secs(60);
/// The open time deviates by at most this share of itself.
const JITTER: f64 = 0.2;

/// The numbers of a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitSettings {
    /// Failed operations in a row that trip it; at least 1.
    pub failure_threshold: u32,
    /// The first open time.
    pub open_base: Duration,
    /// The open time doubles with each opening in a row, up to this.
    pub open_max: Duration,
    /// Probes at a time in half-open; at least 1.
    pub half_open_permits: u32,
    /// A probe without progress for this long re-opens the circuit.
    pub probe_timeout: Duration,
}

/// Who decides the state: the breaker, or an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The breaker decides.
    Auto,
    /// All calls are refused.
    ForceOpen,
    /// All calls flow.
    ForceClosed,
}

impl Mode {
    /// As in `/api/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForceOpen => "force_open",
            Self::ForceClosed => "force_closed",
        }
    }

    /// The mode of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Auto, Self::ForceOpen, Self::ForceClosed]
            .into_iter()
            .find(|m| m.as_str() == name)
    }
}

/// The industry's words: closed = calls flow, open = calls are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the line above")]
pub enum CircuitState {
    Closed,
    Open,
    HalfOpen,
}

impl CircuitState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// As in labels and `/api/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker said no. No verdict, no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit is open")]
pub struct Refused {
    /// When to come back; `None` while an operator holds it open.
    pub retry_in: Option<Duration>,
}

/// What others may see of a breaker, published at each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The state.
    pub state: CircuitState,
    /// Who decides it.
    pub mode: Mode,
    /// The epoch: grows with each transition and each operator's word.
    pub generation: u64,
    /// Failed operations in a row, those that opened it and failed probes included.
    pub consecutive_failures: u32,
    /// When a probe may be reserved, while open and not held open by an operator.
    pub probe_at: Option<Instant>,
}

impl Snapshot {
    /// Whether calls flow.
    pub fn is_closed(&self) -> bool {
        self.state == CircuitState::Closed
    }
}

/// Hears of transitions, under the breaker's lock, in order: the state that is left, what others may see from
/// here on, and the cause.
pub type Observer = Box<dyn Fn(CircuitState, &Snapshot, Cause) + Send + Sync>;

/// One breaker, shared by reference; see the module's words.
pub struct CircuitBreaker {
    settings: CircuitSettings,
    clock: Arc<dyn Clock>,
    /// A fresh random number from 0 to 1, for the open time's jitter.
    chance: fn() -> f64,
    observer: Observer,
    /// Nothing awaits under it.
    core: Mutex<Core>,
    changes: watch::Sender<Snapshot>,
}

#[derive(Debug)]
struct Core {
    mode: Mode,
    generation: u64,
    phase: Phase,
    /// Failed operations in a row.
    failures: u32,
    /// Openings in a row, for the growing open time.
    streak: u32,
    /// Since when it has been closed.
    closed_since: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { taken: u32, progress: Instant },
}

impl CircuitBreaker {
    /// A closed breaker. `chance` gives fresh random numbers from 0 to 1; `observer` hears transitions.
    pub fn new(
        settings: CircuitSettings,
        clock: Arc<dyn Clock>,
        chance: fn() -> f64,
        observer: Observer,
    ) -> Arc<Self> {
        let core = Core {
            mode: Mode::Auto,
            generation: 0,
            phase: Phase::Closed,
            failures: 0,
            streak: 0,
            closed_since: clock.now(),
        };
        let (changes, _) = watch::channel(core.snapshot());
        Arc::new(Self {
            settings,
            clock,
            chance,
            observer,
            core: Mutex::new(core),
            changes,
        })
    }

    /// Leave to run one operation while the circuit is closed.
    pub fn acquire(self: &Arc<Self>) -> Result<Permit, Refused> {
        let core = self.lock();
        match core.phase {
            Phase::Closed => Ok(self.permit(&core, false)),
            Phase::Open { .. } | Phase::HalfOpen { .. } => Err(self.refusal(&core)),
        }
    }

    /// Reserves a probe: turns open into half-open once the open time has passed, and takes one of the
    /// half-open slots. `None` when it is not time, when all are taken, or when the circuit is closed.
    pub fn reserve_probe(self: &Arc<Self>) -> Option<Permit> {
        let mut core = self.lock();
        let now = self.clock.now();
        self.reopen_if_stuck(&mut core, now);
        if let Phase::Open { until } = core.phase
            && core.mode == Mode::Auto
            && now >= until
        {
            let (taken, progress) = (0, now);
            let phase = Phase::HalfOpen { taken, progress };
            self.turn(&mut core, phase, Cause::ProbeDue);
        }
        match &mut core.phase {
            Phase::HalfOpen { taken, progress } if *taken < self.settings.half_open_permits => {
                *taken += 1;
                *progress = now;
                Some(self.permit(&core, true))
            }
            _ => None,
        }
    }

    /// Whether half-open has a slot that no probe holds.
    pub fn has_free_probe(&self) -> bool {
        let most = self.settings.half_open_permits;
        matches!(self.lock().phase, Phase::HalfOpen { taken, .. } if taken < most)
    }

    /// What others may see now.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// Hears of every change.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.changes.subscribe()
    }

    /// An operator's word; it starts a new generation, so running operations have no vote.
    pub fn force(&self, mode: Mode) {
        let mut core = self.lock();
        let now = self.clock.now();
        core.mode = mode;
        let phase = match mode {
            Mode::Auto | Mode::ForceClosed => Phase::Closed,
            Mode::ForceOpen => Phase::Open { until: now },
        };
        (core.streak, core.failures) = (0, 0);
        self.turn(&mut core, phase, Cause::Operator);
    }

    /// Re-opens the circuit when its probe has made no progress for `probe_timeout`; returns when to
    /// ask again, while half-open with a probe out.
    pub fn check_probe(&self) -> Option<Instant> {
        let mut core = self.lock();
        self.reopen_if_stuck(&mut core, self.clock.now());
        match core.phase {
            Phase::HalfOpen { taken, progress } if taken > 0 => {
                Some(progress + self.settings.probe_timeout)
            }
            _ => None,
        }
    }

    fn reopen_if_stuck(&self, core: &mut Core, now: Instant) {
        if let Phase::HalfOpen { taken, progress } = core.phase
            && taken > 0
            && now.duration_since(progress) >= self.settings.probe_timeout
        {
            self.open(core, now, Cause::ProbeStuck);
        }
    }

    fn permit(self: &Arc<Self>, core: &Core, probe: bool) -> Permit {
        Permit {
            breaker: Arc::clone(self),
            generation: core.generation,
            probe,
            spent: false,
        }
    }

    fn refusal(&self, core: &Core) -> Refused {
        let retry_in = match (core.mode, core.phase) {
            (Mode::ForceOpen, _) => None,
            (_, Phase::Open { until }) => Some(until.saturating_duration_since(self.clock.now())),
            // The next probe's verdict is due any moment.
            (_, Phase::HalfOpen { .. } | Phase::Closed) => Some(Duration::ZERO),
        };
        Refused { retry_in }
    }

    fn on_success(&self, generation: u64, probe: bool) {
        let mut core = self.lock();
        if core.generation != generation {
            return;
        }
        let had_failed = std::mem::take(&mut core.failures) > 0;
        if probe {
            self.turn(&mut core, Phase::Closed, Cause::ProbeSucceeded);
        } else if had_failed {
            self.publish(&core);
        }
    }

    fn on_failure(&self, generation: u64, probe: bool) {
        let mut core = self.lock();
        if core.generation != generation || core.mode == Mode::ForceClosed {
            return;
        }
        let now = self.clock.now();
        core.failures = core.failures.saturating_add(1);
        if probe {
            self.open(&mut core, now, Cause::ProbeFailed);
        } else if core.failures >= self.settings.failure_threshold {
            let cause = Cause::Failures(core.failures);
            self.open(&mut core, now, cause);
        } else {
            self.publish(&core);
        }
    }

    fn on_neutral(&self, generation: u64, probe: bool) {
        let mut core = self.lock();
        if !probe || core.generation != generation {
            return;
        }
        if let Phase::HalfOpen { taken, .. } = &mut core.phase {
            *taken = taken.saturating_sub(1);
            self.publish(&core);
        }
    }

    fn on_progress(&self, generation: u64) {
        let mut core = self.lock();
        let now = self.clock.now();
        if core.generation == generation
            && let Phase::HalfOpen { progress, .. } = &mut core.phase
        {
            *progress = now;
        }
    }

    /// Opens for `open_base` x 2^streak, at most `open_max`, give or take a fifth.
    fn open(&self, core: &mut Core, now: Instant, cause: Cause) {
        if matches!(core.phase, Phase::Closed)
            && now.duration_since(core.closed_since) >= STREAK_MEMORY
        {
            core.streak = 0;
        }
        let doubled = self
            .settings
            .open_base
            .saturating_mul(1 << core.streak.min(20));
        let jitter = 1.0 + JITTER * (2.0 * (self.chance)().clamp(0.0, 1.0) - 1.0);
        let open_for = doubled.min(self.settings.open_max).mul_f64(jitter);
        core.streak = core.streak.saturating_add(1);
        let until = now + open_for;
        self.turn(core, Phase::Open { until }, cause);
    }

    /// The one place where the phase changes: new generation, observer, subscribers.
    fn turn(&self, core: &mut Core, phase: Phase, cause: Cause) {
        let from = core.phase.state();
        core.phase = phase;
        core.generation += 1;
        let to = phase.state();
        if to == CircuitState::Closed {
            core.closed_since = self.clock.now();
        }
        if from != to {
            (self.observer)(from, &core.snapshot(), cause);
        }
        self.publish(core);
    }

    fn publish(&self, core: &Core) {
        self.changes.send_replace(core.snapshot());
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // No code under the lock leaves it half changed, so a poisoned lock is still sound.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("core", &*self.lock())
            .finish_non_exhaustive()
    }
}

impl Core {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: self.phase.state(),
            mode: self.mode,
            generation: self.generation,
            consecutive_failures: self.failures,
            probe_at: match (self.mode, self.phase) {
                (Mode::Auto, Phase::Open { until }) => Some(until),
                _ => None,
            },
        }
    }
}

impl Phase {
    const fn state(self) -> CircuitState {
        match self {
            Self::Closed => CircuitState::Closed,
            Self::Open { .. } => CircuitState::Open,
            Self::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

/// Leave to run one operation. Owes the breaker at most one verdict; dropped, it gives none.
#[must_use = "a permit that gets no verdict counts as neutral"]
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<CircuitBreaker>,
    generation: u64,
    probe: bool,
    spent: bool,
}

impl Permit {
    /// The service answered.
    pub fn success(mut self) {
        self.spent = true;
        self.breaker.on_success(self.generation, self.probe);
    }

    /// All attempts failed for an infrastructure reason.
    pub fn failure(mut self) {
        self.spent = true;
        self.breaker.on_failure(self.generation, self.probe);
    }

    /// Nothing was learnt about the service.
    pub fn neutral(self) {
        drop(self);
    }

    /// Whether the operation is half-open's one attempt.
    pub const fn is_probe(&self) -> bool {
        self.probe
    }

    /// Asked before every attempt after the first: an operation begun in an older generation is refused.
    pub fn check(&self) -> Result<(), Refused> {
        let core = self.breaker.lock();
        if core.generation == self.generation {
            Ok(())
        } else {
            Err(self.breaker.refusal(&core))
        }
    }

    /// A probe got something done; its time-out starts anew.
    pub fn progress(&self) {
        if self.probe {
            self.breaker.on_progress(self.generation);
        }
    }

    /// Ends when the permit's generation does, so that a wait can end at once. Outlives the permit.
    pub fn outdated(&self) -> impl Future<Output = Refused> + Send + use<> {
        let (breaker, generation) = (Arc::clone(&self.breaker), self.generation);
        async move {
            let mut changes = breaker.subscribe();
            // An error would mean that the breaker is gone, and it is held here.
            let _gone = changes
                .wait_for(|snapshot| snapshot.generation != generation)
                .await
                .is_err();
            breaker.refusal(&breaker.lock())
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.spent {
            self.breaker.on_neutral(self.generation, self.probe);
        }
    }
}

#[cfg(test)]
#[path = "circuit_breaker_tests.rs"]
mod tests;
