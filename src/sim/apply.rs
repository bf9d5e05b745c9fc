//! What goes wrong, done: each fault's beginning and its end.

use std::{sync::Arc, time::Duration};

use super::{
    fault::{Fault, QueueOf},
    panics,
    run::{LEASE, Run, TICK},
};
use crate::{
    broker::Target,
    job::{
        Lane, Timestamp, message::header, outcome::ParkDelay, timestamp::in_this_test as wall_clock,
    },
};

impl Run<'_> {
    fn queue(&self, lane: Lane, queue: QueueOf) -> String {
        let names = &self.world.names;
        match queue {
            QueueOf::Jobs => names.lane_queue(lane),
            QueueOf::FirstRetry => names.retry_queue(lane, ParkDelay::step(lane, 0)),
            QueueOf::Dead => names.dead_queue(lane),
        }
    }

    /// Lanes that a fault may keep from their work.
    fn blocks(fault: &Fault) -> Vec<Lane> {
        match fault {
            Fault::FullQueue { lane, .. } | Fault::MissingQueue { lane, .. } => vec![*lane],
            Fault::Disconnected { .. }
            | Fault::Alarm { .. }
            | Fault::LedgerDown { .. }
            | Fault::CommitsDown { .. }
            | Fault::LedgerSilent { .. }
            | Fault::LedgerSlow { .. } => Lane::ALL.to_vec(),
            _ => Vec::new(),
        }
    }

    pub(super) async fn begin(&mut self, index: usize) {
        let fault = self.plan.events[index].fault.clone();
        self.world.say("fault", &fault);
        let kind = match &fault {
            Fault::Store { weather, .. } => format!("store {weather:?}"),
            other => other.kind().to_owned(),
        };
        self.world.begins(kind.clone());
        if fault.lasts().is_none() {
            self.world.ends(&kind);
        } else {
            self.begun.insert(index);
        }
        self.world.met(fault.kind());
        let blocked = Self::blocks(&fault);
        self.world.state().blocked.insert(index, blocked);
        self.apply(index, fault).await;
    }

    async fn apply(&mut self, index: usize, fault: Fault) {
        let world = Arc::clone(&self.world);
        match fault {
            Fault::Store {
                weather,
                lane,
                permille,
                ..
            } => {
                world
                    .state()
                    .weather
                    .insert(index, (weather, lane, permille));
            }
            Fault::ChannelsLost { worker } => {
                if let Some(slot) = self.fleet.pick(worker) {
                    self.fleet.slots[slot].mark.broker.lose_channels();
                }
            }
            Fault::Disconnected { worker, .. } => {
                if let Some(slot) = self.fleet.pick(worker) {
                    self.fleet.slots[slot].mark.broker.disconnect("cable");
                }
            }
            Fault::Alarm { .. } => world.broker.stall_publishes(true),
            Fault::FullQueue { lane, queue, .. } => {
                world.broker.fill_queue(&self.queue(lane, queue), true);
            }
            Fault::MissingQueue { lane, queue, .. } => {
                let queue = self.queue(lane, queue);
                let held = world.broker.take_queue(&queue);
                let mut state = world.state();
                state.set_aside.entry(queue).or_default().extend(held);
            }
            Fault::ConsumersForgotten => world.broker.forget_consumers(),
            Fault::CopiesRefused { refusal, count } => {
                world.state().refusals.extend((0..count).map(|_| refusal));
            }
            Fault::AcksLost { count } => world.state().acks_to_lose += count,
            Fault::LedgerDown { .. } => world.state().ledger.down += 1,
            Fault::CommitsDown { .. } => world.state().ledger.commits_down += 1,
            Fault::LedgerSilent { .. } => world.state().ledger.silent += 1,
            Fault::LedgerSlow { by, .. } => {
                world.state().ledger.slow.insert(index, by);
            }
            Fault::LedgerAnswersLost { count } => world.state().ledger.answers_to_lose += count,
            Fault::RowRefused { job } => {
                let id = self.plan.jobs.get(job).map(|job| job.id.clone());
                let mut state = world.state();
                state.once_refused.extend(id.clone());
                state.refused_rows.extend(id);
            }
            Fault::LeasesRunOut => {
                world.ledger.pass(LEASE + TICK);
                let mut state = world.state();
                state.leases_ran_out = Some(world.now());
            }
            Fault::ClockAhead { by } => wall_clock::put_on(Duration::from_millis(by)),
            Fault::ClockBack { by } => wall_clock::put_back(Duration::from_millis(by)),
            Fault::Operator { circuit, mode } => {
                for slot in self.fleet.live() {
                    let view = self.fleet.slots[slot].mark.view.get();
                    let circuits = view.into_iter().flat_map(|view| &view.circuits);
                    for it in circuits.filter(|it| it.name == circuit) {
                        it.breaker.force(mode);
                    }
                }
            }
            Fault::WorkerStarts => self.fleet.start(),
            Fault::WorkerDrains { worker } => {
                if let Some(slot) = self.fleet.pick(worker) {
                    self.fleet.drain(slot);
                    self.ensure_one();
                }
            }
            Fault::WorkerKilled { worker } => {
                if let Some(slot) = self.fleet.pick(worker) {
                    self.fleet.slots[slot].mark.die("is killed");
                }
            }
            Fault::WorkerDies { worker, call, side } => {
                if let Some(slot) = self.fleet.pick(worker) {
                    self.fleet.slots[slot].mark.dies_at(call, side);
                }
            }
            Fault::Panic { point } => panics::arm(point),
            Fault::JobAgain { job } => {
                if let Some(job) = self.plan.jobs.get(job) {
                    self.publish(job).await;
                }
            }
            Fault::Replay { lane } => self.replay(lane).await,
        }
    }

    /// As an operator's `dead replay` does it.
    async fn replay(&self, lane: Lane) {
        let queue = self.world.names.dead_queue(lane);
        let letters = self.world.broker.ready(&queue);
        if letters.is_empty() {
            return;
        }
        self.world.broker.take_queue(&queue);
        self.world.broker.declare_queue(&queue);
        for letter in letters {
            let id = letter.message_id.clone().unwrap_or_default();
            let replays = letter.count(header::REPLAY).unwrap_or(0) + 1;
            self.world.facts(&id, |facts| facts.replays += 1);
            let copy = letter
                .copy()
                .with_count(header::REPLAY, replays)
                .with_text(header::REPLAYED_AT, Timestamp::now().to_string());
            self.send(&Target::Jobs(lane), &copy).await;
        }
    }

    pub(super) async fn end(&mut self, index: usize) {
        if !self.begun.remove(&index) {
            return;
        }
        let fault = self.plan.events[index].fault.clone();
        let world = Arc::clone(&self.world);
        world.say("mended", &fault);
        match &fault {
            Fault::Store { weather, .. } => {
                world.ends(&format!("store {weather:?}"));
                world.state().weather.remove(&index);
            }
            Fault::Disconnected { .. } => {
                for slot in &self.fleet.slots {
                    if !slot.mark.is_dead() {
                        slot.mark.broker.reconnect();
                    }
                }
            }
            Fault::Alarm { .. } => world.broker.stall_publishes(false),
            Fault::FullQueue { lane, queue, .. } => {
                world.broker.fill_queue(&self.queue(*lane, *queue), false);
            }
            Fault::MissingQueue { lane, queue, .. } => {
                let queue = self.queue(*lane, *queue);
                let held = world.state().set_aside.remove(&queue);
                world.broker.declare_queue(&queue);
                for message in held.into_iter().flatten() {
                    world.broker.push(&queue, &message);
                }
            }
            Fault::LedgerDown { .. } => world.state().ledger.down -= 1,
            Fault::CommitsDown { .. } => world.state().ledger.commits_down -= 1,
            Fault::LedgerSilent { .. } => world.state().ledger.silent -= 1,
            Fault::LedgerSlow { .. } => {
                world.state().ledger.slow.remove(&index);
            }
            _ => {}
        }
        world.ends(fault.kind());
        let now = world.now();
        let mut state = world.state();
        for lane in state.blocked.remove(&index).unwrap_or_default() {
            state.calm_since.insert(lane, now);
        }
    }
}
