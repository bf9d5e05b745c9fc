//! One worker's process, as the outside knows it: whether it lives, what it holds, and what it did.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{fault::Side, world::World};
use crate::{
    broker::memory::MemoryBroker,
    job::Lane,
    ledger::writer::LedgerStatus,
    resilience::circuit_breaker::{CircuitState, Mode},
    worker::{WorkerCircuit, WorkerView},
};

/// See the module.
pub(super) struct Mark {
    pub(super) number: usize,
    pub(super) name: String,
    pub(super) world: Arc<World>,
    half_open_permits: usize,
    /// Its client.
    pub(super) broker: MemoryBroker,
    pub(super) view: OnceLock<Arc<WorkerView>>,
    dead: AtomicBool,
    pub(super) drains: AtomicBool,
    calls: AtomicU64,
    dies: Mutex<Option<(u64, Side)>>,
    held: Mutex<Held>,
}

/// Deliveries in a worker's hands, and what it did with others.
#[derive(Debug, Default)]
pub(super) struct Held {
    next: u64,
    pub(super) held: BTreeMap<u64, (Lane, String, Duration)>,
    pub(super) last_delivery: BTreeMap<Lane, Duration>,
    pub(super) subscribed: BTreeMap<Lane, u64>,
    pub(super) requeued: u64,
    pub(super) parked: u64,
    pub(super) completed: u64,
    /// S3 calls on their way: the lane, the job, and the circuit's generation when they began.
    pub(super) calls: BTreeMap<u64, (Lane, String, u64)>,
    /// When the ledger failed it last.
    pub(super) ledger_failed: Option<Duration>,
}

impl Held {
    pub(super) const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Mark {
    pub(super) fn new(number: usize, world: &Arc<World>, half_open_permits: usize) -> Arc<Self> {
        Arc::new(Self {
            number,
            name: format!("w{number}"),
            world: Arc::clone(world),
            half_open_permits,
            broker: world.broker.for_client(),
            view: OnceLock::new(),
            dead: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            dies: Mutex::default(),
            held: Mutex::default(),
        })
    }

    pub(super) fn say(&self, what: impl fmt::Display) {
        self.world.say(&self.name, what);
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.held.lock().unwrap())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    /// The process dies at its nth call to the outside from now on.
    pub(super) fn dies_at(&self, call: u64, side: Side) {
        let at = self.calls.load(Ordering::Relaxed) + call;
        *self.dies.lock().unwrap() = Some((at, side));
    }

    /// A call to the outside begins; never goes on in a process that is dead.
    pub(super) async fn before(&self) {
        if !self.is_dead() {
            let call = 1 + self.calls.fetch_add(1, Ordering::Relaxed);
            self.die_if(call, Side::Before);
        }
        self.stop_if_dead().await;
    }

    /// The call had its effect; its answer comes to no process that is dead.
    pub(super) async fn after(&self) {
        self.die_if(self.calls.load(Ordering::Relaxed), Side::After);
        self.stop_if_dead().await;
    }

    fn die_if(&self, call: u64, side: Side) {
        let due = self
            .dies
            .lock()
            .unwrap()
            .is_some_and(|at| at <= (call, side));
        if due && !self.is_dead() {
            self.die("it dies");
        }
    }

    async fn stop_if_dead(&self) {
        if self.is_dead() || self.world.is_over() {
            std::future::pending().await
        }
    }

    /// From here on nothing that it does has an effect; the broker takes its deliveries back.
    pub(super) fn die(&self, why: &str) {
        self.say(why);
        self.let_go();
        self.world.state().excuses += 1;
        self.world.state().unrest += 1;
        // The run is over.
        drop(self.world.ends.send((self.number, why.to_owned())));
    }

    /// The same for a process that has ended.
    pub(super) fn let_go(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.broker.disconnect("the process is gone");
    }

    pub(super) fn circuit(&self, lane: Lane) -> Option<&WorkerCircuit> {
        let circuits = &self.view.get()?.circuits;
        circuits.iter().find(|it| Some(it.name) == lane.circuit())
    }

    /// Whether the lane may be told to give back what it holds, now or a moment ago.
    pub(super) fn may_requeue(&self, lane: Lane) -> bool {
        let Some(view) = self.view.get() else {
            return true;
        };
        let failed = self.with(|held| held.ledger_failed);
        let is_down = matches!(*view.ledger.borrow(), LedgerStatus::Down(_))
            || failed.is_some_and(|at| self.world.now() - at < Duration::from_secs(2));
        let not_closed = self.circuit(lane).is_some_and(|circuit| {
            let state = circuit.breaker.snapshot().state;
            let since = crate::job::Timestamp::now().since(circuit.since());
            state != CircuitState::Closed || since < Duration::from_secs(2)
        });
        self.drains() || is_down || not_closed || super::panics::any()
    }

    /// A call to S3 begins for these jobs: may it?
    pub(super) fn check_circuit(&self, lane: Lane, id: &str, generation: &mut u64) {
        let Some(circuit) = self.circuit(lane) else {
            return;
        };
        let snapshot = circuit.breaker.snapshot();
        *generation = snapshot.generation;
        match snapshot.state {
            CircuitState::Closed => {}
            CircuitState::Open => {
                let text = format!("{} calls S3 for {id}", self.name);
                self.world.broken("call while open", text);
            }
            CircuitState::HalfOpen => {
                let probes = self.with(|held| {
                    let calls = held.calls.values();
                    let probes = calls.filter(|(other, job, since)| {
                        *other == lane && job != id && *since == snapshot.generation
                    });
                    probes.count()
                });
                if probes >= self.half_open_permits {
                    let text = format!("{} calls S3 for {id} beside {probes}", self.name);
                    self.world.broken("too many probes", text);
                }
            }
        }
    }

    /// The circuit is an operator's.
    pub(super) fn is_forced_open(&self, lane: Lane) -> bool {
        let circuit = self.circuit(lane);
        circuit.is_some_and(|it| it.breaker.snapshot().mode == Mode::ForceOpen)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
