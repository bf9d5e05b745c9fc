//! What this process holds: every claim that was taken and not yet ended, and how fresh its lease is.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::queue::Renewal;
use crate::{
    job::JobId,
    ledger::{Fence, Taken},
};

/// The claims of one process.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    /// Nothing awaits under it.
    held: Mutex<HashMap<JobId, Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    taken: Taken,
    /// When the claim or renewal was asked for: the lease counts from then or later.
    since: Instant,
}

/// What is known of a lease without asking the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// At least half of it is left.
    Fresh,
    /// To be renewed before it is relied upon.
    Stale,
    /// Another claim has the row, or this one has ended.
    Lost,
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            held: Mutex::default(),
        }
    }

    /// How often everything that is due is renewed.
    pub(super) fn interval(&self) -> Duration {
        self.lease / 3
    }

    pub(super) fn took(&self, id: &JobId, taken: Taken, since: Instant) {
        self.lock().insert(id.clone(), Held { taken, since });
    }

    /// A newer claim of the same job stays.
    pub(super) fn forget(&self, id: &JobId, fence: Fence) {
        let mut held = self.lock();
        if held.get(id).is_some_and(|held| held.taken.fence == fence) {
            held.remove(id);
        }
    }

    /// Forgets a claim and gives it back.
    pub(super) fn remove(&self, id: &JobId) -> Option<Taken> {
        self.lock().remove(id).map(|held| held.taken)
    }

    pub(super) fn look(&self, id: &JobId, fence: Fence, now: Instant) -> Hold {
        match self.lock().get(id) {
            Some(held) if held.taken.fence != fence => Hold::Lost,
            Some(held) if now.duration_since(held.since) <= self.lease / 2 => Hold::Fresh,
            Some(_) => Hold::Stale,
            None => Hold::Lost,
        }
    }

    /// What would be stale before the next renewals, so that nobody need wait for one.
    pub(super) fn due(&self, now: Instant) -> Vec<Renewal> {
        let young = self.lease / 2 - self.interval();
        let held = self.lock();
        let due = held
            .iter()
            .filter(|(_, held)| now.duration_since(held.since) > young);
        due.map(|(id, held)| Renewal {
            id: id.clone(),
            fence: held.taken.fence,
        })
        .collect()
    }

    pub(super) fn renewed(&self, renewal: &Renewal, still_ours: bool, since: Instant) {
        if !still_ours {
            return self.forget(&renewal.id, renewal.fence);
        }
        if let Some(held) = self.lock().get_mut(&renewal.id)
            && held.taken.fence == renewal.fence
        {
            held.since = since;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
