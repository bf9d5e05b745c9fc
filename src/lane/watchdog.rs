//! Notices a lane that is connected and receives nothing while its queue is not empty.
//!
//! A broker hands a waiting message at once to a consumer with room, so jobs that are still there after two
//! looks, with no delivery between, mean that this consumer is forgotten: seen after fail-overs of quorum
//! queues, and behind proxies that keep a dead connection open. The lane then consumes anew.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{broker::Broker, job::Lane};

/// Between two looks at the queue; a delivery puts the next one off.
const INTERVAL: Duration = Duration::from_secs(15);
/// So many looks in a row find jobs before the consumer counts as forgotten.
const LOOKS: u32 = 2;

/// Watches one subscription.
#[derive(Debug)]
pub(super) struct Watchdog {
    broker: Arc<dyn Broker>,
    lane: Lane,
    next_look: Instant,
    found: u32,
}

impl Watchdog {
    /// Begins with the subscription.
    pub(super) fn new(broker: Arc<dyn Broker>, lane: Lane) -> Self {
        let next_look = Instant::now() + INTERVAL;
        Self {
            broker,
            lane,
            next_look,
            found: 0,
        }
    }

    /// A delivery has come.
    pub(super) fn fed(&mut self) {
        self.next_look = Instant::now() + INTERVAL;
        self.found = 0;
    }

    /// Ends when the consumer is forgotten, with the number of jobs that wait. To be awaited only while the
    /// consumer has room; may be dropped and awaited again.
    pub(super) async fn forgotten(&mut self) -> u32 {
        loop {
            tokio::time::sleep_until(self.next_look).await;
            let waiting = self.broker.queue_ready(self.lane).await.unwrap_or(0);
            self.next_look = Instant::now() + INTERVAL;
            self.found = if waiting > 0 { self.found + 1 } else { 0 };
            if self.found == LOOKS {
                return waiting;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{Target, memory::MemoryBroker},
        job::Message,
    };

    const LANE: Lane = Lane::Upload;

    async fn publish(broker: &MemoryBroker, id: &str) {
        let message = Message {
            message_id: Some(id.to_owned()),
            ..Message::default()
        };
        broker.publish(&Target::Jobs(LANE), &message).await.unwrap();
    }

    /// Whether the watchdog barks within that time.
    async fn barks(watchdog: &mut Watchdog, within: Duration) -> bool {
        tokio::time::timeout(within, watchdog.forgotten())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_gets_nothing_of_a_queue_that_is_not_empty_is_forgotten() {
        let broker = MemoryBroker::new("t");
        let mut subscription = broker.subscribe(LANE, 10).await.unwrap();
        let mut watchdog = Watchdog::new(Arc::new(broker.clone()), LANE);
        assert!(
            !barks(&mut watchdog, INTERVAL * 10).await,
            "the queue is empty"
        );
        broker.forget_consumers();
        publish(&broker, "j1").await;
        assert!(
            !barks(&mut watchdog, INTERVAL).await,
            "one look is not enough"
        );
        assert!(barks(&mut watchdog, INTERVAL * 2).await);
        // Consuming anew is what helps.
        drop(subscription);
        subscription = broker.subscribe(LANE, 10).await.unwrap();
        let delivery = subscription.next().await.unwrap();
        assert_eq!(delivery.message.message_id.as_deref(), Some("j1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_between_two_looks_is_a_sign_of_life() {
        let broker = MemoryBroker::new("t");
        let mut watchdog = Watchdog::new(Arc::new(broker.clone()), LANE);
        publish(&broker, "j1").await;
        for _ in 0..10 {
            assert!(!barks(&mut watchdog, INTERVAL + INTERVAL / 2).await);
            watchdog.fed();
        }
    }
}
