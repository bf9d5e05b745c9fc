//! The jobs that run in this process, by id: a second delivery of one attaches to the first
//! (RESILIENCE.md, event 4).
//!
//! An id enters before its claim, so that no batch of claims holds it twice, and leaves after its
//! outcome is in the ledger, so that whoever comes later finds it there.

use std::{
    collections::{HashMap, hash_map},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::LaneContext;
use crate::{
    broker::Acker,
    job::{Job, JobId},
};

/// A further delivery of a job that runs.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Whose queue it came from: an id may be enqueued in two lanes at the same time.
    pub(super) lane: Arc<LaneContext>,
    /// As that delivery says it; its `reply_to` may be its own.
    pub(super) job: Job,
    pub(super) acker: Acker,
}

/// The table; shared by the lanes of a process.
#[derive(Debug, Default)]
pub struct Running {
    /// Nothing awaits under it.
    jobs: Mutex<HashMap<JobId, Vec<Attached>>>,
    attached: AtomicUsize,
}

/// The right to run a job in this process; leaving it gives up what has attached.
#[derive(Debug)]
pub(super) struct Entry {
    running: Arc<Running>,
    /// `None` once it has left: a later entry of the same id is somebody else's.
    id: Option<JobId>,
}

impl Running {
    /// Enters the job, or attaches the delivery to the one that runs.
    pub(super) fn enter(
        self: &Arc<Self>,
        lane: &Arc<LaneContext>,
        job: Job,
        acker: Acker,
    ) -> Option<(Entry, Job, Acker)> {
        match self.lock().entry(job.id.clone()) {
            hash_map::Entry::Vacant(vacant) => {
                let id = vacant.key().clone();
                vacant.insert(Vec::new());
                Some((
                    Entry {
                        running: Arc::clone(self),
                        id: Some(id),
                    },
                    job,
                    acker,
                ))
            }
            hash_map::Entry::Occupied(mut occupied) => {
                let lane = Arc::clone(lane);
                occupied.get_mut().push(Attached { lane, job, acker });
                self.attached.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Deliveries that have attached and are not settled.
    pub(super) fn attached(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Vec<Attached>>> {
        // Each change is one call on the map, so a poisoned lock is still sound.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Leaves the table; the deliveries that attached are the caller's to settle.
    pub(super) fn leave(mut self) -> Vec<Attached> {
        self.remove()
    }

    fn remove(&mut self) -> Vec<Attached> {
        let id = self.id.take();
        let attached = id.and_then(|id| self.running.lock().remove(&id));
        let attached = attached.unwrap_or_default();
        let count = &self.running.attached;
        count.fetch_sub(attached.len(), Ordering::Relaxed);
        attached
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Only after a panic is anything left here: each of the attached goes back to its lane.
        self.remove();
    }
}
