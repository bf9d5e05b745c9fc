//! The topology of a worker's lanes while it runs: declared or verified at each connect, looked at again
//! while something is wrong. Knows which lane must wait for what; the table is `topology`'s.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lapin::{Connection, Error};
use tokio::sync::Notify;

use super::{
    TopologyMode,
    status::StatusBoard,
    topology::{Difference, Object, Walk, table, walk},
};
use crate::{broker::Names, job::Lane};

/// Keeps the topology of a worker's lanes, and knows which lane must wait for what.
#[derive(Debug)]
pub(super) struct TopologyKeeper {
    table: Vec<Object>,
    lanes: Vec<Lane>,
    mode: TopologyMode,
    recheck: Duration,
    events: String,
    status: Arc<StatusBoard>,
    again: Notify,
    /// Nothing awaits under it.
    problems: Mutex<Problems>,
}

#[derive(Debug, Clone, Default)]
struct Problems {
    of_lanes: BTreeMap<Lane, Difference>,
    /// In the order of the table.
    all: Vec<Difference>,
}

impl TopologyKeeper {
    pub(super) fn new(
        names: &Names,
        lanes: &[Lane],
        mode: TopologyMode,
        recheck: Duration,
        status: Arc<StatusBoard>,
    ) -> Self {
        Self {
            table: table(names, lanes),
            lanes: lanes.to_vec(),
            mode,
            recheck,
            events: names.events(),
            status,
            again: Notify::new(),
            problems: Mutex::default(),
        }
    }

    /// What keeps the lane from its queue, if anything is known to.
    pub(super) fn problem(&self, lane: Lane) -> Option<String> {
        let problems = self.lock();
        problems
            .of_lanes
            .get(&lane)
            .map(|it| format!("{}: {}", it.object, it.problem))
    }

    /// Declares or verifies, as the mode says. An error is the connection's.
    pub(super) async fn walk(&self, connection: &Connection) -> Result<(), Error> {
        let how = match self.mode {
            TopologyMode::Declare => Walk::Declare,
            TopologyMode::Verify => Walk::Exists,
            TopologyMode::None => return Ok(()),
        };
        let mut problems = Problems::default();
        for (object, difference) in walk(connection, &self.table, how).await? {
            let affected = match object.lane {
                Some(lane) => vec![lane],
                // Events are best effort; every lane parks and buries through the others.
                None if object.name == self.events => Vec::new(),
                None => self.lanes.clone(),
            };
            for lane in affected {
                problems
                    .of_lanes
                    .entry(lane)
                    .or_insert_with(|| difference.clone());
            }
            problems.all.push(difference);
        }
        self.set(problems);
        Ok(())
    }

    /// Walks again after each `recheck` while there is a problem, and at once after [`Self::look_again`], or when
    /// `walked` says that this connection has not seen a walk yet. Ends when the connection failed; a walk that
    /// the broker does not answer is tried again, since consuming may go on all the same.
    pub(super) async fn keep(&self, connection: &Connection, walked: bool) {
        let mut is_due = !walked;
        loop {
            if !is_due {
                let waits = !self.lock().all.is_empty();
                tokio::select! {
                    () = tokio::time::sleep(self.recheck), if waits => {}
                    () = self.again.notified() => {}
                }
            }
            is_due = false;
            if let Err(error) = self.walk(connection).await {
                if !connection.status().connected() {
                    return;
                }
                tracing::warn!(%error, "exchanges and queues could not be looked at; it is tried again");
                tokio::time::sleep(self.recheck).await;
                is_due = true;
            }
        }
    }

    /// A lane could not consume its queue; `problem` is the broker's word.
    pub(super) fn look_again(&self, lane: Lane, queue: &str, problem: &str) {
        if self.mode == TopologyMode::None {
            let object = format!("queue {queue}");
            let difference = Difference {
                object,
                problem: problem.to_owned(),
            };
            let mut problems = self.lock().clone();
            problems.of_lanes.insert(lane, difference);
            problems.all = problems.of_lanes.values().cloned().collect();
            self.set(problems);
        } else {
            self.again.notify_one();
        }
    }

    /// A lane consumes: without a walk that is the only proof that its queue is well.
    pub(super) fn well(&self, lane: Lane) {
        if self.mode == TopologyMode::None && self.lock().of_lanes.contains_key(&lane) {
            let mut problems = self.lock().clone();
            problems.of_lanes.remove(&lane);
            problems.all = problems.of_lanes.values().cloned().collect();
            self.set(problems);
        }
    }

    /// Whether lanes must ask [`Self::problem`] before they subscribe.
    pub(super) fn walks(&self) -> bool {
        self.mode != TopologyMode::None
    }

    fn set(&self, problems: Problems) {
        let now = problems.all.clone();
        let known = std::mem::replace(&mut *self.lock(), problems).all;
        for Difference { object, problem } in now.iter().filter(|it| !known.contains(it)) {
            tracing::error!(
                object,
                problem,
                "an exchange or queue is not as it should be"
            );
        }
        let sentences: Vec<String> = now
            .iter()
            .map(|it| format!("{}: {}", it.object, it.problem))
            .collect();
        // After the change: a lane that hears that all is well subscribes at once.
        self.status
            .topology((!sentences.is_empty()).then(|| sentences.join("; ")));
    }

    fn lock(&self) -> MutexGuard<'_, Problems> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
