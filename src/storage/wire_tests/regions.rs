//! A bucket in another region is followed there, and remembered.

use super::{
    copy, delete_prefix, every_operation, put,
    server::{ID, Request, Wire, document, good, reply},
};
use crate::{
    job::{FailureClass::Misrouted, Operation},
    storage::script::op,
};

/// How stores say that the bucket is in eu-west-1.
fn hint(form: &str, request: &Request) -> Vec<u8> {
    let header = "x-amz-bucket-region: eu-west-1";
    match form {
        "header" => reply(301, &[ID, header], ""),
        _ if request.method == "HEAD" => reply(400, &[ID, header], ""),
        "region" => {
            let region = document("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>");
            reply(400, &[ID], region)
        }
        "endpoint" => {
            let endpoint = "<Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint>";
            reply(301, &[ID], document("PermanentRedirect", endpoint))
        }
        _ => {
            let location = "location: https://b.s3.eu-west-1.amazonaws.com/k";
            reply(307, &[ID, location], document("TemporaryRedirect", ""))
        }
    }
}

async fn store(form: &'static str) -> Wire {
    Wire::new(move |request, _| match request.region() {
        "eu-west-1" => good(request),
        _ => hint(form, request),
    })
    .await
}

fn misdirected(wire: &Wire) -> usize {
    let requests = wire.requests();
    requests
        .iter()
        .filter(|it| it.region() != "eu-west-1")
        .count()
}

#[tokio::test]
async fn every_operation_follows_its_bucket_whatever_form_the_hint_has() {
    for form in ["header", "region", "endpoint", "location"] {
        for operation in every_operation() {
            let wire = store(form).await;
            let name = format!("{form} {operation:?}");
            wire.run(operation)
                .await
                .unwrap_or_else(|stop| panic!("{name}: {stop:?}"));
            assert_eq!(wire.failures_in_a_row(), 0, "{name}");
        }
    }
}

#[tokio::test]
async fn a_region_is_asked_for_once_a_bucket_and_holds_for_all_lanes() {
    let wire = store("region").await;
    wire.run(put()).await.unwrap();
    assert_eq!(misdirected(&wire), 1);
    for operation in [
        put(),
        op::get(),
        op::head(),
        op::list(5),
        op::delete(),
        delete_prefix("p/"),
    ] {
        wire.run(operation).await.unwrap();
    }
    assert_eq!(misdirected(&wire), 1, "remembered");
    // The source is in a bucket of its own.
    wire.run(copy()).await.unwrap();
    assert_eq!(misdirected(&wire), 2);
}

#[tokio::test]
async fn following_is_no_attempt_of_the_job_s_and_costs_one_call() {
    let wire = store("header").await;
    let context = wire.context();
    let job = crate::storage::script::job(put());
    wire.storage.run(&job, &context).await.unwrap();
    let calls = context.calls.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((calls, wire.requests().len()), (2, 2));
}

#[tokio::test]
async fn a_store_that_sends_a_bucket_back_and_forth_is_left_after_three_calls() {
    let wire = Wire::new(|request, _| {
        let other = if request.region() == "a-1" {
            "b-1"
        } else {
            "a-1"
        };
        let region = format!("<Region>{other}</Region>");
        reply(
            400,
            &[ID],
            document("AuthorizationHeaderMalformed", &region),
        )
    })
    .await;
    let failure = wire.failure(put()).await;
    assert_eq!((failure.class, wire.requests().len()), (Misrouted, 3));
}

#[tokio::test]
async fn a_redirect_to_another_host_is_never_followed() {
    let elsewhere = Wire::new(|request, _| good(request)).await;
    let wire = Wire::new(|_, _| {
        let location = "location: http://127.0.0.1:1/b/k";
        reply(
            307,
            &[ID, location],
            document("TemporaryRedirect", "<Endpoint>127.0.0.1:1</Endpoint>"),
        )
    })
    .await;
    assert_eq!(wire.failure(put()).await.class, Misrouted);
    assert_eq!((wire.requests().len(), elsewhere.requests().len()), (1, 0));
}

#[tokio::test]
async fn an_upload_in_parts_and_a_batch_of_deletes_follow_too() {
    let parts = |request: &Request| {
        let xml = |xml: &str| reply(200, &[ID], xml);
        match request.method.as_str() {
            "POST" if request.target.contains("uploads") => xml(
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            ),
            "POST" if request.target.contains("uploadId") => xml(
                "<CompleteMultipartUploadResult><ETag>\"e-2\"</ETag></CompleteMultipartUploadResult>",
            ),
            "HEAD" => reply(200, &[ID, "etag: \"e-2\"", "content-length: 6291456"], ""),
            _ => good(request),
        }
    };
    let wire = Wire::new(move |request, _| match request.region() {
        "eu-west-1" => parts(request),
        _ => error_with_region(request),
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 6 << 20]).unwrap();
    let upload = op::upload(file.path(), crate::job::operation::PutOptions::default());
    wire.run(upload).await.unwrap();
    assert_eq!(
        (wire.count("PUT", "partNumber="), misdirected(&wire)),
        (2, 1)
    );
    let batch = Operation::DeleteObjects(crate::job::operation::DeleteObjects {
        bucket: "other".into(),
        keys: vec!["a".into(), "b".into()],
    });
    wire.run(batch).await.unwrap();
    assert_eq!((wire.count("POST", "/other"), misdirected(&wire)), (2, 2));
}

fn error_with_region(request: &Request) -> Vec<u8> {
    match request.method.as_str() {
        "HEAD" => reply(400, &[ID], ""),
        _ => hint("region", request),
    }
}
