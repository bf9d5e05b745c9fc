//! A good answer that can't be parsed is about that object, not about S3; what can be had of it is given.

use super::{
    copy,
    server::{ID, Wire, good, reply, reply_bytes},
};
use crate::{
    job::{
        FailureClass::{Misrouted, Unreadable},
        JobResult, Operation,
        operation::PutOptions,
    },
    storage::script::op,
};

const ETAG: &[u8] = b"etag: \"e\"";

/// An object of five bytes with these headers.
async fn object(headers: &'static [&'static [u8]]) -> Wire {
    Wire::new(move |request, _| {
        let mut all = vec![ID.as_bytes(), ETAG];
        all.extend_from_slice(headers);
        if request.method == "HEAD" {
            all.push(b"content-length: 5");
            return reply_bytes(200, &all, "");
        }
        reply_bytes(200, &all, "hello")
    })
    .await
}

#[tokio::test]
async fn metadata_in_latin_1_is_read_and_opens_no_circuit() {
    let wire = object(&[b"x-amz-meta-name: gro\xdf.jpg"]).await;
    for _ in 0..10 {
        let done = wire.run(op::head()).await.unwrap();
        assert_eq!(done.result.to_json()["metadata"]["name"], "groß.jpg");
    }
    let done = wire.run(op::get()).await.unwrap();
    assert_eq!(done.body.unwrap().bytes, "hello");
    assert_eq!(wire.failures_in_a_row(), 0);
}

#[tokio::test]
async fn junk_in_a_header_that_a_result_does_without_costs_only_that_header() {
    for (header, field) in [
        (&b"last-modified: the day before"[..], "last_modified"),
        (
            b"last-modified: Tue, 24 Nov 2026 10:00:00 GMT\r\nlast-modified: x",
            "",
        ),
        (b"x-amz-missing-meta: many", ""),
        (b"x-amz-object-lock-retain-until-date: never", ""),
        (b"x-amz-delete-marker: nope", ""),
        (b"content-type: text/pl\xe4in", ""),
        (b"x-amz-version-id: \xff\xfe", ""),
        (b"expires: when it suits", ""),
    ] {
        let headers: &'static [&'static [u8]] = Box::leak(Box::new([header]));
        let wire = object(headers).await;
        for operation in [op::head(), op::get()] {
            let done = wire.run(operation).await.unwrap();
            let JobResult::Object { size, .. } = done.result else {
                panic!()
            };
            assert_eq!(size, 5);
            if !field.is_empty() {
                assert_eq!(done.result.to_json()[field], serde_json::Value::Null);
            }
        }
    }
}

#[tokio::test]
async fn what_can_t_be_read_names_its_header_and_says_nothing_of_s3() {
    let wire = object(&[b"x-amz-tagging-count: several"]).await;
    for _ in 0..10 {
        let failure = wire.failure(op::head()).await;
        assert_eq!(failure.class, Unreadable, "{failure}");
        assert!(failure.message.contains("x-amz-tagging-count"), "{failure}");
    }
    assert_eq!(wire.failures_in_a_row(), 0);
    assert_eq!(wire.requests().len(), 20, "once more each");
    // Such a header no client takes: hyper gives up before anybody can look.
    let wire = object(&[b"x-amz-meta-a: b\x01c"]).await;
    let failure = wire.failure(op::get()).await;
    assert_eq!(
        (failure.class, wire.failures_in_a_row()),
        (Unreadable, 0),
        "{failure}"
    );
}

#[tokio::test]
async fn a_list_with_an_odd_date_is_a_list_all_the_same() {
    let entry = |key: &str, date: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>{date}</LastModified><Size>1</Size></Contents>"
        )
    };
    let entries = [
        entry("a", "2026-11-24T10:00:00.000Z"),
        entry("b", "last week"),
        entry("c", "2026-11-24 10:00:00"),
    ];
    let list = format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
        entries.concat()
    );
    let wire = Wire::new(move |_, _| reply(200, &[ID], &list)).await;
    let list = wire.run(op::list(10)).await.unwrap().result.to_json();
    assert_eq!(list["keys"].as_array().unwrap().len(), 3);
    assert_eq!(list["keys"][1]["last_modified"], serde_json::Value::Null);
    assert!(
        list["keys"][2]["last_modified"]
            .as_str()
            .unwrap()
            .starts_with("2026-11-24T10:00:00")
    );
}

#[tokio::test]
async fn an_odd_date_in_a_copy_s_answer_takes_nothing_from_its_success() {
    let wire = Wire::new(|request, _| match request.method.as_str() {
        "PUT" => reply(
            200,
            &[ID],
            "<CopyObjectResult><LastModified>now</LastModified><ETag>\"c\"</ETag></CopyObjectResult>",
        ),
        _ => good(request),
    })
    .await;
    assert_eq!(
        wire.run(copy()).await.unwrap().result.to_json()["etag"],
        "\"c\""
    );
}

#[tokio::test]
async fn an_answer_in_no_xml_is_s3s_trouble_with_one_thing_or_not_s3() {
    for (headers, class) in [(&[ID][..], Unreadable), (&[], Misrouted)] {
        let wire = Wire::new(move |_, _| reply(200, headers, "{}")).await;
        assert_eq!(wire.failure(op::list(5)).await.class, class);
    }
}

fn put_named(value: &str) -> Operation {
    let options = PutOptions {
        metadata: [("name".to_owned(), value.to_owned())].into(),
        ..PutOptions::default()
    };
    op::put(options)
}

#[tokio::test]
async fn metadata_beyond_ascii_travels_as_aws_documents_it_and_comes_back_as_it_was() {
    let names = [
        "größe",
        "a\u{a0}b",
        "日本語 ".repeat(30).trim().to_owned().leak(),
        " spaced  out ",
        "=?x?=",
        "plain",
    ];
    for name in names {
        let wire = Wire::new(|request, _| match request.method.as_str() {
            "PUT" => {
                let sent = request.header("x-amz-meta-name").unwrap();
                assert!(sent.is_ascii(), "{sent}");
                good(request)
            }
            _ => reply(200, &[ID, "etag: \"e\"", "content-length: 5"], ""),
        })
        .await;
        wire.run(put_named(name)).await.unwrap();
        let sent = wire.requests()[0]
            .header("x-amz-meta-name")
            .unwrap()
            .to_owned();
        let header: &'static str = format!("x-amz-meta-name: {sent}").leak();
        let headers: &'static [&'static [u8]] = Box::leak(Box::new([header.as_bytes()]));
        let read = object(headers).await.run(op::head()).await.unwrap();
        assert_eq!(read.result.to_json()["metadata"]["name"], name);
    }
    // As AWS gives it back, and as an older worker wrote it.
    for header in [
        &b"x-amz-meta-name: =?UTF-8?Q?gr=C3=B6=C3=9Fe?="[..],
        "x-amz-meta-name: größe".as_bytes(),
    ] {
        let headers: &'static [&'static [u8]] = Box::leak(Box::new([header]));
        let read = object(headers).await.run(op::get()).await.unwrap();
        assert_eq!(read.result.to_json()["metadata"]["name"], "größe");
    }
}
