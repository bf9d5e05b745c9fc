//! What an operator or a producer does with the twin's queues, and what a test may see of them.

use std::sync::Arc;

use super::{MemoryBroker, missing};
use crate::job::{Lane, Message, outcome::ParkDelay};

impl MemoryBroker {
    /// Declares a queue: a producer's, for replies, or one of ours that was missing.
    pub fn declare_queue(&self, queue: &str) {
        self.inner
            .change(|state| state.queues.declare(queue.to_owned()));
        let problem = missing(queue);
        for client in self.inner.lock().clients.values() {
            client.status.send_if_modified(|status| {
                let was_missing = status.topology.as_ref() == Some(&problem);
                if was_missing {
                    status.topology = None;
                }
                was_missing
            });
        }
    }

    /// Deletes a queue with what is in it; its consumers are cancelled.
    pub fn delete_queue(&self, queue: &str) {
        self.inner.change(|state| state.queues.delete(queue));
    }

    /// Puts a message into a queue, whatever faults there are; a missing queue drops it.
    pub fn push(&self, queue: &str, message: &Message) {
        let names = &self.inner.names;
        let all = Lane::ALL.into_iter();
        let mut retries = all.flat_map(|lane| ParkDelay::ALL.map(|delay| (lane, delay)));
        let parked = retries.find(|(lane, delay)| names.retry_queue(*lane, *delay) == queue);
        let due = parked.map(|(_, delay)| tokio::time::Instant::now() + delay.duration());
        self.inner.change(|state| {
            state.queues.push(queue, Arc::new(message.clone()), due);
        });
    }

    /// Deletes a queue; returns what was in it, ready or unsettled, oldest first.
    pub fn take_queue(&self, queue: &str) -> Vec<Message> {
        self.inner.change(|state| {
            let messages = state.queues.all(queue);
            state.queues.delete(queue);
            messages
        })
    }

    /// How many messages with that id there are in all queues, ready or unsettled.
    pub fn copies(&self, id: &str) -> usize {
        self.inner.look(|state| state.queues.copies(id))
    }

    /// Deliveries that this client holds unsettled, by queue.
    pub fn unsettled(&self, queue: &str) -> usize {
        self.inner
            .look(|state| state.queues.unsettled(self.client, queue))
    }

    /// Whether a consumer of this client takes from the queue.
    pub fn is_consuming(&self, queue: &str) -> bool {
        self.inner
            .look(|state| state.queues.is_consuming(self.client, queue))
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
}
