//! Dead queues, walked letter by letter for an operator.
//!
//! A walk takes letters by `basic.get` on a channel of its own, which it holds open: what is neither
//! replayed nor discarded stays unacked, so that the next get is the next letter, and goes back to the
//! queue when the channel closes (the dead queues' delivery limit allows a million looks). A replay is
//! publish, confirm, ack, in this order: killed at any point, it loses no letter, and a letter that is
//! there twice has one job id. Refuses to know which letters an operator means.

use std::time::Duration;

use lapin::{
    Acker, Channel, Connection, Error, ErrorKind,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions},
    types::{AMQPValue, FieldTable},
};
use secrecy::SecretString;

use super::{
    ConnectError, Producer, QueueLook,
    addresses::Addresses,
    message::from_delivery,
    queue_look::{self, is_missing},
};
use crate::{
    broker::{Names, PublishError, Target},
    job::{Lane, Message, Timestamp, message::header, wire},
};

const HEARTBEAT: Duration = Duration::from_secs(10);
/// A walk older than this begins anew: the broker takes back what is held for its consumer time-out, 30
/// minutes by default, and the channel with it (facts: rabbitmq.md, 5).
const STALE: Duration = Duration::from_secs(10 * 60);

/// The dead queues of a prefix. Walks and publishes on two connections, as a blocked one blocks acks too.
#[derive(Debug)]
pub struct DeadQueues {
    connection: Connection,
    producer: Producer,
    names: Names,
    timeout: Duration,
}

/// Why a walk can't go on. What it held is back in the queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// Connection or channel is gone, or did not answer in time.
    #[error("the walk through {queue} ended: {why}")]
    Lost {
        /// The dead queue.
        queue: String,
        /// A sentence.
        why: String,
    },
    /// The letter could not be published; it stays where it is.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// One dead letter, held unacked by its walk.
#[derive(Debug)]
pub struct DeadLetter {
    /// The lane whose dead queue it lies in.
    pub lane: Lane,
    /// The message as it lies there.
    pub message: Message,
    /// Why the broker itself dead-lettered it; `None` for a letter of ours.
    broker_reason: Option<String>,
    acker: Acker,
}

impl DeadLetter {
    /// `brigade-reason`, or the broker's own: `delivery_limit`, `expired`.
    pub fn reason(&self) -> &str {
        let ours = self.message.text(header::REASON);
        ours.or(self.broker_reason.as_deref()).unwrap_or("unknown")
    }

    /// The error code that it died of, if any is known.
    pub fn code(&self) -> Option<&str> {
        self.message.text(header::ERROR_CODE)
    }

    /// The lane that a replay goes to: that of its operation, or the queue's when that can't be read.
    pub fn replay_lane(&self) -> Lane {
        let operation = wire::glance(&self.message).operation;
        operation.map_or(self.lane, |operation| operation.lane())
    }

    /// The message that a replay at `now` publishes: one replay more, first seen when it was, no reason.
    pub fn replayed(&self, now: Timestamp) -> Message {
        let times = self.message.count(header::REPLAY).unwrap_or(0);
        self.message
            .copy()
            .with_count(header::REPLAY, times.saturating_add(1))
            .with_text(header::REPLAYED_AT, now.to_string())
    }
}

impl DeadQueues {
    /// Connects, once, to addresses that take it. `timeout` holds for each connection and for each answer of the
    /// broker.
    pub async fn connect(
        urls: &[SecretString],
        prefix: &str,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let mut addresses = Addresses::parse(urls, timeout, HEARTBEAT).map_err(ConnectError)?;
        let connecting = addresses.connect("brigade dead letters", timeout);
        let connection = connecting.await.map_err(ConnectError)?;
        Ok(Self {
            connection,
            producer: Producer::connect(urls, prefix, timeout).await?,
            names: Names::new(prefix),
            timeout,
        })
    }

    /// Begins at the head of the lane's dead queue.
    pub async fn walk(&self, lane: Lane) -> Result<Walk<'_>, WalkError> {
        let queue = self.names.dead_queue(lane);
        let opening = self.connection.create_channel();
        let channel = answered(self.timeout, &queue, opening).await?;
        Ok(Walk {
            queues: self,
            lane,
            queue,
            channel,
            begun: tokio::time::Instant::now(),
        })
    }

    /// A lane's own queue and its dead queue; `None` for one that is not there.
    pub async fn look(
        &self,
        lane: Lane,
    ) -> Result<(Option<QueueLook>, Option<QueueLook>), WalkError> {
        let lane_queue = self.look_at(&self.names.lane_queue(lane)).await?;
        let dead_queue = self.look_at(&self.names.dead_queue(lane)).await?;
        Ok((lane_queue, dead_queue))
    }

    async fn look_at(&self, queue: &str) -> Result<Option<QueueLook>, WalkError> {
        let look = queue_look::look_at(&self.connection, queue);
        answered(self.timeout, queue, look).await
    }

    /// Closes both connections: every ack is with the broker then, or its letter back in the queue.
    pub async fn close(self) {
        self.producer.close().await;
        let closing = self.connection.close(200, "done".into());
        if !matches!(
            tokio::time::timeout(self.timeout, closing).await,
            Ok(Ok(()))
        ) {
            tracing::debug!("the broker was not told goodbye");
        }
    }
}

/// One walk through one dead queue, from its head.
#[derive(Debug)]
pub struct Walk<'q> {
    queues: &'q DeadQueues,
    lane: Lane,
    queue: String,
    channel: Channel,
    begun: tokio::time::Instant,
}

impl Walk<'_> {
    /// The next letter; `None` at the end, and for a queue that is not there. Letters that come meanwhile
    /// are part of the walk.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, WalkError> {
        let options = BasicGetOptions { no_ack: false };
        let getting = async {
            match self
                .channel
                .basic_get(self.queue.as_str().into(), options)
                .await
            {
                Ok(got) => Ok(got),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let got = answered(self.queues.timeout, &self.queue, getting).await?;
        Ok(got.map(|got| self.letter(got)))
    }

    fn letter(&self, got: BasicGetMessage) -> DeadLetter {
        let mut delivery = got.delivery;
        let broker_reason = delivery
            .properties
            .headers()
            .as_ref()
            .and_then(broker_reason);
        DeadLetter {
            lane: self.lane,
            broker_reason,
            acker: delivery.acker.clone(),
            message: from_delivery(&mut delivery),
        }
    }

    /// Whether the broker may soon take back what the walk holds; then drop it and begin anew.
    pub fn is_stale(&self) -> bool {
        self.begun.elapsed() > STALE
    }

    /// Puts the letter back into a lane as `message`: published, confirmed, only then removed.
    ///
    /// `Err(Publish)`: it is still the walk's, and will be back in the queue. `Err(Lost)`: it went out,
    /// and its letter may be there still; the job's id keeps it from taking effect twice.
    pub async fn replay(&self, letter: DeadLetter, message: &Message) -> Result<(), WalkError> {
        let target = Target::Jobs(letter.replay_lane());
        self.queues.producer.publish(&target, message).await?;
        self.discard(letter).await
    }

    /// Removes the letter for good.
    pub async fn discard(&self, letter: DeadLetter) -> Result<(), WalkError> {
        let acking = letter.acker.ack(BasicAckOptions { multiple: false });
        let sent = answered(self.queues.timeout, &self.queue, acking).await?;
        if sent {
            return Ok(());
        }
        Err(WalkError::Lost {
            queue: self.queue.clone(),
            why: "the channel was lost before an ack".to_owned(),
        })
    }

    /// Gives back everything that was not removed, before another walk begins.
    pub async fn end(self) -> Result<(), WalkError> {
        if !self.channel.status().connected() {
            return Ok(());
        }
        let closing = self.channel.close(200, "done".into());
        answered(self.queues.timeout, &self.queue, closing).await
    }
}

async fn answered<T>(
    timeout: Duration,
    queue: &str,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, WalkError> {
    let why = match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            _ => error.to_string(),
        },
        Err(_) => "no answer from the broker in time".to_owned(),
    };
    Err(WalkError::Lost {
        queue: queue.to_owned(),
        why,
    })
}

/// Why the broker dead-lettered the message last. `x-first-death-reason` would say `expired` of a job that
/// was parked once: the newest death stands first in `x-death`.
fn broker_reason(headers: &FieldTable) -> Option<String> {
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    let headers = headers.inner();
    let newest = match headers.get("x-death") {
        Some(AMQPValue::FieldArray(deaths)) => match deaths.as_slice().first() {
            Some(AMQPValue::FieldTable(death)) => death.inner().get("reason").and_then(text),
            _ => None,
        },
        _ => None,
    };
    newest.or_else(|| headers.get("x-first-death-reason").and_then(text))
}

#[cfg(test)]
mod tests {
    use lapin::{message::Delivery, types::FieldArray};

    use super::*;

    fn letter(message: Message, broker_reason: Option<&str>) -> DeadLetter {
        DeadLetter {
            lane: Lane::Read,
            message,
            broker_reason: broker_reason.map(str::to_owned),
            acker: Delivery::mock(1, "".into(), "".into(), false, Vec::new()).acker,
        }
    }

    #[test]
    fn a_replay_raises_the_count_keeps_the_first_sight_and_drops_the_death() {
        let dead = Message {
            body: r#"{"operation": "put_object"}"#.into(),
            message_id: Some("j".into()),
            ..Message::default()
        }
        .with_text(header::FIRST_SEEN, "2026-01-01T00:00:00Z")
        .with_text(header::REASON, "permanent")
        .with_text(header::DEAD_AT, "2026-01-02T00:00:00Z")
        .with_count(header::PARKS, 4)
        .with_count(header::REPLAY, 1);
        let letter = letter(dead, None);
        assert_eq!(letter.replay_lane(), Lane::Upload);
        let again = letter.replayed(Timestamp::from_micros(0));
        assert_eq!(again.count(header::REPLAY), Some(2));
        assert_eq!(
            again.text(header::REPLAYED_AT),
            Some("1970-01-01T00:00:00.000000Z")
        );
        assert_eq!(again.text(header::FIRST_SEEN), Some("2026-01-01T00:00:00Z"));
        for gone in [header::REASON, header::DEAD_AT, header::PARKS] {
            assert!(!again.headers.contains_key(gone), "{gone} is still there");
        }
    }

    #[test]
    fn what_can_not_be_read_is_replayed_to_its_own_lane() {
        assert_eq!(letter(Message::default(), None).replay_lane(), Lane::Read);
    }

    #[test]
    fn our_reason_wins_and_the_brokers_is_its_newest() {
        let death = |reason: &str| {
            let mut table = FieldTable::default();
            table.insert("reason".into(), AMQPValue::LongString(reason.into()));
            AMQPValue::FieldTable(table)
        };
        let mut headers = FieldTable::default();
        headers.insert(
            "x-first-death-reason".into(),
            AMQPValue::LongString("expired".into()),
        );
        assert_eq!(broker_reason(&headers).as_deref(), Some("expired"));
        let deaths = FieldArray::from(vec![death("delivery_limit"), death("expired")]);
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        assert_eq!(broker_reason(&headers).as_deref(), Some("delivery_limit"));

        let theirs = letter(Message::default(), Some("delivery_limit"));
        assert_eq!(theirs.reason(), "delivery_limit");
        let ours = Message::default().with_text(header::REASON, "permanent");
        assert_eq!(letter(ours, Some("expired")).reason(), "permanent");
    }
}
