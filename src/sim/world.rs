//! What all of a run shares: broker, ledger, the faults that are active, the trace, what was met, and the rules that
//! were broken.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::fault::{Refusal, Weather};
use crate::{
    broker::{Names, memory::MemoryBroker},
    job::{JobId, Lane, Message, State as RowState},
    ledger::{JobRecord, memory::MemoryLedger},
};

/// So many steps without any time between them are a hot loop.
const SPINS: u32 = 20_000;

/// See the module.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) began: Instant,
    /// The operator's own client.
    pub(super) broker: MemoryBroker,
    pub(super) ledger: MemoryLedger,
    pub(super) names: Names,
    /// A worker's number, and how its process ended.
    pub(super) ends: mpsc::UnboundedSender<(usize, String)>,
    state: Mutex<State>,
}

/// A rule that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) text: String,
}

/// What a run leaves behind.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) trace: Vec<String>,
    pub(super) broken: Vec<Broken>,
    /// What was met, and how often.
    pub(super) met: BTreeMap<String, u64>,
    /// Faults that are active, and states that are not the usual one: for pairs.
    pub(super) active: BTreeSet<String>,
    pub(super) jobs: BTreeMap<String, Facts>,
    /// By the event that brought it.
    pub(super) weather: BTreeMap<usize, (Weather, Option<Lane>, u64)>,
    pub(super) ledger: LedgerFaults,
    pub(super) refusals: VecDeque<Refusal>,
    pub(super) acks_to_lose: u64,
    pub(super) refused_rows: BTreeSet<String>,
    pub(super) once_refused: BTreeSet<String>,
    /// Keys, and the jobs that put them.
    pub(super) objects: BTreeMap<String, String>,
    /// What was in queues that are missing.
    pub(super) set_aside: BTreeMap<String, Vec<Message>>,
    /// By lane: why it may be at rest now, by event.
    pub(super) blocked: BTreeMap<usize, Vec<Lane>>,
    pub(super) calm_since: BTreeMap<Lane, Duration>,
    /// When leases ran out against the rules.
    pub(super) leases_ran_out: Option<Duration>,
    /// Things that may send a delivery back, but for changes of circuits.
    pub(super) unrest: u64,
    /// Things that may make a call to S3 happen twice.
    pub(super) excuses: u64,
    at: Duration,
    steps: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct LedgerFaults {
    pub(super) down: u32,
    pub(super) commits_down: u32,
    pub(super) silent: u32,
    pub(super) slow: BTreeMap<usize, u64>,
    pub(super) answers_to_lose: u64,
}

/// What happened to one job.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) published: u64,
    pub(super) deliveries: u64,
    pub(super) requeues: u64,
    /// Copies that stand, by park and by burial.
    pub(super) parks: u64,
    pub(super) letters: u64,
    pub(super) calls: u64,
    pub(super) effects: u64,
    /// Effects whose answer never came.
    pub(super) unanswered: u64,
    pub(super) replays: u64,
}

impl World {
    pub(super) fn new(
        seed: u64,
        ledger: MemoryLedger,
        ends: mpsc::UnboundedSender<(usize, String)>,
    ) -> Arc<Self> {
        let broker = MemoryBroker::new("s");
        broker.declare_queue(super::ANSWERS);
        Arc::new(Self {
            seed,
            began: Instant::now(),
            broker,
            ledger,
            names: Names::new("s"),
            ends,
            state: Mutex::default(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A line of the trace.
    pub(super) fn say(&self, who: &str, what: impl fmt::Display) {
        let now = self.now();
        let mut state = self.state();
        let line = format!("{:>10.3} s  {who:<9} {what}", now.as_secs_f64());
        state.trace.push(line);
        if state.at != now {
            (state.at, state.steps) = (now, 0);
        }
        state.steps += 1;
        if state.steps == SPINS {
            drop(state);
            self.broken("spin", "so many steps without any time between them");
        }
    }

    /// Whether nothing is to go on any more: else a loop without time would never end.
    pub(super) fn is_over(&self) -> bool {
        self.state().steps >= SPINS
    }

    /// A rule is broken.
    pub(super) fn broken(&self, rule: &'static str, text: impl fmt::Display) {
        let text = text.to_string();
        let now = self.now().as_secs_f64();
        let mut state = self.state();
        // What goes on being so is said once.
        if state
            .broken
            .iter()
            .any(|it| it.rule == rule && it.text == text)
        {
            return;
        }
        state
            .trace
            .push(format!("{now:>10.3} s  {:<9} {rule}: {text}", "BROKEN"));
        state.broken.push(Broken { rule, text });
    }

    /// Something was met.
    pub(super) fn met(&self, what: impl Into<String>) {
        *self.state().met.entry(what.into()).or_default() += 1;
    }

    /// Something begins to be so.
    pub(super) fn begins(&self, what: impl Into<String>) {
        let what = what.into();
        let mut state = self.state();
        let pairs: Vec<String> = state
            .active
            .iter()
            .filter(|other| **other != what)
            .map(|other| pair(other, &what))
            .collect();
        for pair in pairs {
            *state.met.entry(pair).or_default() += 1;
        }
        *state.met.entry(what.clone()).or_default() += 1;
        state.active.insert(what);
    }

    pub(super) fn ends(&self, what: &str) {
        self.state().active.remove(what);
    }

    pub(super) fn row(&self, id: &str) -> Option<JobRecord> {
        JobId::parse(id)
            .ok()
            .and_then(|id| self.ledger.row(id.as_str()))
    }

    pub(super) fn facts<T>(&self, id: &str, change: impl FnOnce(&mut Facts) -> T) -> T {
        let mut state = self.state();
        if !state.jobs.contains_key(id) {
            state.jobs.insert(id.to_owned(), Facts::default());
        }
        change(state.jobs.get_mut(id).unwrap())
    }

    /// Everything of that id that stands in a queue or in somebody's hands, set aside ones included.
    pub(super) fn copies(&self, id: &str) -> usize {
        let is_it = |message: &&Message| message.message_id.as_deref() == Some(id);
        let aside = self
            .state()
            .set_aside
            .values()
            .flatten()
            .filter(is_it)
            .count();
        aside + self.broker.copies(id)
    }

    /// A delivery is acked: what stands for the job now?
    pub(super) fn check_ack(&self, who: &str, id: &str) {
        let row = self.row(id).map(|row| row.state);
        let is_done = matches!(row, Some(RowState::Completed | RowState::Abandoned));
        if !is_done && self.copies(id) < 2 {
            let text = format!("{who} acks {id}, which is {row:?} and stands in no other queue");
            self.broken("acked too early", text);
        }
    }

    /// Leases ran out of themselves a moment ago, so that two workers may think that a job is theirs.
    pub(super) fn leases_are_doubtful(&self) -> bool {
        let ran_out = self.state().leases_ran_out;
        ran_out.is_some_and(|at| self.now().saturating_sub(at) < Duration::from_secs(16))
    }

    /// Since when nothing has kept the lane from its work, as far as schedules go; `None` while something does.
    pub(super) fn calm_since(&self, lane: Lane) -> Option<Duration> {
        let state = self.state();
        let is_blocked = state.blocked.values().flatten().any(|other| *other == lane);
        (!is_blocked).then(|| state.calm_since.get(&lane).copied().unwrap_or_default())
    }
}

/// Two things that were so at the same time, in one order.
pub(super) fn pair(one: &str, other: &str) -> String {
    let (first, second) = if one < other {
        (one, other)
    } else {
        (other, one)
    };
    format!("{first} + {second}")
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({})", self.seed)
    }
}
