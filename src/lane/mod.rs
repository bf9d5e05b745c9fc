//! The engine: a lane is one queue with its consumer, prefetch, concurrency limit and, but for cleanup,
//! breaker.
//!
//! [`LaneRunner`] decides when the lane may take deliveries; `executor` turns one delivery into one
//! outcome; `settlement` tells the broker. The runner alone requeues, and only with its consumer
//! cancelled (RESILIENCE.md, events 2, 8-10, 12-17); what a task gives back while the lane may run jobs starts
//! again from the runner's hands. Nothing here knows lapin, SQL or the S3 SDK.

mod cleanup;
mod context;
mod copies;
mod executor;
mod gate;
mod hands;
mod losses;
mod pace;
mod panics;
mod record;
mod reply;
mod resolution;
mod resubscription;
mod run;
mod running;
mod settlement;
mod status;
#[cfg(test)]
mod tests;
mod unknown_fields;
mod watchdog;
mod window;

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub use cleanup::BatchLimits;
use cleanup::Gatherer;
pub use context::{AllowList, LaneContext, LaneLimits, LaneParts, Suspects};
pub use copies::{Stuck, StuckCopies};
use gate::{Gate, Leave, Pause};
use hands::Hands;
use pace::admit;
pub use pace::{Foreground, Pace};
pub use running::Running;
pub use status::{LaneState, LaneStatus, PausedBy, RecentFailure, RecentFailures, Totals};
pub use unknown_fields::UnknownFields;

use resubscription::Resubscription;
use watchdog::Watchdog;
use window::Window;

use crate::{
    broker::{Acker, BrokerError, Delivery, Ended, Subscription},
    job::outcome::RequeueReason,
    resilience::Permit,
};

/// Runs one lane from start to drain. Owns every task that works for it.
#[derive(Debug)]
pub struct LaneRunner {
    context: Arc<LaneContext>,
    gate: Gate,
    window: Window,
    /// No new deliveries from here on; running jobs go on.
    stop: CancellationToken,
    pace: Option<Arc<Pace>>,
    tasks: JoinSet<()>,
    /// Taken and not started.
    hands: Hands,
    /// What tasks give back, refused or interrupted.
    returned: mpsc::UnboundedReceiver<Acker>,
    /// What tasks let go of in a panic.
    dropped: mpsc::UnboundedReceiver<Acker>,
    dropped_home: mpsc::UnboundedSender<Acker>,
    /// Of a lane that gathers deletes, until it runs.
    gatherer: Option<Gatherer>,
    resubscription: Resubscription,
}

impl LaneRunner {
    /// A runner for the parts of one lane, with at most `prefetch` deliveries in hand; `pace` for a lane that yields to the others.
    pub fn new(
        parts: LaneParts,
        prefetch: u16,
        stop: CancellationToken,
        pace: Option<Arc<Pace>>,
    ) -> Self {
        let (home, returned) = mpsc::unbounded_channel();
        let (dropped_home, dropped) = mpsc::unbounded_channel();
        let (context, gatherer) = LaneContext::new(parts, stop.clone(), home);
        let context = Arc::new(context);
        let (budget, largest) = (
            context.storage.budget(),
            context.limits.rules.max_message_bytes,
        );
        Self {
            gate: Gate::new(&context),
            window: Window::new(budget, context.lane, prefetch, largest),
            context,
            stop,
            pace,
            tasks: JoinSet::new(),
            hands: Hands::default(),
            returned,
            dropped,
            dropped_home,
            gatherer,
            resubscription: Resubscription::default(),
        }
    }

    /// Runs until `stop` is cancelled and every job of the lane has ended. Ends before that only by a bug.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        let mut gatherer = JoinSet::new();
        if let Some(it) = self.gatherer.take() {
            gatherer.spawn(it.run(stop));
        }
        let context = Arc::clone(&self.context);
        // Boxed, so that it can be dropped before the gatherer is waited for.
        let mut work = Box::pin(self.work());
        tokio::select! {
            biased;
            () = &mut work => {}
            () = context.losses.tell() => {}
            // It ends only by a panic. Whoever owns the lane ends the process.
            Some(_) = gatherer.join_next(), if !gatherer.is_empty() => return,
        }
        drop(work);
        context.losses.tell_the_rest();
        // Every job has ended: nobody waits for a batch.
        gatherer.shutdown().await;
    }

    async fn work(mut self) {
        loop {
            match self.next_step().await {
                Step::Consume => self.consume().await,
                Step::Probe(leaves) => self.probe(leaves).await,
                Step::Stop => break,
            }
        }
        self.drain().await;
    }

    /// Waits, silent, until the lane may consume or probe. What is in hand goes back to the queue if the pause
    /// says so, and so does what comes back meanwhile.
    async fn next_step(&mut self) -> Step {
        loop {
            if self.stop.is_cancelled() {
                return Step::Stop;
            }
            let Err(pause) = self.gate.look() else {
                return Step::Consume;
            };
            if let Some(leaves) = self.gate.leaves(&pause) {
                return Step::Probe(leaves);
            }
            self.context.status.paused(&pause);
            match (&pause, pause.requeues()) {
                (_, Some(reason)) => self.requeue_all(reason).await,
                (Pause::Disconnected(_), None) => {
                    self.hands.drop_stale();
                    self.resubscription.reset();
                }
                (_, None) => {}
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Step::Stop,
                () = self.gate.changed(&pause) => {}
                Some(acker) = self.returned.recv() => self.hands.take_back(acker),
                Some(acker) = self.dropped.recv() => self.settle_panicked(acker),
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
    }

    /// Starts what is in hand, and takes more once nothing in hand waits, until something speaks against it.
    async fn consume(&mut self) {
        self.context.status.consuming();
        let mut subscription: Option<Box<dyn Subscription>> = None;
        let mut watchdog = self.watchdog();
        while !self.stop.is_cancelled() && self.gate.look().is_ok() {
            let caught_up = subscription.is_some() && !self.hands.has_waiting();
            if self.window.is_full() || (caught_up && self.window.grow()) {
                self.cancel(subscription.take()).await;
            }
            // A new consumer gets a full window at once, whatever is in hand.
            self.resubscription.heed(&self.gate);
            if subscription.is_none()
                && !self.hands.has_waiting()
                && !self.window.is_heavy()
                && self.resubscription.is_due()
            {
                let prefetch = self.window.next_prefetch();
                subscription = self.subscribe(prefetch).await;
                if subscription.is_some() {
                    self.context.status.consuming();
                    watchdog = self.watchdog();
                }
            }
            // What attached in other lanes counts too, which only makes the watchdog slower to bark.
            let in_hand = self.tasks.len() + self.hands.len() + self.context.running.attached();
            let has_room = subscription.is_some() && in_hand < usize::from(self.window.prefetch());
            let (has_waiting, is_heavy) = (self.hands.has_waiting(), self.window.is_heavy());
            let places = Arc::clone(&self.context.admission);
            let paced = admit(self.pace.as_ref());
            let admitted = async { (places.acquire_owned().await, paced.await) };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                Some(acker) = self.returned.recv() => self.hands.take_back(acker),
                Some(acker) = self.dropped.recv() => self.settle_panicked(acker),
                () = self.gate.anything() => {}
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                (Ok(place), admission) = admitted, if has_waiting => self.start((place, admission)),
                () = self.hands.rested() => {}
                next = next_of(&mut subscription) => match next {
                    Ok(delivery) => {
                        self.resubscription.reset();
                        watchdog.fed();
                        self.take(delivery);
                    }
                    Err(ended) => {
                        subscription = None;
                        self.stream_ended(&ended);
                    }
                },
                () = self.resubscription.due(), if subscription.is_none() && !has_waiting && !is_heavy => {}
                () = self.window.lighter(), if subscription.is_none() && is_heavy => {}
                waiting = watchdog.forgotten(), if has_room => {
                    self.forgotten(waiting);
                    self.cancel(subscription.take()).await;
                }
            }
        }
        self.cancel(subscription).await;
    }

    /// Takes one delivery at least and as many as there are leaves at most, cancels, and gives each its leave.
    /// A delivery that comes back meanwhile is as good as one from the queue.
    async fn probe(&mut self, mut leaves: Vec<Leave>) {
        let slots = u16::try_from(leaves.len()).unwrap_or(u16::MAX);
        self.context.status.probing();
        let mut subscription: Option<Box<dyn Subscription>> = None;
        let mut watchdog = self.watchdog();
        self.hands.wake();
        while !self.hands.has_waiting() {
            if self.stop.is_cancelled() || !self.gate.may_probe() {
                return self.cancel(subscription).await;
            }
            self.resubscription.heed(&self.gate);
            if subscription.is_none() && self.resubscription.is_due() {
                subscription = self.subscribe(slots).await;
                if subscription.is_some() {
                    self.context.status.probing();
                }
                watchdog = self.watchdog();
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                Some(acker) = self.returned.recv() => {
                    self.hands.take_back(acker);
                    self.hands.wake();
                }
                Some(acker) = self.dropped.recv() => self.settle_panicked(acker),
                () = self.gate.anything() => {}
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                next = next_of(&mut subscription) => match next {
                    Ok(delivery) => {
                        self.resubscription.reset();
                        self.take(delivery);
                    }
                    Err(ended) => {
                        subscription = None;
                        self.stream_ended(&ended);
                    }
                },
                () = self.resubscription.due(), if subscription.is_none() => {}
                waiting = watchdog.forgotten(), if subscription.is_some() => {
                    self.forgotten(waiting);
                    self.cancel(subscription.take()).await;
                }
            }
        }
        self.cancel(subscription).await;
        let requeues = match leaves.first() {
            Some(Leave::Trial(_)) => RequeueReason::Panic,
            Some(Leave::Probe(_)) | None => RequeueReason::CircuitOpen,
        };
        let mut probes = JoinSet::new();
        while !leaves.is_empty()
            && let Some(delivery) = self.hands.next()
        {
            let Some(leave) = leaves.pop() else { break };
            if let Leave::Trial(_) = &leave {
                self.context.panics.tried(Instant::now());
            }
            let permit = leave.into_permit();
            permit.iter().for_each(Permit::progress);
            probes.spawn(self.execution(delivery, permit));
        }
        // A slot without a job goes back before the verdicts come.
        drop(leaves);
        self.requeue_all(requeues).await;
        while !probes.is_empty()
            && !self.stop.is_cancelled()
            && self.gate.may_probe()
            && !self.gate.has_free_probe()
        {
            tokio::select! {
                biased;
                _ = probes.join_next() => {}
                () = self.stop.cancelled() => {}
                Some(acker) = self.returned.recv() => {
                    self.context.requeue(acker, requeues).await;
                }
                Some(acker) = self.dropped.recv() => self.settle_panicked(acker),
                () = self.gate.probe_overdue() => {}
            }
        }
        // A probe that hung has re-opened the circuit, and one that waits has given its slot back: its job goes on to
        // its own deadline.
        self.tasks
            .spawn(async move { while probes.join_next().await.is_some() {} });
    }

    fn watchdog(&self) -> Watchdog {
        Watchdog::new(Arc::clone(&self.context.broker), self.context.lane)
    }

    async fn subscribe(&mut self, prefetch: u16) -> Option<Box<dyn Subscription>> {
        let lane = self.context.lane;
        let subscribed = tokio::select! {
            biased;
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
                self.resubscription.put_off();
                None
            }
        }
    }

    fn take(&mut self, mut delivery: Delivery) {
        self.window.count(&mut delivery);
        self.hands.take(delivery);
    }

    /// Cancels the consumer; what it had been handed stays in hand.
    async fn cancel(&mut self, subscription: Option<Box<dyn Subscription>>) {
        if let Some(subscription) = subscription {
            for delivery in subscription.cancel().await {
                self.take(delivery);
            }
        }
    }

    fn stream_ended(&mut self, ended: &Ended) {
        tracing::warn!(lane = %self.context.lane, %ended, "the lane's stream of deliveries ended");
        self.hands.drop_stale();
        self.resubscription.put_off();
        self.context.status.disconnected(&ended.to_string());
    }

    fn forgotten(&self, waiting: u32) {
        tracing::warn!(lane = %self.context.lane, waiting, "connected, but no delivery comes while jobs wait; the lane consumes anew");
    }

    /// Starts the next delivery in a task of the lane. `place` is held until the task ends.
    fn start(&mut self, place: impl Send + 'static) {
        if let Some(delivery) = self.hands.next() {
            let execution = self.execution(delivery, None);
            self.tasks.spawn(async move {
                let _place = place;
                execution.await;
            });
        }
    }

    /// A panic ends the task, not the lane, and its delivery comes back through `dropped`.
    fn execution(
        &self,
        mut delivery: Delivery,
        probe: Option<Permit>,
    ) -> impl Future<Output = ()> + Send + 'static {
        delivery.acker.returns_to(self.dropped_home.clone());
        executor::execute(Arc::clone(&self.context), delivery, probe)
    }

    fn settle_panicked(&mut self, mut acker: Acker) {
        acker.returns_to(self.context.last_home());
        let context = Arc::clone(&self.context);
        self.tasks
            .spawn(async move { settlement::settle_panicked(&context, acker).await });
    }

    /// Requeues everything in hand. Call with no consumer on the queue.
    async fn requeue_all(&mut self, reason: RequeueReason) {
        for delivery in self.hands.empty() {
            self.context.requeue(delivery.acker, reason).await;
        }
    }

    /// Requeues what has not started and waits for the rest; the abort token ends what takes too long.
    async fn drain(mut self) {
        self.context.status.draining();
        loop {
            while let Ok(acker) = self.returned.try_recv() {
                self.hands.take_back(acker);
            }
            while let Ok(acker) = self.dropped.try_recv() {
                self.hands.take_back(acker);
            }
            self.requeue_all(RequeueReason::Drain).await;
            tokio::select! {
                biased;
                Some(acker) = self.returned.recv() => self.hands.take_back(acker),
                Some(acker) = self.dropped.recv() => self.hands.take_back(acker),
                ended = self.tasks.join_next() => if ended.is_none() {
                    return;
                }
            }
        }
    }
}

/// The next delivery; never, while there is no consumer.
async fn next_of(subscription: &mut Option<Box<dyn Subscription>>) -> Result<Delivery, Ended> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

enum Step {
    Consume,
    Probe(Vec<Leave>),
    Stop,
}
