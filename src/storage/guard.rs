//! `guarded()`: slot, attempts, waits, verdict and metrics, once for all operations (RESILIENCE.md, "Circuit
//! breakers" and the failure table).
//!
//! * The breaker is asked before every attempt, and again when a request of it goes out (`attempt.rs`); it hears one
//!   verdict, after the last.
//! * A wait between attempts ends at once when the breaker opens: the operation is refused, no verdict. It ends at
//!   once when a drain begins, too.
//! * A waiting operation holds no slot, but after a time-out (`has_timed_out`). A probe makes one attempt.
//! * An operation that has failed waits for the SDK's rate limiter no longer than for itself.
//! * Dropped at any await, it gives slot and permit back and says nothing.
//!
//! It knows neither requests nor answers of S3: an operation is a closure that makes its calls.

use std::time::Duration;

use aws_sdk_s3::Client;
use tokio::time::Instant;

use super::{
    CallContext, LastFailure, Stop, Storage,
    attempt::{Attempt, Withdrawn},
    codes::SIGNATURE,
    traffic::Traffic,
};
use crate::{
    job::{
        CallName, Failure, FailureClass, Headers, Job, JobId, Lane,
        failure::{Retry, Verdict},
        options::NO_HEADERS,
    },
    metrics::{Metrics, OperationResult},
    resilience::{Permit, Refused, Slot},
};

/// How often a failed operation that waits for a slot looks what the slots wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often one operation follows a bucket to the region that S3 names; two buckets may have moved.
const MOST_MOVES: u32 = 2;

/// One job's way to S3.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) storage: &'a Storage,
    pub(super) client: &'a Client,
    pub(super) context: &'a CallContext,
    pub(super) job: &'a JobId,
    /// What all of its requests say.
    pub(super) headers: &'a Headers,
    /// Where they say it; another bucket may be another's.
    pub(super) home: &'a str,
    /// The bucket that it calls, for people.
    bucket: &'a str,
    /// Whether somebody waits for the result.
    pub(super) answers: bool,
    pub(super) lane: Lane,
}

impl<'a> Caller<'a> {
    pub(super) fn new(storage: &'a Storage, job: &'a Job, context: &'a CallContext) -> Self {
        Self {
            answers: job.reply_to.is_some(),
            bucket: job.operation.bucket(),
            home: job.operation.bucket(),
            headers: &job.headers,
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
            headers: &NO_HEADERS,
            home: "",
            bucket: "",
            answers: false,
            lane,
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
            Err(
                Stop::Draining | Stop::LeaseLost | Stop::LedgerDown(_) | Stop::LedgerRefused(_),
            ) => return end,
        };
        // A step that is refused refuses its job, which is counted then.
        if let (Err(Stop::Refused(_)), Some(circuit), false) =
            (&end, self.lane.circuit(), name.is_step())
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
        let mut follows = MOST_MOVES;
        let mut failed: Option<Failure> = None;
        // What the limiter has made it wait, and its own waits have not made up for.
        let mut debt = Duration::ZERO;
        let mut kept = None;
        loop {
            let patience = self.patience(number, debt).filter(|_| failed.is_some());
            let queued = Instant::now();
            let slot = match kept.take() {
                Some(slot) => Some(slot),
                // It would wait behind the calls of the time before, which may take long.
                None if is_probe(permit.as_ref()) => Some(self.context.slots.beside()),
                None => unless_outdated(permit.as_ref(), self.slot(patience)).await?,
            };
            let queued = queued.elapsed();
            if patience.is_some() && self.traffic().is_held_back() {
                debt += queued;
            }
            permit = self.ask_breaker(permit)?;
            let probe = is_probe(permit.as_ref());
            let began = Instant::now();
            let (mut moved, mut answered) = (false, false);
            let end = match slot {
                Some(slot) => {
                    let patience = self.patience(number, debt).filter(|_| failed.is_some());
                    let attempt = Attempt::new(*self, permit, patience);
                    // Boxed here and at `request`: else each layer doubles the futures of the SDK, to 100 KiB a job.
                    let end = match attempt.end(Box::pin(call(attempt.clone()))).await {
                        Ok(Err(failure)) if failure.code == SIGNATURE => {
                            Ok(Err(Box::pin(self.judged(&attempt, failure)).await))
                        }
                        end => end,
                    };
                    moved = attempt.heard().take_moved();
                    kept = Some(slot).filter(|_| has_timed_out(&end));
                    permit = attempt.take_permit();
                    answered = attempt.has_answered();
                    debt += attempt.held();
                    end
                }
                None => Err(Withdrawn::Impatient),
            };
            let failure = match end {
                Ok(Ok(value)) => {
                    self.storage.signatures.good(self.job, began);
                    give(permit, Verdict::Success);
                    return Ok(value);
                }
                Ok(Err(failure)) => failure,
                Err(Withdrawn::Stop(stop)) => return Err(stop),
                Err(Withdrawn::Again) => continue,
                Err(Withdrawn::Impatient) => match failed.take() {
                    Some(failure) => {
                        give(permit, failure.verdict());
                        return Err(Stop::Failed(failure));
                    }
                    None => continue,
                },
            };
            // The bucket is elsewhere, and now we know where: the same attempt goes there.
            if moved && follows > 0 {
                follows -= 1;
                continue;
            }
            self.note(&failure, name);
            // What came after the first byte is a failure of its own: the circuit may have changed since the call began.
            let Some(wait) = self.wait_after(&failure, number, probe && !answered) else {
                if answered {
                    permit = self.ask_breaker(None).unwrap_or_default();
                }
                give(permit, failure.verdict());
                return Err(Stop::Failed(failure));
            };
            if answered {
                permit = self.ask_breaker(None)?;
            }
            let made_up = debt.min(wait.saturating_sub(failure.retry_after.unwrap_or_default()));
            debt -= made_up;
            self.pause(permit.as_ref(), wait - made_up).await?;
            let labels = [name.as_str(), failure.class.as_str()];
            self.metrics().s3_retries.with_label_values(&labels).inc();
            number += 1;
            failed = Some(failure);
        }
    }

    /// Keeps what speaks against the circuit, before it hears the verdict.
    fn note(&self, failure: &Failure, operation: CallName) {
        if let (Some(circuit), Verdict::Failure) = (self.lane.circuit(), failure.verdict()) {
            let endpoint = &self.storage.clients.endpoint;
            let last = LastFailure::new(failure, endpoint, operation, self.bucket);
            self.storage.last_failures.note(circuit, last);
        }
    }

    /// How long attempt `number`, which is not the first, may wait to be sent. What an operation waits for the
    /// limiter comes out of its own waits, so that a throttled store is found out as fast as an ill one. Half
    /// the first wait is left in any case: a limiter that only smooths costs no attempt. Without a circuit to open
    /// it may wait as long as it takes.
    fn patience(&self, number: u32, debt: Duration) -> Option<Duration> {
        self.context.breaker.as_ref()?;
        let retry = &self.context.retry;
        let to_come = retry.waits_from(number).saturating_sub(debt);
        Some(to_come.max(retry.base_delay / 2))
    }

    /// A slot. `None` when it took longer than `patience`, and it is not S3 that the lane's slots wait for.
    async fn slot(&self, patience: Option<Duration>) -> Option<Slot<'a>> {
        let mut slot = std::pin::pin!(self.context.slots.acquire());
        let Some(patience) = patience else {
            return Some(slot.await);
        };
        let mut wait = patience;
        loop {
            tokio::select! {
                biased;
                slot = &mut slot => return Some(slot),
                () = tokio::time::sleep(wait) => {}
            }
            if self.traffic().is_held_back() {
                return None;
            }
            wait = LOOK_AGAIN;
        }
    }

    /// The wait between two attempts; it ends at once when the circuit opens or a drain begins.
    async fn pause(&self, permit: Option<&Permit>, wait: Duration) -> Result<(), Stop> {
        let draining = self.context.draining.cancelled();
        let work = async {
            tokio::select! {
                biased;
                () = draining => Err(Stop::Draining),
                () = tokio::time::sleep(wait) => Ok(()),
            }
        };
        unless_outdated(permit, work).await?
    }

    fn traffic(&self) -> &'a Traffic {
        self.storage.traffic(self.lane)
    }

    /// The breaker's leave for the next attempt, with the permit of the attempts before.
    pub(super) fn ask_breaker(&self, permit: Option<Permit>) -> Result<Option<Permit>, Refused> {
        match (permit, &self.context.breaker) {
            (Some(permit), _) => permit.check().map(|()| Some(permit)),
            (None, Some(breaker)) => breaker.acquire().map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The wait before the next attempt, or `None` when this one was the last.
    fn wait_after(&self, failure: &Failure, number: u32, probe: bool) -> Option<Duration> {
        let again = match failure.class.policy().retry {
            Retry::Yes => true,
            Retry::Once => number == 1,
            Retry::No => false,
        };
        if probe || !again {
            return None;
        }
        let chance = (self.storage.chance)();
        self.context
            .retry
            .delay_after(number, chance, failure.retry_after)
    }
}

/// Whether an attempt ended in a time-out. Its slot is kept for the next one: were each time-out followed by the other
/// operations' first attempts, a store that hangs would be found out only when the last of them has failed.
fn has_timed_out<T>(end: &Result<Result<T, Failure>, Withdrawn>) -> bool {
    matches!(end, Ok(Err(failure)) if failure.class == FailureClass::TimedOut)
}

fn is_probe(permit: Option<&Permit>) -> bool {
    permit.is_some_and(Permit::is_probe)
}

pub(super) fn give(permit: Option<Permit>, verdict: Verdict) {
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
        refused = permit.outdated() => Err(refused),
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod slots_tests;
#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
