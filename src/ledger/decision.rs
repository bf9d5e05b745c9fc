//! What a job's row means for a claim, for every database alike (RESILIENCE.md, event 4, "Poison" and
//! "Replay"). Pure: the databases read the row, ask here, and write what the answer says.

use super::{ClaimRequest, Fence, Taken};
use crate::job::{RequestDigest, State, Timestamp};

/// What a claim needs to know of a row that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) state: State,
    /// Who claimed it last.
    pub(super) owner: String,
    /// Until when, while it runs. A row that was given back unfinished keeps the time when it was, so that it can
    /// be told how long nobody has asked for it; it decides nothing here.
    pub(super) leased_until: Option<Timestamp>,
    pub(super) fence: Fence,
    pub(super) attempts: u32,
    pub(super) parks: u32,
    pub(super) panics: u32,
    pub(super) unfinished: u32,
    pub(super) replay: u32,
    pub(super) enqueued_at: Timestamp,
    pub(super) started_at: Timestamp,
    pub(super) age_from: Timestamp,
    /// Its letter is known to be in the dead queue.
    pub(super) buried: bool,
    /// Of the request that it is for; rows of versions before it have none.
    pub(super) digest: Option<RequestDigest>,
    /// Fields of that request's message that were ignored.
    pub(super) ignored: Vec<String>,
}

/// What becomes of a claim of a row that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Write this into the row, with a new lease, and run the job.
    Take(Taking),
    /// It completed or was abandoned.
    Finished,
    /// It is dead-lettered and not replayed.
    Dead { buried: bool, fence: Fence },
    /// Another worker runs it.
    LeasedElsewhere,
    /// It is another request's, which has not ended.
    OtherRequest,
}

/// The row's numbers once it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taking {
    pub(super) taken: Taken,
    pub(super) replay: u32,
    /// The row is to describe the request that is taken: it has none noted, or is another's.
    pub(super) describes: bool,
}

/// A job without a row: the first claim there is, or the first since its row was purged. What the
/// delivery carries is all that is known. It was enqueued, and replayed, before `now`, whatever another clock says.
pub(super) fn first(request: &ClaimRequest, now: Timestamp) -> Taking {
    let enqueued_at = request.enqueued_at.min(now);
    let taken = Taken {
        fence: Fence(1),
        attempts: request.attempts,
        parks: request.parks,
        panics: 0,
        unfinished: 0,
        enqueued_at,
        started_at: now,
        age_from: request.replayed_at.map_or(enqueued_at, |at| at.min(now)),
        replaces: false,
    };
    Taking {
        taken,
        replay: request.replay,
        describes: true,
    }
}

/// A job that has a row. `owner` is who asks, `now` the database's time.
pub(super) fn decide(row: &Row, request: &ClaimRequest, owner: &str, now: Timestamp) -> Decision {
    let replayed = request.replay > row.replay;
    let died = match row.state {
        State::Completed | State::Abandoned => return Decision::Finished,
        State::DeadLettered if !replayed => {
            let (buried, fence) = (row.buried, row.fence);
            return Decision::Dead { buried, fence };
        }
        // An operator replays another letter of the id: that is the request from now on.
        State::DeadLettered => false,
        _ if row.is_for_another(request) => return Decision::OtherRequest,
        // An id runs once in a process, so a running row of our own is a claim whose answer was lost, or
        // whose run was dropped: nobody died.
        State::Running if row.owner == owner => false,
        State::Running if row.leased_until.is_some_and(|until| now < until) => {
            return Decision::LeasedElsewhere;
        }
        State::Running => true,
        State::Retrying | State::Requeued | State::Interrupted => false,
    };
    let mut taken = Taken {
        fence: Fence(row.fence.0 + 1),
        attempts: row.attempts,
        parks: row.parks,
        panics: row.panics,
        unfinished: row.unfinished + u32::from(died),
        // Older versions kept a producer's time that was ahead of the first claim.
        enqueued_at: row.enqueued_at.min(row.started_at),
        started_at: row.started_at,
        age_from: row.age_from,
        replaces: row.digest.is_some_and(|own| own != request.digest),
    };
    if replayed {
        // The operator says that the cause is mended: what it cost before counts no more.
        taken = Taken {
            parks: 0,
            panics: 0,
            unfinished: 0,
            age_from: request.replayed_at.map_or(now, |at| at.min(now)),
            ..taken
        };
    }
    let replay = row.replay.max(request.replay);
    let describes = taken.replaces || row.digest.is_none();
    Decision::Take(Taking {
        taken,
        replay,
        describes,
    })
}

impl Row {
    /// Whether it is known to be for another request. A row that an older version wrote ignores fields that this one
    /// knows, and so the same message has another digest now.
    fn is_for_another(&self, request: &ClaimRequest) -> bool {
        let is_known_better = request.ignored.len() < self.ignored.len()
            && request
                .ignored
                .iter()
                .all(|name| self.ignored.contains(name));
        !is_known_better && self.digest.is_some_and(|own| own != request.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, Lane, OperationName};

    const NOW: Timestamp = Timestamp::from_micros(1_000);

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn digest(number: u8) -> RequestDigest {
        RequestDigest::from_bytes(&[number; RequestDigest::LEN]).unwrap()
    }

    fn request() -> ClaimRequest {
        ClaimRequest {
            id: JobId::parse("j").unwrap(),
            lane: Lane::Upload,
            operation: OperationName::PutObject,
            bucket: "b".to_owned(),
            key: None,
            digest: digest(1),
            ignored: Vec::new(),
            enqueued_at: at(77),
            replay: 1,
            replayed_at: None,
            attempts: 90,
            parks: 91,
        }
    }

    fn row(state: State) -> Row {
        Row {
            state,
            owner: "other".to_owned(),
            leased_until: None,
            fence: Fence(4),
            attempts: 5,
            parks: 6,
            panics: 2,
            unfinished: 3,
            replay: 1,
            enqueued_at: at(10),
            started_at: at(20),
            age_from: at(11),
            buried: false,
            digest: Some(digest(1)),
            ignored: Vec::new(),
        }
    }

    /// The row's own numbers, with the next fence.
    fn resumed(unfinished: u32) -> Decision {
        let taken = Taken {
            fence: Fence(5),
            attempts: 5,
            parks: 6,
            panics: 2,
            unfinished,
            enqueued_at: at(10),
            started_at: at(20),
            age_from: at(11),
            replaces: false,
        };
        Decision::Take(Taking {
            taken,
            replay: 1,
            describes: false,
        })
    }

    fn running(owner: &str, leased_until: Option<i64>) -> Row {
        Row {
            owner: owner.to_owned(),
            leased_until: leased_until.map(at),
            ..row(State::Running)
        }
    }

    #[test]
    fn the_row_decides() {
        let buried = Row {
            buried: true,
            ..row(State::DeadLettered)
        };
        let dead = |buried| Decision::Dead {
            buried,
            fence: Fence(4),
        };
        let table = [
            ("parked", row(State::Retrying), resumed(3)),
            (
                "parked, and the clock went back since",
                Row {
                    leased_until: Some(at(2_000)),
                    ..row(State::Retrying)
                },
                resumed(3),
            ),
            ("requeued", row(State::Requeued), resumed(3)),
            ("interrupted", row(State::Interrupted), resumed(3)),
            ("completed", row(State::Completed), Decision::Finished),
            ("abandoned", row(State::Abandoned), Decision::Finished),
            ("dead, not buried", row(State::DeadLettered), dead(false)),
            ("dead and buried", buried, dead(true)),
            (
                "leased elsewhere",
                running("other", Some(1_001)),
                Decision::LeasedElsewhere,
            ),
            (
                "its lease runs out now",
                running("other", Some(1_000)),
                resumed(4),
            ),
            ("its worker died", running("other", Some(1)), resumed(4)),
            ("no lease noted", running("other", None), resumed(4)),
            ("our own, leased", running("me", Some(1_001)), resumed(3)),
            ("our own, run out", running("me", Some(1)), resumed(3)),
        ];
        for (name, row, expected) in table {
            assert_eq!(decide(&row, &request(), "me", NOW), expected, "{name}");
        }
    }

    #[test]
    fn a_replay_clears_what_the_job_has_cost_and_its_age() {
        let replayed_at = Some(at(900));
        let request = ClaimRequest {
            replay: 2,
            replayed_at,
            ..request()
        };
        for row in [
            row(State::DeadLettered),
            row(State::Retrying),
            running("other", Some(1)),
        ] {
            let Decision::Take(Taking { taken, replay, .. }) = decide(&row, &request, "me", NOW)
            else {
                panic!("{:?} was not taken", row.state);
            };
            assert_eq!(
                (taken.parks, taken.panics, taken.unfinished, replay),
                (0, 0, 0, 2)
            );
            assert_eq!((taken.age_from, taken.enqueued_at), (at(900), at(10)));
            assert_eq!((taken.attempts, taken.fence), (5, Fence(5)));
        }
        let undated = ClaimRequest {
            replayed_at: None,
            ..request.clone()
        };
        let decision = decide(&row(State::DeadLettered), &undated, "me", NOW);
        assert!(matches!(decision, Decision::Take(taking) if taking.taken.age_from == NOW));
    }

    #[test]
    fn a_replay_neither_repeats_an_effect_nor_breaks_a_lease() {
        let request = ClaimRequest {
            replay: 2,
            ..request()
        };
        let decide = |row: &Row| decide(row, &request, "me", NOW);
        assert_eq!(decide(&row(State::Completed)), Decision::Finished);
        assert_eq!(decide(&row(State::Abandoned)), Decision::Finished);
        assert_eq!(
            decide(&running("other", Some(2_000))),
            Decision::LeasedElsewhere
        );
    }

    #[test]
    fn an_older_replay_number_lowers_nothing() {
        let request = ClaimRequest {
            replay: 0,
            ..request()
        };
        assert_eq!(
            decide(&row(State::Retrying), &request, "me", NOW),
            resumed(3)
        );
    }

    #[test]
    fn a_job_without_a_row_begins_with_what_its_delivery_carries() {
        let Taking { taken, replay, .. } = first(&request(), NOW);
        assert_eq!((taken.attempts, taken.parks, replay), (90, 91, 1));
        assert_eq!(
            (taken.panics, taken.unfinished, taken.fence),
            (0, 0, Fence(1))
        );
        assert_eq!((taken.enqueued_at, taken.age_from), (at(77), at(77)));
        assert_eq!(taken.started_at, NOW);
        let replayed = ClaimRequest {
            replayed_at: Some(at(900)),
            ..request()
        };
        assert_eq!(first(&replayed, NOW).taken.age_from, at(900));
    }

    #[test]
    fn no_clock_that_is_ahead_makes_a_job_younger() {
        let ahead = ClaimRequest {
            enqueued_at: at(5_000),
            ..request()
        };
        let taken = first(&ahead, NOW).taken;
        assert_eq!((taken.enqueued_at, taken.age_from), (NOW, NOW));
        let replayed = ClaimRequest {
            replay: 2,
            replayed_at: Some(at(6_000)),
            ..ahead
        };
        assert_eq!(first(&replayed, NOW).taken.age_from, NOW);
        let old_row = Row {
            enqueued_at: at(5_000),
            ..row(State::DeadLettered)
        };
        let Decision::Take(Taking { taken, .. }) = decide(&old_row, &replayed, "me", NOW) else {
            panic!("a replay is taken");
        };
        assert_eq!((taken.enqueued_at, taken.age_from), (at(20), NOW));
    }
}
