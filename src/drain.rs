//! Stop taking, then abort: two tokens, one deadline (RESILIENCE.md, event 12).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long aborted jobs may take to record and to hand back what they held. With what closing takes, a drain is
/// over three seconds after its time-out, whatever hangs.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// The two steps of stopping, shared by everything that stops.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Take nothing new; let running jobs finish.
    pub stop: CancellationToken,
    /// End what still runs; it is recorded as interrupted and requeued.
    pub abort: CancellationToken,
}

impl Drain {
    /// Stops taking, waits for `ended` until `timeout`, then aborts and waits for it again, not for ever:
    /// what hangs even then must not keep the process, and the broker takes its deliveries back.
    pub async fn run(&self, timeout: Duration, ended: impl Future<Output = ()>) -> Stopped {
        let mut ended = std::pin::pin!(ended);
        self.stop.cancel();
        if tokio::time::timeout(timeout, ended.as_mut()).await.is_ok() {
            return Stopped::Drained;
        }
        self.abort.cancel();
        match tokio::time::timeout(ABORT_GRACE, ended).await {
            Ok(()) => Stopped::Aborted,
            Err(_) => Stopped::GivenUp,
        }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every running job finished in time.
    Drained,
    /// The deadline passed and the rest was interrupted.
    Aborted,
    /// Something did not end even then: a broker or a ledger that does not answer. The broker takes back what it
    /// had delivered.
    GivenUp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_job_that_ends_in_time_is_not_aborted() {
        let drain = Drain::default();
        let job = tokio::time::sleep(Duration::from_secs(9));
        assert_eq!(
            drain.run(Duration::from_secs(10), job).await,
            Stopped::Drained
        );
        assert!(drain.stop.is_cancelled() && !drain.abort.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_runs_at_the_deadline_is_aborted_and_waited_for() {
        let drain = Drain::default();
        let abort = drain.abort.clone();
        let job = async { abort.cancelled().await };
        assert_eq!(
            drain.run(Duration::from_secs(10), job).await,
            Stopped::Aborted
        );
    }
    #[tokio::test(start_paused = true)]
    async fn what_hangs_even_after_the_abort_keeps_nobody() {
        let stopped = Drain::default()
            .run(Duration::from_secs(10), std::future::pending())
            .await;
        assert_eq!(stopped, Stopped::GivenUp);
    }
}
