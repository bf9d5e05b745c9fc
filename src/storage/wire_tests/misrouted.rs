//! Nobody's job is buried on the word of something that is not S3.

use super::{
    every_operation, put,
    server::{ID, Wire, document, error, reply},
};
use crate::{
    job::{
        FailureClass::{self, Misrouted, Permanent, Unavailable},
        failure::Verdict,
    },
    storage::{Stop, script::op},
};

/// Answers that are no word of S3 on the job.
fn strangers() -> Vec<(&'static str, Vec<u8>)> {
    let html = ["server: nginx/1.25", "content-type: text/html"];
    let page = "<html><head><title>404 Not Found</title>";
    let doc = |status, code| error(status, code);
    vec![
        (
            "a region that is not named",
            doc(400, "AuthorizationHeaderMalformed"),
        ),
        ("a redirect to nowhere", doc(307, "TemporaryRedirect")),
        ("a permanent one", doc(301, "PermanentRedirect")),
        ("401 with a document", doc(401, "Unauthorized")),
        ("an unknown code with 403", doc(403, "GatewaySaysNo")),
        ("a quota", doc(400, "XMinioAdminBucketQuotaExceeded")),
        ("an account", doc(403, "AccountProblem")),
        ("a licence", doc(400, "LicenseExpired")),
        ("maintenance", doc(400, "UnderMaintenance")),
        ("a proxy's 404", reply(404, &html, page)),
        ("an empty 404", reply(404, &[], "")),
        ("a bare 403", reply(403, &html, page)),
        ("a proxy that wants a login", reply(407, &[], "")),
        (
            "a login page",
            reply(302, &["location: https://sso.example/login"], ""),
        ),
        (
            "JSON",
            reply(
                400,
                &["content-type: application/json"],
                "{\"code\":\"NoSuchKey\"}",
            ),
        ),
        ("a welcome page", reply(200, &html, "<html>It works")),
        (
            "JSON that says ok",
            reply(200, &["content-type: application/json"], "{\"ok\":true}"),
        ),
        ("nothing", reply(200, &[], "")),
        ("the console's port", {
            let message = "<Error><Code>InvalidArgument</Code>\
                <Message>S3 API Requests must be made to API port.</Message></Error>";
            reply(400, &["server: MinIO Console"], message)
        }),
    ]
}

#[tokio::test]
async fn nobodys_job_is_buried_on_the_word_of_something_that_is_not_s3() {
    for (what, answer) in strangers() {
        let wire = Wire::new(move |_, _| answer.clone()).await;
        for operation in every_operation() {
            let failure = wire.failure_beside(operation.clone()).await;
            assert_eq!(
                failure.class, Misrouted,
                "{what} to {operation:?}: {failure}"
            );
            assert_eq!(failure.verdict(), Verdict::Failure, "{what}: {failure}");
        }
        // Five such answers open the circuit, so that the queue stays whole.
        for _ in 0..5 {
            wire.failure(put()).await;
        }
        assert!(
            matches!(wire.run(put()).await, Err(Stop::Refused(_))),
            "{what}"
        );
    }
}

#[tokio::test]
async fn the_sentence_says_what_answered_bounded_and_escaped() {
    let long = format!("<html>\u{1b}[31m no \"route\" {}", "x".repeat(10_000));
    let headers = [
        "server: nginx/1.25 (Debian)",
        "content-type: text/html; charset=utf-8",
    ];
    for status in [404, 200] {
        let answer = reply(status, &headers, &long);
        let wire = Wire::new(move |_, _| answer.clone()).await;
        let failure = wire.failure(put()).await;
        for part in [
            &format!("HTTP {status}"),
            "nginx/1.25 (Debian)",
            "text/html; charset=utf-8",
            r#"<html>\u{1b}[31m no \"route\" x"#,
        ] {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
        assert!(failure.message.len() < 400, "{failure}");
        assert!(!failure.message.contains('\u{1b}'), "{failure}");
    }
}

#[tokio::test]
async fn s3s_own_word_buries_as_ever() {
    for (status, code) in [
        (403, "AccessDenied"),
        (404, "NoSuchBucket"),
        (400, "InvalidArgument"),
        (405, "MethodNotAllowed"),
        (400, "SomethingNewAboutThisRequest"),
    ] {
        let wire = Wire::new(move |_, _| error(status, code)).await;
        for operation in [put(), op::get(), op::list(10), op::delete()] {
            let failure = wire.failure(operation).await;
            assert_eq!((failure.class, failure.code.as_str()), (Permanent, code));
        }
        assert_eq!(wire.failures_in_a_row(), 0);
    }
}

/// What a HEAD's refusal comes to, when a GET of one byte is answered so.
async fn head_then(head: Vec<u8>, get: Vec<u8>) -> (FailureClass, String, usize) {
    let wire = Wire::new(move |request, _| match request.method.as_str() {
        "HEAD" => head.clone(),
        _ => get.clone(),
    })
    .await;
    let failure = wire.failure(op::head()).await;
    (failure.class, failure.code, wire.requests().len())
}

#[tokio::test]
async fn a_heads_404_counts_when_s3_gave_it_and_is_confirmed_when_nobody_says_who_did() {
    let bare = |status| reply(status, &[], "");
    let missing = || error(404, "NoSuchKey");
    let with_id = reply(404, &[ID], "");
    assert_eq!(
        head_then(with_id, missing()).await,
        (Permanent, "NotFound".into(), 1)
    );
    assert_eq!(
        head_then(bare(404), missing()).await,
        (Permanent, "NoSuchKey".into(), 2)
    );
    assert_eq!(
        head_then(bare(404), bare(404)).await,
        (Misrouted, "http_404".into(), 2)
    );
    assert_eq!(head_then(bare(403), bare(502)).await.0, Unavailable);
    // A delete marker, and a method that a proxy forbids.
    let marker = reply(405, &[ID, "x-amz-delete-marker: true"], "");
    assert_eq!(
        head_then(marker, missing()).await,
        (Permanent, "http_405".into(), 1)
    );
    assert_eq!(head_then(bare(405), bare(405)).await.0, Misrouted);
}

#[tokio::test]
async fn what_speaks_no_http_is_misrouted_too() {
    for greeting in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\u{15}\u{3}\u{1}\u{0}\u{2}\u{2}F\r\n\r\n",
    ] {
        let wire = Wire::new(move |_, _| greeting.as_bytes().to_vec()).await;
        let failure = wire.failure(put()).await;
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (Misrouted, "not_http"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn damage_on_the_way_is_tried_again() {
    for code in ["BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"] {
        let wire = Wire::new(move |_, _| error(400, code)).await;
        let failure = wire.failure(put()).await;
        assert_eq!(
            (failure.class, wire.requests().len()),
            (Unavailable, 3),
            "{code}"
        );
    }
}

#[tokio::test]
async fn an_error_inside_a_200_goes_by_its_code_and_is_throttled_without_a_known_one() {
    for (code, class) in [
        ("SlowDown", FailureClass::Throttled),
        ("InternalError", Unavailable),
        ("AccessDenied", Permanent),
        ("QuotaExceeded", Misrouted),
        ("Whatever", FailureClass::Throttled),
    ] {
        let answer = reply(200, &[ID], document(code, ""));
        let wire = Wire::new(move |_, _| answer.clone()).await;
        assert_eq!(wire.failure(put()).await.class, class, "{code}");
    }
}
