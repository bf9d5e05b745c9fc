//! Keys of one bucket that go to S3 together, and the jobs that wait for them.
//!
//! Owns who named which key, and turns the ends of keys into the ends of jobs: a key named by two jobs is sent
//! once and settles both, and a key that S3 refuses fails only the jobs that named it (RESILIENCE.md, event 11).
//! It makes no call; what is sent when, and what a failed call means, is `cleanup.rs`'s.

use std::{
    collections::{BTreeMap, btree_map},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{operation::delete_objects::DeleteObjectsOutput, types::ObjectIdentifier};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{
    CallContext, Done, Lease, Stop,
    answer::called,
    echo::Named,
    error,
    tally::{Tally, is_final, worst},
};
use crate::job::{AttemptLog, Failure, FailureClass, Job, JobId, JobResult, Operation};

/// A key that was not there: deleted, as far as anybody can tell.
pub(super) const MISSING: &str = "NoSuchKey";

/// A job whose keys may share calls with those of other jobs; it gets one answer. Dropped, it gives none: then
/// the job is to be run by itself.
#[derive(Debug)]
pub struct DeleteJob {
    id: JobId,
    /// Distinct, in the job's order.
    keys: Vec<DeleteKey>,
    /// Of a job of several keys, whose result names those that S3 refuses.
    many: bool,
    calls: Arc<AtomicU32>,
    failed: Arc<Mutex<AttemptLog>>,
    lease: Option<Lease>,
    answer: oneshot::Sender<Result<Done, Stop>>,
}

/// What a batch says of a job; an error when the job is to be run by itself.
pub type BatchAnswer = oneshot::Receiver<Result<Done, Stop>>;

/// One object, or one version of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeleteKey {
    pub(super) key: String,
    pub(super) version_id: Option<String>,
}

impl DeleteJob {
    /// The job's keys, if it is one that names keys to delete, each of which can travel in a batch.
    pub(super) fn of(job: &Job, context: &CallContext) -> Option<(Self, BatchAnswer)> {
        let (keys, many) = match &job.operation {
            Operation::DeleteObject(delete) => {
                let (key, version_id) = (delete.key.clone(), delete.version_id.clone());
                (vec![DeleteKey { key, version_id }], false)
            }
            Operation::DeleteObjects(delete) => (DeleteKey::distinct(&delete.keys), true),
            _ => return None,
        };
        if !keys.iter().all(DeleteKey::fits_xml) {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        let job = Self {
            id: job.id.clone(),
            keys,
            many,
            calls: Arc::clone(&context.calls),
            failed: Arc::clone(&context.failed),
            lease: context.lease.clone(),
            answer,
        };
        Some((job, receiver))
    }

    /// The job.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// How many keys it names; at least one.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

impl DeleteKey {
    /// The keys, each once, in their order.
    pub(super) fn distinct(keys: &[String]) -> Vec<Self> {
        let mut seen = std::collections::BTreeSet::new();
        let distinct = keys.iter().filter(|key| seen.insert(key.as_str()));
        let keys = distinct.map(|key| Self {
            key: key.clone(),
            version_id: None,
        });
        keys.collect()
    }

    /// Whether XML 1.0 has all of the key's characters: a batch is XML, and one key that it can't carry would
    /// fail all of it.
    pub(super) fn fits_xml(&self) -> bool {
        let allowed =
            |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..);
        let version = self.version_id.as_deref().unwrap_or_default();
        self.key.chars().chain(version.chars()).all(allowed)
    }
}

/// The keys of one call, and the jobs behind them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Riders<'a> {
    batch: &'a Batch,
    keys: &'a [usize],
}

impl<'a> Riders<'a> {
    /// `keys` by their numbers in the batch; all of them open.
    pub(super) const fn new(batch: &'a Batch, keys: &'a [usize]) -> Self {
        Self { batch, keys }
    }

    /// Whether every key is still to be deleted: its job is ours, and waits. A job that is not ours any more has
    /// been told so.
    pub(super) async fn are_all_here(&self) -> bool {
        self.batch.check_leases(self.keys).await;
        self.batch.open(self.keys).len() == self.keys.len()
    }

    /// Counts a call for every job behind the keys.
    pub(super) fn called(&self) {
        self.batch.called(self.keys);
    }
}

/// Keys on their way, by number, and what became of them so far.
#[derive(Debug)]
pub(super) struct Batch {
    /// Nothing awaits under it.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: Vec<Wanted>,
    jobs: Vec<Waiting>,
}

#[derive(Debug)]
struct Wanted {
    key: DeleteKey,
    /// The jobs that named it; none for keys of a job that runs by itself.
    jobs: Vec<usize>,
    /// What an answer said last, while it may still work.
    last: Option<Failure>,
    end: Option<Result<(), Failure>>,
}

#[derive(Debug)]
struct Waiting {
    /// Until it is answered.
    job: Option<DeleteJob>,
    /// Its keys by number, in the job's order.
    keys: Vec<usize>,
    open: usize,
}

impl Batch {
    /// The keys of jobs that wait for their answers.
    pub(super) fn of_jobs(jobs: Vec<DeleteJob>) -> Self {
        let mut inner = Inner::default();
        let mut numbers: BTreeMap<DeleteKey, usize> = BTreeMap::new();
        for (index, job) in jobs.into_iter().enumerate() {
            let mut keys = Vec::with_capacity(job.keys.len());
            for key in &job.keys {
                let number = match numbers.entry(key.clone()) {
                    btree_map::Entry::Occupied(known) => *known.get(),
                    btree_map::Entry::Vacant(new) => {
                        inner.keys.push(Wanted::new(key.clone()));
                        *new.insert(inner.keys.len() - 1)
                    }
                };
                inner.keys[number].jobs.push(index);
                keys.push(number);
            }
            inner.jobs.push(Waiting {
                open: keys.len(),
                keys,
                job: Some(job),
            });
        }
        Self::from(inner)
    }

    /// Keys of one job that runs by itself, and looks at their ends later.
    pub(super) fn of_keys(keys: impl IntoIterator<Item = DeleteKey>) -> Self {
        Self::from(Inner {
            keys: keys.into_iter().map(Wanted::new).collect(),
            jobs: Vec::new(),
        })
    }

    fn from(inner: Inner) -> Self {
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Every key's number.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.lock().keys.len()).collect()
    }

    /// Those of `part` that have no end yet and that somebody still waits for.
    pub(super) fn open(&self, part: &[usize]) -> Vec<usize> {
        let inner = self.lock();
        let open = part.iter().copied();
        open.filter(|number| inner.is_open(*number)).collect()
    }

    pub(super) fn key(&self, number: usize) -> DeleteKey {
        self.lock().keys[number].key.clone()
    }

    /// As `DeleteObjects` wants them.
    pub(super) fn identifiers(&self, part: &[usize]) -> Vec<ObjectIdentifier> {
        let inner = self.lock();
        let keys = part.iter().map(|number| &inner.keys[*number].key);
        // A key is all that an identifier needs, so none is left out.
        keys.filter_map(|DeleteKey { key, version_id }| {
            let identifier = ObjectIdentifier::builder().key(key);
            let identifier = identifier.set_version_id(version_id.clone());
            identifier.build().ok()
        })
        .collect()
    }

    /// Asks for the leases of the jobs behind `part`; one that is not ours any more takes no part in the call.
    async fn check_leases(&self, part: &[usize]) {
        let leases: Vec<(usize, Lease)> = {
            let inner = self.lock();
            let jobs = inner.jobs_of(part).into_iter();
            jobs.filter_map(|index| {
                let job = inner.jobs[index].job.as_ref()?;
                Some((index, job.lease.clone()?))
            })
            .collect()
        };
        let checks = leases
            .iter()
            .map(|(index, lease)| async move { (*index, lease.check().await) });
        for (index, held) in join_all(checks).await {
            if let Err(stop) = held {
                self.lock().answer(index, Err(stop));
            }
        }
    }

    /// Counts a call for every job behind `part`.
    fn called(&self, part: &[usize]) {
        let inner = self.lock();
        for index in inner.jobs_of(part) {
            if let Some(job) = &inner.jobs[index].job {
                job.calls.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Notes a failed call for every job behind `part` that still waits.
    pub(super) fn note_failed(
        &self,
        part: &[usize],
        call: &str,
        took: Duration,
        failure: &Failure,
    ) {
        let inner = self.lock();
        for index in inner.jobs_of(part) {
            if let Some(job) = &inner.jobs[index].job {
                super::note_failed(&job.failed, call, took, failure);
            }
        }
    }

    /// Takes in what an answer says of each key that was sent; fails while any of them that it names may still
    /// work. A key that it does not name stays open, see `unheard`.
    pub(super) fn settle(
        &self,
        sent: &[usize],
        answer: &DeleteObjectsOutput,
    ) -> Result<(), Failure> {
        let named = Named::new(answer);
        let mut inner = self.lock();
        let mut again: Option<Failure> = None;
        for &number in sent {
            let key = &inner.keys[number].key;
            let failure = match named.find(key) {
                None => {
                    let unanswered = unanswered(&key.key);
                    inner.keys[number].last = Some(unanswered);
                    continue;
                }
                Some(None) => None,
                Some(Some(error)) => {
                    Some(error::of_key(error)).filter(|failure| failure.code != MISSING)
                }
            };
            match failure {
                None => inner.end(number, Ok(())),
                Some(failure) if is_final(&failure) => inner.end(number, Err(failure)),
                Some(failure) => {
                    worst(&mut again, &failure);
                    inner.keys[number].last = Some(failure);
                }
            }
        }
        again.map_or(Ok(()), Err)
    }

    /// Those of `part` of which the last answer said nothing: it may have written them in another way, so they are
    /// to be sent alone, where no name is needed. What was heard of them is forgotten.
    pub(super) fn unheard(&self, part: &[usize]) -> Vec<usize> {
        let open = self.open(part);
        let mut inner = self.lock();
        let is_unheard = |last: &Failure| last.code == UNANSWERED;
        let unheard = open.into_iter().filter(|number| {
            let last = &mut inner.keys[*number].last;
            last.take_if(|last| is_unheard(last)).is_some()
        });
        unheard.collect()
    }

    /// Ends what is open of `part` with what was heard of each key last, or else with `failure`.
    pub(super) fn give_up(&self, part: &[usize], failure: &Failure) {
        let mut inner = self.lock();
        for &number in part {
            if inner.is_open(number) {
                let last = inner.keys[number].last.take();
                inner.end(number, Err(last.unwrap_or_else(|| failure.clone())));
            }
        }
    }

    /// Ends one key.
    pub(super) fn end(&self, number: usize, end: Result<(), Failure>) {
        self.lock().end(number, end);
    }

    /// Whether an answer has named a key of `part`: then the call did not fail as a whole.
    pub(super) fn is_answered(&self, part: &[usize]) -> bool {
        let inner = self.lock();
        let mut keys = part.iter().map(|number| &inner.keys[*number]);
        keys.any(|key| key.end.is_some() || key.last.is_some())
    }

    /// Whether a key of `part` is gone.
    pub(super) fn has_deleted(&self, part: &[usize]) -> bool {
        let inner = self.lock();
        let mut keys = part.iter().map(|number| &inner.keys[*number]);
        keys.any(|key| matches!(key.end, Some(Ok(()))))
    }

    /// Ends every job that is not answered yet.
    pub(super) fn end_all(&self, stop: &Stop) {
        let mut inner = self.lock();
        for index in 0..inner.jobs.len() {
            inner.answer(index, Err(stop.clone()));
        }
    }

    /// Sends every job that is not answered yet on its own way.
    pub(super) fn release(&self) {
        for waiting in &mut self.lock().jobs {
            waiting.job = None;
        }
    }

    /// What became of all keys, in their order; a key without an end may still work.
    pub(super) fn ends(self) -> Tally {
        let inner = self
            .inner
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut tally = Tally::default();
        for wanted in inner.keys {
            let end = wanted
                .end
                .unwrap_or_else(|| Err(unanswered(&wanted.key.key)));
            tally.add(wanted.key.key, end);
        }
        tally
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_open(&self, number: usize) -> bool {
        let wanted = &self.keys[number];
        let waits = |index: &usize| {
            let job = self.jobs[*index].job.as_ref();
            job.is_some_and(|job| !job.answer.is_closed())
        };
        wanted.end.is_none() && (wanted.jobs.is_empty() || wanted.jobs.iter().any(waits))
    }

    /// The jobs that named a key of `part`, each once.
    fn jobs_of(&self, part: &[usize]) -> std::collections::BTreeSet<usize> {
        let keys = part.iter().map(|number| &self.keys[*number]);
        keys.flat_map(|key| key.jobs.iter().copied()).collect()
    }

    fn end(&mut self, number: usize, end: Result<(), Failure>) {
        self.keys[number].end = Some(end);
        for index in self.keys[number].jobs.clone() {
            self.jobs[index].open -= 1;
            if self.jobs[index].open == 0 {
                let end = self.conclude(index);
                self.answer(index, end);
            }
        }
    }

    fn conclude(&self, index: usize) -> Result<Done, Stop> {
        let waiting = &self.jobs[index];
        let mut tally = Tally::default();
        for &number in &waiting.keys {
            let Wanted { key, end, .. } = &self.keys[number];
            tally.add(key.key.clone(), end.clone().unwrap_or(Ok(())));
        }
        let many = waiting.job.as_ref().is_some_and(|job| job.many);
        let end = tally.conclude();
        match end {
            Ok(_) if !many => Ok(JobResult::Deleted { deleted: 1 }.into()),
            end => end.map(Done::from).map_err(Stop::Failed),
        }
    }

    fn answer(&mut self, index: usize, end: Result<Done, Stop>) {
        if let Some(job) = self.jobs[index].job.take() {
            // Its deadline has come, or the drain's: nobody waits.
            drop(job.answer.send(end));
        }
    }
}

impl Wanted {
    const fn new(key: DeleteKey) -> Self {
        Self {
            key,
            jobs: Vec::new(),
            last: None,
            end: None,
        }
    }
}

/// Code of a key that an answer does not name.
const UNANSWERED: &str = "key_unanswered";

fn unanswered(key: &str) -> Failure {
    let message = format!("the answer says nothing of key {key}");
    called(FailureClass::Unreadable, UNANSWERED, message)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
