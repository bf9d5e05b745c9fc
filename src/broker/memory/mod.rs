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

    /// Declares a queue of a producer's, for replies.
    pub fn declare_queue(&self, queue: &str) {
        self.inner
            .change(|state| state.queues.declare(queue.to_owned()));
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
        self.inner.change(|state| state.faults.stalled = stalled);
        let alarm = stalled.then(|| "low on memory".to_owned());
        self.inner
            .status
            .send_modify(|status| status.blocked = alarm);
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
            consumer.ok_or_else(|| BrokerError::Queue(format!("queue {queue}: missing")))
        })?;
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
mod tests {
    use super::*;
    use crate::broker::Delivery;

    const LANE: Lane = Lane::Upload;

    fn message(id: &str) -> Message {
        Message {
            message_id: Some(id.to_owned()),
            ..Message::default()
        }
    }

    /// A broker with one job, in a consumer's hands.
    async fn delivered() -> (MemoryBroker, Box<dyn Subscription>, Delivery) {
        let broker = MemoryBroker::new("p");
        let job = Target::Jobs(LANE);
        broker.publish(&job, &message("j")).await.unwrap();
        let mut consumer = broker.subscribe(LANE, 1).await.unwrap();
        let delivery = consumer.next().await.unwrap();
        (broker, consumer, delivery)
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_copy_comes_back_after_its_delay_and_not_before() {
        let broker = MemoryBroker::new("p");
        let mut consumer = broker.subscribe(LANE, 1).await.unwrap();
        let target = Target::Retry(LANE, ParkDelay::TenSeconds);
        let copy = message("j").with_count("brigade-parks", 1);
        broker.publish(&target, &copy).await.unwrap();
        let parked_at = tokio::time::Instant::now();
        assert_eq!(broker.parked(LANE, ParkDelay::TenSeconds).len(), 1);
        let early = tokio::time::timeout(Duration::from_millis(9_999), consumer.next()).await;
        assert!(early.is_err());
        let delivery = consumer.next().await.unwrap();
        assert_eq!(parked_at.elapsed(), Duration::from_secs(10));
        assert_eq!(*delivery.message, copy);
        assert!(!delivery.redelivered);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_publish_times_out_and_goes_nowhere() {
        let broker = MemoryBroker::new("p");
        broker.stall_publishes(true);
        let sent = broker.publish(&Target::Dead(LANE), &message("j")).await;
        assert_eq!(sent, Err(PublishError::TimedOut));
        assert!(broker.status().borrow().blocked.is_some());
        broker.stall_publishes(false);
        assert!(broker.dead(LANE).is_empty());
        broker
            .publish(&Target::Dead(LANE), &message("j"))
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_published_as_soon_as_the_broker_takes_it() {
        let (broker, _consumer, delivery) = delivered().await;
        let gone = PublishError::Returned("gone".into());
        broker.fail_next_publish(PublishError::Nacked);
        broker.fail_next_publish(gone.clone());
        let mut heard = Vec::new();
        delivery
            .acker
            .publish_copy(&Target::Dead(LANE), &delivery.message, |error| {
                heard.push(error.clone());
            })
            .await
            .unwrap();
        assert_eq!(heard, [PublishError::Nacked, gone]);
        assert_eq!(broker.dead(LANE).len(), 1);
        assert!(!delivery.acker.is_stale());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_is_dropped_unsettled_comes_home() {
        let (broker, _consumer, mut delivery) = delivered().await;
        let (home, mut returned) = tokio::sync::mpsc::unbounded_channel();
        delivery.acker.returns_to(home.clone());
        let since = delivery.acker.since();
        drop(delivery.acker);
        let acker = returned.try_recv().unwrap();
        assert_eq!((acker.message(), acker.since()), (&delivery.message, since));
        acker.ack().await.unwrap();
        assert!(returned.try_recv().is_err(), "settled");
        assert_eq!(broker.depth(&broker.inner.names.lane_queue(LANE)), 0);

        let (broker, _consumer, mut delivery) = self::delivered().await;
        delivery.acker.returns_to(home);
        broker.lose_channels();
        drop(delivery.acker);
        assert!(returned.try_recv().is_err(), "its redelivery decides");
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_is_refused_is_tried_ever_later() {
        let (broker, mut consumer, delivery) = delivered().await;
        for _ in 0..8 {
            broker.fail_next_publish(PublishError::Nacked);
        }
        let told = std::cell::Cell::new(0);
        let began = tokio::time::Instant::now();
        let acker = delivery.acker;
        acker
            .publish_copy(&Target::Dead(LANE), &delivery.message, |_| {
                told.set(told.get() + 1);
            })
            .await
            .unwrap();
        // 0.1 s, doubled each time, and never more than 5 s.
        let waited = Duration::from_millis(100 + 200 + 400 + 800 + 1_600 + 3_200 + 5_000 + 5_000);
        assert_eq!((began.elapsed(), told.get()), (waited, 8));
        assert_eq!(broker.depth(&broker.inner.names.lane_queue(LANE)), 1);
        acker.requeue().await.unwrap();
        assert_eq!(
            broker.ready(&broker.inner.names.lane_queue(LANE)).len(),
            0,
            "it came back at once"
        );
        assert!(consumer.next().await.unwrap().redelivered);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_connection_nothing_is_taken_or_handed_out() {
        let (broker, mut consumer, delivery) = delivered().await;
        broker.disconnect("power cut");
        assert!(delivery.acker.is_stale());
        assert_eq!(
            consumer.next().await.unwrap_err(),
            crate::broker::Ended::Lost("power cut".into())
        );
        let error = broker.subscribe(LANE, 1).await.err();
        assert_eq!(error, Some(BrokerError::NotConnected("power cut".into())));
        broker.reconnect();
        let mut consumer = broker.subscribe(LANE, 1).await.unwrap();
        assert!(consumer.next().await.unwrap().redelivered);
    }
}
