//! When a lane consumes again after its queue failed it: later each time, until a delivery comes, and at once when
//! exchanges and queues were mended.

use std::time::Duration;

use tokio::time::Instant;

use super::gate::Gate;

/// The wait before consuming again after the queue failed us: first and longest.
const RESUBSCRIBE_FIRST: Duration = Duration::from_millis(500);
const RESUBSCRIBE_MOST: Duration = Duration::from_secs(30);

/// When the lane may consume again.
#[derive(Debug)]
pub(super) struct Resubscription {
    wait: Duration,
    at: Option<Instant>,
    /// What was wrong with exchanges and queues, when that was looked at last.
    topology: Option<String>,
}

impl Default for Resubscription {
    fn default() -> Self {
        Self {
            wait: RESUBSCRIBE_FIRST,
            at: None,
            topology: None,
        }
    }
}

impl Resubscription {
    /// A delivery came, or the connection is another one.
    pub(super) fn reset(&mut self) {
        (self.wait, self.at) = (RESUBSCRIBE_FIRST, None);
    }

    /// Ends the wait when something was mended, or is wrong in another way. What is wrong still makes the next one
    /// longer.
    pub(super) fn heed(&mut self, gate: &Gate) {
        if let Some(topology) = gate.topology_unlike(self.topology.as_deref()) {
            self.topology = topology;
            self.at = None;
        }
    }

    /// The queue failed the lane.
    pub(super) fn put_off(&mut self) {
        self.at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(RESUBSCRIBE_MOST);
    }

    pub(super) fn is_due(&self) -> bool {
        self.at.is_none_or(|at| at <= Instant::now())
    }

    /// Ends when it is due; at once if nothing was put off.
    pub(super) async fn due(&self) {
        if let Some(at) = self.at {
            tokio::time::sleep_until(at).await;
        }
    }
}
