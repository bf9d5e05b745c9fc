//! One delivery becomes one resolution: decode, claim, run, record. The order is the contract's: the
//! ledger is written before anyone is told.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    LaneContext,
    record::{Held, record},
    resolution::Resolution,
    run::{Run, run},
    settlement,
};
use crate::{
    broker::{Acker, Delivery},
    job::{Failure, FailureClass, outcome::DeadReason},
    job::{
        Job, Lane, Outcome, State, Timestamp,
        outcome::{MAX_UNFINISHED_CLAIMS, RequeueReason, SUSPECT_AFTER},
        wire,
    },
    ledger::{Claim, ClaimRequest, Committed, LedgerError, Taken},
    resilience::Permit,
};

/// Executes one delivery to its settlement. `probe` is half-open's leave for one attempt.
pub(super) async fn execute(lane: Arc<LaneContext>, delivery: Delivery, probe: Option<Permit>) {
    let Delivery {
        message,
        redelivered,
        acker,
    } = delivery;
    if redelivered {
        lane.metrics
            .redeliveries
            .with_label_values(&[lane.lane.as_str()])
            .inc();
    }
    let now = Timestamp::now();
    match wire::decode(&message, lane.lane, &lane.limits.rules, now) {
        Ok(job) => {
            crash_point!("job.decoded");
            log_ignored(&lane, &job);
            let seen = Seen {
                delivered: acker.since(),
                now,
            };
            execute_job(&lane, job, acker, probe, seen).await;
        }
        Err(bad) => {
            // Says nothing about S3: its probe slot goes to the next delivery.
            drop(probe);
            settlement::bury_bad_job(&lane, acker, bad, now).await;
        }
    }
}

/// When the delivery came, and what time it was when it was looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    delivered: Instant,
    now: Timestamp,
}

impl Seen {
    /// When a run must end. It counts from the delivery, as the broker's time-out does (RESILIENCE.md, event 19).
    fn deadline(self, lane: &LaneContext) -> Instant {
        self.delivered + lane.limits.job_deadline
    }

    /// Until when the job may start: with less than half of its time left it comes again instead, with all of it.
    fn start_by(self, lane: &LaneContext) -> Instant {
        self.delivered + lane.limits.job_deadline / 2
    }
}

async fn execute_job(
    lane: &Arc<LaneContext>,
    job: Job,
    acker: Acker,
    probe: Option<Permit>,
    seen: Seen,
) {
    if Instant::now() > seen.start_by(lane) {
        drop(probe);
        let resolution = Resolution::waited_too_long(&job, seen.now);
        // Boxed, as all that is rare: each job in flight is as large as its largest way.
        let settled = settlement::settle(lane, &job, acker, Vec::new(), resolution);
        return Box::pin(settled).await;
    }
    let Some((entry, job, acker)) = lane.running.enter(lane, job, acker) else {
        return;
    };
    let flight = lane.flight();
    let resolution = pursue(lane, &job, probe, seen).await;
    drop(flight);
    let attached = entry.leave();
    settlement::settle(lane, &job, acker, attached, resolution).await;
}

/// Claims until the claim is answered for good: run, or known, or not ours.
async fn pursue(
    lane: &LaneContext,
    job: &Job,
    mut probe: Option<Permit>,
    seen: Seen,
) -> Resolution {
    let now = seen.now;
    let mut turn = None;
    loop {
        let claimed = tokio::select! {
            biased;
            claimed = lane.ledger.claim(claim_request(lane.lane, job, now)) => claimed,
            () = lane.aborted() => return Resolution::unclaimed(RequeueReason::Drain),
        };
        let claim = match claimed {
            Ok(claim) => claim,
            Err(LedgerError::Down(_) | LedgerError::Ended(_)) => {
                return Resolution::unclaimed(RequeueReason::LedgerDown);
            }
            Err(LedgerError::Refused(why)) => {
                return Resolution::refused_by_ledger(lane, job, &why, now);
            }
        };
        let taken = match claim {
            Claim::Taken(taken) => taken,
            Claim::LeasedElsewhere => return Resolution::leased_elsewhere(job, now),
            Claim::OtherRequest => return Resolution::other_request(lane, job, now),
            Claim::Dead {
                record,
                buried,
                fence,
            } => {
                return Resolution::dead_before(&record, job, buried, fence);
            }
            Claim::Finished(record) => {
                let rerun = job.reply_to.is_some()
                    && record.state == State::Completed
                    && !record.is_for_another(&job.digest)
                    && job.operation.is_rerun_for_reply();
                if !rerun {
                    return Resolution::finished_before(&record);
                }
                let again = run(lane, job, None, probe.take(), seen.deadline(lane));
                return Resolution::rerun(job, &record, Box::pin(again).await);
            }
        };
        // From here on whatever ends the run, a panic too, lets go of the claim.
        let held = Held { lane, job, taken };
        crash_point!("job.claimed");
        if taken.replaces {
            log_replaced(lane, job);
        }
        if taken.unfinished >= SUSPECT_AFTER && turn.is_none() {
            // Waits unclaimed, so that a crash meanwhile counts against the one that runs.
            let waiting = Outcome::Requeued(RequeueReason::Drain);
            if record(lane, job, taken, &Run::of(waiting, taken.attempts))
                .await
                .is_none()
            {
                return Resolution::unclaimed(RequeueReason::Drain);
            }
            if let Ok(guard) = lane.suspects.0.try_lock() {
                turn = Some(guard);
                continue;
            }
            // One that waits makes no progress: its probe slot goes to another.
            drop(probe.take());
            tokio::select! {
                biased;
                guard = lane.suspects.0.lock() => turn = Some(guard),
                () = lane.aborted() => return Resolution::unclaimed(RequeueReason::Drain),
                () = tokio::time::sleep_until(seen.start_by(lane)) => {
                    return Resolution::waited_too_long(job, now);
                }
            }
            continue;
        }
        observe_wait(lane, job, taken, now);
        let Some(run) = run_taken(lane, job, taken, probe.take(), seen).await else {
            log_lost(lane, job);
            continue;
        };
        let recorded = record(lane, job, taken, &run).await;
        drop(held);
        match recorded {
            Some(Ok(Committed::Recorded(row))) => return Resolution::ran(run, &row, taken),
            // Claimed anew by another since: this run is void, look at the row as if just delivered.
            Some(Ok(Committed::Superseded)) => log_lost(lane, job),
            Some(Err(why)) => return Resolution::refused_by_ledger(lane, job, &why, now),
            None => return Resolution::unclaimed(RequeueReason::Drain),
        }
    }
}

/// Runs a claimed job, unless its history already decides; `None` when the lease is lost.
async fn run_taken(
    lane: &LaneContext,
    job: &Job,
    taken: Taken,
    probe: Option<Permit>,
    seen: Seen,
) -> Option<Run> {
    if taken.unfinished >= MAX_UNFINISHED_CLAIMS {
        let times = taken.unfinished;
        let message = format!("{times} workers died while they ran this job");
        let failure = Failure::ours(FailureClass::Cancelled, "worker_died", message);
        let outcome = Outcome::DeadLettered(DeadReason::Poison, failure);
        return Some(Run::of(outcome, taken.attempts));
    }
    if let Some(failure) = lane.limits.allow.refuse(job) {
        let outcome = Outcome::DeadLettered(DeadReason::Permanent, failure);
        return Some(Run::of(outcome, taken.attempts));
    }
    let run = run(lane, job, Some(taken), probe, seen.deadline(lane)).await;
    (!run.lease_lost).then_some(run)
}

fn claim_request(lane: Lane, job: &Job, now: Timestamp) -> ClaimRequest {
    let operation = &job.operation;
    ClaimRequest {
        id: job.id.clone(),
        lane,
        operation: operation.name(),
        bucket: operation.bucket().to_owned(),
        key: operation.key().map(str::to_owned),
        digest: job.digest,
        ignored: job.ignored.clone(),
        enqueued_at: job.enqueued_at(now),
        replay: job.carried.replay,
        replayed_at: job.carried.replayed_at,
        attempts: job.carried.attempts,
        parks: job.carried.parks,
    }
}

/// The lease ran out, most likely because the ledger or this process stood still for longer than it.
fn log_lost(lane: &LaneContext, job: &Job) {
    tracing::warn!(job = %job.id, lane = %lane.lane, operation = job.operation.name().as_str(), bucket = job.operation.bucket(), "another worker has the job: this run is void");
}

/// Producers may be newer than workers, or have made a typing error.
fn log_ignored(lane: &LaneContext, job: &Job) {
    let new = job.ignored.iter();
    for field in new.filter(|name| lane.unknown_fields.is_new(name)) {
        tracing::warn!(job = %job.id, lane = %lane.lane, operation = job.operation.name().as_str(), bucket = job.operation.bucket(), field, "a field that this version does not know is ignored");
    }
}

/// An operator replays another letter of the id, or this version reads more of the message than an older one did.
fn log_replaced(lane: &LaneContext, job: &Job) {
    tracing::warn!(job = %job.id, lane = %lane.lane, operation = job.operation.name().as_str(), bucket = job.operation.bucket(), "the job runs with another request than was noted for its id");
}

/// The queue wait counts once a job, at its first start.
fn observe_wait(lane: &LaneContext, job: &Job, taken: Taken, now: Timestamp) {
    let first = taken.attempts == 0 && taken.parks == 0 && job.carried.first_seen.is_none();
    if first {
        let wait = now.since(taken.enqueued_at).as_secs_f64();
        lane.metrics
            .job_queue_wait
            .with_label_values(&[lane.lane.as_str()])
            .observe(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size_of_future<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_job_in_flight_is_small_since_the_cleanup_lane_holds_two_thousand() {
        let size = size_of_future(execute);
        assert!(size <= 8 * 1024, "{size} bytes");
    }
}
