//! The in-process twin of RabbitMQ: queues, prefetch, redelivery, retry queues and confirms, without a
//! network, on Tokio's clock, so that tests may pause it.
//!
//! It keeps the promises of the seam, not AMQP's details: there is no delivery limit, and nobody else's
//! queues but those of replies. Tests inject faults here that are hard to time on a real broker. Several clients
//! may be connected, each with connections of its own to lose.

mod operator;
mod queues;
mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use queues::{ClientId, Queues};
use subscription::{Channel, MemorySubscription};

use crate::{
    broker::{Broker, BrokerError, BrokerStatus, Link, Names, PublishError, Subscription, Target},
    job::{Lane, Message, outcome::ParkDelay},
    watch,
};

/// How long a stalled publish waits for its confirm.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// What an alarm says.
const ALARM: &str = "low on memory";

/// See the module. Cheap to clone: every clone is the same client of the same broker.
#[derive(Clone)]
pub struct MemoryBroker {
    inner: Arc<Inner>,
    client: ClientId,
}

struct Inner {
    names: Names,
    /// Nothing awaits under it.
    state: Mutex<State>,
    /// Woken whenever a queue, a consumer or a fault changed.
    changed: Notify,
}

struct State {
    queues: Queues,
    faults: Faults,
    clients: BTreeMap<ClientId, Client>,
    events: Vec<(String, Message)>,
    deliveries: u64,
    subscriptions: u64,
}

/// The two connections of a client.
struct Client {
    /// Neither stands; says why.
    disconnected: Option<String>,
    status: watch::Sender<BrokerStatus>,
}

impl Client {
    fn new(blocked: Option<String>) -> Self {
        let (status, _) = watch::channel(BrokerStatus {
            consume: Link::Up,
            publish: Link::Up,
            topology: None,
            blocked,
            broken: None,
        });
        Self {
            disconnected: None,
            status,
        }
    }

    fn set_links(&mut self, down: Option<&str>) {
        self.disconnected = down.map(str::to_owned);
        let link = down.map_or(Link::Up, |why| Link::Down(why.to_owned()));
        self.status.send_modify(|status| {
            status.consume = link.clone();
            status.publish = link;
        });
    }
}

#[derive(Default)]
struct Faults {
    /// Answers to the next publishes, first to last.
    answers: VecDeque<PublishError>,
    /// No confirm comes.
    stalled: bool,
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
        let state = State {
            queues,
            faults: Faults::default(),
            clients: BTreeMap::from([(0, Client::new(None))]),
            events: Vec::new(),
            deliveries: 0,
            subscriptions: 0,
        };
        let changed = Notify::new();
        Self {
            inner: Arc::new(Inner {
                names,
                state: Mutex::new(state),
                changed,
            }),
            client: 0,
        }
    }

    /// The same broker for another client, with connections of its own that stand.
    #[must_use]
    pub fn for_client(&self) -> Self {
        let client = self.inner.change(|state| {
            let next = state.clients.len() as ClientId;
            let blocked = state.faults.stalled.then(|| ALARM.to_owned());
            state.clients.insert(next, Client::new(blocked));
            next
        });
        Self {
            inner: Arc::clone(&self.inner),
            client,
        }
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
            .change(|state| state.publish(&self.inner.names, self.client, target, message));
        self.inner.change(|state| state.faults = faults);
        debug_assert!(put.is_ok(), "{put:?}");
    }

    /// Closes every channel of this client, as a lost connection would; the connection stands again at once.
    pub fn lose_channels(&self) {
        self.inner.change(|state| {
            state.queues.lose_channels(self.client, "connection reset");
        });
    }

    /// Takes both connections of this client away until [`Self::reconnect`].
    pub fn disconnect(&self, why: &str) {
        self.inner.change(|state| {
            state.client(self.client).set_links(Some(why));
            state.queues.lose_channels(self.client, why);
        });
    }

    /// Both connections of this client stand again.
    pub fn reconnect(&self) {
        self.inner
            .change(|state| state.client(self.client).set_links(None));
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
        self.inner.change(|state| {
            let alarm = stalled.then(|| ALARM.to_owned());
            for client in state.clients.values() {
                let alarm = alarm.clone();
                client.status.send_modify(|status| status.blocked = alarm);
            }
        });
    }

    /// The same without an alarm: nobody is told that the broker takes none.
    pub fn hang_publishes(&self, hung: bool) {
        self.inner.change(|state| {
            state.faults.stalled = hung;
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

    async fn publish(
        &self,
        client: ClientId,
        target: &Target,
        message: &Message,
    ) -> Result<(), PublishError> {
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
        self.change(|state| state.publish(&self.names, client, target, message))
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

    /// Clients are never forgotten.
    fn client(&mut self, client: ClientId) -> &mut Client {
        self.clients
            .entry(client)
            .or_insert_with(|| Client::new(None))
    }

    fn publish(
        &mut self,
        names: &Names,
        client: ClientId,
        target: &Target,
        message: &Message,
    ) -> Result<(), PublishError> {
        if let Some(why) = &self.client(client).disconnected {
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
            if let Some(why) = &state.client(self.client).disconnected {
                return Err(BrokerError::NotConnected(why.clone()));
            }
            let consumer = state
                .queues
                .consume(self.client, &queue, prefetch.max(1).into());
            state.subscriptions += u64::from(consumer.is_some());
            consumer.ok_or_else(|| BrokerError::Queue(missing(&queue)))
        });
        let consumer = match consumer {
            Ok(consumer) => consumer,
            Err(error) => {
                if matches!(error, BrokerError::Queue(_)) {
                    let problem = Some(missing(&queue));
                    let mut state = self.inner.lock();
                    let status = &state.client(self.client).status;
                    status.send_if_modified(|status| {
                        let is_new = status.topology != problem;
                        status.topology = problem;
                        is_new
                    });
                }
                return Err(error);
            }
        };
        let channel = Channel::new(Arc::clone(&self.inner), self.client, consumer);
        let channel = Arc::new(channel);
        Ok(Box::new(MemorySubscription::new(channel)))
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        self.inner.publish(self.client, target, message).await
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
        let subscribe = |state: &mut State| state.client(self.client).status.subscribe();
        subscribe(&mut self.inner.lock())
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
