//! Uploads: what a job's next run finds of them, and what is swept.

use super::*;
use crate::{
    job::{BegunUpload, Headers, SaidDigests, UploadNote},
    ledger::SweptUpload,
};

/// What all requests of the job say.
fn payer() -> Headers {
    Headers::default()
        .with("x-amz-request-payer", "requester")
        .with("x-amz-expected-bucket-owner", "000000000001")
}

fn begun(upload_id: &str) -> BegunUpload {
    BegunUpload {
        bucket: "reports".to_owned(),
        key: "2026/ä".to_owned(),
        upload_id: upload_id.to_owned(),
        source: Some("11-22-33".to_owned()),
        size: Some(5 << 40),
        part_size: 8 << 20,
        largest_part: 64 << 20,
        said: Some(SaidDigests {
            by_job: [1; 16],
            in_all: [2; 16],
        }),
        headers: payer(),
    }
}

async fn begin(ledger: &Arc<dyn Ledger>, name: &str, taken: Taken, upload_id: &str) -> bool {
    let note = UploadNote::Begun(begun(upload_id));
    let noted = ledger.note_upload(&id(name), taken.fence, &note).await;
    noted.unwrap()
}

async fn note(ledger: &Arc<dyn Ledger>, name: &str, note: UploadNote) {
    let noted = ledger.note_upload(&id(name), Fence(0), &note).await;
    assert!(noted.unwrap());
}

async fn recalled(ledger: &Arc<dyn Ledger>, name: &str) -> Option<String> {
    let begun = ledger.recall_upload(&id(name)).await.unwrap();
    begun.map(|begun| begun.upload_id)
}

async fn swept(ledger: &Arc<dyn Ledger>) -> Vec<String> {
    let swept = ledger.sweep_uploads(LEASE, 100).await.unwrap();
    let mut swept: Vec<String> = swept.into_iter().map(|swept| swept.upload_id).collect();
    swept.sort();
    swept
}

pub(in crate::ledger) async fn an_upload_is_recalled_as_it_was_begun(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    let taken = take(&ledger, request("j")).await;
    assert_eq!(ledger.recall_upload(&id("j")).await.unwrap(), None);
    assert!(begin(&ledger, "j", taken, "u1").await);
    let found = ledger.recall_upload(&id("j")).await.unwrap();
    assert_eq!(found, Some(begun("u1")));
    let bare = BegunUpload {
        source: None,
        size: None,
        said: None,
        headers: Headers::default(),
        ..begun("u2")
    };
    // The one that was given up is not gone on with.
    note(&ledger, "j", UploadNote::Doomed("u1".to_owned())).await;
    assert_eq!(recalled(&ledger, "j").await, None);
    let again = UploadNote::Begun(bare.clone());
    assert!(
        ledger
            .note_upload(&id("j"), taken.fence, &again)
            .await
            .unwrap()
    );
    assert_eq!(ledger.recall_upload(&id("j")).await.unwrap(), Some(bare));
    note(&ledger, "j", UploadNote::Completed("u2".to_owned())).await;
    assert_eq!(recalled(&ledger, "j").await.as_deref(), Some("u2"));
    note(&ledger, "j", UploadNote::Gone("u2".to_owned())).await;
    assert_eq!(recalled(&ledger, "j").await, None);
}

pub(in crate::ledger) async fn only_the_holder_of_a_job_may_begin_an_upload(
    database: &impl TestDatabase,
) {
    let (one, other) = (database.ledger("a").await, database.ledger("b").await);
    let before = take(&one, request("j")).await;
    database.pass(PAST_THE_LEASE).await;
    let after = take(&other, request("j")).await;
    assert!(!begin(&one, "j", before, "u1").await, "the job was lost");
    assert!(begin(&other, "j", after, "u2").await);
    record(&other, ending("j", after, State::Retrying)).await;
    assert!(!begin(&other, "j", after, "u3").await, "the run is over");
    assert_eq!(recalled(&one, "j").await.as_deref(), Some("u2"));
}

pub(in crate::ledger) async fn what_nobody_goes_on_with_is_swept_by_one_at_a_time(
    database: &impl TestDatabase,
) {
    let (one, other) = (database.ledger("a").await, database.ledger("b").await);
    for (name, state) in [("dead", State::DeadLettered), ("done", State::Completed)] {
        let taken = take(&one, request(name)).await;
        assert!(begin(&one, name, taken, name).await);
        let left = format!("{name}-left");
        assert!(begin(&one, name, taken, &left).await);
        note(&one, name, UploadNote::Completed(name.to_owned())).await;
        record(&one, ending(name, taken, state)).await;
    }
    let taken = take(&one, request("runs")).await;
    assert!(begin(&one, "runs", taken, "given-up").await);
    note(&one, "runs", UploadNote::Doomed("given-up".to_owned())).await;

    let (first, second) = tokio::join!(swept(&one), swept(&other));
    let mut all = [first, second].concat();
    all.sort();
    assert_eq!(all, ["dead-left", "done-left", "given-up"]);
    assert_eq!(recalled(&one, "dead").await, None, "a replay begins anew");

    // What could not be aborted comes again when its lease is over; what was aborted does not.
    note(&one, "dead", UploadNote::Gone("dead-left".to_owned())).await;
    assert!(swept(&one).await.is_empty());
    let again = one.sweep_uploads(Duration::ZERO, 1).await.unwrap();
    assert!(again.is_empty(), "{again:?}");
    database.pass(PAST_THE_LEASE).await;
    let again = one.sweep_uploads(LEASE, 1).await.unwrap();
    let expected = SweptUpload {
        job: id("done"),
        bucket: "reports".to_owned(),
        key: "2026/ä".to_owned(),
        upload_id: "done-left".to_owned(),
        headers: payer(),
    };
    assert_eq!(again, [expected]);
    assert_eq!(swept(&other).await, ["given-up"]);
}

pub(in crate::ledger) async fn the_uploads_of_jobs_that_go_on_are_never_swept(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    for state in [State::Retrying, State::Requeued, State::Interrupted] {
        let taken = take(&ledger, request(state.as_str())).await;
        assert!(begin(&ledger, state.as_str(), taken, state.as_str()).await);
        record(&ledger, ending(state.as_str(), taken, state)).await;
    }
    let taken = take(&ledger, request("runs")).await;
    assert!(begin(&ledger, "runs", taken, "runs").await);
    assert!(begin(&ledger, "runs", taken, "completed").await);
    note(
        &ledger,
        "runs",
        UploadNote::Completed("completed".to_owned()),
    )
    .await;
    database.pass(30 * DAY).await;
    assert!(swept(&ledger).await.is_empty());
    assert_eq!(
        recalled(&ledger, "runs").await.as_deref(),
        Some("completed")
    );

    // A job that nobody remembers goes on with nothing.
    record(&ledger, ending("runs", taken, State::DeadLettered)).await;
    database.pass(DAY).await;
    assert_eq!(ledger.purge(Duration::ZERO, 1).await.unwrap(), 1);
    assert_eq!(swept(&ledger).await, ["runs"]);
}

pub(in crate::ledger) async fn the_upload_of_a_job_that_left_unseen_is_swept_once_its_row_is_gone(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let taken = take(&ledger, request("gone")).await;
    assert!(begin(&ledger, "gone", taken, "u1").await);
    record(&ledger, ending("gone", taken, State::Retrying)).await;
    database.pass(14 * DAY).await;
    assert!(swept(&ledger).await.is_empty());
    assert_eq!(ledger.purge_lost(14 * DAY, 100).await.unwrap(), 1);
    assert_eq!(swept(&ledger).await, ["u1"]);
}
