//! Runs a job's operation against S3: the only code that knows aws-sdk-s3.
//!
//! [`Storage::run`] is the whole seam: a job and its [`CallContext`] go in, a [`Done`] or a [`Stop`] comes
//! out. Breaker, attempts, waits, verdict and metrics are in `guard.rs`, once for all operations; what an
//! error means is in `error.rs`. It knows nothing of queues and of the ledger; the lease is a question it
//! is given to ask.

mod answer;
mod attempt;
mod batch;
mod beneath;
mod body;
pub mod checks;
mod checksum;
mod cleanup;
mod client;
mod codes;
mod copy;
mod defaults;
mod destination;
mod door;
mod download;
mod echo;
mod error;
mod file_threads;
mod guard;
mod identity;
mod keys;
mod last_failure;
#[cfg(test)]
pub(crate) mod line;
mod listing;
mod md5;
mod metadata;
mod prefix;
mod progress;
mod proof;
mod proxy;
mod quirks;
mod reader;
mod region;
#[cfg(test)]
pub(crate) mod respond;
mod said;
#[cfg(test)]
pub(crate) mod script;
mod sent_call;
mod service;
mod signature;
pub mod source;
mod tagging;
mod tally;
mod traffic;
mod trust;
mod upload;
mod window;
#[cfg(test)]
mod wire_tests;
mod xml;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use batch::{BatchAnswer, DeleteJob};
use cleanup::CleanupService;
pub use client::{Checksums, Clients, StorageSettings, misconfiguration};
use copy::CopyService;
pub use copy::WHOLE as COPY_WHOLE_UP_TO;
use guard::Caller;
pub use last_failure::{LastFailure, LastFailures};
use quirks::Quirks;
use service::StorageService;
use signature::Signatures;
use source::{SourceRules, Sources};
use traffic::Traffic;
pub use upload::{UploadMemory, UploadSettings};
use upload::{UploadService, Uploads};

use crate::{
    job::{
        AttemptLog, Failure, Job, JobResult, Lane, Operation, Timestamp, operation::Destination,
        place::Roots,
    },
    metrics::Metrics,
    resilience::{Budget, CircuitBreaker, Held, Permit, Refused, RetryPolicy, Slots},
};

/// S3, as jobs use it. Built once, shared by all lanes.
#[derive(Debug)]
pub struct Storage {
    clients: Clients,
    metrics: Arc<Metrics>,
    /// A fresh random number from 0 to 1, for the jitter of waits.
    chance: fn() -> f64,
    quirks: Quirks,
    signatures: Signatures,
    /// Where uploads may come from.
    sources: Sources,
    /// Where reads may be written to.
    destinations: Arc<Roots>,
    uploads: Uploads,
    last_failures: Arc<LastFailures>,
    /// By [`Lane::index`].
    traffic: [Traffic; 3],
    /// What all of the process may hold in memory.
    budget: Budget,
}

impl Storage {
    /// `chance` gives fresh random numbers from 0 to 1.
    pub fn new(
        clients: Clients,
        metrics: Arc<Metrics>,
        chance: fn() -> f64,
        uploads: UploadSettings,
    ) -> Self {
        Self {
            traffic: Lane::ALL.map(|lane| Traffic::of(lane, &metrics)),
            clients,
            metrics,
            chance,
            quirks: Quirks::new(),
            signatures: Signatures::default(),
            sources: Sources::new(SourceRules::nothing()),
            destinations: Arc::new(Roots::new("destinations.file_roots", Vec::new())),
            uploads: Uploads::new(uploads),
            last_failures: Arc::default(),
            budget: Budget::new(uploads.memory_budget),
        }
    }

    /// What spoke against each circuit last.
    pub const fn last_failures(&self) -> &Arc<LastFailures> {
        &self.last_failures
    }

    /// For how long an S3 call may stand still.
    pub const fn attempt_timeout(&self) -> Duration {
        self.clients.attempt_timeout
    }

    /// The bytes that the process may hold; the lanes charge their messages to it.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The same with files and URLs that jobs may read, and folders that they may write to; else none.
    #[must_use]
    pub fn with_places(mut self, sources: Sources, destinations: Roots) -> Self {
        self.sources = sources;
        self.destinations = Arc::new(destinations);
        self
    }

    const fn traffic(&self, lane: Lane) -> &Traffic {
        &self.traffic[lane.index()]
    }

    /// Runs the job's operation to its end: done, failed after its attempts, refused by the breaker, left when
    /// a drain began, or no longer ours. May be dropped at any await: slot and permits are given back, without a verdict.
    pub async fn run(&self, job: &Job, context: &CallContext) -> Result<Done, Stop> {
        let buckets = [Some(job.operation.bucket()), job.operation.source_bucket()];
        for bucket in buckets.into_iter().flatten() {
            client::check_bucket(bucket).map_err(Stop::Failed)?;
        }
        let caller = Caller::new(self, job, context);
        match &job.operation {
            Operation::PutObject(put) => StorageService(caller).put_object(put).await,
            // The large ones are boxed, since every job's run is as large as the largest.
            Operation::CopyObject(copy) => Box::pin(CopyService(caller).copy_object(copy)).await,
            Operation::UploadFileobj(upload) => {
                Box::pin(UploadService(caller).upload_fileobj(upload)).await
            }
            Operation::PutObjectTagging(tagging) => {
                StorageService(caller).put_object_tagging(tagging).await
            }
            Operation::GetObject(get) => match &get.destination {
                Destination::Reply => StorageService(caller).get_object(get).await,
                Destination::File(path) => StorageService(caller).download(get, path).await,
            },
            Operation::HeadObject(head) => StorageService(caller).head_object(head).await,
            Operation::ListObjects(list) => StorageService(caller).list_objects(list).await,
            Operation::DeleteObject(delete) => CleanupService(caller).delete_object(delete).await,
            Operation::DeleteObjects(delete) => CleanupService(caller).delete_objects(delete).await,
            Operation::DeletePrefix(delete) => CleanupService(caller).delete_prefix(delete).await,
        }
    }
}

impl Storage {
    /// The job as one that may share its S3 calls with others, at most `most` keys a call, and where its answer
    /// comes; `None` when it must run by itself.
    pub fn for_batch(
        &self,
        job: &Job,
        context: &CallContext,
        most: usize,
    ) -> Option<(DeleteJob, BatchAnswer)> {
        let bucket = job.operation.bucket();
        let is_alone = !job.headers.is_empty() || !self.quirks.has_multi_delete(bucket);
        if is_alone || client::check_bucket(bucket).is_err() {
            return None;
        }
        DeleteJob::of(job, context).filter(|(job, _)| job.keys() <= most)
    }

    /// Deletes for several jobs of one bucket, together at most 1,000 keys, and answers each. `context` is the
    /// batch's: slots and attempts; leases and counts of calls are the jobs' own. May be dropped at any await.
    pub async fn delete_batch(&self, bucket: &str, jobs: Vec<DeleteJob>, context: &CallContext) {
        let Some(first) = jobs.first() else {
            return;
        };
        let id = first.id().clone();
        let caller = Caller::for_lane(self, Lane::Cleanup, &id, context);
        CleanupService(caller).delete_for_all(bucket, jobs).await;
    }
}

/// Under which rules one job calls S3; made anew for each run.
#[derive(Debug)]
pub struct CallContext {
    /// The lane's circuit; cleanup has none.
    pub breaker: Option<Arc<CircuitBreaker>>,
    /// A reserved probe, which the job's first guarded operation takes. Nothing awaits under the lock.
    pub probe: Mutex<Option<Permit>>,
    /// The lane's S3 calls at a time; a waiting job holds none, but after a time-out.
    pub slots: Arc<Slots>,
    /// Attempts and waits of one guarded operation.
    pub retry: RetryPolicy,
    /// Largest object, or JSON of a list, in a reply; in bytes.
    pub max_reply_bytes: u64,
    /// Raised for every S3 request made, second looks and pages included.
    pub calls: Arc<AtomicU32>,
    /// The calls that failed, for the ledger. Nothing awaits under the lock.
    pub failed: Arc<Mutex<AttemptLog>>,
    /// Asked before each attempt; `None` when nothing is claimed, as for a read that is run again for its answer.
    pub lease: Option<Lease>,
    /// Earlier runs of the job whose worker died: what they left is to be cleared away.
    pub unfinished: u32,
    /// When the job was enqueued, the same in every run.
    pub enqueued_at: Timestamp,
    /// Raised for every part of an upload that S3 has taken.
    pub parts: Arc<AtomicU32>,
    /// What earlier runs of the job began; `None` when nothing is claimed.
    pub uploads: Option<UploadMemory>,
    /// Cancelled when the worker drains: a call that is not sent by then is not waited for.
    pub draining: CancellationToken,
}

fn note_failed(log: &Mutex<AttemptLog>, call: &str, took: Duration, failure: &Failure) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    log.lock().unwrap_or_else(PoisonError::into_inner).note(
        Timestamp::now(),
        call,
        took_ms,
        failure,
    );
}

impl CallContext {
    fn note_failed(&self, call: &str, took: Duration, failure: &Failure) {
        note_failed(&self.failed, call, took, failure);
    }

    /// Whether the circuit waits for this job's first call.
    fn holds_probe(&self) -> bool {
        let probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        probe.is_some()
    }

    fn take_probe(&self) -> Option<Permit> {
        self.probe
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The question whether the job is still ours.
#[derive(Clone)]
pub struct Lease(Arc<Question>);

type Question = dyn Fn() -> BoxFuture<'static, Result<bool, LedgerTrouble>> + Send + Sync;

impl Lease {
    /// `ask` answers true while the job is ours, false when another worker has taken it, and an error when
    /// that can't be known.
    pub fn new(
        ask: impl Fn() -> BoxFuture<'static, Result<bool, LedgerTrouble>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(ask))
    }

    async fn check(&self) -> Result<(), Stop> {
        match (self.0)().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop::LeaseLost),
            Err(trouble) => Err(trouble.into()),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

/// The operation succeeded.
#[derive(Debug)]
pub struct Done {
    /// For ledger, reply and events.
    pub result: JobResult,
    /// An object's bytes, for the reply.
    pub body: Option<ReplyBody>,
    /// The memory that result and body take, until the reply is out. Boxed: every job's run holds the place for it.
    pub held: Option<Box<Held>>,
}

impl From<JobResult> for Done {
    fn from(result: JobResult) -> Self {
        Self {
            result,
            body: None,
            held: None,
        }
    }
}

/// An object's bytes as a reply carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyBody {
    /// The object, or the range asked for.
    pub bytes: Bytes,
    /// The object's MIME type, as S3 has it.
    pub content_type: Option<String>,
}

/// Why an operation ended without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// For good, or after all attempts.
    Failed(Failure),
    /// By the breaker: nothing is known of the job, so it costs it nothing.
    Refused(Refused),
    /// The worker drains, and the job only waited.
    Draining,
    /// Another worker has taken the job over; its outcome is no longer ours to say.
    LeaseLost,
    /// The ledger can't say whether the job is still ours, and why.
    LedgerDown(String),
    /// The ledger refuses the job's row, and why: waiting helps nothing.
    LedgerRefused(String),
}

/// Why the ledger gave no answer about a job, with a reason for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerTrouble {
    /// It is away: wait for it.
    Down(String),
    /// It refuses this job's row.
    Refused(String),
}

impl From<LedgerTrouble> for Stop {
    fn from(trouble: LedgerTrouble) -> Self {
        match trouble {
            LedgerTrouble::Down(why) => Self::LedgerDown(why),
            LedgerTrouble::Refused(why) => Self::LedgerRefused(why),
        }
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

#[cfg(test)]
mod throttle_tests;
