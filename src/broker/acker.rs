//! Settles one delivery, once: the same steps for every broker.
//!
//! Park and bury are publish, confirm, ack. While a copy can't be published the original stays unacked
//! and held, and the lanes pause (RESILIENCE.md, event 16). On a dead tag nothing is published and
//! nothing acked: the redelivery decides (event 13).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{PublishError, Target};
use crate::job::Message;

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
    /// Tells the status that a copy waits to be published (`true`) or no longer does (`false`).
    fn report_stalled(&self, stalled: bool);
}

/// Settles its delivery by value. Dropped unsettled, the delivery stays with the broker's channel.
#[must_use = "a delivery that is not settled holds its prefetch until the channel closes"]
pub struct Acker {
    tag: Box<dyn Tag>,
    message: Arc<Message>,
}

impl Acker {
    /// An acker for the delivery of `message` behind `tag`.
    pub fn new(tag: Box<dyn Tag>, message: Arc<Message>) -> Self {
        Self { tag, message }
    }

    /// The message that was delivered, to copy from.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// Whether the delivery can no longer be settled.
    pub fn is_stale(&self) -> bool {
        self.tag.is_stale()
    }

    /// Done with it.
    pub async fn ack(self) -> Result<(), Stale> {
        self.tag.ack().await
    }

    /// Back to the queue; only with our own consumer on it cancelled.
    pub async fn requeue(self) -> Result<(), Stale> {
        self.tag.requeue().await
    }

    /// Publishes a copy for park or bury, for as long as it takes: returns once it is confirmed, or
    /// when the delivery went stale. The original is still held; ack it next. `stalled_by` hears of the
    /// first failure, so that whoever knows the job can say so.
    pub async fn publish_copy(
        &self,
        target: &Target,
        copy: &Message,
        stalled_by: impl Fn(&PublishError),
    ) -> Result<(), Stale> {
        let mut stalled = Stalled {
            tag: &*self.tag,
            reported: false,
        };
        let mut delay = REPUBLISH_FIRST;
        loop {
            if self.tag.is_stale() {
                return Err(Stale);
            }
            match self.tag.publish(target, copy).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if !stalled.reported {
                        stalled_by(&error);
                    }
                    stalled.report();
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(REPUBLISH_MOST);
        }
    }
}

/// Takes the report back however the publishing ends.
struct Stalled<'a> {
    tag: &'a dyn Tag,
    reported: bool,
}

impl Stalled<'_> {
    fn report(&mut self) {
        if !self.reported {
            self.reported = true;
            self.tag.report_stalled(true);
        }
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        if self.reported {
            self.tag.report_stalled(false);
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
