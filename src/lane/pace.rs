//! Low priority for the cleanup lane: while uploads or reads run, its jobs go in turns, each with a rest after
//! it, so that cleanup has at most a twentieth of the work; while they are idle it runs freely.
//!
//! A turn holds as many jobs as fit a batch: one by one they could never share an S3 call. Queues have no
//! usable priorities across broker versions (facts: rabbitmq.md, 11), so the worker yields by itself.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// One cleanup job for this many foreground jobs that run.
const SHARE: f64 = 20.0;
/// The longest rest after one turn, and the longest wait for one to end: a slow delete must not stop the lane
/// for minutes.
const LONGEST: Duration = Duration::from_secs(10);

/// A turn is never shorter open to jobs; chosen.
const SHORTEST_OPEN: Duration = Duration::from_millis(20);

/// How many jobs of the upload and read lanes run now.
#[derive(Debug, Default)]
pub struct Foreground {
    running: AtomicU32,
    idle: Notify,
}

impl Foreground {
    /// Counts a running job until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> ForegroundJob {
        self.running.fetch_add(1, Ordering::Relaxed);
        ForegroundJob(Arc::clone(self))
    }

    fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }
}

/// One running job of the upload or read lane.
#[derive(Debug)]
pub struct ForegroundJob(Arc<Foreground>);

impl Drop for ForegroundJob {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Lets cleanup jobs yield to the foreground.
#[derive(Debug)]
pub struct Pace {
    foreground: Arc<Foreground>,
    /// Jobs in one turn, at most.
    most: u32,
    /// How long a turn takes jobs in.
    open_for: Duration,
    /// Nothing awaits under it.
    turn: Mutex<Turn>,
    changed: Notify,
}

/// The turn that runs, or the rest after it.
#[derive(Debug)]
struct Turn {
    began: Instant,
    joined: u32,
    running: u32,
    rest_until: Instant,
}

/// Leave to run one cleanup job; its turn ends when the last one is dropped.
#[derive(Debug)]
pub struct Admission(Option<Arc<Pace>>);

impl Pace {
    /// A pace that yields to `foreground` in turns of at most `most` jobs, which begin within `open_for`, or within
    /// 20 ms, which a thousand need to start.
    pub fn new(foreground: Arc<Foreground>, most: usize, open_for: Duration) -> Self {
        let now = Instant::now();
        Self {
            foreground,
            most: u32::try_from(most).unwrap_or(u32::MAX),
            open_for: open_for.max(SHORTEST_OPEN),
            turn: Mutex::new(Turn {
                began: now,
                joined: 0,
                running: 0,
                rest_until: now,
            }),
            changed: Notify::new(),
        }
    }

    /// Waits until one more job may start. May be cancelled.
    pub async fn admit(self: &Arc<Self>) -> Admission {
        loop {
            let (mut changed, mut idle) = (
                pin!(self.changed.notified()),
                pin!(self.foreground.idle.notified()),
            );
            changed.as_mut().enable();
            idle.as_mut().enable();
            let later = match self.try_admit(Instant::now()) {
                Ok(admission) => return admission,
                Err(later) => later,
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = idle => {}
                () = tokio::time::sleep_until(later) => {}
            }
        }
    }

    /// Admits a job, or says when to ask again unless something changes before.
    fn try_admit(self: &Arc<Self>, now: Instant) -> Result<Admission, Instant> {
        if self.foreground.running() == 0 {
            return Ok(Admission(None));
        }
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let joins = turn.running > 0 && turn.joined < self.most && now < turn.began + self.open_for;
        let begins = match turn.running {
            0 => now >= turn.rest_until,
            _ => now >= turn.began + LONGEST,
        };
        if joins {
            turn.joined += 1;
        } else if begins {
            (turn.began, turn.joined) = (now, 1);
        } else if turn.running == 0 {
            return Err(turn.rest_until);
        } else {
            return Err(turn.began + LONGEST);
        }
        turn.running += 1;
        Ok(Admission(Some(Arc::clone(self))))
    }

    fn leave(&self, now: Instant) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.running -= 1;
        if turn.running == 0 {
            let took = now.duration_since(turn.began);
            turn.rest_until = now + rest(took, turn.joined, self.foreground.running());
            self.changed.notify_waiters();
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(pace) = self.0.take() {
            pace.leave(Instant::now());
        }
    }
}

/// The rest after a turn of `jobs` that took `took` beside `running` foreground jobs.
fn rest(took: Duration, jobs: u32, running: u32) -> Duration {
    if running == 0 {
        return Duration::ZERO;
    }
    let jobs = f64::from(jobs.max(1));
    let factor = (SHARE * jobs / (f64::from(running) + jobs - 1.0) - 1.0).max(0.0);
    took.mul_f64(factor).min(LONGEST)
}

/// Waits for a pace, if there is one.
pub(super) fn admit(
    pace: Option<&Arc<Pace>>,
) -> impl Future<Output = Option<Admission>> + Send + 'static {
    let pace = pace.map(Arc::clone);
    async move {
        match pace {
            Some(pace) => Some(pace.admit().await),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join_all, poll_immediate};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn paced(most: usize) -> (Arc<Foreground>, Arc<Pace>) {
        let foreground = Arc::new(Foreground::default());
        let pace = Pace::new(Arc::clone(&foreground), most, Duration::from_millis(50));
        (foreground, Arc::new(pace))
    }

    /// Runs so many jobs of a second each; how long it takes until the last has ended.
    async fn run(pace: &Arc<Pace>, jobs: usize) -> Duration {
        let began = Instant::now();
        let job = async || {
            let _admission = pace.admit().await;
            tokio::time::sleep(SECOND).await;
        };
        join_all((0..jobs).map(|_| job())).await;
        began.elapsed()
    }

    #[test]
    fn the_fewer_foreground_jobs_and_the_more_of_its_own_the_longer_the_rest() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(10), 1, 0), ms(0));
        assert_eq!(rest(ms(10), 1, 1), ms(190));
        assert_eq!(rest(ms(10), 1, 10), ms(10));
        assert_eq!(rest(ms(10), 1, 64), ms(0));
        assert_eq!(rest(ms(60_000), 1, 1), LONGEST);
        assert_eq!(rest(ms(10), 1000, 1), ms(190));
        assert_eq!(rest(ms(10), 1000, 1001), ms(90));
    }

    #[tokio::test(start_paused = true)]
    async fn beside_the_foreground_cleanup_runs_in_turns_with_a_rest_after_each() {
        let (foreground, pace) = paced(2);
        assert_eq!(run(&pace, 4).await, SECOND, "idle foreground: side by side");
        let busy: Vec<_> = (0..9).map(|_| foreground.enter()).collect();
        // Two and two, and the rest between: 20 x 2 / (9 + 2 - 1) - 1 times the turn.
        assert_eq!(run(&pace, 4).await, 5 * SECOND);
        drop(busy);
        assert_eq!(run(&pace, 4).await, SECOND, "idle again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_has_ended_is_joined_no_more_however_short_it_was() {
        let (foreground, pace) = paced(2);
        let _busy = foreground.enter();
        let first = pace.admit().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(first);
        let ended = Instant::now();
        let _next = pace.admit().await;
        assert_eq!(ended.elapsed(), Duration::from_millis(190));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_when_the_foreground_does() {
        let (foreground, pace) = paced(1);
        let busy = foreground.enter();
        assert_eq!(run(&pace, 1).await, SECOND);
        let mut next = pin!(pace.admit());
        assert!(poll_immediate(&mut next).await.is_none(), "it rests");
        drop(busy);
        assert!(poll_immediate(&mut next).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_hangs_stops_the_others_for_a_while_only() {
        let (foreground, pace) = paced(1);
        let _busy = foreground.enter();
        let _hangs = pace.admit().await;
        let began = Instant::now();
        let _next = pace.admit().await;
        assert_eq!(began.elapsed(), LONGEST);
    }
}
