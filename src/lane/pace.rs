//! Low priority for the cleanup lane: while uploads or reads run, cleanup takes at most a twentieth of
//! their concurrency, one job at a time; while they are idle it runs freely.
//!
//! Queues have no usable priorities across broker versions (facts: rabbitmq.md, 11), so the worker
//! yields by itself.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

/// One cleanup job for this many foreground jobs that run.
const SHARE: f64 = 20.0;
/// The longest rest after one job, so that a slow delete can't stop the lane for minutes.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// How many jobs of the upload and read lanes run now.
#[derive(Debug, Default)]
pub struct Foreground(AtomicU32);

impl Foreground {
    /// Counts a running job until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> ForegroundJob {
        self.0.fetch_add(1, Ordering::Relaxed);
        ForegroundJob(Arc::clone(self))
    }

    fn running(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One running job of the upload or read lane.
#[derive(Debug)]
pub struct ForegroundJob(Arc<Foreground>);

impl Drop for ForegroundJob {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets cleanup jobs yield to the foreground.
#[derive(Debug)]
pub struct Pace {
    foreground: Arc<Foreground>,
    /// Held by the one job that runs while the foreground is busy, and while it rests.
    turn: Mutex<()>,
}

impl Pace {
    /// A pace that yields to `foreground`.
    pub fn new(foreground: Arc<Foreground>) -> Self {
        Self {
            foreground,
            turn: Mutex::new(()),
        }
    }

    /// Runs `work`, alone and with a rest after it while the foreground is busy. `stop` ends the rest.
    pub async fn yielding(&self, work: impl Future<Output = ()>, stop: &CancellationToken) {
        if self.foreground.running() == 0 {
            return work.await;
        }
        let _turn = self.turn.lock().await;
        let started = Instant::now();
        work.await;
        tokio::select! {
            () = tokio::time::sleep(rest(started.elapsed(), self.foreground.running())) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The rest after a job that took `took` beside `running` foreground jobs.
fn rest(took: Duration, running: u32) -> Duration {
    if running == 0 {
        return Duration::ZERO;
    }
    let factor = (SHARE / f64::from(running) - 1.0).max(0.0);
    took.mul_f64(factor).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewer_foreground_jobs_the_longer_the_rest() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(10), 0), ms(0));
        assert_eq!(rest(ms(10), 1), ms(190));
        assert_eq!(rest(ms(10), 10), ms(10));
        assert_eq!(rest(ms(10), 64), ms(0));
        assert_eq!(rest(ms(60_000), 1), LONGEST_REST);
    }

    #[tokio::test(start_paused = true)]
    async fn beside_the_foreground_cleanup_runs_one_at_a_time() {
        let foreground = Arc::new(Foreground::default());
        let pace = Pace::new(Arc::clone(&foreground));
        let stop = CancellationToken::new();
        let second = async || tokio::time::sleep(Duration::from_secs(1)).await;
        let both = || async {
            let began = Instant::now();
            tokio::join!(
                pace.yielding(second(), &stop),
                pace.yielding(second(), &stop)
            );
            began.elapsed()
        };
        assert_eq!(
            both().await,
            Duration::from_secs(1),
            "idle foreground: side by side"
        );
        let busy: Vec<_> = (0..10).map(|_| foreground.enter()).collect();
        assert_eq!(
            both().await,
            Duration::from_secs(4),
            "one at a time, a rest as long after each"
        );
        drop(busy);
        assert_eq!(both().await, Duration::from_secs(1));
    }
}
