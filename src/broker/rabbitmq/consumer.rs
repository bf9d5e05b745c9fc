//! One consumer on one channel, from subscribing to the last ack.
//!
//! The channel belongs to this subscription alone, so that what closes it costs no other lane. It lives
//! until the subscription and its last acker are gone: after a cancel the deliveries stay ackable on it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Error, ErrorKind,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::FieldTable,
};

use super::{Shared, message::from_delivery};
use crate::{
    broker::{Acker, BrokerError, Delivery, Ended, PublishError, Stale, Subscription, Tag, Target},
    job::{Lane, Message},
};

/// How long the broker may take to answer; then the channel is given up, and it takes everything back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first try to consume may take; each further one that is not answered may take twice as long, up to
/// [`ANSWER_TIMEOUT`]. In a cluster the broker may have sent it to a leader that hangs, and wait: a new try goes
/// to the new leader.
const CONSUME_FIRST: Duration = Duration::from_secs(1);
/// How often an ack that is not written yet looks whether its channel is still there.
const LOST_LOOK: Duration = Duration::from_millis(250);
/// Quorum queues allow no larger window, and 0 would be no limit at all.
const PREFETCH: std::ops::RangeInclusive<u16> = 1..=2_000;

/// The channel of one subscription; lapin closes it when the last owner is gone.
struct LaneChannel {
    channel: Channel,
    /// It was given up: nothing can be settled on it, although lapin may not know yet.
    given_up: AtomicBool,
}

impl LaneChannel {
    fn is_lost(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) || !self.channel.status().connected()
    }

    /// Waits until an ack or nack is written. `Ok(false)` is one that was not sent (facts: rabbitmq.md, 1),
    /// and one that is under way when the connection breaks may never be answered by lapin at all.
    async fn sent(&self, settle: impl Future<Output = Result<bool, Error>>) -> Result<(), Stale> {
        if self.is_lost() {
            return Err(Stale);
        }
        let mut settle = std::pin::pin!(settle);
        loop {
            match tokio::time::timeout(LOST_LOOK, &mut settle).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false) | Err(_)) => return Err(Stale),
                Err(_) if self.is_lost() => return Err(Stale),
                Err(_) => {}
            }
        }
    }
}

/// A consumer on a lane's queue.
pub(super) struct LaneSubscription {
    shared: Arc<Shared>,
    channel: Arc<LaneChannel>,
    consumer: lapin::Consumer,
    /// How the stream ended; it is never polled again, which would hang for ever.
    ended: Option<Ended>,
}

/// Subscribes on a channel of its own.
pub(super) async fn subscribe(
    shared: &Arc<Shared>,
    connection: &Connection,
    lane: Lane,
    prefetch: u16,
) -> Result<LaneSubscription, BrokerError> {
    let queue = shared.names.lane_queue(lane);
    let mut opened = None;
    let consume = async {
        let channel = opened.insert(connection.create_channel().await?);
        // Read when the consumer starts, so before it (facts: rabbitmq.md, 4).
        let prefetch = prefetch.clamp(*PREFETCH.start(), *PREFETCH.end());
        channel
            .basic_qos(prefetch, BasicQosOptions { global: false })
            .await?;
        let (name, tag) = (queue.as_str().into(), "".into());
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(name, tag, options, FieldTable::default())
            .await?;
        Ok((channel.clone(), consumer))
    };
    let unanswered = &shared.unanswered[lane as usize];
    let tries = unanswered.load(Ordering::Relaxed).min(8);
    let patience = (CONSUME_FIRST * 2_u32.pow(tries)).min(ANSWER_TIMEOUT);
    let answer = tokio::time::timeout(patience, consume).await;
    unanswered.store(
        if answer.is_ok() { 0 } else { tries + 1 },
        Ordering::Relaxed,
    );
    match answer {
        Ok(Ok((channel, consumer))) => {
            shared.topology.well(lane);
            let channel = LaneChannel {
                channel,
                given_up: AtomicBool::new(false),
            };
            Ok(LaneSubscription {
                shared: Arc::clone(shared),
                channel: Arc::new(channel),
                consumer,
                ended: None,
            })
        }
        Ok(Err(error)) => Err(match queue_problem(&error) {
            Some(problem) => {
                shared.topology.look_again(lane, &queue, &problem);
                BrokerError::Queue(format!("queue {queue}: {problem}"))
            }
            None => BrokerError::NotConnected(error.to_string()),
        }),
        Err(_) => {
            if let Some(channel) = opened {
                // The broker may yet make the consumer, and hand it a whole window.
                give_up(&channel, "no answer to a consume").await;
            }
            let seconds = patience.as_secs();
            let why = format!(
                "the broker did not answer within {seconds} s when {queue} was to be consumed"
            );
            Err(BrokerError::NotConnected(why))
        }
    }
}

/// Closes a channel whose broker does not answer. The request is under way then; whether it is answered changes nothing
/// any more.
async fn give_up(channel: &Channel, why: &str) {
    let closing = channel.close(200, why.into());
    drop(tokio::time::timeout(Duration::from_millis(100), closing).await);
}

/// What the broker has against consuming; `None`: it is the connection that failed.
fn queue_problem(error: &Error) -> Option<String> {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return None;
    };
    let text = error.get_message();
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Some(
            "missing; run `brigade topology apply`, or set amqp.topology to \"declare\"".to_owned(),
        ),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(format!(
            "may not be read ({text}); grant the user read permission"
        )),
        AMQPErrorKind::Soft(_) => Some(format!("can't be consumed ({text})")),
        AMQPErrorKind::Hard(_) => None,
    }
}

impl LaneSubscription {
    fn delivery(&self, mut delivery: lapin::message::Delivery) -> Delivery {
        let message = Arc::new(from_delivery(&mut delivery));
        let tag = AmqpTag {
            shared: Arc::clone(&self.shared),
            channel: Arc::clone(&self.channel),
            acker: delivery.acker,
        };
        Delivery {
            redelivered: delivery.redelivered,
            acker: Acker::new(Box::new(tag), Arc::clone(&message)),
            message,
        }
    }

    async fn next_or_end(&mut self) -> Result<Delivery, Ended> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(self.delivery(delivery)),
            Some(Err(error)) => Err(Ended::Lost(error.to_string())),
            None if self.channel.is_lost() => Err(Ended::Lost("closed".to_owned())),
            None => Err(Ended::Cancelled),
        }
    }
}

#[async_trait]
impl Subscription for LaneSubscription {
    async fn next(&mut self) -> Result<Delivery, Ended> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let next = self.next_or_end().await;
        if let Err(ended) = &next {
            self.ended = Some(ended.clone());
        }
        next
    }

    async fn cancel(mut self: Box<Self>) -> Vec<Delivery> {
        if self.ended.is_some() {
            return Vec::new();
        }
        let mut buffered = Vec::new();
        let cancel = async {
            let tag = self.consumer.tag();
            let options = BasicCancelOptions::default();
            // A lost connection is no fault here: its stream ends too, and its deliveries are stale.
            if let Err(error) = self.channel.channel.basic_cancel(tag, options).await {
                tracing::debug!(%error, "the consumer went with its channel");
            }
            while let Ok(delivery) = self.next_or_end().await {
                buffered.push(delivery);
            }
        };
        if tokio::time::timeout(ANSWER_TIMEOUT, cancel).await.is_err() {
            tracing::warn!(
                "no answer to a cancel: the channel is given up, its deliveries come again"
            );
            self.channel.given_up.store(true, Ordering::Relaxed);
            give_up(&self.channel.channel, "no answer to a cancel").await;
        }
        buffered
    }
}

/// A delivery's handle on its channel.
struct AmqpTag {
    shared: Arc<Shared>,
    channel: Arc<LaneChannel>,
    acker: lapin::Acker,
}

#[async_trait]
impl Tag for AmqpTag {
    fn is_stale(&self) -> bool {
        self.channel.is_lost() || self.acker.poisoned()
    }

    async fn ack(self: Box<Self>) -> Result<(), Stale> {
        let ack = self.acker.ack(BasicAckOptions { multiple: false });
        self.channel.sent(ack).await
    }

    async fn requeue(self: Box<Self>) -> Result<(), Stale> {
        let nack = self.acker.nack(BasicNackOptions {
            multiple: false,
            requeue: true,
        });
        self.channel.sent(nack).await
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        self.shared.publisher.publish(target, message).await
    }
}

impl fmt::Debug for LaneSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneSubscription")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
