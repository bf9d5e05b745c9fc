//! No success without its proof, operation by operation.

use super::{
    copy, put,
    server::{ID, Wire, good, reply},
    tag,
};
use crate::{
    job::{
        FailureClass::{self, Misrouted, Unreadable},
        JobResult,
    },
    storage::{Done, script::op},
};

/// S3 says 200 with its id, and nothing more.
async fn hollow() -> Wire {
    Wire::new(|_, _| reply(200, &[ID], "")).await
}

#[tokio::test]
async fn a_200_that_proves_nothing_is_no_success_and_is_asked_once_more() {
    for (operation, lacks, calls) in [
        (put(), "ETag", 2),
        (op::list(5), "can't be parsed", 2),
        (super::delete_prefix("p/"), "can't be parsed", 2),
    ] {
        let wire = hollow().await;
        let failure = wire.failure(operation.clone()).await;
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (Unreadable, "response_unreadable")
        );
        assert!(failure.message.contains(lacks), "{operation:?}: {failure}");
        assert_eq!(wire.requests().len(), calls, "{operation:?}");
        assert_eq!(wire.failures_in_a_row(), 0, "neutral");
    }
}

#[tokio::test]
async fn a_copy_without_its_result_copied_nothing() {
    for body in ["", "<CopyObjectResult></CopyObjectResult>"] {
        let wire = Wire::new(move |request, _| match request.method.as_str() {
            "PUT" => reply(200, &[ID], body),
            _ => good(request),
        })
        .await;
        let failure = wire.failure(copy()).await;
        assert_eq!(failure.class, Unreadable, "{failure}");
        assert!(failure.message.contains("CopyObjectResult"), "{failure}");
        assert_eq!(
            wire.attempts("copy_object", Unreadable),
            2,
            "seen in the metric"
        );
    }
}

#[tokio::test]
async fn a_head_and_a_get_must_come_from_s3_and_a_head_must_have_a_length() {
    let wire = Wire::new(|_, _| {
        let raw = reply(
            200,
            &[
                ID,
                "etag: \"e\"",
                "transfer-encoding: chunked",
                "content-length: 0",
            ],
            "",
        );
        let text = String::from_utf8(raw).unwrap();
        text.replace("content-length: 0\r\n", "").into_bytes()
    })
    .await;
    let failure = wire.failure(op::head()).await;
    assert_eq!(failure.class, Unreadable, "{failure}");
    assert!(failure.message.contains("Content-Length"), "{failure}");
    let wire = Wire::new(|_, _| {
        reply(
            200,
            &["last-modified: Tue, 24 Nov 2026 10:00:00 GMT"],
            "page",
        )
    })
    .await;
    for operation in [op::get(), op::head(), op::get_range(Some("bytes=0-1"))] {
        assert_eq!(wire.failure(operation).await.class, Misrouted);
    }
}

#[tokio::test]
async fn an_empty_answer_to_a_delete_or_to_tags_counts_when_s3_or_nobody_else_gave_it() {
    for (answer, class) in [
        (reply(204, &[], ""), None),
        (reply(200, &[ID], ""), None),
        (
            reply(200, &["content-type: text/html"], "<html>"),
            Some(Misrouted),
        ),
        (reply(200, &[], ""), Some(Misrouted)),
    ] {
        let wire = Wire::new(move |_, _| answer.clone()).await;
        for operation in [op::delete(), tag()] {
            let end = wire.run(operation.clone()).await;
            let got = end.err().map(|stop| match stop {
                crate::storage::Stop::Failed(failure) => failure.class,
                other => panic!("{other:?}"),
            });
            assert_eq!(got, class, "{operation:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_whose_answer_names_no_key_is_split_until_keys_are_deleted_alone() {
    let wire = Wire::new(|request, _| match request.method.as_str() {
        "POST" => reply(200, &[ID], "<DeleteResult></DeleteResult>"),
        _ => good(request),
    })
    .await;
    let done = wire.run(op::delete_many(&["a", "b", "c"])).await.unwrap();
    assert!(
        matches!(done.result, JobResult::DeletedMany { deleted: 3, .. }),
        "{done:?}"
    );
    assert_eq!(wire.count("DELETE", "/b/"), 3);
}

#[tokio::test]
async fn a_store_without_etags_is_a_setting_and_a_page_is_still_no_put() {
    let without = |answer: Vec<u8>| {
        Wire::with(
            |settings| settings.require_etag = false,
            move |_, _| answer.clone(),
        )
    };
    let wire = without(reply(200, &[], "")).await;
    let Done { result, .. } = wire.run(put()).await.unwrap();
    assert!(
        matches!(result, JobResult::Stored { etag: None, .. }),
        "{result:?}"
    );
    wire.run(tag()).await.unwrap();
    let wire = without(reply(200, &["content-type: text/html"], "<html>")).await;
    assert_eq!(wire.failure(put()).await.class, Misrouted);
}

/// S3 stores what it got with one byte changed, and says which MD5 that has.
async fn damaging(times: usize, more: &'static str) -> Wire {
    Wire::new(move |request, number| {
        let (md5, body) = match number < times {
            true => ("4f3d1e2c0b5a69788796a5b4c3d2e1f0", "hellO"),
            false => ("5d41402abc4b2a76b9719d911017c592", "hello"),
        };
        let etag = format!("etag: \"{md5}\"");
        let etag_then = "etag: \"4f3d1e2c0b5a69788796a5b4c3d2e1f0\"";
        match request.method.as_str() {
            "PUT" if more.is_empty() => reply(200, &[ID, &etag], ""),
            "PUT" => reply(200, &[ID, &etag, more], ""),
            _ => reply(
                200,
                &[ID, etag_then],
                if times == usize::MAX { "hello" } else { body },
            ),
        }
    })
    .await
}

#[tokio::test]
async fn an_etag_that_is_not_the_md5_of_what_was_sent_is_looked_at_and_tried_again() {
    // Put, look, put.
    let wire = damaging(2, "").await;
    let done = wire.run(put()).await.unwrap();
    let JobResult::Stored { etag, .. } = done.result else {
        panic!()
    };
    assert_eq!(
        etag.as_deref(),
        Some("\"5d41402abc4b2a76b9719d911017c592\"")
    );
    assert_eq!(
        (wire.count("PUT", "/b/k"), wire.count("GET", "/b/k")),
        (2, 1)
    );
}

#[tokio::test]
async fn a_store_whose_etags_only_look_like_md5_is_asked_once_and_believed() {
    let wire = damaging(usize::MAX, "").await;
    wire.run(put()).await.unwrap();
    wire.run(put()).await.unwrap();
    assert_eq!(
        (wire.count("PUT", "/b/k"), wire.count("GET", "/b/k")),
        (2, 1)
    );
    // With a key of KMS, an ETag is no MD5, and nothing is asked.
    let wire = damaging(usize::MAX, "x-amz-server-side-encryption: aws:kms").await;
    wire.run(put()).await.unwrap();
    assert_eq!(wire.requests().len(), 1);
}

#[tokio::test]
async fn an_etag_has_its_quotes_in_every_result() {
    let wire = Wire::new(|request, _| {
        let xml = |xml: &str| reply(200, &[ID], xml);
        match request.method.as_str() {
            "PUT" if request.header("x-amz-copy-source").is_some() => {
                xml("<CopyObjectResult><ETag>e1</ETag></CopyObjectResult>")
            }
            "GET" if request.target.contains("list-type") => {
                xml("<ListBucketResult><IsTruncated>false</IsTruncated>\
                    <Contents><Key>k</Key><ETag>e1</ETag></Contents></ListBucketResult>")
            }
            "HEAD" => reply(200, &[ID, "etag: e1", "content-length: 5"], ""),
            _ => reply(200, &[ID, "etag: e1"], "hello"),
        }
    })
    .await;
    for operation in [put(), copy(), op::get(), op::head()] {
        let done = wire.run(operation).await.unwrap();
        assert_eq!(done.result.to_json()["etag"], "\"e1\"");
    }
    let done = wire.run(op::list(5)).await.unwrap();
    assert_eq!(done.result.to_json()["keys"][0]["etag"], "\"e1\"");
}

#[tokio::test]
async fn a_missing_source_of_a_copy_is_named_as_everywhere_else() {
    for code in ["NoSuchKey", "NoSuchBucket"] {
        let wire = Wire::new(move |request, _| match request.method.as_str() {
            "HEAD" => reply(404, &[ID], ""),
            _ => super::server::error(404, code),
        })
        .await;
        let failure = wire.failure(copy()).await;
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (FailureClass::Permanent, code)
        );
        assert_eq!(wire.count("PUT", ""), 0);
    }
}
