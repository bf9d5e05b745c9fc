//! Credentials, regions and endpoints that are not quite what they should be.

use aws_sdk_s3::config::{Credentials, Region};

use super::server::{Wire, good};
use crate::{
    job::{FailureClass, operation::PutOptions},
    storage::script::{Answer, Stage, keys, op, settings, shared},
};

#[tokio::test]
async fn a_path_in_the_endpoint_needs_no_slash_at_its_end() {
    for path in ["/storage/v1/s3", "/storage/v1/s3/"] {
        let wire = Wire::with(
            |settings| {
                let endpoint = settings.endpoint.take().unwrap_or_default();
                settings.endpoint = Some(format!("{endpoint}{path}"));
            },
            |request, _| good(request),
        )
        .await;
        wire.run(op::put(PutOptions::default())).await.unwrap();
        let target = &wire.requests()[0].target;
        assert!(target.starts_with("/storage/v1/s3/b/k"), "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_break_behind_a_credential_costs_nothing_and_one_inside_makes_jobs_wait() {
    let of = |key: &str, token: &str| {
        let token = Some(token.to_owned());
        shared(Some(Credentials::new(key, "SECRET\n", token, None, "test")))
    };
    let stage = Stage::with([Answer::status(200)], &settings(), &of("AKID\n", "TOKEN\n"));
    stage.run(op::put(PutOptions::default())).await.unwrap();
    let seen = &stage.seen()[0];
    assert!(seen.headers["authorization"].contains("Credential=AKID/"));
    assert_eq!(seen.headers["x-amz-security-token"], "TOKEN");

    for (shared, part) in [
        (of("AK\nID", "TOKEN"), "access key id"),
        (of("AKID", "TO\u{7f}KEN"), "session token"),
    ] {
        let stage = Stage::with([Answer::status(200)], &settings(), &shared);
        let failure = stage.failure(op::head()).await;
        assert_eq!(failure.class, FailureClass::Credentials, "{failure:?}");
        assert_eq!(failure.code, "credentials_invalid", "{failure:?}");
        assert!(failure.message.contains(part), "{failure:?}");
        assert_eq!(stage.requests(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_none_makes_jobs_wait() {
    let shared = shared(keys()).into_builder();
    let shared = shared.region(Region::new("eu-\ncentral-1")).build();
    let stage = Stage::with([Answer::status(200)], &settings(), &shared);
    let failure = stage.failure(op::head()).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Credentials, "region_invalid")
    );
}
