//! Settles one delivery, once: the same steps for every broker.
//!
//! Park and bury are publish, confirm, ack. While a copy can't be published the original stays unacked
//! and held (RESILIENCE.md, event 16). On a dead tag nothing is published and nothing acked: the
//! redelivery decides (event 13). A delivery that its task lets go of unsettled, because it panicked, is
//! handed back to its lane (event 20).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::Instant};

use super::{PublishError, Target};
use crate::{job::Message, resilience::Held};

/// The wait between two tries to publish a copy.
const REPUBLISH_FIRST: Duration = Duration::from_millis(100);
const REPUBLISH_MOST: Duration = Duration::from_secs(5);

/// The delivery's channel is gone, or the broker was never told: a redelivery will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the delivery's channel is gone, a redelivery will come")]
pub struct Stale;

/// What a broker's adapter gives the acker: the delivery's handle on its channel.
#[async_trait]
pub trait Tag: Send + Sync {
    /// Whether the channel is gone.
    fn is_stale(&self) -> bool;
    /// Acknowledges this delivery alone.
    async fn ack(self: Box<Self>) -> Result<(), Stale>;
    /// Gives this delivery back by nack, never by reject: reject counts on every broker version.
    async fn requeue(self: Box<Self>) -> Result<(), Stale>;
    /// One try to publish, until the confirm.
    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError>;
}

/// Settles its delivery by value. Dropped unsettled it goes to whoever [`Acker::returns_to`] names, else it
/// stays with the broker's channel.
#[must_use = "a delivery that is not settled holds its prefetch until the channel closes"]
pub struct Acker {
    /// Gone once the delivery is being settled.
    tag: Option<Box<dyn Tag>>,
    message: Arc<Message>,
    since: Instant,
    home: Option<mpsc::UnboundedSender<Self>>,
    /// Times that it came home.
    returns: u32,
    /// What the message takes of the process's memory.
    held: Option<Held>,
}

impl Acker {
    /// An acker for the delivery of `message` behind `tag`, which has just come.
    pub fn new(tag: Box<dyn Tag>, message: Arc<Message>) -> Self {
        Self {
            tag: Some(tag),
            message,
            since: Instant::now(),
            home: None,
            returns: 0,
            held: None,
        }
    }

    /// Counts the message's memory for as long as the delivery is not settled.
    pub fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// The message that was delivered, to copy from.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// When the delivery came. The broker's consumer time-out counts from then.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How often it came home unsettled.
    pub fn returns(&self) -> u32 {
        self.returns
    }

    /// Whether the delivery can no longer be settled.
    pub fn is_stale(&self) -> bool {
        self.tag.as_ref().is_none_or(|tag| tag.is_stale())
    }

    /// From now on the delivery goes to `home` if it is dropped unsettled on a channel that stands.
    pub fn returns_to(&mut self, home: mpsc::UnboundedSender<Self>) {
        self.home = Some(home);
    }

    /// Done with it.
    pub async fn ack(mut self) -> Result<(), Stale> {
        self.tag.take().ok_or(Stale)?.ack().await
    }

    /// Back to the queue; only with our own consumer on it cancelled.
    pub async fn requeue(mut self) -> Result<(), Stale> {
        self.tag.take().ok_or(Stale)?.requeue().await
    }

    /// Publishes a copy for park or bury, for as long as it takes: returns once it is confirmed, or
    /// when the delivery went stale. The original is still held; ack it next. `failed` hears of every try
    /// that failed. May be dropped: then the copy may or may not be there.
    pub async fn publish_copy(
        &self,
        target: &Target,
        copy: &Message,
        mut failed: impl FnMut(&PublishError),
    ) -> Result<(), Stale> {
        let mut delay = REPUBLISH_FIRST;
        loop {
            let tag = self.tag.as_ref().filter(|tag| !tag.is_stale());
            match tag.ok_or(Stale)?.publish(target, copy).await {
                Ok(()) => return Ok(()),
                Err(error) => failed(&error),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(REPUBLISH_MOST);
        }
    }
}

impl Drop for Acker {
    fn drop(&mut self) {
        let (tag, home) = (self.tag.take(), self.home.take());
        if let (Some(tag), Some(home)) = (tag, home)
            && !tag.is_stale()
        {
            let unsettled = Self {
                tag: Some(tag),
                message: Arc::clone(&self.message),
                since: self.since,
                home: None,
                returns: self.returns.saturating_add(1),
                held: self.held.take(),
            };
            // Nobody is home: the process ends, and the broker takes the delivery back.
            drop(home.send(unsettled));
        }
    }
}

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acker")
            .field("message_id", &self.message.message_id)
            .finish_non_exhaustive()
    }
}
