//! Subscription and delivery handles of the in-process twin. Both keep the channel open; the last to go
//! closes it, and what was not settled goes back to its queue.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Inner,
    queues::{ClientId, ConsumerId, DeliveryTag, Next},
};
use crate::{
    broker::{Acker, Delivery, Ended, PublishError, Stale, Subscription, Tag, Target},
    job::Message,
};

pub(super) struct Channel {
    inner: Arc<Inner>,
    client: ClientId,
    consumer: ConsumerId,
}

impl Channel {
    pub(super) fn new(inner: Arc<Inner>, client: ClientId, consumer: ConsumerId) -> Self {
        Self {
            inner,
            client,
            consumer,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.inner.change(|state| state.queues.close(self.consumer));
    }
}

pub(super) struct MemorySubscription {
    channel: Arc<Channel>,
}

impl MemorySubscription {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self { channel }
    }

    /// What is there now, and when the next parked copy is due.
    fn look(&self) -> (Next, Option<Instant>) {
        let consumer = self.channel.consumer;
        self.channel
            .inner
            .look(|state| (state.queues.next(consumer), state.queues.next_due()))
    }

    fn delivery(&self, tag: DeliveryTag, message: Arc<Message>, redelivered: bool) -> Delivery {
        let tag = MemoryTag {
            channel: Arc::clone(&self.channel),
            tag,
        };
        let acker = Acker::new(Box::new(tag), Arc::clone(&message));
        Delivery {
            message,
            redelivered,
            acker,
        }
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        let consumer = self.channel.consumer;
        self.channel
            .inner
            .change(|state| state.queues.stop(consumer));
    }
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Delivery, Ended> {
        let inner = Arc::clone(&self.channel.inner);
        loop {
            // Before the look, so that no change is missed.
            let changed = inner.changed.notified();
            let due = match self.look() {
                (
                    Next::Delivery {
                        tag,
                        message,
                        redelivered,
                    },
                    _,
                ) => {
                    return Ok(self.delivery(tag, message, redelivered));
                }
                (Next::Ended(ended), _) => return Err(ended),
                (Next::Nothing, due) => due,
            };
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = due => {}
            }
        }
    }

    async fn cancel(self: Box<Self>) -> Vec<Delivery> {
        let consumer = self.channel.consumer;
        self.channel
            .inner
            .change(|state| state.queues.stop(consumer));
        let mut buffered = Vec::new();
        while let (
            Next::Delivery {
                tag,
                message,
                redelivered,
            },
            _,
        ) = self.look()
        {
            buffered.push(self.delivery(tag, message, redelivered));
        }
        buffered
    }
}

struct MemoryTag {
    channel: Arc<Channel>,
    tag: DeliveryTag,
}

#[async_trait]
impl Tag for MemoryTag {
    fn is_stale(&self) -> bool {
        let consumer = self.channel.consumer;
        self.channel
            .inner
            .look(|state| state.queues.is_lost(consumer))
    }

    async fn ack(self: Box<Self>) -> Result<(), Stale> {
        let Channel {
            inner, consumer, ..
        } = &*self.channel;
        let sent = inner.change(|state| state.queues.ack(*consumer, self.tag));
        if sent { Ok(()) } else { Err(Stale) }
    }

    async fn requeue(self: Box<Self>) -> Result<(), Stale> {
        let Channel {
            inner, consumer, ..
        } = &*self.channel;
        let sent = inner.change(|state| state.queues.requeue(*consumer, self.tag));
        if sent { Ok(()) } else { Err(Stale) }
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        let Channel { inner, client, .. } = &*self.channel;
        inner.publish(*client, target, message).await
    }
}
