//! Publishes with confirms, one message in flight per channel.
//!
//! lapin hands a returned message to the wrong confirm when publishes are pipelined (facts: rabbitmq.md,
//! 8), so a channel belongs to one publish from its start to its confirm. One that did not get that far
//! takes its channel with it, so that a late confirm or return is charged to nobody: that is why the
//! channel travels by value, and only a confirmed publish gives it back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lapin::{
    Channel, Confirmation, Connection, Error, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::AMQPErrorKind,
};
use tokio::sync::Semaphore;

use super::{
    connection::Slot,
    message::{short, to_amqp},
};
use crate::{
    broker::{Names, PublishError, Target},
    job::Message,
};

/// Channels, and so publishes at a time; more bring little (facts: rabbitmq.md, 8).
const CHANNELS: usize = 16;
/// Bytes of large messages that are on their way at a time, in KiB: lapin holds a copy of each until it is written. One
/// that is larger goes alone.
const BULK_KIB: u32 = 8 * 1024;
/// Smaller ones are not counted, in bytes.
const BULK_FROM: usize = 64 * 1024;
/// How often a blocked connection is looked at.
const BLOCKED_LOOK: Duration = Duration::from_millis(100);

/// A pool of confirm channels on the publishing connection.
#[derive(Debug)]
pub(super) struct Publisher {
    names: Names,
    connection: Slot,
    timeout: Duration,
    turns: Semaphore,
    /// In KiB.
    bulk: Semaphore,
    /// Channels of the connection that stood last, with nothing in flight. Nothing awaits under it.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    channel: Channel,
    connection: Arc<Connection>,
}

impl Publisher {
    /// Publishes on whatever connection stands in `connection`; each publish ends within `timeout`.
    pub(super) fn new(names: Names, connection: Slot, timeout: Duration) -> Self {
        Self {
            names,
            connection,
            timeout,
            turns: Semaphore::new(CHANNELS),
            bulk: Semaphore::new(BULK_KIB as usize),
            idle: Mutex::default(),
        }
    }

    /// One try, until the confirm.
    pub(super) async fn publish(
        &self,
        target: &Target,
        message: &Message,
    ) -> Result<(), PublishError> {
        let properties = to_amqp(message)?;
        let route = self.names.route(target);
        let key = short("the routing key", &route.key)?;
        let publish = async {
            let closed = |_| PublishError::NotConnected("closed".to_owned());
            // Before the turn, so that small ones go past.
            let bulk = self.bulk.acquire_many(bulk(message.body.len()));
            let _bulk = bulk.await.map_err(closed)?;
            let _turn = self.turns.acquire().await.map_err(closed)?;
            let idle = self.take().await?;
            let options = BasicPublishOptions {
                mandatory: route.mandatory,
                ..Default::default()
            };
            let exchange = route.exchange.as_str().into();
            let confirm =
                idle.channel
                    .basic_publish(exchange, key, options, &message.body, properties);
            let confirmation = async { confirm.await?.await }
                .await
                .map_err(|error| refusal(&error))?;
            self.give_back(idle);
            match confirmation {
                Confirmation::Ack(None) => Ok(()),
                Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => Err(
                    PublishError::Returned(format!("{} {:?}", returned.reply_text, route.key)),
                ),
                Confirmation::Nack(None) | Confirmation::NotRequested => Err(PublishError::Nacked),
            }
        };
        tokio::time::timeout(self.timeout, publish)
            .await
            .unwrap_or(Err(PublishError::TimedOut))
    }

    /// A channel with nothing in flight, on the connection of now.
    async fn take(&self) -> Result<Idle, PublishError> {
        let connection = self.connection.borrow().clone();
        let connection = connection
            .filter(|connection| connection.status().connected())
            .ok_or_else(|| {
                PublishError::NotConnected("the connection is being rebuilt".to_owned())
            })?;
        // lapin writes nothing while the broker blocks the connection: what is sent now would queue up
        // in memory, and go out although its publisher was told that it timed out.
        while connection.status().blocked() {
            tokio::time::sleep(BLOCKED_LOOK).await;
        }
        if let Some(idle) = self.idle_on(&connection) {
            return Ok(idle);
        }
        let lost = |error: Error| PublishError::NotConnected(error.to_string());
        let channel = connection.create_channel().await.map_err(lost)?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(lost)?;
        Ok(Idle {
            channel,
            connection,
        })
    }

    /// An idle channel of this connection; lets go of those of an earlier one.
    fn idle_on(&self, connection: &Arc<Connection>) -> Option<Idle> {
        let mut channels = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let usable =
            |it: &Idle| Arc::ptr_eq(&it.connection, connection) && it.channel.status().connected();
        channels.retain(usable);
        channels.pop()
    }

    fn give_back(&self, idle: Idle) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(idle);
    }

    /// Lets go of every channel, and so of the connection.
    pub(super) fn close(&self) {
        self.turns.close();
        self.bulk.close();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// What a message of so many bytes takes of the bulk, in KiB.
fn bulk(bytes: usize) -> u32 {
    if bytes < BULK_FROM {
        return 0;
    }
    u32::try_from(bytes / 1024).map_or(BULK_KIB, |kib| kib.min(BULK_KIB))
}

/// Why the channel or the connection ended under a publish.
fn refusal(error: &Error) -> PublishError {
    match error.kind() {
        // Exchange missing, not allowed, message too large: the broker's answer to this message.
        ErrorKind::ProtocolError(error) if matches!(error.kind(), AMQPErrorKind::Soft(_)) => {
            PublishError::Returned(error.get_message().to_string())
        }
        _ => PublishError::NotConnected(error.to_string()),
    }
}
