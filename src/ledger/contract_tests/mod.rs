//! What every ledger promises. Each database runs all of it, by `ledger_contract!`.
//!
//! Time passes when a test says so: the database's rows are made older. Nothing sleeps.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;

use super::{
    Claim, ClaimRequest, Committed, Cursor, Ending, Fence, JobFilter, JobRecord, Ledger,
    LedgerError, Owner, StatRow, Taken,
};
use crate::job::{
    AttemptLog, Failure, FailureClass, JobId, Lane, OperationName, RequestDigest, State, Timestamp,
    report::ReportedError,
};

/// The lease of every ledger in these tests.
pub(super) const LEASE: Duration = Duration::from_secs(15);
const PAST_THE_LEASE: Duration = Duration::from_secs(16);
const DAY: Duration = Duration::from_secs(86_400);

/// An empty, migrated database of one test.
#[async_trait]
pub(super) trait TestDatabase: Send + Sync {
    /// A handle of that worker.
    async fn ledger(&self, worker: &str) -> Arc<dyn Ledger>;

    /// Makes every lease and every ending that much older.
    async fn pass(&self, time: Duration);

    /// Makes every row one of a version that noted no requests.
    async fn forget_requests(&self);

    /// Leaves nothing behind.
    async fn end(self);
}

pub(super) fn owner(worker: &str) -> Owner {
    Owner {
        worker: worker.into(),
        unique: format!("{worker}-start").into(),
    }
}

/// Runs the whole suite, or with `@rows` what is promised of single rows; `$new` is an async function that makes a [`TestDatabase`], or `None` to skip.
macro_rules! ledger_contract {
    (@rows $new:path) => {
        ledger_contract! { @each $new =>
            a_new_job_is_taken_with_what_its_delivery_carries
            a_job_is_never_enqueued_after_its_first_claim
            a_job_given_back_is_taken_again_with_its_own_counts
            a_job_that_another_worker_runs_is_not_taken
            a_lease_that_ran_out_is_taken_and_counted_and_the_late_loser_is_refused
            a_renewed_lease_holds
            a_lease_that_ran_out_is_still_good_while_nobody_took_the_row
            a_worker_may_claim_again_what_it_holds
            a_finished_job_is_final_for_every_claim
            a_dead_job_is_claimed_only_by_a_replay_which_resets_its_counts
            a_burial_is_noted_for_the_claim_that_it_belongs_to
            unfinished_claims_add_up_until_a_replay
            an_ending_whose_answer_was_lost_may_be_given_again
            failed_attempts_are_kept_once_the_newest_first
            a_parked_job_tells_when_it_comes_back
            an_ending_names_the_last_error_until_the_job_completes
            answers_come_in_the_order_of_the_questions
            a_row_notes_the_request_that_its_job_asks_for
            nothing_else_is_taken_while_the_first_request_has_not_ended
            a_replayed_letter_is_the_request_of_its_row_from_then_on
            a_row_that_ignored_what_is_known_now_is_taken
            a_row_without_a_request_is_taken_by_any_which_it_notes
            two_workers_never_take_the_same_job
        }
    };
    ($new:path) => {
        ledger_contract! { @rows $new }
        ledger_contract! { @each $new =>
            a_refused_row_leaves_nothing_behind
            odd_text_comes_back_as_it_went_in
            every_filter_lists_what_it_names
            pages_meet_end_to_end
            stats_count_by_lane_state_and_code
            only_old_endings_are_purged
            a_job_that_nobody_has_held_for_the_retention_is_forgotten
            an_unfinished_delete_prefix_keeps_its_time
            a_probe_may_be_repeated
            an_upload_is_recalled_as_it_was_begun
            only_the_holder_of_a_job_may_begin_an_upload
            what_nobody_goes_on_with_is_swept_by_one_at_a_time
            the_uploads_of_jobs_that_go_on_are_never_swept
            the_upload_of_a_job_that_left_unseen_is_swept_once_its_row_is_gone
        }
    };
    (@each $new:path => $($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                if let Some(database) = $new().await {
                    $crate::ledger::contract_tests::$name(&database).await;
                    database.end().await;
                }
            }
        )*
    };
}
pub(super) use ledger_contract;

mod endings;
mod lists;
mod requests;
mod uploads;
pub(super) use endings::*;
pub(super) use lists::*;
pub(super) use requests::*;
pub(super) use uploads::*;

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn digest(number: u8) -> RequestDigest {
    RequestDigest::from_bytes(&[number; RequestDigest::LEN]).unwrap()
}

pub(super) fn request(name: &str) -> ClaimRequest {
    ClaimRequest {
        id: id(name),
        lane: Lane::Upload,
        operation: OperationName::PutObject,
        bucket: "reports".to_owned(),
        key: Some(format!("2026/{name}")),
        digest: digest(1),
        ignored: Vec::new(),
        enqueued_at: at(1_700_000_000_000_000),
        replay: 0,
        replayed_at: None,
        attempts: 0,
        parks: 0,
    }
}

pub(super) fn ending(name: &str, taken: Taken, state: State) -> Ending {
    Ending {
        id: id(name),
        fence: taken.fence,
        state,
        attempts: taken.attempts + 1,
        parks: taken.parks,
        panics: taken.panics,
        failure: None,
        result: None,
        failed: AttemptLog::default(),
    }
}

fn failure(code: &str) -> Failure {
    let mut failure = Failure::ours(FailureClass::Permanent, code, "it went wrong");
    failure.request_id = Some("REQ1".to_owned());
    failure
}

async fn claim(ledger: &Arc<dyn Ledger>, request: ClaimRequest) -> Claim {
    let mut claims = ledger.claim(&[request]).await.unwrap();
    assert_eq!(claims.len(), 1);
    claims.remove(0)
}

async fn take(ledger: &Arc<dyn Ledger>, request: ClaimRequest) -> Taken {
    match claim(ledger, request).await {
        Claim::Taken(taken) => taken,
        other => panic!("not taken: {other:?}"),
    }
}

async fn commit(ledger: &Arc<dyn Ledger>, ending: Ending) -> Committed {
    let mut committed = ledger.commit(&[ending]).await.unwrap();
    assert_eq!(committed.len(), 1);
    committed.remove(0)
}

async fn record(ledger: &Arc<dyn Ledger>, ending: Ending) -> JobRecord {
    match commit(ledger, ending).await {
        Committed::Recorded(record) => *record,
        Committed::Superseded => panic!("superseded"),
    }
}

/// Takes a job and ends it.
async fn run(ledger: &Arc<dyn Ledger>, name: &str, state: State) -> JobRecord {
    let taken = take(ledger, request(name)).await;
    let failed = matches!(
        state,
        State::DeadLettered | State::Abandoned | State::Retrying
    );
    let ending = Ending {
        failure: failed.then(|| failure("AccessDenied")),
        ..ending(name, taken, state)
    };
    record(ledger, ending).await
}

pub(super) async fn a_new_job_is_taken_with_what_its_delivery_carries(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let before = Timestamp::now().minus(DAY);
    let request = ClaimRequest {
        attempts: 7,
        parks: 2,
        ..request("j")
    };
    let taken = take(&ledger, request.clone()).await;
    assert_eq!((taken.attempts, taken.parks), (7, 2));
    assert_eq!((taken.panics, taken.unfinished), (0, 0));
    assert_eq!(taken.enqueued_at, request.enqueued_at);
    assert_eq!(taken.age_from, request.enqueued_at);
    assert!(taken.started_at > before, "{}", taken.started_at);

    let row = ledger.get(&request.id).await.unwrap().unwrap();
    assert_eq!(row.state, State::Running);
    assert_eq!(row.started_at, Some(taken.started_at));
    assert_eq!((row.finished_at, row.error, row.result), (None, None, None));
    assert_eq!(row.worker.as_deref(), Some("a"));
    assert_eq!(
        (row.operation.as_str(), row.lane),
        ("put_object", Lane::Upload)
    );
    assert_eq!(ledger.get(&id("unknown")).await.unwrap(), None);
}

pub(super) async fn a_job_given_back_is_taken_again_with_its_own_counts(
    database: &impl TestDatabase,
) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    let first = take(&a, request("j")).await;
    let mut last = first;
    for (state, ledger) in [
        (State::Retrying, &b),
        (State::Requeued, &a),
        (State::Interrupted, &b),
    ] {
        let holder = if Arc::ptr_eq(ledger, &b) { &a } else { &b };
        let given_back = Ending {
            attempts: last.attempts + 3,
            parks: last.parks + 1,
            panics: last.panics + 1,
            ..ending("j", last, state)
        };
        let row = record(holder, given_back).await;
        assert_eq!((row.state, row.finished_at), (state, None));
        // The headers' counts are not the row's.
        let later = ClaimRequest {
            attempts: 99,
            parks: 99,
            enqueued_at: at(5),
            ..request("j")
        };
        let taken = take(ledger, later).await;
        let expected = Taken {
            fence: Fence(last.fence.0 + 1),
            attempts: last.attempts + 3,
            parks: last.parks + 1,
            panics: last.panics + 1,
            ..first
        };
        assert_eq!(taken, expected, "after {state:?}");
        last = taken;
    }
}

pub(super) async fn a_job_that_another_worker_runs_is_not_taken(database: &impl TestDatabase) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    take(&a, request("j")).await;
    database.pass(LEASE - Duration::from_secs(5)).await;
    assert_eq!(claim(&b, request("j")).await, Claim::LeasedElsewhere);
    let row = b.get(&id("j")).await.unwrap().unwrap();
    assert_eq!(row.worker.as_deref(), Some("a"));
}

pub(super) async fn a_lease_that_ran_out_is_taken_and_counted_and_the_late_loser_is_refused(
    database: &impl TestDatabase,
) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    let lost = take(&a, request("j")).await;
    database.pass(PAST_THE_LEASE).await;
    let taken = take(&b, request("j")).await;
    assert!(taken.fence > lost.fence);
    assert_eq!(taken.unfinished, 1);

    assert_eq!(a.renew(&[(id("j"), lost.fence)]).await.unwrap(), [false]);
    let late = ending("j", lost, State::Completed);
    assert_eq!(commit(&a, late).await, Committed::Superseded);
    let row = record(&b, ending("j", taken, State::Completed)).await;
    assert_eq!(row.worker.as_deref(), Some("b"));
    let late = ending("j", lost, State::Completed);
    assert_eq!(commit(&a, late).await, Committed::Superseded);
}

pub(super) async fn a_renewed_lease_holds(database: &impl TestDatabase) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    let taken = take(&a, request("j")).await;
    for _ in 0..3 {
        database.pass(LEASE - Duration::from_secs(5)).await;
        let held = [(id("unknown"), Fence(1)), (id("j"), taken.fence)];
        let shown = async || a.get(&id("j")).await.unwrap().unwrap().leased_until;
        let before = shown().await;
        assert_eq!(a.renew(&held).await.unwrap(), [false, true]);
        assert!(shown().await > before, "the row shows the new lease");
    }
    assert_eq!(claim(&b, request("j")).await, Claim::LeasedElsewhere);
    record(&a, ending("j", taken, State::Completed)).await;
    assert_eq!(a.renew(&[(id("j"), taken.fence)]).await.unwrap(), [false]);
}

pub(super) async fn a_lease_that_ran_out_is_still_good_while_nobody_took_the_row(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let taken = take(&ledger, request("j")).await;
    database.pass(PAST_THE_LEASE).await;
    assert_eq!(
        ledger.renew(&[(id("j"), taken.fence)]).await.unwrap(),
        [true]
    );
    database.pass(PAST_THE_LEASE).await;
    record(&ledger, ending("j", taken, State::Completed)).await;
}

pub(super) async fn a_worker_may_claim_again_what_it_holds(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    let first = take(&ledger, request("j")).await;
    let second = take(&ledger, request("j")).await;
    database.pass(PAST_THE_LEASE).await;
    let third = take(&ledger, request("j")).await;
    assert!(first.fence < second.fence && second.fence < third.fence);
    assert_eq!(third.unfinished, 0);
    let void = ending("j", first, State::Completed);
    assert_eq!(commit(&ledger, void).await, Committed::Superseded);
}

pub(super) async fn a_finished_job_is_final_for_every_claim(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    for (name, state) in [("c", State::Completed), ("n", State::Abandoned)] {
        let row = run(&ledger, name, state).await;
        assert!(row.finished_at.is_some());
        let replayed = ClaimRequest {
            replay: 9,
            ..request(name)
        };
        for request in [request(name), replayed] {
            let expected = Claim::Finished(Box::new(row.clone()));
            assert_eq!(claim(&ledger, request).await, expected);
        }
    }
}

pub(super) async fn a_dead_job_is_claimed_only_by_a_replay_which_resets_its_counts(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let taken = take(&ledger, request("j")).await;
    let died = Ending {
        parks: 4,
        panics: 5,
        failure: Some(failure("panic")),
        ..ending("j", taken, State::DeadLettered)
    };
    let row = record(&ledger, died).await;
    let dead = Claim::Dead {
        record: Box::new(row),
        buried: false,
        fence: taken.fence,
    };
    assert_eq!(claim(&ledger, request("j")).await, dead);

    let replayed_at = Some(at(1_750_000_000_000_000));
    let replayed = ClaimRequest {
        replay: 1,
        replayed_at,
        ..request("j")
    };
    let again = take(&ledger, replayed.clone()).await;
    assert_eq!((again.parks, again.panics, again.unfinished), (0, 0, 0));
    assert_eq!(again.attempts, 1, "S3 calls are counted over all runs");
    assert_eq!(Some(again.age_from), replayed_at);
    assert_eq!(again.enqueued_at, taken.enqueued_at);
    let running = ledger.get(&id("j")).await.unwrap().unwrap();
    assert_eq!((running.finished_at, running.replay), (None, 1));

    record(&ledger, ending("j", again, State::DeadLettered)).await;
    let claimed = claim(&ledger, replayed).await;
    assert!(
        matches!(claimed, Claim::Dead { buried: false, .. }),
        "{claimed:?}"
    );
}

pub(super) async fn a_burial_is_noted_for_the_claim_that_it_belongs_to(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    run(&ledger, "j", State::DeadLettered).await;
    let buried = async |request| match claim(&ledger, request).await {
        Claim::Dead { buried, fence, .. } => (buried, fence),
        other => panic!("not dead: {other:?}"),
    };
    let (noted, fence) = buried(request("j")).await;
    assert!(!noted);
    ledger.note_buried(&[(id("j"), fence)]).await.unwrap();
    assert_eq!(buried(request("j")).await, (true, fence));

    let replayed = ClaimRequest {
        replay: 1,
        ..request("j")
    };
    let again = take(&ledger, replayed.clone()).await;
    record(&ledger, ending("j", again, State::DeadLettered)).await;
    ledger.note_buried(&[(id("j"), fence)]).await.unwrap();
    assert_eq!(buried(replayed).await, (false, again.fence));
}

pub(super) async fn unfinished_claims_add_up_until_a_replay(database: &impl TestDatabase) {
    for dead in 0..3 {
        let worker = database.ledger(&format!("w{dead}")).await;
        assert_eq!(take(&worker, request("j")).await.unfinished, dead);
        database.pass(PAST_THE_LEASE).await;
    }
    let ledger = database.ledger("last").await;
    let taken = take(&ledger, request("j")).await;
    assert_eq!(taken.unfinished, 3);
    // A suspect gives its claim back while it waits for its turn; that clears nothing.
    record(&ledger, ending("j", taken, State::Requeued)).await;
    let taken = take(&ledger, request("j")).await;
    assert_eq!(taken.unfinished, 3);
    record(&ledger, ending("j", taken, State::DeadLettered)).await;
    let replayed = ClaimRequest {
        replay: 1,
        ..request("j")
    };
    assert_eq!(take(&ledger, replayed).await.unfinished, 0);
}

pub(super) async fn a_probe_may_be_repeated(database: &impl TestDatabase) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    for ledger in [&a, &b, &a] {
        ledger.probe().await.unwrap();
    }
}

pub(super) async fn two_workers_never_take_the_same_job(database: &impl TestDatabase) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    for round in 0..10 {
        let old: Vec<_> = (0..10)
            .map(|job| request(&format!("old{round}-{job}")))
            .collect();
        for (request, claim) in old.iter().zip(a.claim(&old).await.unwrap()) {
            let Claim::Taken(taken) = claim else {
                panic!("{claim:?}")
            };
            record(&a, ending(request.id.as_str(), taken, State::Retrying)).await;
        }
        let mut both = old;
        both.extend((0..10).map(|job| request(&format!("new{round}-{job}"))));
        // In different orders, as two writers that don't sort would.
        let reversed: Vec<_> = both.iter().rev().cloned().collect();
        let (by_a, by_b) = tokio::join!(a.claim(&both), b.claim(&reversed));
        let by_b: Vec<_> = by_b.unwrap().into_iter().rev().collect();
        for (request, pair) in both.iter().zip(by_a.unwrap().iter().zip(&by_b)) {
            let one_won = matches!(
                pair,
                (Claim::Taken(_), Claim::LeasedElsewhere)
                    | (Claim::LeasedElsewhere, Claim::Taken(_))
            );
            assert!(one_won, "{}: {pair:?}", request.id);
        }
    }
}
