//! Gathers the keys of delete jobs into batches, across messages.
//!
//! A delete job runs like any other, from claim to settlement (`executor.rs`); only where it would call S3 it
//! hands its keys over and waits for their ends. The gatherer groups them by bucket, and sends a group when it
//! is full or has waited long enough. Which key fails whose job, and what a failed call means, is decided in
//! `storage`; it knows neither deliveries nor the ledger.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicU32},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    job::{Job, Timestamp},
    ledger::Taken,
    resilience::{RetryPolicy, Slots},
    storage::{CallContext, DeleteJob, Done, Stop, Storage},
};

/// How long a due group waits on while all S3 slots are taken: it could not be sent anyway, and may grow.
const WAIT_FOR_SLOT: Duration = Duration::from_millis(20);
/// After so long it queues for a slot like everyone: whoever waits is given a slot before one is ever seen free.
const MOST_WAIT_FOR_SLOT: Duration = Duration::from_secs(1);

/// How far a lane gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Keys in one call, 1 to 1,000. With 1 nothing is gathered.
    pub keys: usize,
    /// How long a group that is not full waits for more.
    pub wait: Duration,
}

/// The jobs' end: hands keys over.
#[derive(Debug)]
pub(super) struct Gathering {
    most: usize,
    jobs: mpsc::UnboundedSender<(String, DeleteJob)>,
}

/// The other end. Not bounded: a job waits for its answer, so it holds no more than the lane has started.
#[derive(Debug)]
pub(super) struct Gatherer {
    storage: Arc<Storage>,
    limits: BatchLimits,
    slots: Arc<Slots>,
    retry: RetryPolicy,
    /// No batch takes longer: its jobs are past their own by then.
    deadline: Duration,
    draining: CancellationToken,
    jobs: mpsc::UnboundedReceiver<(String, DeleteJob)>,
    /// By bucket.
    groups: BTreeMap<String, Group>,
    batches: JoinSet<()>,
}

#[derive(Debug)]
struct Group {
    jobs: Vec<DeleteJob>,
    keys: usize,
    due: Instant,
    /// From then on no busy slot puts it off.
    must_go: Instant,
}

impl Gathering {
    /// Deletes the job's keys together with those of others. `None` when it is to run by itself: it is no such
    /// job, it has been running when a worker died or panicked, the store has no calls for several keys, or
    /// its batch panicked, which counts for none of its jobs.
    pub(super) async fn delete(
        &self,
        job: &Job,
        context: &CallContext,
        storage: &Storage,
        taken: Taken,
    ) -> Option<Result<Done, Stop>> {
        if self.most < 2 || taken.panics > 0 || taken.unfinished > 0 {
            return None;
        }
        let (delete, answer) = storage.for_batch(job, context, self.most)?;
        let bucket = job.operation.bucket().to_owned();
        self.jobs.send((bucket, delete)).ok()?;
        answer.await.ok()
    }
}

impl Gatherer {
    /// For a lane with these S3 slots and these attempts a call.
    pub(super) fn new(
        storage: &Arc<Storage>,
        slots: &Arc<Slots>,
        retry: RetryPolicy,
        limits: BatchLimits,
        deadline: Duration,
        draining: &CancellationToken,
    ) -> (Gathering, Self) {
        let (sender, jobs) = mpsc::unbounded_channel();
        let gathering = Gathering {
            most: limits.keys,
            jobs: sender,
        };
        let gatherer = Self {
            storage: Arc::clone(storage),
            limits,
            slots: Arc::clone(slots),
            retry,
            deadline,
            draining: draining.clone(),
            jobs,
            groups: BTreeMap::new(),
            batches: JoinSet::new(),
        };
        (gathering, gatherer)
    }

    /// Gathers and sends until dropped; no group waits any more once `stop` is cancelled.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let due = self.groups.values().map(|group| group.due).min();
            let next_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.batches.join_next(), if !self.batches.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a batch of deletes ended, its jobs run one by one: this is a bug, please report it");
                    }
                }
                Some((bucket, job)) = self.jobs.recv() => self.add(bucket, job, stop.is_cancelled()),
                () = stop.cancelled(), if due.is_some() => self.send_due(None),
                () = next_due => self.send_due(Some(Instant::now())),
            }
        }
    }

    fn add(&mut self, bucket: String, job: DeleteJob, hurried: bool) {
        let most = self.limits.keys;
        let overfull = |group: &Group| group.keys + job.keys() > most;
        if self.groups.get(&bucket).is_some_and(overfull) {
            self.send(&bucket);
        }
        let wait = if hurried {
            Duration::ZERO
        } else {
            self.limits.wait
        };
        let due = Instant::now() + wait;
        let group = self.groups.entry(bucket.clone()).or_insert_with(|| Group {
            jobs: Vec::new(),
            keys: 0,
            due,
            must_go: due + MOST_WAIT_FOR_SLOT,
        });
        group.keys += job.keys();
        group.jobs.push(job);
        if group.keys >= most {
            self.send(&bucket);
        }
    }

    /// Sends what is due, or all of it.
    fn send_due(&mut self, now: Option<Instant>) {
        let busy = self.slots.available() == 0;
        let mut due = Vec::new();
        for (bucket, group) in &mut self.groups {
            match now {
                Some(now) if group.due > now => {}
                Some(now) if busy && now < group.must_go => group.due = now + WAIT_FOR_SLOT,
                Some(_) | None => due.push(bucket.clone()),
            }
        }
        for bucket in due {
            self.send(&bucket);
        }
    }

    fn send(&mut self, bucket: &str) {
        let Some((bucket, group)) = self.groups.remove_entry(bucket) else {
            return;
        };
        let storage = Arc::clone(&self.storage);
        let context = CallContext {
            breaker: None,
            probe: Mutex::new(None),
            slots: Arc::clone(&self.slots),
            retry: self.retry,
            max_reply_bytes: 0,
            calls: Arc::new(AtomicU32::new(0)),
            // Each job has a log of its own.
            failed: Arc::default(),
            parts: Arc::default(),
            uploads: None,
            draining: self.draining.clone(),
            lease: None,
            unfinished: 0,
            enqueued_at: Timestamp::now(),
        };
        let deadline = self.deadline;
        self.batches.spawn(async move {
            let work = storage.delete_batch(&bucket, group.jobs, &context);
            if tokio::time::timeout(deadline, work).await.is_err() {
                tracing::warn!(
                    lane = "cleanup",
                    bucket,
                    ?deadline,
                    "a batch of deletes took too long and is given up"
                );
            }
        });
    }
}

#[cfg(test)]
#[path = "cleanup_tests.rs"]
mod tests;
