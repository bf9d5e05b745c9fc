//! Lists, counts and retention.

use std::collections::BTreeSet;

use super::*;

/// Jobs of several kinds: for each, a name and what a filter may ask of it.
async fn fill(ledger: &Arc<dyn Ledger>) {
    use OperationName::{CopyObject, DeleteObject, HeadObject, ListObjects, PutObject};
    let kinds = [
        ("j0", PutObject, "logs", Some("a/1"), State::Completed, None),
        (
            "j1",
            CopyObject,
            "logs",
            Some("a/2"),
            State::Completed,
            None,
        ),
        (
            "j2",
            HeadObject,
            "logs",
            Some("b/1"),
            State::DeadLettered,
            Some("NoSuchKey"),
        ),
        ("j3", ListObjects, "docs", None, State::Completed, None),
        (
            "j4",
            DeleteObject,
            "docs",
            Some("a/1"),
            State::Abandoned,
            Some("SlowDown"),
        ),
        (
            "j5",
            PutObject,
            "docs",
            Some("a%"),
            State::Retrying,
            Some("SlowDown"),
        ),
        ("j6", PutObject, "docs", Some("é/1"), State::Running, None),
        (
            "j7",
            PutObject,
            "logs",
            Some("A/1"),
            State::DeadLettered,
            Some("AccessDenied"),
        ),
    ];
    for (minute, (name, operation, bucket, key, state, code)) in (0..).zip(kinds) {
        let request = ClaimRequest {
            lane: operation.lane(),
            operation,
            bucket: bucket.to_owned(),
            key: key.map(str::to_owned),
            enqueued_at: at(1_700_000_000_000_000 + minute * 60_000_000),
            ..request(name)
        };
        let taken = take(ledger, request).await;
        if state != State::Running {
            let ending = Ending {
                failure: code.map(failure),
                ..ending(name, taken, state)
            };
            record(ledger, ending).await;
        }
    }
}

fn filter() -> JobFilter {
    JobFilter {
        limit: 100,
        ..JobFilter::default()
    }
}

async fn names(ledger: &Arc<dyn Ledger>, filter: &JobFilter) -> Vec<String> {
    let page = ledger.list(filter).await.unwrap();
    page.jobs.iter().map(|job| job.id.to_string()).collect()
}

pub(in crate::ledger) async fn every_filter_lists_what_it_names(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    fill(&ledger).await;
    let some = |text: &str| Some(text.to_owned());
    let minute = |minute: i64| Some(at(1_700_000_000_000_000 + minute * 60_000_000));
    let upload = Some(Lane::Upload);
    let completed = Some(State::Completed);
    #[rustfmt::skip]
    let table: Vec<(JobFilter, &str)> = vec![
        (filter(), "76543210"),
        (JobFilter { state: completed, ..filter() }, "310"),
        (JobFilter { state: Some(State::Running), ..filter() }, "6"),
        (JobFilter { state: Some(State::Interrupted), ..filter() }, ""),
        (JobFilter { lane: upload, ..filter() }, "76510"),
        (JobFilter { lane: Some(Lane::Read), ..filter() }, "32"),
        (JobFilter { lane: Some(Lane::Cleanup), ..filter() }, "4"),
        (JobFilter { operation: Some(OperationName::PutObject), ..filter() }, "7650"),
        (JobFilter { operation: Some(OperationName::GetObject), ..filter() }, ""),
        (JobFilter { bucket: some("docs"), ..filter() }, "6543"),
        (JobFilter { bucket: some("do"), ..filter() }, ""),
        (JobFilter { key_prefix: some("a"), ..filter() }, "5410"),
        (JobFilter { key_prefix: some("a/"), ..filter() }, "410"),
        (JobFilter { key_prefix: some("a%"), ..filter() }, "5"),
        (JobFilter { key_prefix: some("é"), ..filter() }, "6"),
        (JobFilter { key_prefix: some(""), ..filter() }, "76543210"),
        (JobFilter { code: some("SlowDown"), ..filter() }, "54"),
        (JobFilter { since: minute(5), ..filter() }, "765"),
        (JobFilter { until: minute(2), ..filter() }, "10"),
        (JobFilter { since: minute(2), until: minute(5), ..filter() }, "432"),
        (JobFilter { lane: upload, operation: Some(OperationName::HeadObject), ..filter() }, ""),
        (JobFilter { lane: upload, operation: Some(OperationName::CopyObject), ..filter() }, "1"),
        (JobFilter { lane: upload, state: completed, ..filter() }, "10"),
        (JobFilter { lane: upload, state: completed, key_prefix: some("a/2"), ..filter() }, "1"),
        (JobFilter { bucket: some("logs"), key_prefix: some("a/"), ..filter() }, "10"),
        (JobFilter { bucket: some("docs"), code: some("SlowDown"), since: minute(5), ..filter() }, "5"),
        (JobFilter { key_prefix: some("a"), since: minute(1), until: minute(5), ..filter() }, "41"),
    ];
    for (filter, expected) in table {
        let expected: Vec<String> = expected.chars().map(|digit| format!("j{digit}")).collect();
        assert_eq!(names(&ledger, &filter).await, expected, "{filter:?}");
        // The same, one by one.
        let mut single = JobFilter {
            limit: 1,
            ..filter.clone()
        };
        let mut walked = Vec::new();
        loop {
            let page = ledger.list(&single).await.unwrap();
            walked.extend(page.jobs.iter().map(|job| job.id.to_string()));
            match page.next {
                Some(next) => single.after = Some(next),
                None => break,
            }
        }
        assert_eq!(walked, expected, "walked: {filter:?}");
    }
}

pub(in crate::ledger) async fn pages_meet_end_to_end(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    // A producer's timestamps are whole seconds, so many jobs share one; ids then order them.
    let requests: Vec<_> = (0..25)
        .map(|number| ClaimRequest {
            enqueued_at: at(1_700_000_000_000_000 + i64::from(number / 10) * 1_000_000),
            ..request(&format!("j{number:02}"))
        })
        .collect();
    ledger.claim(&requests).await.unwrap();
    for by_lane in [None, Some(Lane::Upload)] {
        let mut filter = JobFilter {
            lane: by_lane,
            limit: 4,
            ..JobFilter::default()
        };
        let mut walked = Vec::new();
        loop {
            let page = ledger.list(&filter).await.unwrap();
            let last = page.jobs.last().unwrap();
            let cursor = Cursor {
                enqueued_at: last.enqueued_at,
                id: last.id.clone(),
            };
            walked.extend(page.jobs.iter().map(|job| job.id.to_string()));
            match page.next {
                Some(next) => {
                    assert_eq!((page.jobs.len(), &next), (4, &cursor));
                    filter.after = Some(next);
                }
                None => break,
            }
        }
        let expected: Vec<_> = (0..25)
            .rev()
            .map(|number| format!("j{number:02}"))
            .collect();
        assert_eq!(walked, expected);
    }
    let exact = JobFilter {
        limit: 25,
        ..JobFilter::default()
    };
    assert_eq!(ledger.list(&exact).await.unwrap().next, None);
}

pub(in crate::ledger) async fn stats_count_by_lane_state_and_code(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    assert_eq!(ledger.stats().await.unwrap(), []);
    fill(&ledger).await;
    let row = |lane, state, code: Option<&str>, count| StatRow {
        lane,
        state,
        code: code.map(str::to_owned),
        count,
    };
    let mut stats = ledger.stats().await.unwrap();
    stats.sort_by_key(|row| (row.lane, row.state, row.code.clone()));
    let expected = [
        row(Lane::Upload, State::Running, None, 1),
        row(Lane::Upload, State::Retrying, Some("SlowDown"), 1),
        row(Lane::Upload, State::Completed, None, 2),
        row(Lane::Upload, State::DeadLettered, Some("AccessDenied"), 1),
        row(Lane::Read, State::Completed, None, 1),
        row(Lane::Read, State::DeadLettered, Some("NoSuchKey"), 1),
        row(Lane::Cleanup, State::Abandoned, Some("SlowDown"), 1),
    ];
    assert_eq!(stats, expected);
}

pub(in crate::ledger) async fn only_old_endings_are_purged(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    for state in State::ALL.into_iter().filter(|state| state.is_final()) {
        run(&ledger, state.as_str(), state).await;
    }
    database.pass(DAY).await;
    run(&ledger, "young", State::Completed).await;

    assert_eq!(ledger.purge(DAY * 2, 100).await.unwrap(), 0);
    assert_eq!(ledger.purge(DAY, 2).await.unwrap(), 2);
    assert_eq!(ledger.purge(DAY, 2).await.unwrap(), 1);
    assert_eq!(ledger.purge(DAY, 2).await.unwrap(), 0);
    assert_eq!(names(&ledger, &filter()).await, ["young"]);
}

/// A job in each of the states that are not the last, named after it.
async fn unfinished(ledger: &Arc<dyn Ledger>) -> Vec<State> {
    let passing = State::ALL.into_iter().filter(|state| !state.is_final());
    let passing: Vec<State> = passing.collect();
    for state in &passing {
        if *state == State::Running {
            take(ledger, request(state.as_str())).await;
        } else {
            run(ledger, state.as_str(), *state).await;
        }
    }
    passing
}

pub(in crate::ledger) async fn a_job_that_nobody_has_held_for_the_retention_is_forgotten(
    database: &impl TestDatabase,
) {
    let (one, other) = (database.ledger("a").await, database.ledger("b").await);
    let passing = unfinished(&one).await;
    assert_eq!(passing.len(), 4);
    let young = ClaimRequest {
        enqueued_at: Timestamp::now(),
        ..request("young")
    };
    let taken = take(&one, young).await;
    record(&one, ending("young", taken, State::Retrying)).await;
    database.pass(DAY).await;
    // Those that live are claimed again, or their lease is renewed.
    for name in ["held", "parked"] {
        let taken = take(&one, request(name)).await;
        if name == "parked" {
            record(&one, ending(name, taken, State::Retrying)).await;
        }
    }
    database.pass(PAST_THE_LEASE).await;

    assert_eq!(one.purge_lost(DAY * 2, 100).await.unwrap(), 0);
    assert_eq!(one.purge_lost(DAY, 3).await.unwrap(), 3);
    assert_eq!(one.purge_lost(DAY, 3).await.unwrap(), 1);
    assert_eq!(one.purge_lost(DAY, 3).await.unwrap(), 0);
    let left: BTreeSet<_> = names(&one, &filter()).await.into_iter().collect();
    assert_eq!(left, ["held", "parked", "young"].map(str::to_owned).into());

    // Should one come after all, it is new, with what its delivery carries.
    let late = ClaimRequest {
        attempts: 7,
        parks: 3,
        ..request("retrying")
    };
    let taken = take(&other, late).await;
    assert_eq!((taken.attempts, taken.parks, taken.unfinished), (7, 3, 0));
}

/// Without a timestamp in its message it would take the time of its next claim, and delete what was written since.
pub(in crate::ledger) async fn an_unfinished_delete_prefix_keeps_its_time(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let delete = |enqueued_at| ClaimRequest {
        operation: OperationName::DeletePrefix,
        lane: Lane::Cleanup,
        key: None,
        enqueued_at,
        ..request("j")
    };
    let taken = take(&ledger, delete(at(1_700_000_000_000_000))).await;
    record(&ledger, ending("j", taken, State::Requeued)).await;
    database.pass(30 * DAY).await;
    assert_eq!(ledger.purge_lost(DAY, 100).await.unwrap(), 0);
    let again = take(&ledger, delete(Timestamp::now())).await;
    assert_eq!(again.enqueued_at, taken.enqueued_at);
}
