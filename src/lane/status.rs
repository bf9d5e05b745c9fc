//! What a lane does now and what failed last, for `/readyz`, `/api/status` and the gauge `brigade_lane_consuming`.
//!
//! State, gauge and log line change in one function, so they can't disagree.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use serde::Serialize;

use super::{copies::StuckCopies, gate::Pause};
use crate::{
    job::{Lane, Timestamp},
    metrics::Metrics,
    watch,
};

/// The contract's lane states (section 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneState {
    /// Takes deliveries at full prefetch.
    Consuming,
    /// Takes none, on purpose; says why.
    Paused(PausedBy, String),
    /// Half-open: takes one delivery a probe slot.
    Probing,
    /// The broker or the queue is not there; says why.
    Disconnected(String),
    /// Stops.
    Draining,
}

/// What holds a paused lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedBy {
    /// Its circuit is not closed: the store is ill, the worker is not.
    Breaker,
    /// The ledger can't be written.
    Ledger,
    /// Its hands are full of jobs whose copies can't be published.
    Amqp,
    /// Jobs panic one after the other.
    Panics,
}

impl LaneState {
    /// Whether the lane does what it should: takes deliveries, or takes none because S3 is away.
    pub const fn is_ready(&self) -> bool {
        matches!(
            self,
            Self::Consuming | Self::Probing | Self::Paused(PausedBy::Breaker, _)
        )
    }

    /// As in `/api/status`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Consuming => "consuming",
            Self::Paused(..) => "paused",
            Self::Probing => "probing",
            Self::Disconnected(_) => "disconnected",
            Self::Draining => "draining",
        }
    }

    /// Why, where there is a why.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Paused(_, reason) | Self::Disconnected(reason) => Some(reason),
            Self::Consuming | Self::Probing | Self::Draining => None,
        }
    }
}

/// One lane's state, shared between its runner and those who show it.
#[derive(Debug)]
pub struct LaneStatus {
    lane: Lane,
    state: watch::Sender<LaneState>,
    in_flight: AtomicU32,
    /// S3 calls at a time; 0 before the lane has started.
    limit: AtomicUsize,
    copies: StuckCopies,
    metrics: Arc<Metrics>,
}

impl LaneStatus {
    /// A lane that has not started.
    pub fn new(lane: Lane, metrics: Arc<Metrics>) -> Self {
        let (state, _) = watch::channel(LaneState::Disconnected("not started".to_owned()));
        metrics
            .lane_consuming
            .with_label_values(&[lane.as_str()])
            .set(0);
        Self {
            lane,
            state,
            in_flight: AtomicU32::new(0),
            limit: AtomicUsize::new(0),
            copies: StuckCopies::default(),
            metrics,
        }
    }

    /// The state now.
    pub fn state(&self) -> LaneState {
        self.state.borrow().clone()
    }

    /// Hears of every change.
    pub fn subscribe(&self) -> watch::Receiver<LaneState> {
        self.state.subscribe()
    }

    /// Jobs that run now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many S3 calls the lane makes at a time; `None` before it has started.
    pub fn concurrency_limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    pub(super) fn limited(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.metrics
            .lane_concurrency_limit
            .with_label_values(&[self.lane.as_str()])
            .set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Its copies that wait to be published; the lane may consume all the same.
    pub fn copies(&self) -> &StuckCopies {
        &self.copies
    }

    pub(super) fn job_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.metrics
            .jobs_in_flight
            .with_label_values(&[self.lane.as_str()])
            .inc();
    }

    pub(super) fn job_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.metrics
            .jobs_in_flight
            .with_label_values(&[self.lane.as_str()])
            .dec();
    }

    pub(super) fn consuming(&self) {
        self.set(LaneState::Consuming);
    }

    pub(super) fn probing(&self) {
        self.set(LaneState::Probing);
    }

    pub(super) fn draining(&self) {
        self.set(LaneState::Draining);
    }

    pub(super) fn disconnected(&self, why: &str) {
        self.set(LaneState::Disconnected(why.to_owned()));
    }

    pub(super) fn paused(&self, pause: &Pause) {
        self.set(match pause {
            Pause::Disconnected(why) => LaneState::Disconnected(why.clone()),
            Pause::Ledger(why) => LaneState::Paused(PausedBy::Ledger, format!("ledger: {why}")),
            Pause::Circuit => {
                LaneState::Paused(PausedBy::Breaker, "breaker: the circuit is open".to_owned())
            }
            Pause::Copies(why) => LaneState::Paused(PausedBy::Amqp, format!("amqp: {why}")),
            Pause::Panicking(why) => LaneState::Paused(PausedBy::Panics, format!("worker: {why}")),
        });
    }

    fn set(&self, state: LaneState) {
        let consuming = i64::from(state == LaneState::Consuming);
        self.metrics
            .lane_consuming
            .with_label_values(&[self.lane.as_str()])
            .set(consuming);
        self.state.send_if_modified(|old| {
            let changed = *old != state;
            // A new sentence in the same state ("next try in 4 s") is no event for the log.
            let event = std::mem::discriminant(old) != std::mem::discriminant(&state);
            if event {
                let reason = state.reason();
                tracing::info!(lane = %self.lane, state = state.as_str(), reason, "lane state");
            }
            *old = state;
            changed
        });
    }
}

/// Jobs that this process ended, bad ones included.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names are the outcomes")]
pub struct Totals {
    pub completed: AtomicU64,
    pub dead_lettered: AtomicU64,
    pub abandoned: AtomicU64,
}

impl Totals {
    pub(super) fn count(&self, outcome: &str) {
        let total = match outcome {
            "completed" => &self.completed,
            "dead_lettered" => &self.dead_lettered,
            "abandoned" => &self.abandoned,
            _ => return,
        };
        total.fetch_add(1, Ordering::Relaxed);
    }
}

/// A job that failed for good, for the status page; a bad one may lack what could not be read.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of a report")]
pub struct RecentFailure {
    pub id: Option<String>,
    pub lane: &'static str,
    pub operation: Option<&'static str>,
    pub bucket: Option<String>,
    pub key: Option<String>,
    pub outcome: &'static str,
    pub code: String,
    pub message: String,
    pub at: Timestamp,
}

/// The last jobs that failed for good, newest last.
#[derive(Debug, Default)]
pub struct RecentFailures(
    /// Nothing awaits under it.
    Mutex<VecDeque<RecentFailure>>,
);

impl RecentFailures {
    /// As many as are kept.
    const KEPT: usize = 20;

    pub(super) fn add(&self, failure: RecentFailure) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == Self::KEPT {
            kept.pop_front();
        }
        kept.push_back(failure);
    }

    /// A copy, newest first.
    pub fn newest_first(&self) -> Vec<RecentFailure> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_heard_and_the_same_state_again_is_none() {
        let status = LaneStatus::new(Lane::Upload, Arc::new(Metrics::try_new(1).unwrap()));
        let mut heard = status.subscribe();
        status.consuming();
        assert!(heard.has_changed().unwrap());
        heard.mark_unchanged();
        status.consuming();
        assert!(!heard.has_changed().unwrap());
        // A new sentence is a change for those who show it.
        status.disconnected("next try in 4 s");
        heard.mark_unchanged();
        status.disconnected("next try in 8 s");
        assert!(heard.has_changed().unwrap());
    }

    #[test]
    fn the_newest_failures_are_kept() {
        let failures = RecentFailures::default();
        for number in 0..25 {
            failures.add(RecentFailure {
                id: Some(number.to_string()),
                lane: "upload",
                operation: Some("put_object"),
                bucket: Some("b".to_owned()),
                key: None,
                outcome: "dead_lettered",
                code: "AccessDenied".to_owned(),
                message: "refused".to_owned(),
                at: Timestamp::from_micros(number),
            });
        }
        let kept = failures.newest_first();
        let kept: Vec<String> = kept.into_iter().filter_map(|failure| failure.id).collect();
        let newest: Vec<String> = (5..25).rev().map(|number| number.to_string()).collect();
        assert_eq!(kept, newest);
    }
}
