//! The engine: a lane is one queue with its consumer, prefetch, concurrency limit and, but for cleanup,
//! breaker.
//!
//! [`LaneRunner`] decides when the lane may take deliveries; `executor` turns one delivery into one
//! outcome; `settlement` tells the broker. The runner alone requeues, and only with its consumer
//! cancelled (RESILIENCE.md, events 2, 8-10, 12-17). Nothing here knows lapin, SQL or the S3 SDK.

mod cleanup;
mod context;
mod executor;
mod gate;
mod pace;
mod reply;
mod resolution;
mod run;
mod running;
mod settlement;
mod status;
#[cfg(test)]
mod tests;
mod watchdog;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use cleanup::BatchLimits;
use cleanup::Gatherer;
pub use context::{AllowList, LaneContext, LaneLimits, LaneParts, Suspects};
use gate::{Gate, Pause};
use pace::{Admission, admit};
pub use pace::{Foreground, Pace};
pub use running::Running;
pub use status::{LaneState, LaneStatus, PausedBy, RecentFailure, RecentFailures, Totals};

use watchdog::Watchdog;

use crate::{
    broker::{Acker, BrokerError, Delivery, Ended, Subscription},
    job::outcome::RequeueReason,
    resilience::Permit,
};

/// The wait before consuming again after the queue failed us: first and longest.
const RESUBSCRIBE_FIRST: Duration = Duration::from_millis(500);
const RESUBSCRIBE_MOST: Duration = Duration::from_secs(30);

/// A delivery that goes back to its queue once no consumer of ours is on it.
#[derive(Debug)]
pub(crate) struct Requeue {
    acker: Acker,
    reason: RequeueReason,
}

/// Runs one lane from start to drain. Owns every task that works for it.
#[derive(Debug)]
pub struct LaneRunner {
    context: Arc<LaneContext>,
    gate: Gate,
    prefetch: u16,
    /// No new deliveries from here on; running jobs go on.
    stop: CancellationToken,
    pace: Option<Arc<Pace>>,
    tasks: JoinSet<()>,
    /// Taken and not started, in order of arrival.
    pending: VecDeque<Delivery>,
    requeues: mpsc::UnboundedReceiver<Requeue>,
    /// Of a lane that gathers deletes, until it runs.
    gatherer: Option<Gatherer>,
    resubscribe_after: Duration,
}

/// Why consuming ended.
enum Left {
    /// Something says that the lane must not consume; the gate knows what.
    Paused(Pause),
    /// A job was refused and wants to go back to the queue.
    Requeue(Requeue),
    /// The stream ended by itself.
    Ended(Ended),
    /// So many jobs wait, and none is delivered.
    Forgotten(u32),
    /// Drain.
    Stopped,
}

impl LaneRunner {
    /// A runner for the parts of one lane; `pace` for a lane that yields to the others.
    pub fn new(
        parts: LaneParts,
        prefetch: u16,
        stop: CancellationToken,
        pace: Option<Arc<Pace>>,
    ) -> Self {
        let (sender, requeues) = mpsc::unbounded_channel();
        let (context, gatherer) = LaneContext::new(parts, stop.clone(), sender);
        let context = Arc::new(context);
        Self {
            gate: Gate::new(&context),
            context,
            prefetch,
            stop,
            pace,
            tasks: JoinSet::new(),
            pending: VecDeque::new(),
            requeues,
            gatherer,
            resubscribe_after: RESUBSCRIBE_FIRST,
        }
    }

    /// Runs until `stop` is cancelled and every job of the lane has ended.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        let mut gatherer = JoinSet::new();
        if let Some(it) = self.gatherer.take() {
            gatherer.spawn(it.run(stop.clone()));
        }
        loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                step = self.next_step() => step,
            };
            match step {
                Step::Consume => self.consume().await,
                Step::Probe(permits) => self.probe(permits).await,
            }
        }
        self.drain().await;
        // Every job has ended: nobody waits for a batch.
        gatherer.shutdown().await;
    }

    /// Waits, silent, until the lane may consume or probe. Requeues what comes back meanwhile.
    async fn next_step(&mut self) -> Step {
        loop {
            let pause = match self.gate.look() {
                Ok(()) => return Step::Consume,
                Err(pause) => pause,
            };
            if let Pause::Circuit = pause
                && let Some(permits) = self.gate.reserve_probes()
            {
                return Step::Probe(permits);
            }
            self.context.status.paused(&pause);
            tokio::select! {
                () = self.gate.changed(&pause) => {}
                Some(requeue) = self.requeues.recv() => self.context.requeue(requeue).await,
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
    }

    /// Consumes at full prefetch until something says stop.
    async fn consume(&mut self) {
        let Some(mut subscription) = self.subscribe(self.prefetch).await else {
            return;
        };
        self.context.status.consuming();
        let left = self.take_deliveries(&mut *subscription).await;
        match left {
            Left::Ended(ended) => {
                tracing::warn!(lane = %self.context.lane, %ended, "the lane's stream of deliveries ended");
                self.pending.retain(|delivery| !delivery.acker.is_stale());
                self.wait_to_resubscribe().await;
            }
            Left::Forgotten(waiting) => {
                tracing::warn!(lane = %self.context.lane, waiting, "connected, but no delivery comes while jobs wait; the lane consumes anew");
                self.pending.extend(subscription.cancel().await);
            }
            Left::Stopped => {
                self.context.status.draining();
                self.pending.extend(subscription.cancel().await);
            }
            Left::Requeue(requeue) => {
                self.pending.extend(subscription.cancel().await);
                self.give_back(requeue.reason).await;
                self.context.requeue(requeue).await;
            }
            Left::Paused(pause) => {
                self.context.status.paused(&pause);
                self.pending.extend(subscription.cancel().await);
                if let Some(reason) = pause.requeues() {
                    self.give_back(reason).await;
                }
            }
        }
    }

    async fn take_deliveries(&mut self, subscription: &mut dyn Subscription) -> Left {
        let broker = Arc::clone(&self.context.broker);
        let mut watchdog = Watchdog::new(broker, self.context.lane);
        loop {
            // What attached in other lanes counts too, which only makes the watchdog slower to bark.
            let in_hand = self.tasks.len() + self.pending.len() + self.context.running.attached();
            let has_room = in_hand < usize::from(self.prefetch);
            if let Err(pause) = self.gate.look() {
                return Left::Paused(pause);
            }
            let places = Arc::clone(&self.context.admission);
            let paced = admit(self.pace.as_ref());
            let admitted = async { (places.acquire_owned().await, paced.await) };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Left::Stopped,
                Some(requeue) = self.requeues.recv() => return Left::Requeue(requeue),
                () = self.gate.anything() => {}
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                (Ok(place), admission) = admitted, if !self.pending.is_empty() => {
                    if let Some(delivery) = self.pending.pop_front() {
                        self.start(delivery, place, admission);
                    }
                }
                next = subscription.next() => match next {
                    Ok(delivery) => {
                        self.resubscribe_after = RESUBSCRIBE_FIRST;
                        watchdog.fed();
                        self.pending.push_back(delivery);
                    }
                    Err(ended) => return Left::Ended(ended),
                },
                waiting = watchdog.forgotten(), if has_room => return Left::Forgotten(waiting),
            }
        }
    }

    /// Half-open: takes one delivery a reserved slot, cancels, and gives each its slot.
    async fn probe(&mut self, mut permits: Vec<Permit>) {
        let slots = u16::try_from(permits.len()).unwrap_or(u16::MAX);
        self.context.status.probing();
        let Some(mut subscription) = self.subscribe(slots).await else {
            return;
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.gate.not_half_open() => {}
            next = subscription.next() => match next {
                Ok(delivery) => self.pending.push_back(delivery),
                Err(_) => return self.wait_to_resubscribe().await,
            },
        }
        self.pending.extend(subscription.cancel().await);
        let mut probes = JoinSet::new();
        while let (Some(delivery), Some(permit)) = (self.pending.pop_front(), permits.pop()) {
            permit.progress();
            let context = Arc::clone(&self.context);
            probes.spawn(executor::execute(context, delivery, Some(permit)));
        }
        // A slot without a job goes back before the verdicts come.
        drop(permits);
        self.give_back(RequeueReason::CircuitOpen).await;
        while !probes.is_empty() && self.gate.is_half_open() {
            tokio::select! {
                _ = probes.join_next() => {}
                Some(requeue) = self.requeues.recv() => self.context.requeue(requeue).await,
                () = self.gate.probe_overdue() => {}
            }
        }
        // A probe that hung has re-opened the circuit; its job goes on to its own deadline.
        self.tasks
            .spawn(async move { while probes.join_next().await.is_some() {} });
    }

    async fn subscribe(&mut self, prefetch: u16) -> Option<Box<dyn Subscription>> {
        let lane = self.context.lane;
        let subscribed = tokio::select! {
            () = self.stop.cancelled() => return None,
            subscribed = self.context.broker.subscribe(lane, prefetch) => subscribed,
        };
        match subscribed {
            Ok(subscription) => Some(subscription),
            Err(error) => {
                if let BrokerError::Queue(problem) = &error {
                    tracing::warn!(%lane, %problem, "the lane can't consume its queue");
                }
                self.context.status.disconnected(&error.to_string());
                self.wait_to_resubscribe().await;
                None
            }
        }
    }

    async fn wait_to_resubscribe(&mut self) {
        let wait = self.resubscribe_after;
        self.resubscribe_after = (wait * 2).min(RESUBSCRIBE_MOST);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => {}
            () = self.gate.reconnected() => {}
        }
    }

    /// Starts a delivery in a task of the lane.
    fn start(
        &mut self,
        delivery: Delivery,
        place: tokio::sync::OwnedSemaphorePermit,
        admission: Option<Admission>,
    ) {
        if delivery.acker.is_stale() {
            // Its redelivery decides; running it now would only race with that.
            return;
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let _admitted = (place, admission);
            executor::execute(context, delivery, None).await;
        });
    }

    /// Requeues everything that was taken and not started. Call with no consumer on the queue.
    async fn give_back(&mut self, reason: RequeueReason) {
        while let Some(delivery) = self.pending.pop_front() {
            self.context
                .requeue(Requeue {
                    acker: delivery.acker,
                    reason,
                })
                .await;
        }
    }

    /// Requeues what has not started and waits for the rest; the abort token ends what takes too long.
    async fn drain(mut self) {
        self.context.status.draining();
        self.give_back(RequeueReason::Drain).await;
        while !self.tasks.is_empty() {
            tokio::select! {
                Some(requeue) = self.requeues.recv() => self.context.requeue(requeue).await,
                _ = self.tasks.join_next() => {}
            }
        }
        while let Ok(requeue) = self.requeues.try_recv() {
            self.context.requeue(requeue).await;
        }
    }
}

enum Step {
    Consume,
    Probe(Vec<Permit>),
}
