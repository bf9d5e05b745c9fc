//! The end of a run in the ledger: committed for as long as that takes, and the claim let go of.

use std::time::Duration;

use super::{LaneContext, run::Run};
use crate::{
    job::Job,
    ledger::{Committed, Ending, LedgerError, Taken, writer::LedgerStatus},
};

/// How long a worker that must go waits for a commit: a part of what a drain may take after its deadline.
const LAST_COMMIT: Duration = Duration::from_millis(1_200);
/// The wait before an outcome that could not be recorded is tried again.
const RECOMMIT: Duration = Duration::from_millis(50);

/// A claim that is renewed no longer once its run has ended, however: a panic must not hold the row for ever.
pub(super) struct Held<'a> {
    pub(super) lane: &'a LaneContext,
    pub(super) job: &'a Job,
    pub(super) taken: Taken,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.lane.ledger.forget(&self.job.id, self.taken.fence);
    }
}

/// Commits how a run ended, for as long as the ledger takes to be well; `None` when the worker must go
/// before that. `Err`: the database refuses the row.
pub(super) async fn record(
    lane: &LaneContext,
    job: &Job,
    taken: Taken,
    run: &Run,
) -> Option<Result<Committed, String>> {
    let outcome = &run.outcome;
    let ending = Ending {
        id: job.id.clone(),
        fence: taken.fence,
        state: outcome.state(),
        attempts: run.attempts,
        parks: taken.parks + u32::from(outcome.raises_parks()),
        panics: taken.panics + u32::from(run.panicked),
        failure: outcome.failure().cloned(),
        result: outcome.result().map(|result| result.for_ledger()),
        failed: run.failed.clone(),
    };
    let mut health = lane.ledger.status();
    crash_point!("outcome.unrecorded");
    // An outcome of now is still worth a try when the worker must go: else another run repeats the call.
    let given_up = async {
        lane.aborted().await;
        tokio::time::sleep(LAST_COMMIT).await;
    };
    tokio::pin!(given_up);
    loop {
        let committed = tokio::select! {
            biased;
            committed = lane.ledger.commit(ending.clone()) => committed,
            () = &mut given_up => return None,
        };
        match committed {
            Ok(committed) => {
                crash_point!("outcome.recorded");
                return Some(Ok(committed));
            }
            Err(LedgerError::Refused(why)) => return Some(Err(why)),
            Err(LedgerError::Ended(_)) => return None,
            Err(LedgerError::Down(why)) => {
                tracing::debug!(job = %job.id, lane = %lane.lane, operation = job.operation.name().as_str(), bucket = job.operation.bucket(), why, "the outcome waits for the ledger");
            }
        }
        let up = async {
            // Its word may be older than the answer above.
            tokio::time::sleep(RECOMMIT).await;
            health
                .wait_for(|status| *status == LedgerStatus::Up)
                .await
                .is_ok()
        };
        tokio::select! {
            biased;
            () = lane.aborted() => return None,
            is_up = up => is_up.then_some(())?,
        }
    }
}
