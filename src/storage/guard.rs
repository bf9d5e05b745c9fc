//! `guarded()`: slot, breaker, lease, attempt, class, wait, verdict and metrics, once for all operations
//! (RESILIENCE.md, "Circuit breakers" and the failure table).
//!
//! * The breaker is asked before every attempt and hears one verdict, after the last.
//! * A wait between attempts ends at once when the breaker opens: the operation is refused, no verdict.
//! * A waiting operation holds no slot. A probe makes one attempt.
//! * Dropped at any await, it gives slot and permit back and says nothing.
//!
//! It knows neither requests nor answers of S3: an operation is a closure that makes its calls.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use tokio::{sync::SemaphorePermit, time::Instant};

use super::{CallContext, LastFailure, Stop, Storage, error};
use crate::{
    job::{
        CallName, Circuit, Failure, Job, JobId, Lane,
        failure::{Retry, Verdict},
    },
    metrics::{Metrics, OperationResult},
    resilience::{Permit, Refused},
};

/// One job's way to S3.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) storage: &'a Storage,
    pub(super) client: &'a Client,
    pub(super) context: &'a CallContext,
    pub(super) job: &'a JobId,
    /// The bucket that it calls, for people.
    bucket: &'a str,
    /// Whether somebody waits for the result.
    pub(super) answers: bool,
    circuit: Option<Circuit>,
}

/// One attempt, in which a closure makes its calls. By value, since an `AsyncFn` over a borrowed one makes
/// no future that can be shown to be `Send`.
#[derive(Debug, Clone)]
pub(super) struct Attempt<'a> {
    caller: Caller<'a>,
    /// Gone once the verdict is given. Nothing awaits under it.
    permit: Arc<Mutex<Option<Permit>>>,
}

impl<'a> Caller<'a> {
    pub(super) fn new(storage: &'a Storage, job: &'a Job, context: &'a CallContext) -> Self {
        Self {
            answers: job.reply_to.is_some(),
            bucket: job.operation.bucket(),
            ..Self::for_lane(storage, job.operation.name().lane(), &job.id, context)
        }
    }

    /// The way of several jobs of a lane; `job` is one of them.
    pub(super) fn for_lane(
        storage: &'a Storage,
        lane: Lane,
        job: &'a JobId,
        context: &'a CallContext,
    ) -> Self {
        Self {
            storage,
            client: storage.clients.of(lane),
            context,
            job,
            bucket: "",
            answers: false,
            circuit: lane.circuit(),
        }
    }

    /// The same job's way under other rules.
    pub(super) const fn within<'b>(&self, context: &'b CallContext) -> Caller<'b>
    where
        'a: 'b,
    {
        Caller { context, ..*self }
    }

    /// The same job's way to another bucket.
    pub(super) const fn to_bucket(self, bucket: &'a str) -> Self {
        Self { bucket, ..self }
    }

    pub(super) fn metrics(&self) -> &'a Metrics {
        &self.storage.metrics
    }

    /// Counts an operation once, however many calls and pages it has inside: `success` with its duration,
    /// waits included, `error`, or `circuit_open`. What ended because the job is no longer ours is none of these.
    pub(super) async fn counted<T>(
        &self,
        name: impl Into<CallName>,
        bucket: &str,
        work: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        let name = name.into();
        let began = Instant::now();
        let end = Box::pin(work).await;
        let result = match &end {
            Ok(_) => OperationResult::Success,
            Err(Stop::Failed(_)) => OperationResult::Error,
            Err(Stop::Refused(_)) => OperationResult::CircuitOpen,
            Err(Stop::LeaseLost | Stop::LedgerDown(_) | Stop::LedgerRefused(_)) => return end,
        };
        // A step that is refused refuses its job, which is counted then.
        if let (Err(Stop::Refused(_)), Some(circuit), false) = (&end, self.circuit, name.is_step())
        {
            self.metrics()
                .circuit_rejections
                .with_label_values(&[circuit.as_str()])
                .inc();
        }
        self.metrics()
            .s3_operation(name, bucket, result, began.elapsed());
        end
    }

    /// Runs `call` until it succeeds, fails for good, or has used its attempts up. `name` labels retries.
    pub(super) async fn guarded<T, F>(
        &self,
        name: impl Into<CallName>,
        call: impl Fn(Attempt<'a>) -> F,
    ) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let name = name.into();
        let mut permit = self.context.take_probe();
        let mut number = 1;
        loop {
            let slot = unless_outdated(permit.as_ref(), self.slot()).await?;
            permit = self.ask_breaker(permit)?;
            if let Some(lease) = &self.context.lease {
                unless_outdated(permit.as_ref(), lease.check()).await??;
                // The ledger may have taken its time.
                permit.as_ref().map_or(Ok(()), Permit::check)?;
            }
            let probe = permit.as_ref().is_some_and(Permit::is_probe);
            if let Some(permit) = &permit {
                permit.progress();
            }
            let attempt = Attempt {
                caller: *self,
                permit: Arc::new(Mutex::new(permit)),
            };
            // Boxed here and at `request`: else each layer doubles the futures of the SDK, to 100 KiB a job.
            let end = Box::pin(call(attempt.clone())).await;
            drop(slot);
            permit = attempt.take_permit();
            let failure = match end {
                Ok(value) => {
                    give(permit, Verdict::Success);
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            self.note(&failure, name);
            // A verdict was given with the first byte: what came after it is a failure of its own.
            let is_new = permit.is_none();
            let Some(wait) = self.wait_after(&failure, number, probe && !is_new) else {
                if is_new {
                    permit = self.ask_breaker(None).unwrap_or_default();
                }
                give(permit, failure.verdict());
                return Err(Stop::Failed(failure));
            };
            if is_new {
                permit = self.ask_breaker(None)?;
            }
            unless_outdated(permit.as_ref(), tokio::time::sleep(wait)).await?;
            let labels = [name.as_str(), failure.class.as_str()];
            self.metrics().s3_retries.with_label_values(&labels).inc();
            number += 1;
        }
    }

    /// Keeps what speaks against the circuit, before it hears the verdict.
    fn note(&self, failure: &Failure, operation: CallName) {
        if let (Some(circuit), Verdict::Failure) = (self.circuit, failure.verdict()) {
            let endpoint = &self.storage.clients.endpoint;
            let last = LastFailure::new(failure, endpoint, operation, self.bucket);
            self.storage.last_failures.note(circuit, last);
        }
    }

    async fn slot(&self) -> Option<SemaphorePermit<'a>> {
        // The lane never closes its semaphore; without one there is nothing to hold.
        self.context.slots.acquire().await.ok()
    }

    /// The breaker's leave for the next attempt, with the permit of the attempts before.
    fn ask_breaker(&self, permit: Option<Permit>) -> Result<Option<Permit>, Refused> {
        match (permit, &self.context.breaker) {
            (Some(permit), _) => permit.check().map(|()| Some(permit)),
            (None, Some(breaker)) => breaker.acquire().map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The wait before the next attempt, or `None` when this one was the last.
    fn wait_after(&self, failure: &Failure, number: u32, probe: bool) -> Option<Duration> {
        if probe || failure.class.policy().retry == Retry::No {
            return None;
        }
        let chance = (self.storage.chance)();
        self.context
            .retry
            .delay_after(number, chance, failure.retry_after)
    }
}

impl Attempt<'_> {
    /// Makes one S3 request and classifies its error.
    pub(super) async fn request<T, E>(
        &self,
        name: impl Into<CallName>,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let send = Box::pin(send);
        self.call(name, async { send.await.map_err(error::failure) })
            .await
    }

    /// One S3 request that is not over with its answer's head; counted and timed as one call.
    pub(super) async fn call<T>(
        &self,
        name: impl Into<CallName>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Caller {
            storage, context, ..
        } = self.caller;
        if let Some(failure) = &storage.clients.misconfigured {
            return Err(failure.clone());
        }
        // Before the request: one that is dropped half-way was made, too.
        context.calls.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        crash_point!("call.before");
        let end = work.await;
        crash_point!("call.after");
        match &end {
            Err(failure) if !failure.called => {
                context.calls.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {
                let class = end.as_ref().err().map(|failure| failure.class);
                let name = name.into();
                storage.metrics.s3_attempt(name, class, began.elapsed());
                if let Err(failure) = &end {
                    context.note_failed(name.as_str(), began.elapsed(), failure);
                }
            }
        }
        end
    }

    /// The service has answered well, and more is to come: gives the verdict now.
    pub(super) fn answered(&self) {
        give(self.take_permit(), Verdict::Success);
    }

    fn take_permit(&self) -> Option<Permit> {
        self.permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

fn give(permit: Option<Permit>, verdict: Verdict) {
    match (permit, verdict) {
        (Some(permit), Verdict::Success) => permit.success(),
        (Some(permit), Verdict::Failure) => permit.failure(),
        (Some(permit), Verdict::Neutral) => permit.neutral(),
        // Cleanup has no breaker, and a verdict may have been given already.
        (None, _) => {}
    }
}

/// `work`, unless the permit's generation ends first. Work that is done at once is never refused here:
/// the breaker is asked again before the attempt.
async fn unless_outdated<T>(
    permit: Option<&Permit>,
    work: impl Future<Output = T>,
) -> Result<T, Refused> {
    let Some(permit) = permit else {
        return Ok(work.await);
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = permit.outdated() => {
            let refused = Refused { retry_in: Some(Duration::ZERO) };
            Err(permit.check().err().unwrap_or(refused))
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
