//! Whose fault a panic is: of one job again and again it is the job's, of several different ones in a row it is
//! the worker's (RESILIENCE.md, event 20).
//!
//! The second kind comes from a bug or a setting that hits every job. No job pays for it then: the lane pauses,
//! and tries one job now and then until one gets through.

use std::time::Duration;

use tokio::time::Instant;

use crate::watch;

/// Different jobs that panic in a row until it is the worker's fault; chosen.
const IN_A_ROW: usize = 3;
/// The pause until one job is tried again: first and longest; chosen.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MOST: Duration = Duration::from_secs(600);
/// From one job that is tried to the next, unless the first one panics; chosen.
const TRY_NEXT: Duration = Duration::from_secs(1);

/// The panics of one lane.
#[derive(Debug)]
pub(super) struct Panics(watch::Sender<Streak>);

/// Panics since a job ended without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Streak {
    /// Different ids, at most as many as make it the worker's fault.
    jobs: Vec<String>,
    last: String,
    pause: Duration,
    /// When the next job is tried.
    try_at: Option<Instant>,
    /// A job is being tried: its panic makes the pause longer.
    is_tried: bool,
}

impl Streak {
    /// Why the lane must pause, and when it may try one job; `None` while it need not pause.
    pub(super) fn pause(&self) -> Option<(String, Instant)> {
        let why = || {
            format!(
                "{IN_A_ROW} jobs in a row panicked, the last with: {}",
                self.last
            )
        };
        self.try_at.map(|at| (why(), at))
    }
}

/// Who pays for a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is counted, and the fifth buries the job.
    Job,
    /// It costs the job nothing.
    Worker,
}

impl Default for Panics {
    fn default() -> Self {
        Self(watch::channel(Streak::default()).0)
    }
}

impl Panics {
    pub(super) fn subscribe(&self) -> watch::Receiver<Streak> {
        self.0.subscribe()
    }

    /// A job panicked with that text.
    pub(super) fn panicked(&self, job: &str, text: &str, now: Instant) -> Fault {
        let mut fault = Fault::Job;
        self.0.send_modify(|streak| {
            text.clone_into(&mut streak.last);
            if streak.jobs.len() < IN_A_ROW && !streak.jobs.iter().any(|id| id == job) {
                streak.jobs.push(job.to_owned());
            }
            if streak.jobs.len() == IN_A_ROW {
                fault = Fault::Worker;
                if streak.try_at.is_none() {
                    streak.pause = PAUSE_FIRST;
                    streak.try_at = Some(now + PAUSE_FIRST);
                } else if std::mem::take(&mut streak.is_tried) {
                    streak.pause = (streak.pause * 2).min(PAUSE_MOST);
                    streak.try_at = Some(now + streak.pause);
                }
            }
        });
        fault
    }

    /// One job is tried now. One that neither runs nor panics, as a repeat does, proves nothing: the next is tried
    /// soon.
    pub(super) fn tried(&self, now: Instant) {
        self.0.send_modify(|streak| {
            streak.is_tried = true;
            streak.try_at = Some(now + TRY_NEXT);
        });
    }

    /// A job ran and did not panic.
    pub(super) fn ran_well(&self) {
        self.0.send_if_modified(|streak| {
            let changed = !streak.jobs.is_empty();
            if changed {
                *streak = Streak::default();
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_that_panics_again_and_again_is_at_fault_itself() {
        let (panics, now) = (Panics::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(panics.panicked("a", "boom", now), Fault::Job);
        }
        assert!(panics.0.borrow().pause().is_none());
    }

    #[test]
    fn different_jobs_in_a_row_are_the_workers_fault_until_one_runs_well() {
        let (panics, now) = (Panics::default(), Instant::now());
        assert_eq!(panics.panicked("a", "boom", now), Fault::Job);
        assert_eq!(panics.panicked("b", "boom", now), Fault::Job);
        panics.ran_well();
        for (id, fault) in [("a", Fault::Job), ("b", Fault::Job), ("c", Fault::Worker)] {
            assert_eq!(panics.panicked(id, "boom", now), fault);
        }
        assert_eq!(panics.panicked("a", "bang", now), Fault::Worker);
        let (why, at) = panics.0.borrow().pause().unwrap();
        assert_eq!(why, "3 jobs in a row panicked, the last with: bang");
        assert_eq!(at, now + PAUSE_FIRST);
        panics.tried(at);
        assert_eq!(panics.0.borrow().pause().unwrap().1, at + TRY_NEXT);
        panics.panicked("d", "bang", at);
        assert_eq!(panics.0.borrow().pause().unwrap().1, at + 2 * PAUSE_FIRST);
        // Of those that ran beside it nothing more is learnt.
        panics.panicked("e", "bang", at);
        assert_eq!(panics.0.borrow().pause().unwrap().1, at + 2 * PAUSE_FIRST);
        for _ in 0..20 {
            panics.tried(at);
            panics.panicked("d", "bang", at);
        }
        assert_eq!(panics.0.borrow().pause().unwrap().1, at + PAUSE_MOST);
        panics.ran_well();
        assert!(panics.0.borrow().pause().is_none());
    }
}
