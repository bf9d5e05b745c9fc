//! Queues and consumers of the in-process twin, as plain data: no lock, no waiting.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{broker::Ended, job::Message};

/// Names a client.
pub(super) type ClientId = u64;
/// Names a consumer and the channel that it has to itself.
pub(super) type ConsumerId = u64;
/// Names an unsettled delivery of a consumer; grows with every delivery.
pub(super) type DeliveryTag = u64;

#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: BTreeMap<String, Queue>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    next_consumer: ConsumerId,
    next_tag: DeliveryTag,
}

#[derive(Debug, Default)]
struct Queue {
    /// Given back, handed out before all others, in the order of their return.
    returned: VecDeque<Stored>,
    ready: VecDeque<Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    message: Arc<Message>,
    redelivered: bool,
    /// In a retry queue: when it goes back to its lane.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Consumer {
    client: ClientId,
    queue: String,
    prefetch: usize,
    /// Delivered and not yet taken by `next`.
    buffer: VecDeque<DeliveryTag>,
    unsettled: BTreeMap<DeliveryTag, Stored>,
    /// The subscription takes no more: cancelled by us or by the server, or lost.
    stopped: bool,
    ended: Option<Ended>,
    /// The channel is gone: nothing can be settled.
    lost: bool,
}

/// What a consumer gets next.
#[derive(Debug)]
pub(super) enum Next {
    Delivery {
        tag: DeliveryTag,
        message: Arc<Message>,
        redelivered: bool,
    },
    Ended(Ended),
    Nothing,
}

impl Queues {
    pub(super) fn declare(&mut self, queue: String) {
        self.queues.entry(queue).or_default();
    }

    pub(super) fn exists(&self, queue: &str) -> bool {
        self.queues.contains_key(queue)
    }

    pub(super) fn delete(&mut self, queue: &str) {
        self.queues.remove(queue);
        for consumer in self.consumers.values_mut().filter(|it| it.queue == queue) {
            consumer.stopped = true;
            consumer.ended.get_or_insert(Ended::Cancelled);
        }
    }

    /// `false`: there is no such queue.
    pub(super) fn push(
        &mut self,
        queue: &str,
        message: Arc<Message>,
        due: Option<Instant>,
    ) -> bool {
        let Some(queue) = self.queues.get_mut(queue) else {
            return false;
        };
        queue.ready.push_back(Stored {
            message,
            redelivered: false,
            due,
        });
        true
    }

    /// Moves the head of a retry queue for as long as it is due.
    pub(super) fn expire(&mut self, retry: &str, lane: &str) {
        let now = Instant::now();
        while let Some(queue) = self.queues.get_mut(retry)
            && queue
                .ready
                .front()
                .and_then(|head| head.due)
                .is_some_and(|due| due <= now)
        {
            let Some(head) = queue.ready.pop_front() else {
                return;
            };
            if !self.push(lane, Arc::clone(&head.message), None) {
                // At least once: the copy stays until its target is there again.
                if let Some(queue) = self.queues.get_mut(retry) {
                    queue.ready.push_front(head);
                }
                return;
            }
        }
    }

    /// When the next parked copy is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queues
            .values()
            .filter_map(|queue| queue.ready.front()?.due)
            .min()
    }

    pub(super) fn ready(&self, queue: &str) -> Vec<Message> {
        let Some(queue) = self.queues.get(queue) else {
            return Vec::new();
        };
        queue
            .returned
            .iter()
            .chain(&queue.ready)
            .map(|stored| Message::clone(&stored.message))
            .collect()
    }

    /// Ready or unsettled, what is unsettled first.
    pub(super) fn all(&self, queue: &str) -> Vec<Message> {
        let consumers = self.consumers.values().filter(|it| it.queue == queue);
        let unsettled: BTreeMap<_, _> = consumers.flat_map(|it| &it.unsettled).collect();
        let unsettled = unsettled
            .values()
            .map(|stored| Message::clone(&stored.message));
        unsettled.chain(self.ready(queue)).collect()
    }

    /// Messages with that id, ready or unsettled, in all queues.
    pub(super) fn copies(&self, id: &str) -> usize {
        let queues = self.queues.values();
        let waiting = queues.flat_map(|queue| queue.returned.iter().chain(&queue.ready));
        let unsettled = self
            .consumers
            .values()
            .flat_map(|consumer| consumer.unsettled.values());
        let is_it = |stored: &&Stored| stored.message.message_id.as_deref() == Some(id);
        waiting.chain(unsettled).filter(is_it).count()
    }

    pub(super) fn unsettled(&self, client: ClientId, queue: &str) -> usize {
        let ours = self
            .consumers
            .values()
            .filter(|it| it.client == client && it.queue == queue);
        ours.map(|it| it.unsettled.len()).sum()
    }

    pub(super) fn is_consuming(&self, client: ClientId, queue: &str) -> bool {
        self.consumers
            .values()
            .any(|it| it.client == client && it.queue == queue && !it.stopped)
    }

    pub(super) fn depth(&self, queue: &str) -> usize {
        let consumers = self.consumers.values().filter(|it| it.queue == queue);
        let unsettled: usize = consumers.map(|it| it.unsettled.len()).sum();
        let waiting = self
            .queues
            .get(queue)
            .map_or(0, |it| it.returned.len() + it.ready.len());
        waiting + unsettled
    }

    /// `None`: there is no such queue.
    pub(super) fn consume(
        &mut self,
        client: ClientId,
        queue: &str,
        prefetch: usize,
    ) -> Option<ConsumerId> {
        if !self.exists(queue) {
            return None;
        }
        self.next_consumer += 1;
        let consumer = Consumer {
            client,
            queue: queue.to_owned(),
            prefetch,
            buffer: VecDeque::new(),
            unsettled: BTreeMap::new(),
            stopped: false,
            ended: None,
            lost: false,
        };
        self.consumers.insert(self.next_consumer, consumer);
        Some(self.next_consumer)
    }

    /// Hands out what consumers may have, the emptiest first; returns how many deliveries that were.
    pub(super) fn hand_out(&mut self) -> u64 {
        let mut count = 0;
        loop {
            let queues = &mut self.queues;
            let hungry = self
                .consumers
                .values_mut()
                .filter(|it| !it.stopped && it.unsettled.len() < it.prefetch)
                .filter(|it| queues.get(&it.queue).is_some_and(Queue::has_ready))
                .min_by_key(|it| it.unsettled.len());
            let Some(consumer) = hungry else { return count };
            let Some(stored) = queues.get_mut(&consumer.queue).and_then(Queue::pop) else {
                return count;
            };
            self.next_tag += 1;
            consumer.buffer.push_back(self.next_tag);
            consumer.unsettled.insert(self.next_tag, stored);
            count += 1;
        }
    }

    pub(super) fn next(&mut self, id: ConsumerId) -> Next {
        let gone = || Next::Ended(Ended::Lost("closed".to_owned()));
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return gone();
        };
        while let Some(tag) = consumer.buffer.pop_front() {
            if let Some(Stored {
                message,
                redelivered,
                ..
            }) = consumer.unsettled.get(&tag)
            {
                let (message, redelivered) = (Arc::clone(message), *redelivered);
                return Next::Delivery {
                    tag,
                    message,
                    redelivered,
                };
            }
        }
        match &consumer.ended {
            Some(ended) => Next::Ended(ended.clone()),
            None => Next::Nothing,
        }
    }

    /// Takes the consumer off its queue; what is unsettled stays so.
    pub(super) fn stop(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.stopped = true;
        }
    }

    /// They stay as they are, and get nothing more.
    pub(super) fn forget_consumers(&mut self) {
        for consumer in self.consumers.values_mut() {
            consumer.stopped = true;
        }
    }

    pub(super) fn is_lost(&self, id: ConsumerId) -> bool {
        self.consumers.get(&id).is_none_or(|consumer| consumer.lost)
    }

    /// `false`: the channel is gone, or the tag was settled before.
    pub(super) fn ack(&mut self, id: ConsumerId, tag: DeliveryTag) -> bool {
        self.settle(id, tag).is_some()
    }

    /// `false`: the channel is gone, or the tag was settled before.
    pub(super) fn requeue(&mut self, id: ConsumerId, tag: DeliveryTag) -> bool {
        let Some((queue, stored)) = self.settle(id, tag) else {
            return false;
        };
        self.put_back(&queue, stored);
        true
    }

    fn settle(&mut self, id: ConsumerId, tag: DeliveryTag) -> Option<(String, Stored)> {
        let consumer = self
            .consumers
            .get_mut(&id)
            .filter(|consumer| !consumer.lost)?;
        let stored = consumer.unsettled.remove(&tag)?;
        Some((consumer.queue.clone(), stored))
    }

    /// Closes every channel of a client: what is unsettled goes back, oldest first.
    pub(super) fn lose_channels(&mut self, client: ClientId, why: &str) {
        let mut unsettled = Vec::new();
        for consumer in self.consumers.values_mut().filter(|it| it.client == client) {
            consumer.stopped = true;
            consumer.lost = true;
            consumer.buffer.clear();
            consumer
                .ended
                .get_or_insert_with(|| Ended::Lost(why.to_owned()));
            let taken = std::mem::take(&mut consumer.unsettled);
            unsettled.extend(taken.into_iter().map(|it| (consumer.queue.clone(), it)));
        }
        unsettled.sort_by_key(|(_, (tag, _))| *tag);
        for (queue, (_, stored)) in unsettled {
            self.put_back(&queue, stored);
        }
    }

    /// Closes one channel.
    pub(super) fn close(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.remove(&id) {
            for stored in consumer.unsettled.into_values() {
                self.put_back(&consumer.queue, stored);
            }
        }
    }

    fn put_back(&mut self, queue: &str, mut stored: Stored) {
        stored.redelivered = true;
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.returned.push_back(stored);
        }
    }
}

impl Queue {
    fn has_ready(&self) -> bool {
        !self.returned.is_empty() || !self.ready.is_empty()
    }

    fn pop(&mut self) -> Option<Stored> {
        self.returned.pop_front().or_else(|| self.ready.pop_front())
    }
}
