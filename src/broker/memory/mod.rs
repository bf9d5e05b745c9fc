//! The in-process twin of RabbitMQ: queues, prefetch, redelivery, retry queues and confirms, without a
//! network, on Tokio's clock, so that tests may pause it.
//!
//! It keeps the promises of the seam, not AMQP's details: there is no delivery limit, and nobody else's
//! queues but those of replies. Tests inject faults here that are hard to time on a real broker.

mod queues;
mod subscription;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use queues::Queues;
use subscription::{Channel, MemorySubscription};

use crate::{
    broker::{Broker, BrokerError, BrokerStatus, Link, Names, PublishError, Subscription, Target},
    job::{Lane, Message, outcome::ParkDelay},
};

/// How long a stalled publish waits for its confirm.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module. Cheap to clone: every clone is the same broker.
#[derive(Clone)]
pub struct MemoryBroker {
    inner: Arc<Inner>,
}

struct Inner {
    names: Names,
    /// Nothing awaits under it.
    state: Mutex<State>,
    status: watch::Sender<BrokerStatus>,
    /// Woken whenever a queue, a consumer or a fault changed.
    changed: Notify,
}

struct State {
    queues: Queues,
    faults: Faults,
    events: Vec<(String, Message)>,
    deliveries: u64,
    subscriptions: u64,
}

#[derive(Default)]
struct Faults {
    /// Answers to the next publishes, first to last.
    answers: VecDeque<PublishError>,
    /// No confirm comes.
    stalled: bool,
    /// No connection stands; says why.
    disconnected: Option<String>,
    /// Queues that take nothing, as a full one with `reject-publish` does.
    full: BTreeSet<String>,
}

impl MemoryBroker {
    /// A broker with the queues of all lanes, all empty. Names begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        let names = Names::new(prefix);
        let mut queues = Queues::default();
        for lane in Lane::ALL {
            queues.declare(names.lane_queue(lane));
            queues.declare(names.dead_queue(lane));
            for delay in ParkDelay::ALL {
                queues.declare(names.retry_queue(lane, delay));
            }
        }
        let (status, _) = watch::channel(BrokerStatus {
            consume: Link::Up,
            publish: Link::Up,
            topology: None,
            blocked: None,
            broken: None,
        });
        let state = State {
            queues,
            faults: Faults::default(),
            events: Vec::new(),
            deliveries: 0,
            subscriptions: 0,
        };
        let changed = Notify::new();
        Self {
            inner: Arc::new(Inner {
                names,
                state: Mutex::new(state),
                status,
                changed,
            }),
        }
    }

    /// Declares a queue: a producer's, for replies, or one of ours that was missing.
    pub fn declare_queue(&self, queue: &str) {
        self.inner
            .change(|state| state.queues.declare(queue.to_owned()));
        let problem = missing(queue);
        self.inner.status.send_if_modified(|status| {
            let was_missing = status.topology.as_ref() == Some(&problem);
            if was_missing {
                status.topology = None;
            }
            was_missing
        });
    }

    /// Deletes a queue with what is in it; its consumers are cancelled.
    pub fn delete_queue(&self, queue: &str) {
        self.inner.change(|state| state.queues.delete(queue));
    }

    /// Messages of a queue, ready or unsettled; 0 for a missing one.
    pub fn depth(&self, queue: &str) -> usize {
        self.inner.look(|state| state.queues.depth(queue))
    }

    /// The messages that wait in a queue, head first.
    pub fn ready(&self, queue: &str) -> Vec<Message> {
        self.inner.look(|state| state.queues.ready(queue))
    }

    /// A lane's dead letters, oldest first.
    pub fn dead(&self, lane: Lane) -> Vec<Message> {
        self.ready(&self.inner.names.dead_queue(lane))
    }

    /// A lane's parked copies of that delay that have not come back yet, oldest first.
    pub fn parked(&self, lane: Lane, delay: ParkDelay) -> Vec<Message> {
        self.ready(&self.inner.names.retry_queue(lane, delay))
    }

    /// What was published to a reply queue, oldest first.
    pub fn replies(&self, queue: &str) -> Vec<Message> {
        self.ready(queue)
    }

    /// Events with their routing keys, oldest first.
    pub fn events(&self) -> Vec<(String, Message)> {
        self.inner.lock().events.clone()
    }

    /// Deliveries handed to consumers so far, redeliveries included.
    pub fn deliveries(&self) -> u64 {
        self.inner.look(|state| state.deliveries)
    }

    /// Times that a consumer was made so far.
    pub fn subscriptions(&self) -> u64 {
        self.inner.look(|state| state.subscriptions)
    }

    /// While `true`, the queue refuses every publish, as one that is full.
    pub fn fill_queue(&self, queue: &str, full: bool) {
        self.inner.change(|state| {
            if full {
                state.faults.full.insert(queue.to_owned());
            } else {
                state.faults.full.remove(queue);
            }
        });
    }

    /// Ends when a delivery, a settlement, a publish or a fault has changed something after this call.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Publishes as somebody whom no fault hinders.
    pub fn put(&self, target: &Target, message: &Message) {
        let faults = self.inner.change(|state| std::mem::take(&mut state.faults));
        let put = self
            .inner
            .change(|state| state.publish(&self.inner.names, target, message));
        self.inner.change(|state| state.faults = faults);
        debug_assert!(put.is_ok(), "{put:?}");
    }

    /// Closes every channel, as a lost connection would; the connection stands again at once.
    pub fn lose_channels(&self) {
        self.inner
            .change(|state| state.queues.lose_channels("connection reset"));
    }

    /// Takes both connections away until [`Self::reconnect`].
    pub fn disconnect(&self, why: &str) {
        self.inner.change(|state| {
            state.faults.disconnected = Some(why.to_owned());
            state.queues.lose_channels(why);
        });
        self.set_links(&Link::Down(why.to_owned()));
    }

    /// Both connections stand again.
    pub fn reconnect(&self) {
        self.inner.change(|state| state.faults.disconnected = None);
        self.set_links(&Link::Up);
    }

    /// Forgets the consumers there are, as a queue may after a fail-over: they stay subscribed and get nothing.
    pub fn forget_consumers(&self) {
        self.inner.change(|state| state.queues.forget_consumers());
    }

    /// The next publish that no earlier call claims fails so, and goes nowhere.
    pub fn fail_next_publish(&self, error: PublishError) {
        self.inner
            .change(|state| state.faults.answers.push_back(error));
    }

    /// While `true`, no publish is confirmed or goes anywhere: each times out after
    /// [`PUBLISH_TIMEOUT`].
    pub fn stall_publishes(&self, stalled: bool) {
        self.hang_publishes(stalled);
        let alarm = stalled.then(|| "low on memory".to_owned());
        self.inner
            .status
            .send_modify(|status| status.blocked = alarm);
    }

    /// The same without an alarm: nobody is told that the broker takes none.
    pub fn hang_publishes(&self, hung: bool) {
        self.inner.change(|state| state.faults.stalled = hung);
    }

    fn set_links(&self, link: &Link) {
        self.inner.status.send_modify(|status| {
            status.consume = link.clone();
            status.publish = link.clone();
        });
    }
}

impl Inner {
    /// Changes the state, hands out what consumers may have, and wakes everyone.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = {
            let mut state = self.lock();
            state.settle_time(&self.names);
            let result = change(&mut state);
            state.hand_out();
            result
        };
        self.changed.notify_waiters();
        result
    }

    /// Looks at the state as of now. Wakes others only when the time has moved something, else two that
    /// wait would wake each other for ever.
    fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let (moved, result) = {
            let mut state = self.lock();
            state.settle_time(&self.names);
            (state.hand_out(), look(&mut state))
        };
        if moved {
            self.changed.notify_waiters();
        }
        result
    }

    /// Messages that wait in these queues together; `None` when one of them is missing.
    fn ready_in(&self, queues: &[String]) -> Option<u32> {
        self.look(|state| {
            let counts = queues.iter().map(|queue| {
                let is_there = state.queues.exists(queue);
                is_there.then(|| state.queues.ready(queue).len())
            });
            let ready: usize = counts.sum::<Option<usize>>()?;
            u32::try_from(ready).ok()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        let confirmed = async {
            loop {
                // Before the look, so that no change is missed.
                let changed = self.changed.notified();
                if !self.lock().faults.stalled {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(PUBLISH_TIMEOUT, confirmed)
            .await
            .is_err()
        {
            return Err(PublishError::TimedOut);
        }
        self.change(|state| state.publish(&self.names, target, message))
    }
}

impl State {
    /// Moves parked copies whose delay is over to their lanes.
    fn settle_time(&mut self, names: &Names) {
        for lane in Lane::ALL {
            for delay in ParkDelay::ALL {
                self.queues
                    .expire(&names.retry_queue(lane, delay), &names.lane_queue(lane));
            }
        }
    }

    /// Whether anything was handed out.
    fn hand_out(&mut self) -> bool {
        let count = self.queues.hand_out();
        self.deliveries += count;
        count > 0
    }

    fn publish(
        &mut self,
        names: &Names,
        target: &Target,
        message: &Message,
    ) -> Result<(), PublishError> {
        if let Some(why) = &self.faults.disconnected {
            return Err(PublishError::NotConnected(why.clone()));
        }
        if let Some(error) = self.faults.answers.pop_front() {
            return Err(error);
        }
        let (queue, delay) = match target {
            Target::Jobs(lane) => (names.lane_queue(*lane), None),
            Target::Retry(lane, delay) => (names.retry_queue(*lane, *delay), Some(*delay)),
            Target::Dead(lane) => (names.dead_queue(*lane), None),
            Target::Reply(queue) => (queue.clone(), None),
            Target::Event(key) => {
                self.events.push((key.clone(), message.clone()));
                return Ok(());
            }
        };
        if self.faults.full.contains(&queue) {
            return Err(PublishError::Nacked);
        }
        let due = delay.map(|delay| {
            tokio::time::Instant::now() + Duration::from_millis(delay.millis().into())
        });
        if self.queues.push(&queue, Arc::new(message.clone()), due)
            || !names.route(target).mandatory
        {
            Ok(())
        } else {
            Err(PublishError::Returned(format!("no queue {queue}")))
        }
    }
}

fn missing(queue: &str) -> String {
    format!("queue {queue}: missing")
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn subscribe(
        &self,
        lane: Lane,
        prefetch: u16,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let queue = self.inner.names.lane_queue(lane);
        let consumer = self.inner.change(|state| {
            if let Some(why) = &state.faults.disconnected {
                return Err(BrokerError::NotConnected(why.clone()));
            }
            let consumer = state.queues.consume(&queue, prefetch.max(1).into());
            state.subscriptions += u64::from(consumer.is_some());
            consumer.ok_or_else(|| BrokerError::Queue(missing(&queue)))
        });
        let consumer = match consumer {
            Ok(consumer) => consumer,
            Err(error) => {
                if matches!(error, BrokerError::Queue(_)) {
                    let problem = Some(missing(&queue));
                    self.inner.status.send_if_modified(|status| {
                        let is_new = status.topology != problem;
                        status.topology = problem;
                        is_new
                    });
                }
                return Err(error);
            }
        };
        let channel = Arc::new(Channel::new(Arc::clone(&self.inner), consumer));
        Ok(Box::new(MemorySubscription::new(channel)))
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        self.inner.publish(target, message).await
    }

    fn names(&self) -> &Names {
        &self.inner.names
    }

    async fn queue_ready(&self, lane: Lane) -> Option<u32> {
        self.inner.ready_in(&[self.inner.names.lane_queue(lane)])
    }

    async fn queue_parked(&self, lane: Lane) -> Option<u32> {
        let names = &self.inner.names;
        self.inner
            .ready_in(&ParkDelay::ALL.map(|delay| names.retry_queue(lane, delay)))
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.inner.status.subscribe()
    }

    async fn close(&self) {
        self.disconnect("closed");
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("names", &self.inner.names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
