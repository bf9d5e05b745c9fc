//! What every job of a lane shares: the seams, the limits, the tables.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    BatchLimits, Foreground, LaneStatus, RecentFailures, Totals, UnknownFields,
    cleanup::{Gatherer, Gathering},
    losses::Losses,
    pace::ForegroundJob,
    panics::Panics,
    running::Running,
};
use crate::{
    broker::{Acker, Broker},
    job::{Failure, FailureClass, Job, Lane, OperationName, outcome::RequeueReason, wire},
    ledger::writer::LedgerWriter,
    metrics::Metrics,
    resilience::{CircuitBreaker, RetryPolicy, Slots},
    storage::Storage,
};

/// What a lane is built from; the composition root fills it.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct LaneParts {
    pub lane: Lane,
    pub broker: Arc<dyn Broker>,
    pub ledger: LedgerWriter,
    pub storage: Arc<Storage>,
    /// The lane's circuit; cleanup has none.
    pub breaker: Option<Arc<CircuitBreaker>>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<LaneStatus>,
    /// Shared by all lanes: an id runs once in a process.
    pub running: Arc<Running>,
    /// Shared by all lanes: suspects run one at a time.
    pub suspects: Arc<Suspects>,
    /// Shared by all lanes: a field's name is told of once.
    pub unknown_fields: Arc<UnknownFields>,
    /// Counts this lane's jobs as foreground; `None` for cleanup.
    pub foreground: Option<Arc<Foreground>>,
    /// Shared by all lanes, for the status page.
    pub failures: Arc<RecentFailures>,
    /// Shared by all lanes.
    pub totals: Arc<Totals>,
    pub limits: LaneLimits,
    /// Ends running jobs at the drain's deadline.
    pub abort: CancellationToken,
    /// `host-pid`, for reports of jobs that have no row.
    pub worker: Arc<str>,
}

/// The numbers and rules of a lane.
#[derive(Debug, Clone)]
pub struct LaneLimits {
    /// S3 calls at a time, at most.
    pub concurrency: usize,
    /// Whether the lane finds by itself how many of them are good.
    pub adaptive: bool,
    /// Jobs started at a time, waiting ones included; at least `concurrency`.
    pub admission: usize,
    /// What messages may ask for.
    pub rules: wire::Rules,
    /// Buckets and operations that the operator allows.
    pub allow: AllowList,
    /// Attempts and waits of one guarded operation.
    pub retry: RetryPolicy,
    /// A job older than this is not parked again.
    pub max_job_age: Duration,
    /// A run longer than this is stopped and parked.
    pub job_deadline: Duration,
    /// Largest reply body in bytes.
    pub max_reply_bytes: u64,
    /// Whether outcomes are published as events.
    pub events: bool,
    /// How deletes of several jobs share calls; `None` for lanes that have none.
    pub batch: Option<BatchLimits>,
}

/// The operator's allow-lists; an empty one allows all.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the line above")]
pub struct AllowList {
    pub buckets: HashSet<String>,
    pub operations: HashSet<OperationName>,
}

impl AllowList {
    /// Why the job is not allowed, if it is not.
    pub(super) fn refuse(&self, job: &Job) -> Option<Failure> {
        let lane = job.operation.name().lane();
        let refusal = |what: &str, which: &str| {
            let message = format!("{what} {which} is not in lanes.{lane}.{what}s of this worker");
            Some(Failure::ours(
                FailureClass::Permanent,
                "not_allowed",
                message,
            ))
        };
        let (name, bucket) = (job.operation.name(), job.operation.bucket());
        if !self.operations.is_empty() && !self.operations.contains(&name) {
            return refusal("operation", name.as_str());
        }
        let buckets = [Some(bucket), job.operation.source_bucket()];
        let refused = buckets
            .into_iter()
            .flatten()
            .find(|bucket| !self.buckets.is_empty() && !self.buckets.contains(*bucket));
        refused.and_then(|bucket| refusal("bucket", bucket))
    }
}

/// The one place at a time for jobs that were running when workers died.
#[derive(Debug, Default)]
pub struct Suspects(pub(super) Mutex<()>);

/// A lane's parts and its semaphores, shared by its tasks.
#[derive(Debug)]
pub struct LaneContext {
    pub(super) lane: Lane,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) ledger: LedgerWriter,
    pub(super) storage: Arc<Storage>,
    pub(super) breaker: Option<Arc<CircuitBreaker>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Arc<LaneStatus>,
    pub(super) running: Arc<Running>,
    pub(super) suspects: Arc<Suspects>,
    pub(super) unknown_fields: Arc<UnknownFields>,
    pub(super) failures: Arc<RecentFailures>,
    totals: Arc<Totals>,
    pub(super) limits: LaneLimits,
    /// Cancelled when no new deliveries are taken.
    pub(super) draining: CancellationToken,
    pub(super) abort: CancellationToken,
    pub(super) worker: Arc<str>,
    /// S3 calls at a time; a waiting job holds none, but after a time-out.
    pub(super) slots: Arc<Slots>,
    /// Jobs started at a time.
    pub(super) admission: Arc<Semaphore>,
    /// Where delete jobs hand over their keys.
    pub(super) gathering: Option<Gathering>,
    pub(super) panics: Panics,
    /// Replies and events.
    pub(super) losses: Losses,
    foreground: Option<Arc<Foreground>>,
    requeues: mpsc::UnboundedSender<Acker>,
}

/// The lane's slots; its status shows how many there are.
fn slots_of(parts: &LaneParts) -> Arc<Slots> {
    let (status, most) = (Arc::clone(&parts.status), parts.limits.concurrency);
    if parts.limits.adaptive {
        let patience = parts.storage.attempt_timeout();
        Slots::adaptive(most, patience, Box::new(move |limit| status.limited(limit)))
    } else {
        status.limited(most);
        Slots::fixed(most)
    }
}

impl LaneContext {
    /// With the gatherer that is to run beside the lane, if its limits say that it gathers.
    pub(super) fn new(
        parts: LaneParts,
        draining: CancellationToken,
        requeues: mpsc::UnboundedSender<Acker>,
    ) -> (Self, Option<Gatherer>) {
        let batch = parts.limits.batch;
        let mut context = Self {
            slots: slots_of(&parts),
            admission: Arc::new(Semaphore::new(parts.limits.admission)),
            lane: parts.lane,
            broker: parts.broker,
            ledger: parts.ledger,
            storage: parts.storage,
            breaker: parts.breaker,
            metrics: parts.metrics,
            status: parts.status,
            running: parts.running,
            suspects: parts.suspects,
            unknown_fields: parts.unknown_fields,
            foreground: parts.foreground,
            failures: parts.failures,
            totals: parts.totals,
            limits: parts.limits,
            draining,
            abort: parts.abort,
            worker: parts.worker,
            gathering: None,
            panics: Panics::default(),
            losses: Losses::new(parts.lane),
            requeues,
        };
        let (gathering, gatherer) = batch
            .map(|batch| {
                Gatherer::new(
                    &context.storage,
                    &context.slots,
                    context.limits.retry,
                    batch,
                    context.limits.job_deadline,
                    &context.draining,
                )
            })
            .unzip();
        context.gathering = gathering;
        (context, gatherer)
    }

    /// Hands a delivery to the runner, which starts it again, or requeues it if the lane may not run it.
    pub(super) fn give_back(&self, acker: Acker) {
        // The runner outlives its tasks; without it the channel closes and the broker requeues itself.
        if self.requeues.send(acker).is_err() {
            tracing::debug!(lane = %self.lane, "no runner to requeue, the broker will");
        }
    }

    /// Where a delivery goes that the settling of its panic let go of in another one: it starts again, later each
    /// time.
    pub(super) fn last_home(&self) -> mpsc::UnboundedSender<Acker> {
        self.requeues.clone()
    }

    /// Requeues now. Only the runner calls this, with no consumer of ours on the queue.
    pub(super) async fn requeue(&self, acker: Acker, reason: RequeueReason) {
        crash_point!("requeue.before");
        match acker.requeue().await {
            Ok(()) => {
                crash_point!("requeue.after");
                let labels = [self.lane.as_str(), reason.as_str()];
                self.metrics.requeued.with_label_values(&labels).inc();
            }
            Err(stale) => tracing::debug!(lane = %self.lane, %stale, "nothing to requeue"),
        }
    }

    /// Ends when the drain's deadline has passed: what still runs must let go.
    pub(super) async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Counts a delivery's outcome.
    pub(super) fn count(&self, operation: &str, outcome: &str) {
        self.metrics
            .jobs
            .with_label_values(&[self.lane.as_str(), operation, outcome])
            .inc();
        self.totals.count(outcome);
    }

    /// Counts a running job until the guard is dropped.
    pub(super) fn flight(&self) -> Flight<'_> {
        self.status.job_started();
        Flight {
            context: self,
            _foreground: self.foreground.as_ref().map(|it| it.enter()),
        }
    }
}

/// A running job, for gauges and for the lanes that yield.
#[derive(Debug)]
pub(super) struct Flight<'a> {
    context: &'a LaneContext,
    _foreground: Option<ForegroundJob>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.context.status.job_ended();
    }
}
