//! One run of a schedule: a world, its workers, the events in their order, the mending, the end.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    sync::mpsc,
    time::sleep_until,
};

use super::{
    chance::Chance,
    fleet::Fleet,
    panics,
    plan::{Asks, JobPlan, Plan, What},
    world::{Broken, State, World},
};
use crate::{
    broker::Target,
    job::{Message, Timestamp, outcome::ParkDelay, timestamp::in_this_test as wall_clock},
    ledger::memory::MemoryLedger,
    resilience::circuit_breaker::Mode,
};

/// How long everything may take to end once all is mended: the ladder, twice.
const BOUND: Duration = Duration::from_secs(3 * 3600);
pub(super) const LEASE: Duration = Duration::from_secs(15);
pub(super) const TICK: Duration = Duration::from_secs(1);
/// 2026-03-20.
const START: Timestamp = Timestamp::from_micros(1_774_000_000_000_000);

/// What came of a run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) state: State,
    /// How long it was, by its own clock.
    pub(super) lasted: Duration,
}

impl Report {
    /// The first rule that was broken.
    pub(super) fn broken(&self) -> Option<&Broken> {
        self.state.broken.first()
    }
}

/// Runs a schedule, the same way each time.
pub(super) fn run(plan: &Plan) -> Report {
    fastrand::seed(plan.seed);
    panics::begin();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let report = runtime.block_on(async {
        wall_clock::begin_at(START);
        let (ends, ended) = mpsc::unbounded_channel();
        let ledger = MemoryLedger::new("operator", LEASE);
        let world = World::new(plan.seed, ledger, ends);
        let run = Run {
            fleet: Fleet::new(&world, &plan.knobs),
            plan,
            world: Arc::clone(&world),
            ended,
            agenda: BTreeSet::new(),
            begun: BTreeSet::new(),
        };
        run.go().await;
        let lasted = world.now();
        let state = std::mem::take(&mut *world.state());
        Report { state, lasted }
    });
    drop(runtime);
    wall_clock::end();
    panics::end();
    report
}

/// One step of the agenda.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Job(usize),
    Begin(usize),
    End(usize),
    Start,
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) world: Arc<World>,
    pub(super) fleet: Fleet,
    ended: mpsc::UnboundedReceiver<(usize, String)>,
    /// By milliseconds.
    agenda: BTreeSet<(u64, Step)>,
    pub(super) begun: BTreeSet<usize>,
}

impl Run<'_> {
    async fn go(mut self) {
        for (index, job) in self.plan.jobs.iter().enumerate() {
            self.agenda.insert((job.at, Step::Job(index)));
        }
        for (index, event) in self.plan.events.iter().enumerate() {
            self.agenda.insert((event.at, Step::Begin(index)));
            if let Some(lasts) = event.fault.lasts() {
                self.agenda.insert((event.at + lasts, Step::End(index)));
            }
        }
        for _ in 0..self.plan.knobs.workers {
            self.fleet.start();
        }
        let horizon = Duration::from_millis(self.plan.horizon);
        self.until(horizon, |_| false).await;
        self.mend();
        let bound = self.world.now() + BOUND;
        if !self.until(bound, Self::is_quiet).await && !self.world.is_over() {
            let left = self.unfinished();
            self.world.broken("never ended", left);
        }
        let live = self.fleet.live();
        for index in live {
            self.fleet.drain(index);
        }
        self.fleet.join(Duration::from_secs(120)).await;
        if !self.world.is_over() {
            self.check_end().await;
        }
    }

    /// Goes through the agenda until that time, or until it is so.
    async fn until(&mut self, time: Duration, so: impl Fn(&Self) -> bool) -> bool {
        let began = self.world.began;
        let mut tick = self.world.now();
        loop {
            if so(self) {
                return true;
            }
            if self.world.now() >= time || self.world.is_over() {
                return false;
            }
            let next = self.agenda.first().copied();
            let next_at = next.map_or(time, |(at, _)| Duration::from_millis(at));
            tokio::select! {
                biased;
                Some((number, _)) = self.ended.recv() => self.buried(number),
                () = sleep_until(began + next_at.min(time).min(tick)) => {
                    let now = self.world.now();
                    if now >= tick {
                        tick = now + TICK;
                        self.fleet.look();
                    }
                    if let Some(next) = next && now >= next_at {
                        self.agenda.remove(&next);
                        self.step(next.1).await;
                    }
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.world.now().as_millis() as u64
    }

    /// A worker's process is gone; another follows if none is left.
    fn buried(&mut self, number: usize) {
        self.fleet.bury(number);
        self.ensure_one();
    }

    pub(super) fn ensure_one(&mut self) {
        let has_one = !self.fleet.live().is_empty()
            || self.agenda.iter().any(|(_, step)| *step == Step::Start);
        if !has_one {
            let started = self.fleet.slots.len() as u64;
            let wait = Chance::of(self.plan.seed, "restart", started).between(500, 10_000);
            self.agenda.insert((self.now_ms() + wait, Step::Start));
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Job(index) => {
                let job = &self.plan.jobs[index];
                self.publish(job).await;
            }
            Step::Begin(index) => self.begin(index).await,
            Step::End(index) => self.end(index).await,
            Step::Start => self.fleet.start(),
        }
    }

    pub(super) async fn publish(&self, job: &JobPlan) {
        let reply_to = match job.asks {
            Asks::Nothing => None,
            Asks::Answer => Some(super::ANSWERS.to_owned()),
            Asks::InVain => Some("gone".to_owned()),
        };
        let seconds = Timestamp::now().as_micros() / 1_000_000;
        let message = Message {
            message_id: Some(job.id.clone()),
            body: job.body().to_string().into(),
            content_type: Some("application/json".to_owned()),
            timestamp: u64::try_from(seconds).ok(),
            reply_to,
            ..Message::default()
        };
        self.send(&Target::Jobs(job.lane), &message).await;
    }

    /// What a producer or an operator sends; kept for the queue if that is missing.
    pub(super) async fn send(&self, target: &Target, message: &Message) {
        let id = message.message_id.clone().unwrap_or_default();
        let queue = self.world.names.queue(target);
        self.world
            .say("producer", format_args!("sends {id} to {queue}"));
        self.world.facts(&id, |facts| facts.published += 1);
        let missing = {
            let mut state = self.world.state();
            let aside = state.set_aside.get_mut(&queue);
            aside.map(|aside| aside.push(message.clone())).is_some()
        };
        // A producer has alarms and outages of its own; these are not simulated.
        if !missing {
            self.world.broker.push(&queue, message);
        }
    }

    /// Nothing goes wrong any more, and at least one worker runs.
    fn mend(&mut self) {
        self.world.say("mended", "everything");
        let begun: Vec<usize> = self.begun.iter().copied().collect();
        for index in begun {
            // None of these waits.
            futures_util::FutureExt::now_or_never(self.end(index));
        }
        self.agenda
            .retain(|(_, step)| matches!(step, Step::Start | Step::Job(_)));
        panics::disarm();
        {
            let mut state = self.world.state();
            state.refusals.clear();
            state.refused_rows.clear();
            state.acks_to_lose = 0;
            state.ledger.answers_to_lose = 0;
        }
        for slot in &self.fleet.slots {
            let circuits = slot.mark.view.get().into_iter().flat_map(|it| &it.circuits);
            for circuit in circuits.filter(|it| it.breaker.snapshot().mode != Mode::Auto) {
                circuit.breaker.force(Mode::Auto);
            }
        }
        self.ensure_one();
    }

    /// Whether every job has ended and every queue but the dead ones is empty.
    fn is_quiet(&self) -> bool {
        let has_starts = self
            .agenda
            .iter()
            .any(|(_, step)| matches!(step, Step::Start | Step::Job(_)));
        !has_starts && self.unfinished().is_empty()
    }

    /// Its row can't say how it ended: its letter does.
    fn was_refused(&self, id: &str) -> bool {
        self.world.state().once_refused.contains(id)
    }

    /// What there is still to do, for people.
    fn unfinished(&self) -> String {
        let mut left = Vec::new();
        for job in &self.plan.jobs {
            let row = self.world.row(&job.id).map(|row| row.state);
            let is_buried = self.world.facts(&job.id, |facts| facts.letters > 0);
            let was_sent = self.world.facts(&job.id, |facts| facts.published > 0);
            let has_ended = row.is_some_and(|state| state.is_final())
                || (is_buried && (row.is_none() || self.was_refused(&job.id)));
            if was_sent && !has_ended {
                left.push(format!("{} is {row:?}", job.id));
            }
        }
        for lane in &self.plan.knobs.lanes {
            let names = &self.world.names;
            let retries = ParkDelay::ALL.map(|delay| names.retry_queue(*lane, delay));
            for queue in std::iter::once(names.lane_queue(*lane)).chain(retries) {
                let depth = self.world.broker.depth(&queue);
                if depth > 0 {
                    left.push(format!("{queue} holds {depth}"));
                }
            }
        }
        left.join(", ")
    }

    /// What must be so when everything has ended.
    async fn check_end(&self) {
        let world = &self.world;
        for job in &self.plan.jobs {
            let facts = world.facts(&job.id, |facts| facts.clone());
            let row = world.row(&job.id);
            let letters = world.broker.dead(job.lane);
            let letters = letters
                .iter()
                .filter(|letter| letter.message_id.as_deref() == Some(job.id.as_str()));
            let letters = letters.count();
            let is_dead = match &row {
                Some(row) => row.state == crate::job::State::DeadLettered,
                None => facts.published > 0,
            };
            if is_dead && letters == 0 {
                world.broken("lost", format!("{} is dead and has no letter", job.id));
            }
            let most = 3 + self.fleet.unrest() + panics::count();
            if facts.requeues > most {
                let text = format!(
                    "{} went back {} times, for {most} reasons",
                    job.id, facts.requeues
                );
                world.broken("deliveries", text);
            }
            let excuses = world.state().excuses + facts.unanswered + facts.replays;
            if facts.effects > 1 + excuses && job.what != What::PutOnce {
                let text = format!("{} had {} effects", job.id, facts.effects);
                world.broken("twice", text);
            }
        }
        // What was aborted is dropped when its task is polled next.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        if tasks > 0 {
            world.broken("leak", format!("{tasks} tasks are alive"));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.state.trace {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}
