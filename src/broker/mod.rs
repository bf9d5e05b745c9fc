//! The seam to the message broker: what a lane needs of RabbitMQ, and nothing that is AMQP.
//!
//! Two implementations run one contract suite: `rabbitmq` (the only code that knows AMQP) and `memory`
//! (an in-process twin with redelivery, for deterministic tests). Settlement is a protocol whose steps
//! are values that are used up: a [`Delivery`] is split once, its [`Acker`] settles once.

pub mod acker;
pub mod memory;
mod names;
pub mod rabbitmq;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use acker::{Acker, Stale, Tag};
pub use names::{Names, Route};

use crate::{
    job::{Lane, Message, outcome::ParkDelay},
    watch,
};

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A lane's queue, through `<prefix>.jobs`.
    Jobs(Lane),
    /// A lane's retry queue of that delay, through `<prefix>.retry`.
    Retry(Lane, ParkDelay),
    /// A lane's dead queue, through `<prefix>.dead`.
    Dead(Lane),
    /// A producer's reply queue, through the default exchange.
    Reply(String),
    /// The events exchange, with that routing key; nobody need listen.
    Event(String),
}

/// A message broker. One code path for every version.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Subscribes to the lane's queue with manual acks. At most `prefetch` deliveries are unsettled at a time.
    async fn subscribe(
        &self,
        lane: Lane,
        prefetch: u16,
    ) -> Result<Box<dyn Subscription>, BrokerError>;

    /// Publishes persistent, and waits for the confirm. One try, with a time-out. Mandatory, except for
    /// events and for replies to `amq.rabbitmq.reply-to.*`.
    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError>;

    /// What exchanges and queues are called.
    fn names(&self) -> &Names;

    /// Messages that wait in the lane's queue, as the broker last knew; for people, never for decisions.
    async fn queue_ready(&self, lane: Lane) -> Option<u32>;

    /// The same for messages in the lane's retry queues; `None` unless all of them answer.
    async fn queue_parked(&self, lane: Lane) -> Option<u32>;

    /// Connections and topology, as they change.
    fn status(&self) -> watch::Receiver<BrokerStatus>;

    /// Closes channels and connections; unsettled deliveries go back to their queues.
    async fn close(&self);
}

/// One consumer on one queue.
#[async_trait]
pub trait Subscription: Send {
    /// The next delivery; may be dropped while waiting. After an error the stream has ended: never ask again.
    async fn next(&mut self) -> Result<Delivery, Ended>;

    /// Cancels the consumer and reads its stream to the end: what was delivered and not yet taken.
    /// From then on the broker hands over nothing, so a requeue can't come back here.
    async fn cancel(self: Box<Self>) -> Vec<Delivery>;
}

/// One handing-over of a message.
#[derive(Debug)]
pub struct Delivery {
    /// The message, shared with the acker, which copies it to park or bury.
    pub message: Arc<Message>,
    /// The broker says that it was handed over before.
    pub redelivered: bool,
    /// Settles it, once.
    pub acker: Acker,
}

/// Why a stream of deliveries ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The server cancelled the consumer: queue deleted, failover.
    #[error("the server cancelled the consumer")]
    Cancelled,
    /// Channel or connection is gone.
    #[error("the channel was lost: {0}")]
    Lost(String),
}

/// Why a lane could not subscribe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// No connection; it is being rebuilt.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// The queue is missing or not as declared; says what mends it.
    #[error("queue: {0}")]
    Queue(String),
}

/// Why a message was not taken over by the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue takes it.
    #[error("no queue takes it: {0}")]
    Returned(String),
    /// The broker refused it: queue full.
    #[error("the broker refused it, the queue is full")]
    Nacked,
    /// No connection, or it broke before the confirm.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// No confirm in time.
    #[error("no confirm in time")]
    TimedOut,
    /// It takes none for now: an alarm; says which.
    #[error("the broker takes no publishes for now: {0}")]
    Blocked(String),
}

/// The broker as `/readyz` and the lanes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerStatus {
    /// The connection that consumes.
    pub consume: Link,
    /// The connection that publishes.
    pub publish: Link,
    /// What is wrong with exchanges or queues, and what mends it.
    pub topology: Option<String>,
    /// The broker takes no publishes for now, with its reason: a memory or disk alarm. Consuming goes on.
    pub blocked: Option<String>,
    /// A task that keeps a connection ended by itself, which is a bug; says which. The process must end.
    pub broken: Option<String>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It stands.
    Up,
    /// It does not; the sentence says why and when the next try is.
    Down(String),
}

impl BrokerStatus {
    /// Whether both connections stand.
    pub fn is_connected(&self) -> bool {
        self.consume == Link::Up && self.publish == Link::Up
    }
}
