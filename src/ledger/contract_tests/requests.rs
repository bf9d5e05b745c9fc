//! What a row keeps of its first claim: when the job was enqueued, and which request it is. What becomes of other
//! requests that have its id.

use super::*;

/// Another request of that id.
fn other(name: &str) -> ClaimRequest {
    ClaimRequest {
        operation: OperationName::CopyObject,
        bucket: "other".to_owned(),
        key: Some("other".to_owned()),
        digest: digest(2),
        ..request(name)
    }
}

async fn row(ledger: &Arc<dyn Ledger>, name: &str) -> JobRecord {
    ledger.get(&id(name)).await.unwrap().unwrap()
}

pub(in crate::ledger) async fn a_row_notes_the_request_that_its_job_asks_for(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let odd = ["a.\"b\"", "c'[é]"].map(str::to_owned);
    let asked = ClaimRequest {
        ignored: odd.to_vec(),
        ..request("j")
    };
    let taken = take(&ledger, asked.clone()).await;
    assert!(!taken.replaces);
    let done = record(&ledger, ending("j", taken, State::Completed)).await;
    assert_eq!(
        (done.digest, &done.ignored[..]),
        (Some(digest(1)), &odd[..])
    );
    assert_eq!(done.report().ignored, odd);
    // A finished job is that request's for ever, whoever asks.
    for asked in [asked, other("j")] {
        let Claim::Finished(row) = claim(&ledger, asked.clone()).await else {
            panic!("it had finished");
        };
        assert_eq!(*row, done);
        assert_eq!(row.is_for_another(&asked.digest), asked.digest == digest(2));
    }
    take(&ledger, request("k")).await;
    assert!(row(&ledger, "k").await.ignored.is_empty());
}

pub(in crate::ledger) async fn nothing_else_is_taken_while_the_first_request_has_not_ended(
    database: &impl TestDatabase,
) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    let replayed = |name| ClaimRequest {
        replay: 1,
        ..other(name)
    };
    for state in [State::Retrying, State::Requeued, State::Interrupted] {
        let name = state.as_str();
        let taken = take(&a, request(name)).await;
        for ledger in [&a, &b] {
            assert_eq!(claim(ledger, other(name)).await, Claim::OtherRequest);
        }
        record(&a, ending(name, taken, state)).await;
        let before = row(&a, name).await;
        for asked in [other(name), replayed(name)] {
            assert_eq!(claim(&b, asked).await, Claim::OtherRequest, "{state:?}");
        }
        assert_eq!(row(&a, name).await, before);
        take(&b, request(name)).await;
    }
    // Its worker died: its own delivery comes again.
    take(&a, request("died")).await;
    database.pass(PAST_THE_LEASE).await;
    assert_eq!(claim(&b, other("died")).await, Claim::OtherRequest);
    assert_eq!(take(&b, request("died")).await.unfinished, 1);
}

pub(in crate::ledger) async fn a_replayed_letter_is_the_request_of_its_row_from_then_on(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    run(&ledger, "j", State::DeadLettered).await;
    let dead = claim(&ledger, other("j")).await;
    assert!(matches!(&dead, Claim::Dead { record, .. } if record.is_for_another(&digest(2))));
    let replayed = ClaimRequest {
        replay: 1,
        ignored: vec!["x".to_owned()],
        ..other("j")
    };
    let taken = take(&ledger, replayed).await;
    assert!(taken.replaces);
    let row = record(&ledger, ending("j", taken, State::Completed)).await;
    assert_eq!(
        (row.digest, row.ignored),
        (Some(digest(2)), vec!["x".to_owned()])
    );
    let what = (
        row.operation.as_str(),
        row.bucket.as_str(),
        row.key.as_deref(),
    );
    assert_eq!(what, ("copy_object", "other", Some("other")));
    // The first one's letter changes nothing now.
    let first = ClaimRequest {
        replay: 2,
        ..request("j")
    };
    let finished = claim(&ledger, first).await;
    assert!(matches!(finished, Claim::Finished(row) if row.is_for_another(&digest(1))));
}

/// While a fleet is updated: the same message has another digest once its fields are known.
pub(in crate::ledger) async fn a_row_that_ignored_what_is_known_now_is_taken(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let ignoring = |names: &[&str], number| ClaimRequest {
        digest: digest(number),
        ignored: names.iter().map(|name| (*name).to_owned()).collect(),
        ..request("j")
    };
    let taken = take(&ledger, ignoring(&["x", "y"], 1)).await;
    record(&ledger, ending("j", taken, State::Retrying)).await;
    // An older version, another producer's fields, and the same fields with another value.
    for names in [&["x", "y", "z"][..], &["z"], &["x", "y"]] {
        assert_eq!(
            claim(&ledger, ignoring(names, 2)).await,
            Claim::OtherRequest
        );
    }
    let taken = take(&ledger, ignoring(&["y"], 3)).await;
    assert!(taken.replaces);
    let row = record(&ledger, ending("j", taken, State::Retrying)).await;
    assert_eq!(
        (row.digest, row.ignored),
        (Some(digest(3)), vec!["y".to_owned()])
    );
    assert_eq!(
        claim(&ledger, ignoring(&["x", "y"], 1)).await,
        Claim::OtherRequest
    );
}

pub(in crate::ledger) async fn a_row_without_a_request_is_taken_by_any_which_it_notes(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    run(&ledger, "done", State::Completed).await;
    run(&ledger, "j", State::Retrying).await;
    database.forget_requests().await;
    let Claim::Finished(done) = claim(&ledger, other("done")).await else {
        panic!("it had finished");
    };
    assert!(!done.is_for_another(&digest(2)), "nobody knows");
    let taken = take(&ledger, other("j")).await;
    assert!(!taken.replaces);
    let row = record(&ledger, ending("j", taken, State::Retrying)).await;
    assert_eq!(
        (row.digest, row.bucket.as_str()),
        (Some(digest(2)), "other")
    );
    assert_eq!(claim(&ledger, request("j")).await, Claim::OtherRequest);
}

pub(in crate::ledger) async fn a_job_is_never_enqueued_after_its_first_claim(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let ahead = |hours: u64| Timestamp::now().plus(Duration::from_secs(3_600 * hours));
    let request = ClaimRequest {
        enqueued_at: ahead(1),
        ..request("j")
    };
    let first = take(&ledger, request.clone()).await;
    assert_eq!(first.enqueued_at, first.started_at);
    assert_eq!(first.age_from, first.started_at);
    record(&ledger, ending("j", first, State::Retrying)).await;
    // Hours later, from a producer whose clock is still ahead.
    let later = ClaimRequest {
        enqueued_at: ahead(5),
        ..request
    };
    let again = take(&ledger, later.clone()).await;
    assert_eq!(again.enqueued_at, first.started_at);
    let row = ledger.get(&later.id).await.unwrap().unwrap();
    assert_eq!(row.enqueued_at, first.started_at);
    record(&ledger, ending("j", again, State::DeadLettered)).await;

    // An operator's clock may be ahead as well.
    let replayed = ClaimRequest {
        replay: 1,
        replayed_at: Some(ahead(2)),
        ..later
    };
    let taken = take(&ledger, replayed).await;
    assert!(taken.age_from < ahead(1), "{}", taken.age_from);
}
