//! One job's own signature mismatch is not the credentials' fault, and wrong credentials are nobody's own.

use super::{
    put,
    server::{Request, Wire, error, good},
};
use crate::{
    job::{
        FailureClass::{Credentials, JobLocal},
        operation::PutOptions,
    },
    storage::script::op,
};

fn is_odd(request: &Request) -> bool {
    request.header("x-amz-meta-odd").is_some()
}

fn odd_put() -> crate::job::Operation {
    op::put(PutOptions {
        metadata: [("odd".to_owned(), "a".to_owned())].into(),
        ..PutOptions::default()
    })
}

#[tokio::test]
async fn a_mismatch_of_one_request_under_good_credentials_is_the_job_s() {
    let wire = Wire::new(|request, _| match is_odd(request) {
        true => error(403, "SignatureDoesNotMatch"),
        false => good(request),
    })
    .await;
    for _ in 0..8 {
        let failure = wire.failure(odd_put()).await;
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (JobLocal, "SignatureDoesNotMatch")
        );
        assert!(failure.message.contains("metadata and key"), "{failure}");
    }
    assert_eq!(wire.failures_in_a_row(), 0, "no circuit hears of it");
    wire.run(put()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_for_another_reason_proves_the_credentials_as_well() {
    let wire = Wire::new(|request, _| match is_odd(request) {
        true => error(403, "SignatureDoesNotMatch"),
        false => error(403, "AccessDenied"),
    })
    .await;
    assert_eq!(wire.failure(odd_put()).await.class, JobLocal);
}

#[tokio::test]
async fn a_mismatch_of_everything_is_the_credentials() {
    let wire = Wire::new(|_, _| error(403, "SignatureDoesNotMatch")).await;
    for operation in [odd_put(), put(), op::get(), op::delete_many(&["a", "b"])] {
        assert_eq!(wire.failure(operation).await.class, Credentials);
    }
    assert!(wire.failures_in_a_row() >= 3);
}

#[tokio::test]
async fn where_a_plain_request_tells_nothing_what_worked_for_another_job_since_does() {
    let wire = Wire::new(|request, _| match request.target.contains("list-type=2") {
        true => error(503, "SlowDown"),
        false if is_odd(request) => error(403, "SignatureDoesNotMatch"),
        false => good(request),
    })
    .await;
    wire.run_as("other", put()).await.unwrap();
    assert_eq!(
        wire.failure(odd_put()).await.class,
        Credentials,
        "before, which says nothing"
    );
    wire.run_as("other", put()).await.unwrap();
    assert_eq!(wire.failure(odd_put()).await.class, JobLocal);
}

#[tokio::test]
async fn one_key_that_breaks_a_batch_s_signature_is_found_and_the_others_are_deleted() {
    let wire = Wire::new(|request, _| {
        match request.text().contains("bad") || request.target.contains("bad") {
            true => error(403, "SignatureDoesNotMatch"),
            false => good(request),
        }
    })
    .await;
    let done = wire
        .run(op::delete_many(&["a", "bad", "c", "d"]))
        .await
        .unwrap();
    let result = done.result.to_json();
    assert_eq!(
        (&result["deleted"], &result["failed"][0]["key"]),
        (&3.into(), &"bad".into())
    );
}
