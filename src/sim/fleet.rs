//! The workers of a run: started, drained, killed, and looked at.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::{
    broker::SimBroker, ledger::SimLedger, mark::Mark, panics, plan::Knobs, store::SimStore,
    world::World,
};
use crate::{
    broker::Broker,
    config::{self, Settings},
    drain::Stopped,
    job::{Circuit, Lane},
    lane::{LaneState, PausedBy},
    ledger::Owner,
    metrics::Metrics,
    resilience::circuit_breaker::CircuitState,
    storage::{Storage, respond},
    worker::{Ground, Worker},
};

/// What a drain may take beyond its time-out.
const DRAIN_GRACE: Duration = Duration::from_secs(3);
/// What a delivery may be held for beyond its job's deadline: its outcome is recorded and its copy published then.
const HOLD_GRACE: Duration = Duration::from_secs(30);

/// One worker.
pub(super) struct Slot {
    pub(super) mark: Arc<Mark>,
    metrics: Arc<Metrics>,
    storage: Arc<Storage>,
    /// Gone once it drains or is dead.
    worker: Option<Worker>,
    /// States that were seen last, by lane and circuit.
    states: BTreeMap<String, (String, Duration)>,
    /// When a lane's queue was last seen empty.
    empty_at: BTreeMap<Lane, Duration>,
}

/// See the module.
pub(super) struct Fleet {
    world: Arc<World>,
    knobs: Knobs,
    settings: Settings,
    pub(super) slots: Vec<Slot>,
    drains: JoinSet<()>,
    /// One a worker: whether a part of it ends that must not.
    watches: JoinSet<()>,
}

impl Fleet {
    pub(super) fn new(world: &Arc<World>, knobs: &Knobs) -> Self {
        Self {
            world: Arc::clone(world),
            settings: settings(knobs),
            knobs: knobs.clone(),
            slots: Vec::new(),
            drains: JoinSet::new(),
            watches: JoinSet::new(),
        }
    }

    pub(super) fn start(&mut self) {
        let permits = self.knobs.half_open_permits as usize;
        let mark = Mark::new(self.slots.len() + 1, &self.world, permits);
        mark.say("starts");
        let metrics = Arc::new(Metrics::try_new(50).unwrap());
        let store = Arc::new(SimStore {
            mark: Arc::clone(&mark),
            latency: self.knobs.latency,
        });
        let (how, uploads) = respond::settings();
        let storage = respond::storage(store, Arc::clone(&metrics), fastrand::f64, (&how, uploads));
        let storage = Arc::new(storage);
        let (ledger_mark, commit) = (Arc::clone(&mark), self.knobs.commit);
        let broker: Arc<dyn Broker> = Arc::new(SimBroker {
            mark: Arc::clone(&mark),
        });
        let ground = Ground {
            broker,
            storage: Arc::clone(&storage),
            metrics: Arc::clone(&metrics),
            owner: Owner {
                worker: mark.name.as_str().into(),
                unique: mark.name.as_str().into(),
            },
            open_ledger: Box::new(move || {
                let mark = Arc::clone(&ledger_mark);
                async move {
                    let world = Arc::clone(&mark.world);
                    if world.state().ledger.down > 0 {
                        return Err("unplugged".to_owned());
                    }
                    let inner = world.ledger.for_worker(&mark.name);
                    Ok(Arc::new(SimLedger {
                        mark,
                        inner,
                        commit,
                    }) as Arc<_>)
                }
                .boxed()
            }),
        };
        let worker = Worker::start_from(ground, &self.settings, &self.knobs.lanes);
        mark.view
            .set(Arc::clone(worker.view()))
            .expect("only this sets it, once");
        let (failed, watched) = (worker.failed(), Arc::clone(&mark));
        self.watches.spawn(async move {
            let why = failed.await;
            if !watched.is_dead() {
                if panics::any() {
                    watched.world.met("dead task");
                } else {
                    watched.world.broken("dead task", &why);
                }
                watched.die(&format!("ends with 70: {why}"));
            }
        });
        self.slots.push(Slot {
            mark,
            metrics,
            storage,
            worker: Some(worker),
            states: BTreeMap::new(),
            empty_at: BTreeMap::new(),
        });
    }

    /// Those that neither drain nor are dead.
    pub(super) fn live(&self) -> Vec<usize> {
        let all = 0..self.slots.len();
        all.filter(|index| self.slots[*index].worker.is_some())
            .collect()
    }

    /// A live one by any number.
    pub(super) fn pick(&self, number: usize) -> Option<usize> {
        let live = self.live();
        (!live.is_empty()).then(|| live[number % live.len()])
    }

    /// Its process is gone.
    pub(super) fn bury(&mut self, number: usize) {
        self.slots[number - 1].worker = None;
    }

    /// Begins to drain it, and sees to it that this ends in time.
    pub(super) fn drain(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(worker) = slot.worker.take() else {
            return;
        };
        let (mark, metrics) = (Arc::clone(&slot.mark), Arc::clone(&slot.metrics));
        let storage = Arc::clone(&slot.storage);
        let timeout = Duration::from_millis(self.knobs.drain);
        mark.drains
            .store(true, std::sync::atomic::Ordering::Relaxed);
        mark.say("drains");
        self.world.state().unrest += 1;
        self.drains.spawn(async move {
            let began = mark.world.now();
            let stopped = tokio::select! {
                biased;
                () = death(&mark) => return,
                stopped = worker.drain(timeout) => stopped,
            };
            let took = mark.world.now() - began;
            mark.say(format_args!("has stopped: {stopped:?}"));
            mark.world.met(format!("stopped: {stopped:?}"));
            if took > timeout + DRAIN_GRACE {
                let text = format!("{} took {took:?} of {timeout:?}", mark.name);
                mark.world.broken("drain", text);
            }
            if stopped == Stopped::Drained && !panics::any() {
                check_empty(&mark, &metrics, &storage);
            } else {
                mark.world.state().excuses += 1;
            }
            mark.let_go();
        });
    }

    /// How often a delivery may have gone back to its queue, with all that happened.
    pub(super) fn unrest(&self) -> u64 {
        let changes = |slot: &Slot| {
            let states = CircuitState::ALL;
            let pairs = states.iter().flat_map(|from| states.map(|to| (*from, to)));
            let counts = pairs.flat_map(|(from, to)| {
                Circuit::ALL.map(|circuit| {
                    let labels = [circuit.as_str(), from.as_str(), to.as_str()];
                    slot.metrics
                        .circuit_transitions
                        .with_label_values(&labels)
                        .get()
                })
            });
            counts.sum::<u64>()
        };
        self.world.state().unrest + self.slots.iter().map(changes).sum::<u64>()
    }

    /// Waits for all drains.
    pub(super) async fn join(&mut self, most: Duration) {
        let joined = tokio::time::timeout(most, async {
            while let Some(ended) = self.drains.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    self.world
                        .broken("simulation", "a task of the simulation panicked");
                }
            }
        });
        if joined.await.is_err() {
            self.world.broken("drain", "a drain never ended");
            self.drains.abort_all();
        }
        self.watches.shutdown().await;
    }

    /// What is so now in every worker.
    pub(super) fn look(&mut self) {
        for slot in &mut self.slots {
            if !slot.mark.is_dead() {
                slot.look(&self.world, &self.knobs);
            }
        }
    }
}

async fn death(mark: &Mark) {
    while !mark.is_dead() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Of a worker that has drained in time: nothing is left in its hands, and its numbers are right.
fn check_empty(mark: &Mark, metrics: &Metrics, storage: &Storage) {
    let leak = |what: &str, left: i64| {
        if left != 0 {
            mark.world
                .broken("leak", format!("{}: {left} {what}", mark.name));
        }
    };
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    mark.with(|held| {
        leak("deliveries", number(held.held.len()));
        leak("calls", number(held.calls.len()));
    });
    leak(
        "bytes of the budget",
        number(storage.budget().in_use() as usize),
    );
    let (mut requeued, mut parked) = (0, 0);
    for lane in Lane::ALL {
        let name = lane.as_str();
        leak(
            "jobs in flight",
            metrics.jobs_in_flight.with_label_values(&[name]).get(),
        );
        for state in ["sent", "held"] {
            let calls = metrics.s3_calls.with_label_values(&[name, state]).get();
            leak("calls counted", calls);
        }
        for reason in ["circuit_open", "drain", "ledger_down", "panic"] {
            requeued += metrics.requeued.with_label_values(&[name, reason]).get();
        }
        for reason in crate::job::outcome::ParkReason::all() {
            parked += metrics
                .parked
                .with_label_values(&[name, reason.as_str()])
                .get();
        }
    }
    let did = mark.with(|held| (held.requeued, held.parked));
    if did != (requeued, parked) {
        let text = format!(
            "{} requeued and parked {did:?}, and counted {:?}",
            mark.name,
            (requeued, parked)
        );
        mark.world.broken("metrics", text);
    }
}

impl Slot {
    fn look(&mut self, world: &Arc<World>, knobs: &Knobs) {
        let mark = Arc::clone(&self.mark);
        let Some(view) = mark.view.get() else {
            return;
        };
        for circuit in &view.circuits {
            let snapshot = circuit.breaker.snapshot();
            let name = format!("circuit {}", snapshot.state.as_str());
            self.seen(world, circuit.name.as_str(), name);
        }
        for lane_view in &view.lanes {
            let lane = lane_view.lane;
            let state = lane_view.status.state();
            let name = match &state {
                LaneState::Paused(by, _) => format!("lane paused by {by:?}"),
                other => format!("lane {}", other.as_str()),
            };
            self.seen(world, lane.as_str(), name);
            let gauge = &self.metrics.lane_consuming;
            let gauge = gauge.with_label_values(&[lane.as_str()]).get();
            if gauge != i64::from(state == LaneState::Consuming) {
                let text = format!("{} shows {gauge} while {lane} is {state:?}", mark.name);
                world.broken("metrics", text);
            }
            if world.broker.ready(&world.names.lane_queue(lane)).is_empty() {
                self.empty_at.insert(lane, world.now());
            }
            self.check_lane(world, knobs, lane, &state);
        }
    }

    fn seen(&mut self, world: &World, what: &str, state: String) {
        let number = self.mark.number;
        let key = format!("w{number} {what}");
        match self.states.get(&key) {
            Some((before, _)) if *before == state => return,
            Some((before, _)) => world.ends(before),
            None => {}
        }
        self.states.insert(key, (state.clone(), world.now()));
        world.begins(state);
    }

    /// A lane that nothing keeps from its work does it, within a bound.
    fn check_lane(&self, world: &World, knobs: &Knobs, lane: Lane, state: &LaneState) {
        let mark = &self.mark;
        let now = world.now();
        let Some(calm) = world.calm_since(lane) else {
            return;
        };
        let deadline = Duration::from_millis(knobs.job_deadline);
        let too_long = mark.with(|held| {
            let mut ours = held.held.values().filter(|(of, ..)| *of == lane);
            ours.find(|(_, _, since)| now.saturating_sub(calm.max(*since)) > deadline + HOLD_GRACE)
                .map(|(_, id, since)| format!("{} holds {id} since {since:?}", mark.name))
        });
        if let Some(text) = too_long {
            world.broken("held too long", text);
        }
        if mark.drains() || mark.is_forced_open(lane) || panics::any() {
            return;
        }
        // The longest open time, a probe that hangs, and two looks at the queue.
        let bound = Duration::from_millis(knobs.open_max * 12 / 10) + Duration::from_secs(180);
        let queue = world.names.lane_queue(lane);
        let last = mark.with(|held| held.last_delivery.get(&lane).copied());
        let empty_at = self.empty_at.get(&lane).copied().unwrap_or_default();
        let idle_since = last.unwrap_or_default().max(calm).max(empty_at);
        let is_idle = now.saturating_sub(idle_since) > bound && mark.broker.unsettled(&queue) == 0;
        if is_idle && !world.broker.ready(&queue).is_empty() {
            let text = format!("{} takes nothing of {lane}: {state:?}", mark.name);
            world.broken("stall", text);
        }
        // Without any trouble but S3's it consumes, unless its circuit says otherwise.
        let is_paused = matches!(
            state,
            LaneState::Disconnected(_) | LaneState::Paused(PausedBy::Ledger | PausedBy::Amqp, _)
        );
        let since = self.states.get(&format!("w{} {lane}", mark.number));
        let since = since.map_or(now, |(_, since)| *since).max(calm);
        if is_paused && now.saturating_sub(since) > bound {
            world.broken("stall", format!("{}: {lane} is {state:?}", mark.name));
        }
    }
}

/// A worker's settings, read once.
fn settings(knobs: &Knobs) -> Settings {
    static DEFAULTS: OnceLock<Settings> = OnceLock::new();
    let defaults = DEFAULTS.get_or_init(|| {
        let none = config::Sources::default();
        config::load(&none).unwrap().settings
    });
    let mut settings = defaults.clone();
    let millis = Duration::from_millis;
    for lane in Lane::ALL {
        let lane = settings.lanes.of_mut(lane);
        lane.concurrency = knobs.concurrency as usize;
        lane.prefetch = knobs.prefetch as u16;
    }
    settings.retry.max_attempts = knobs.max_attempts as u32;
    settings.circuit.failure_threshold = knobs.failure_threshold as u32;
    settings.circuit.half_open_permits = knobs.half_open_permits as u32;
    settings.circuit.open_base = millis(knobs.open_base);
    settings.circuit.open_max = millis(knobs.open_max);
    settings.circuit.probe_timeout = Duration::from_secs(45);
    settings.limits.job_deadline = millis(knobs.job_deadline);
    settings.limits.max_job_age = millis(knobs.max_job_age);
    settings.cleanup.batch_keys = knobs.batch_keys as usize;
    settings.events.enabled = knobs.concurrency == 4;
    settings
}
