//! How many jobs wait and are parked in each lane: one look a second, whoever asks and however often.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::Mutex, time::Instant};

use crate::{broker::Broker, job::Lane};

/// How long a look is good for.
const FRESH: Duration = Duration::from_secs(1);

/// A lane's queues as the broker last knew them; `None` when that can't be known. For people, never for
/// decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounts {
    /// Jobs in the lane's queue.
    pub ready: Option<u32>,
    /// Jobs in its retry queues.
    pub parked: Option<u32>,
}

/// The looks of one worker at its lanes' queues.
#[derive(Debug)]
pub struct QueueLooks {
    broker: Arc<dyn Broker>,
    lanes: Vec<Lane>,
    /// Held while somebody looks: the others wait for what he sees.
    last: Mutex<Look>,
}

#[derive(Debug, Default)]
struct Look {
    /// When it was begun, or has ended.
    at: Option<Instant>,
    counts: BTreeMap<Lane, QueueCounts>,
}

impl QueueLooks {
    pub(super) fn new(broker: Arc<dyn Broker>, lanes: &[Lane]) -> Self {
        Self {
            broker,
            lanes: lanes.to_vec(),
            last: Mutex::default(),
        }
    }

    /// The counts of each lane, at most a second old. Takes as long as the broker, which has a time-out.
    pub async fn counts(&self) -> BTreeMap<Lane, QueueCounts> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if last.at.is_none_or(|at| now.duration_since(at) >= FRESH) {
            // Before the look: a caller who goes away meanwhile must not let the next one begin another.
            last.at = Some(now);
            let looks = self.lanes.iter().map(|lane| self.look(*lane));
            last.counts = join_all(looks).await.into_iter().collect();
            // After it too: those who waited while the broker took its time share what was seen.
            last.at = Some(Instant::now());
        }
        last.counts.clone()
    }

    async fn look(&self, lane: Lane) -> (Lane, QueueCounts) {
        let (ready, parked) = tokio::join!(
            self.broker.queue_ready(lane),
            self.broker.queue_parked(lane)
        );
        (lane, QueueCounts { ready, parked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{Target, memory::MemoryBroker},
        job::{Message, outcome::ParkDelay},
    };

    #[tokio::test(start_paused = true)]
    async fn many_callers_share_one_look_a_second() {
        let broker = Arc::new(MemoryBroker::new("p"));
        let looks = QueueLooks::new(Arc::<MemoryBroker>::clone(&broker), &[Lane::Upload]);
        let publish = async |target: Target| {
            broker.publish(&target, &Message::default()).await.unwrap();
        };
        publish(Target::Jobs(Lane::Upload)).await;
        publish(Target::Retry(Lane::Upload, ParkDelay::TenMinutes)).await;
        let counts = |ready, parked| {
            let (ready, parked) = (Some(ready), Some(parked));
            BTreeMap::from([(Lane::Upload, QueueCounts { ready, parked })])
        };
        assert_eq!(looks.counts().await, counts(1, 1));
        publish(Target::Retry(Lane::Upload, ParkDelay::OneMinute)).await;
        for all in join_all((0..50).map(|_| looks.counts())).await {
            assert_eq!(all, counts(1, 1));
        }
        tokio::time::advance(FRESH).await;
        assert_eq!(looks.counts().await, counts(1, 2));
    }
}
