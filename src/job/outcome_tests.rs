//! The outcome, parking and poison tables of RESILIENCE.md.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn history(lane: Lane, parks: u32) -> History {
    History {
        lane,
        parks,
        panics: 0,
        age_from: Timestamp::from_micros(0),
    }
}

fn failure(class: FailureClass) -> Failure {
    Failure::ours(class, "code", "message")
}

#[test]
fn the_outcome_table_says_state_and_settlement() {
    let class = FailureClass::Unavailable;
    let park = (ParkDelay::TenSeconds, ParkReason::Failed(class));
    let rows = [
        (
            Outcome::Completed(JobResult::Deleted { deleted: 1 }),
            "completed",
            Settlement::Ack,
        ),
        (
            Outcome::Abandoned(failure(class)),
            "abandoned",
            Settlement::Ack,
        ),
        (
            Outcome::DeadLettered(DeadReason::Expired, failure(class)),
            "dead_lettered",
            Settlement::Bury(DeadReason::Expired),
        ),
        (
            Outcome::Retrying(park.0, park.1, failure(class)),
            "retrying",
            Settlement::Park(park.0, park.1),
        ),
        (
            Outcome::Requeued(RequeueReason::CircuitOpen),
            "requeued",
            Settlement::Requeue(RequeueReason::CircuitOpen),
        ),
        (
            Outcome::Interrupted,
            "interrupted",
            Settlement::Requeue(RequeueReason::Drain),
        ),
    ];
    for (outcome, state, settlement) in rows {
        assert_eq!(outcome.state().as_str(), state);
        assert_eq!(outcome.settlement(), settlement);
        assert_eq!(State::parse(state), Some(outcome.state()));
    }
}

#[test]
fn the_ladder_is_10_s_then_60_s_then_600_s_and_cleanup_starts_at_60_s() {
    let walk = |lane| {
        (0..4)
            .map(|n| ParkDelay::step(lane, n).millis())
            .collect::<Vec<_>>()
    };
    assert_eq!(walk(Lane::Upload), [10_000, 60_000, 600_000, 600_000]);
    assert_eq!(walk(Lane::Read), [10_000, 60_000, 600_000, 600_000]);
    assert_eq!(walk(Lane::Cleanup), [60_000, 600_000, 600_000, 600_000]);
}

#[test]
fn every_class_ends_as_its_row_says_when_young_and_when_old() {
    let young = Timestamp::from_micros(0).plus(Duration::from_secs(1));
    let old = Timestamp::from_micros(0).plus(DAY);
    for lane in Lane::ALL {
        for class in FailureClass::ALL {
            let after = |now| history(lane, 0).after(failure(class), now, DAY).state();
            let expected = match (class.policy().exhausted, lane) {
                (Then::Bury, _) | (Then::BuryReads, Lane::Read) => {
                    (State::DeadLettered, State::DeadLettered)
                }
                (Then::Requeue, _) => (State::Interrupted, State::Interrupted),
                (Then::Park | Then::ParkForever | Then::BuryReads, Lane::Cleanup) => {
                    (State::Retrying, State::Abandoned)
                }
                (Then::Park, _) | (Then::BuryReads, Lane::Upload) => {
                    (State::Retrying, State::DeadLettered)
                }
                (Then::ParkForever, _) => (State::Retrying, State::Retrying),
            };
            assert_eq!((after(young), after(old)), expected, "{lane} {class}");
        }
    }
}

#[test]
fn an_expired_job_says_expired_and_a_permanent_one_permanent() {
    let old = Timestamp::from_micros(0).plus(DAY);
    let reason = |class| match history(Lane::Upload, 3).after(failure(class), old, DAY) {
        Outcome::DeadLettered(reason, _) => Some(reason),
        _ => None,
    };
    assert_eq!(reason(FailureClass::Throttled), Some(DeadReason::Expired));
    assert_eq!(reason(FailureClass::Permanent), Some(DeadReason::Permanent));
}

#[test]
fn a_place_found_forbidden_while_running_has_the_same_reason_as_one_seen_in_the_message() {
    let end = |failure| history(Lane::Upload, 0).after(failure, Timestamp::from_micros(0), DAY);
    let reason = |outcome| match outcome {
        Outcome::DeadLettered(reason, _) => Some(reason),
        _ => None,
    };
    let forbidden = Failure::forbidden("a link leads out of sources.file_roots");
    assert_eq!(reason(end(forbidden)), Some(DeadReason::ForbiddenSource));
    let from_s3 = Failure::ours(FailureClass::Permanent, FORBIDDEN_SOURCE, "S3 says so");
    assert_eq!(reason(end(from_s3)), Some(DeadReason::Permanent));
}

#[test]
fn the_fifth_panic_buries_and_the_fourth_parks() {
    let panicked = |panics| {
        History {
            panics,
            ..history(Lane::Read, 1)
        }
        .after_panic(failure(FailureClass::Cancelled))
        .settlement()
    };
    assert_eq!(
        panicked(4),
        Settlement::Park(ParkDelay::OneMinute, ParkReason::Panic)
    );
    assert_eq!(panicked(5), Settlement::Bury(DeadReason::Poison));
}

#[test]
fn a_deadline_parks_until_the_job_is_too_old() {
    let at = |lane, secs| {
        let now = Timestamp::from_micros(0).plus(Duration::from_secs(secs));
        history(lane, 0)
            .after_deadline(failure(FailureClass::Cancelled), now, DAY, Progress::None)
            .state()
    };
    assert_eq!(at(Lane::Upload, 10), State::Retrying);
    assert_eq!(at(Lane::Upload, 24 * 3600), State::DeadLettered);
    assert_eq!(at(Lane::Cleanup, 24 * 3600), State::Abandoned);
}

#[test]
fn an_upload_that_finishes_parts_is_parked_at_its_deadline_however_old_it_is() {
    let now = Timestamp::from_micros(0).plus(30 * DAY);
    let failure = failure(FailureClass::Cancelled);
    let outcome = history(Lane::Upload, 7).after_deadline(failure, now, DAY, Progress::Parts);
    let settlement = Settlement::Park(ParkDelay::TenMinutes, ParkReason::Deadline);
    assert_eq!(outcome.settlement(), settlement);
}

#[test]
fn a_foreign_lease_raises_no_park_count() {
    let outcome = |reason| {
        Outcome::Retrying(
            ParkDelay::TenSeconds,
            reason,
            failure(FailureClass::Cancelled),
        )
    };
    assert!(!outcome(ParkReason::Leased).raises_parks());
    assert!(outcome(ParkReason::Deadline).raises_parks());
    assert!(!Outcome::Interrupted.raises_parks());
}

#[test]
fn names_are_those_of_the_contract() {
    fn names<T>(
        all: impl IntoIterator<Item = T>,
        name: fn(T) -> &'static str,
    ) -> Vec<&'static str> {
        all.into_iter().map(name).collect()
    }
    let states = [
        "running",
        "retrying",
        "requeued",
        "interrupted",
        "completed",
        "dead_lettered",
        "abandoned",
    ];
    assert_eq!(names(State::ALL, State::as_str), states);
    let dead = [
        "malformed",
        "unsupported",
        "wrong_lane",
        "forbidden_source",
        "permanent",
        "expired",
        "poison",
    ];
    assert_eq!(names(DeadReason::ALL, DeadReason::as_str), dead);
    let requeued = ["circuit_open", "drain", "ledger_down", "panic"];
    assert_eq!(names(RequeueReason::ALL, RequeueReason::as_str), requeued);
    let parked = [
        "throttled",
        "unavailable",
        "timed_out",
        "conflict",
        "credentials",
        "misrouted",
        "unreadable",
        "leased",
        "deadline",
        "panic",
    ];
    assert_eq!(names(ParkReason::all(), ParkReason::as_str), parked);
}

#[test]
fn only_the_last_three_states_are_final() {
    let last = State::ALL.map(State::is_final);
    assert_eq!(last, [false, false, false, false, true, true, true]);
}

#[test]
fn an_outcome_has_a_failure_or_a_result_or_neither() {
    let result = JobResult::Deleted { deleted: 1 };
    let completed = Outcome::Completed(result.clone());
    assert_eq!(
        (completed.result(), completed.failure()),
        (Some(&result), None)
    );
    let failure = failure(FailureClass::Permanent);
    for failed in [
        Outcome::DeadLettered(DeadReason::Permanent, failure.clone()),
        Outcome::Abandoned(failure.clone()),
        Outcome::Retrying(ParkDelay::OneMinute, ParkReason::Panic, failure.clone()),
    ] {
        assert_eq!((failed.result(), failed.failure()), (None, Some(&failure)));
    }
    assert_eq!(
        (
            Outcome::Interrupted.result(),
            Outcome::Interrupted.failure()
        ),
        (None, None)
    );
}

#[test]
fn the_first_four_classes_and_what_can_t_be_read_are_retried_in_place() {
    let retried = FailureClass::ALL.into_iter().filter(|it| it.is_retried());
    let retried: Vec<_> = retried.map(FailureClass::as_str).collect();
    assert_eq!(
        retried,
        [
            "throttled",
            "unavailable",
            "timed_out",
            "conflict",
            "unreadable"
        ]
    );
}
