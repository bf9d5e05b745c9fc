//! One run of a claimed job: the storage call under deadline, abort and panic guard, ending in an outcome.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{LaneContext, panics::Fault};
use crate::{
    job::{
        AttemptLog, Failure, FailureClass, Job, Outcome, Timestamp,
        outcome::{DeadReason, History, MAX_PANICS, Progress, RequeueReason},
    },
    ledger::{LedgerError, Taken},
    resilience::{Held, Permit},
    storage::{CallContext, Done, Lease, LedgerTrouble, ReplyBody, Stop, UploadMemory},
};

/// How a run ended.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) outcome: Outcome,
    /// The object's bytes, for the reply.
    pub(super) body: Option<ReplyBody>,
    /// The memory that result and body take.
    pub(super) held: Option<Box<Held>>,
    /// S3 calls made for the job so far, over all its runs.
    pub(super) attempts: u32,
    /// The attempts of this run that failed.
    pub(super) failed: AttemptLog,
    /// To be counted in the row.
    pub(super) panicked: bool,
    /// The row was taken by another worker; the outcome is void.
    pub(super) lease_lost: bool,
}

impl Run {
    /// A run that ended without calling S3.
    pub(super) fn of(outcome: Outcome, attempts: u32) -> Self {
        Self {
            outcome,
            body: None,
            held: None,
            attempts,
            failed: AttemptLog::default(),
            panicked: false,
            lease_lost: false,
        }
    }
}

/// Runs the job until `deadline` at most. Without `taken` it is a finished job that is run again for its answer
/// only.
pub(super) async fn run(
    lane: &LaneContext,
    job: &Job,
    taken: Option<Taken>,
    probe: Option<Permit>,
    deadline: Instant,
) -> Run {
    let calls = Arc::new(AtomicU32::new(0));
    let failed = Arc::new(Mutex::new(AttemptLog::default()));
    let parts = Arc::new(AtomicU32::new(0));
    let context = CallContext {
        breaker: lane.breaker.clone(),
        probe: Mutex::new(probe),
        slots: Arc::clone(&lane.slots),
        retry: lane.limits.retry,
        max_reply_bytes: lane.limits.max_reply_bytes,
        calls: Arc::clone(&calls),
        failed: Arc::clone(&failed),
        lease: taken.map(|taken| lease(lane, job, taken)),
        unfinished: taken.map_or(0, |taken| taken.unfinished),
        enqueued_at: taken.map_or_else(
            || job.enqueued_at(Timestamp::now()),
            |taken| taken.enqueued_at,
        ),
        parts: Arc::clone(&parts),
        uploads: taken.map(|taken| uploads(lane, job, taken)),
        draining: lane.draining.clone(),
    };
    let began = Instant::now();
    let work = AssertUnwindSafe(perform(lane, job, &context, taken)).catch_unwind();
    let end = tokio::select! {
        biased;
        end = work => match end {
            Ok(end) => End::Storage(end),
            Err(panic) => End::Panic(panic_message(&*panic)),
        },
        () = lane.abort.cancelled() => End::Abort,
        () = tokio::time::sleep_until(deadline) => End::Deadline,
    };
    lane.metrics
        .job_duration
        .with_label_values(&[lane.lane.as_str()])
        .observe(began.elapsed().as_secs_f64());
    let attempts =
        taken.map_or(job.carried.attempts, |taken| taken.attempts) + calls.load(Ordering::Relaxed);
    let progress = match parts.load(Ordering::Relaxed) {
        0 => Progress::None,
        _ => Progress::Parts,
    };
    let failed = std::mem::take(&mut *failed.lock().unwrap_or_else(PoisonError::into_inner));
    Run {
        failed,
        ..judge(lane, job, taken, end, (attempts, progress))
    }
}

/// Calls S3: by itself, or together with other delete jobs.
async fn perform(
    lane: &LaneContext,
    job: &Job,
    context: &CallContext,
    taken: Option<Taken>,
) -> Result<Done, Stop> {
    if let (Some(gathering), Some(taken)) = (&lane.gathering, taken)
        && let Some(end) = gathering.delete(job, context, &lane.storage, taken).await
    {
        return end;
    }
    // Boxed: most deletes never come here, and two thousand of them wait at a time.
    Box::pin(lane.storage.run(job, context)).await
}

/// Asked before each attempt: a run whose lease is gone must not touch S3 (RESILIENCE.md, event 4).
fn lease(lane: &LaneContext, job: &Job, taken: Taken) -> Lease {
    let (ledger, id) = (lane.ledger.clone(), job.id.clone());
    Lease::new(move || {
        let (ledger, id) = (ledger.clone(), id.clone());
        Box::pin(async move { ledger.hold(&id, taken.fence).await.map_err(trouble) })
    })
}

/// A row that the database refuses is the job's trouble; everything else is the ledger's.
fn trouble(error: LedgerError) -> LedgerTrouble {
    match error {
        LedgerError::Refused(why) => LedgerTrouble::Refused(why),
        LedgerError::Down(_) | LedgerError::Ended(_) => LedgerTrouble::Down(error.to_string()),
    }
}

/// What the job's runs remember of their uploads. A job that never ran has begun none, and the ledger need not
/// be asked until it does.
fn uploads(lane: &LaneContext, job: &Job, taken: Taken) -> UploadMemory {
    let ran = taken.attempts > 0 || taken.unfinished > 0;
    let has_begun = Arc::new(AtomicBool::new(ran));
    let (ledger, id) = (lane.ledger.clone(), job.id.clone());
    let recall = {
        let (ledger, id) = (ledger.clone(), id.clone());
        let has_begun = Arc::clone(&has_begun);
        move || -> BoxFuture<'static, _> {
            let (ledger, id) = (ledger.clone(), id.clone());
            let is_known_empty = !has_begun.load(Ordering::Relaxed);
            Box::pin(async move {
                if is_known_empty {
                    return Ok(None);
                }
                let recalled = ledger.recall_upload(&id).await;
                recalled.map_err(trouble)
            })
        }
    };
    let note = move |note| -> BoxFuture<'static, _> {
        has_begun.store(true, Ordering::Relaxed);
        let (ledger, id) = (ledger.clone(), id.clone());
        Box::pin(async move {
            let noted = ledger.note_upload(&id, taken.fence, &note).await;
            noted.map_err(trouble)
        })
    };
    UploadMemory::new(recall, note)
}

enum End {
    Storage(Result<Done, Stop>),
    Panic(String),
    Abort,
    Deadline,
}

fn judge(
    lane: &LaneContext,
    job: &Job,
    taken: Option<Taken>,
    end: End,
    (attempts, progress): (u32, Progress),
) -> Run {
    let now = Timestamp::now();
    let fault = match &end {
        End::Panic(text) => Some(lane.panics.panicked(job.id.as_str(), text, Instant::now())),
        End::Storage(Ok(_) | Err(Stop::Failed(_))) => {
            lane.panics.ran_well();
            None
        }
        End::Storage(Err(_)) | End::Abort | End::Deadline => None,
    };
    let panicked = fault == Some(Fault::Job);
    let history = History {
        lane: lane.lane,
        parks: taken.map_or(job.carried.parks, |taken| taken.parks),
        // A rerun for its answer has no row that counts: its first panic is the answer.
        panics: taken.map_or(MAX_PANICS, |taken| taken.panics + u32::from(panicked)),
        age_from: taken.map_or_else(|| job.enqueued_at(now), |taken| taken.age_from),
    };
    let limits = &lane.limits;
    let mut run = Run {
        panicked,
        ..Run::of(Outcome::Interrupted, attempts)
    };
    run.outcome = match end {
        End::Storage(Ok(done)) => {
            (run.body, run.held) = (done.body, done.held);
            Outcome::Completed(done.result)
        }
        End::Storage(Err(Stop::Failed(failure))) => history.after(failure, now, limits.max_job_age),
        End::Storage(Err(Stop::Refused(_))) => Outcome::Requeued(RequeueReason::CircuitOpen),
        End::Storage(Err(Stop::LedgerDown(_))) => Outcome::Requeued(RequeueReason::LedgerDown),
        End::Storage(Err(Stop::LedgerRefused(why))) => {
            let message = format!("the ledger refuses this job: {why}");
            let failure = Failure::ours(FailureClass::Permanent, "ledger_refused", message);
            Outcome::DeadLettered(DeadReason::Permanent, failure)
        }
        End::Storage(Err(Stop::LeaseLost)) => {
            run.lease_lost = true;
            Outcome::Interrupted
        }
        End::Abort | End::Storage(Err(Stop::Draining)) => Outcome::Interrupted,
        End::Deadline => {
            let message = format!(
                "stopped after limits.job_deadline, {:?}",
                limits.job_deadline
            );
            let failure = Failure::ours(FailureClass::Cancelled, "deadline", message);
            history.after_deadline(failure, now, limits.max_job_age, progress)
        }
        End::Panic(message) => {
            tracing::error!(job = %job.id, lane = %lane.lane, operation = job.operation.name().as_str(), bucket = job.operation.bucket(), panic = message, "a job panicked: this is a bug, please report it");
            let failure = Failure::ours(FailureClass::Cancelled, "panic", message);
            match fault {
                Some(Fault::Worker) => history.after_workers_panic(failure),
                Some(Fault::Job) | None => history.after_panic(failure),
            }
        }
    };
    run
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the panic carries no text".to_owned())
}
