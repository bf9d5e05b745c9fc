//! When a parked job comes back, and what it was parked for: read off its row, for people.
//!
//! The row keeps no delay: the steps taken on the ladder and the time when the run ended say as much.

use super::JobRecord;
use crate::job::{
    FailureClass, State, Timestamp,
    outcome::{ParkDelay, ParkReason},
};

/// A parked job's way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTry {
    /// When it leaves its retry queue, by the database's clock; then it waits in its lane's queue for its turn.
    pub at: Timestamp,
    /// What it was parked for.
    pub reason: ParkReason,
}

impl JobRecord {
    /// The next try of a job that is parked; `None` for all others.
    pub fn next_try(&self) -> Option<NextTry> {
        let error = self.error.as_ref()?;
        if self.state != State::Retrying {
            return None;
        }
        let class = FailureClass::parse(&error.class)?;
        let reason = match (class, error.code.as_str()) {
            (FailureClass::Cancelled, "panic") => ParkReason::Panic,
            (FailureClass::Cancelled, _) => ParkReason::Deadline,
            _ => ParkReason::Failed(class),
        };
        // The row counts the park that it is in.
        let delay = ParkDelay::step(self.lane, self.parks.saturating_sub(1));
        // A run that ends gives its lease up at that moment.
        let at = self.leased_until?.plus(delay.duration());
        Some(NextTry { at, reason })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{JobId, Lane, report::ReportedError};

    fn parked(lane: Lane, parks: u32, class: &str, code: &str) -> JobRecord {
        JobRecord {
            id: JobId::parse("j").unwrap(),
            lane,
            operation: "put_object".to_owned(),
            bucket: "b".to_owned(),
            key: None,
            state: State::Retrying,
            attempts: 3,
            parks,
            replay: 0,
            error: Some(ReportedError {
                class: class.to_owned(),
                code: code.to_owned(),
                message: "it went wrong".to_owned(),
                request_id: None,
            }),
            result: None,
            enqueued_at: Timestamp::from_micros(0),
            started_at: None,
            finished_at: None,
            leased_until: Some(Timestamp::from_micros(5)),
            worker: None,
            failed: Vec::new(),
            digest: None,
            ignored: Vec::new(),
        }
    }

    #[test]
    fn the_next_try_is_a_step_of_the_ladder_after_the_run() {
        let waits = |lane, parks| {
            let next = parked(lane, parks, "throttled", "SlowDown").next_try();
            let next = next.unwrap();
            assert_eq!(next.reason, ParkReason::Failed(FailureClass::Throttled));
            next.at.since(Timestamp::from_micros(5))
        };
        let seconds = Duration::from_secs;
        assert_eq!(
            [1, 2, 3, 9].map(|parks| waits(Lane::Upload, parks)),
            [10, 60, 600, 600].map(seconds)
        );
        assert_eq!(
            [1, 2].map(|parks| waits(Lane::Cleanup, parks)),
            [60, 600].map(seconds)
        );
    }

    #[test]
    fn what_stopped_a_run_is_told_apart_and_other_states_have_no_next_try() {
        let reason = |code: &str| {
            let row = parked(Lane::Read, 1, "cancelled", code);
            row.next_try().map(|next| next.reason.as_str())
        };
        assert_eq!(
            [reason("panic"), reason("deadline")],
            [Some("panic"), Some("deadline")]
        );
        for state in State::ALL {
            let row = JobRecord {
                state,
                ..parked(Lane::Read, 1, "timed_out", "attempt_timeout")
            };
            assert_eq!(
                row.next_try().is_some(),
                state == State::Retrying,
                "{state:?}"
            );
        }
    }
}
