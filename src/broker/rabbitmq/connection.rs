//! A connection that is rebuilt for as long as the process runs, and why it does not stand meanwhile: at
//! the next address, when there are several (RESILIENCE.md, events 1, 13 and 23).

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{Connection, Event};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    addresses::Addresses,
    endpoint::{Endpoint, Opened},
    pulse,
    status::StatusBoard,
    topology_keeper::TopologyKeeper,
};
use crate::{metrics::Role, watch};

/// The wait before a connection is tried again: full jitter between these.
const RETRY_LEAST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// A connection that stood for this long was a good one: the next wait is short again.
const STABLE: Duration = Duration::from_secs(30);
/// How often a connection is looked at. lapin has no event for a lost socket; lanes and publishes that
/// use the connection notice at once.
const LOOK: Duration = Duration::from_millis(250);
/// No node is given up for less silence.
const SILENCE_LEAST: Duration = Duration::from_secs(1);
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The current connection of one role, if it stands.
pub(super) type Slot = watch::Receiver<Option<Arc<Connection>>>;

/// Keeps the connection of one role, and says how it is.
pub(super) struct Keeper {
    pub(super) role: Role,
    pub(super) addresses: Addresses,
    /// Names the setting, and where it came from.
    pub(super) setting: String,
    pub(super) slot: watch::Sender<Option<Arc<Connection>>>,
    pub(super) status: Arc<StatusBoard>,
    /// Walked after the first connect, before the connection may be used, and beside it later; the consuming
    /// role's.
    pub(super) topology: Option<Arc<TopologyKeeper>>,
}

impl Keeper {
    /// Connects, watches, connects again, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        let mut stood_before = false;
        let mut known = String::new();
        loop {
            let started = tokio::time::Instant::now();
            let lost = tokio::select! {
                lost = self.connect_and_watch(&mut stood_before) => lost,
                () = stop.cancelled() => break,
            };
            if started.elapsed() > STABLE {
                failures = 0;
            }
            let role = self.role.as_str();
            // Once an outage, and once more for each new reason.
            if self.slot.borrow().is_some() || lost != known {
                tracing::warn!(role, why = lost, "no connection to RabbitMQ");
            } else {
                tracing::debug!(role, why = lost, "still no connection to RabbitMQ");
            }
            known.clone_from(&lost);
            let wait = full_jitter(failures, fastrand::f64());
            failures += 1;
            self.slot.send_replace(None);
            let seconds = wait.as_secs_f64().ceil();
            let next = match self.addresses.len() {
                1 => String::new(),
                _ => format!(" at {}", self.addresses.current().address()),
            };
            let why = format!("{lost}, next try in {seconds} s{next}");
            self.status.down(self.role, &why);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.close().await;
    }

    /// Tries each address once, and watches the first that connects. Returns why there is no connection, or none
    /// any more; the turn is then the next address's.
    async fn connect_and_watch(&mut self, stood_before: &mut bool) -> String {
        let name = format!("brigade {}", self.role.as_str());
        let mut failed = Vec::new();
        for left in (0..self.addresses.len()).rev() {
            let endpoint = self.addresses.current().clone();
            let tried = self.connect(&endpoint, &name, *stood_before).await;
            self.addresses.advance();
            let why = match tried {
                Ok(opened) => return self.use_connection(opened, &endpoint, stood_before).await,
                Err(why) => why,
            };
            if left > 0 {
                let next = self.addresses.current().address();
                let role = self.role.as_str();
                tracing::warn!(
                    role,
                    why,
                    next,
                    "an address of RabbitMQ fails, the next is tried"
                );
                self.status
                    .down(self.role, &format!("{why}, now trying {next}"));
            }
            failed.push(why);
        }
        format!("{} ({})", failed.join("; "), self.setting)
    }

    /// One try at one address.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        name: &str,
        stood_before: bool,
    ) -> Result<Opened, String> {
        let opened = endpoint.connect(name, Duration::MAX).await?;
        // Later a walk goes on beside: in a cluster with a node that hangs, declaring may wait for it while
        // consuming need not.
        if let Some(topology) = &self.topology
            && !stood_before
            && let Err(error) = topology.walk(&opened.connection).await
        {
            return Err(endpoint.sentence(&error));
        }
        Ok(opened)
    }

    async fn use_connection(
        &self,
        opened: Opened,
        endpoint: &Endpoint,
        stood_before: &mut bool,
    ) -> String {
        let Opened {
            connection,
            lifeline,
        } = opened;
        let (connection, address) = (Arc::new(connection), endpoint.address());
        let limit = self.patience_with_silence(endpoint);
        let silence = async {
            match limit {
                Some(limit) => pulse::silence(&connection, &lifeline, limit).await,
                None => std::future::pending().await,
            }
        };
        self.slot.send_replace(Some(Arc::clone(&connection)));
        self.status.up(self.role, *stood_before);
        tracing::info!(role = self.role.as_str(), address, "connected to RabbitMQ");
        let is_fresh = !std::mem::replace(stood_before, true);
        tokio::select! {
            () = self.watch(&connection, is_fresh) => format!("the connection to {address} was lost"),
            () = silence => {
                lifeline.cut();
                let seconds = limit.unwrap_or_default().as_secs_f64();
                format!("{address} has answered nothing for {seconds} s")
            }
        }
    }

    /// How long this node may be silent: half its heartbeat where there is another to go to, so that the change takes
    /// less than ten seconds. A single one is waited for until lapin misses its heartbeats.
    fn patience_with_silence(&self, endpoint: &Endpoint) -> Option<Duration> {
        let has_choice = self.addresses.len() > 1 || endpoint.has_several_hosts();
        let heartbeat = endpoint.heartbeat();
        (has_choice && !heartbeat.is_zero()).then(|| (heartbeat / 2).max(SILENCE_LEAST))
    }

    /// Ends when the connection is lost.
    async fn watch(&self, connection: &Arc<Connection>, is_fresh: bool) {
        let mut events = std::pin::pin!(connection.events_listener());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let recheck = async {
            match &self.topology {
                Some(topology) => topology.keep(connection, is_fresh).await,
                None => std::future::pending().await,
            }
        };
        let mut recheck = std::pin::pin!(recheck);
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(role = self.role.as_str(), reason, "RabbitMQ takes no publishes for now");
                        self.status.blocked(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!(role = self.role.as_str(), "RabbitMQ takes publishes again");
                        self.status.blocked(None);
                    }
                    _ => {}
                },
                _ = look.tick() => if !connection.status().connected() {
                    return;
                },
                () = &mut recheck => return,
            }
        }
    }

    async fn close(self) {
        let connection = self.slot.send_replace(None);
        self.status.down(self.role, "closed");
        if let Some(connection) = connection {
            let closing = connection.close(200, "closed".into());
            if !matches!(
                tokio::time::timeout(CLOSE_TIMEOUT, closing).await,
                Ok(Ok(()))
            ) {
                tracing::debug!(role = self.role.as_str(), "the broker was not told goodbye");
            }
        }
    }
}

/// The wait after so many failures in a row; `chance` is from 0 to 1.
fn full_jitter(failures: u32, chance: f64) -> Duration {
    let most = (RETRY_LEAST * 2_u32.saturating_pow(failures.min(16) + 1)).min(RETRY_MOST);
    RETRY_LEAST + (most - RETRY_LEAST).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_thirty_seconds_and_never_falls_below_half_a_second() {
        assert_eq!(full_jitter(0, 0.0), Duration::from_millis(500));
        assert_eq!(full_jitter(0, 1.0), Duration::from_secs(1));
        assert_eq!(full_jitter(2, 1.0), Duration::from_secs(4));
        assert_eq!(full_jitter(100, 0.0), Duration::from_millis(500));
        assert_eq!(full_jitter(100, 1.0), Duration::from_secs(30));
    }
}
