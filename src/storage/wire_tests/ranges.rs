//! `Range` ignored, and answers with another range than was asked for.

use super::server::{ID, Wire, reply};
use crate::{
    job::{
        FailureClass::Unreadable,
        JobResult, Operation,
        operation::{Destination, GetObject},
    },
    storage::script::op,
};

/// The bytes a to z.
fn object() -> String {
    ('a'..='z').collect()
}

fn to_file(range: Option<&str>, path: &std::path::Path) -> Operation {
    Operation::GetObject(GetObject {
        bucket: "b".into(),
        key: "k".into(),
        range: range.map(str::to_owned),
        version_id: None,
        destination: Destination::File(path.to_owned()),
    })
}

/// What comes of a range as a reply, and as a file.
async fn both(range: Option<&str>, answer: Vec<u8>) -> Result<String, crate::job::FailureClass> {
    let wire = Wire::new(move |_, _| answer.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let class = |stop| match stop {
        crate::storage::Stop::Failed(failure) => failure.class,
        other => panic!("{other:?}"),
    };
    let reply = wire.run(op::get_range(range)).await.map_err(class);
    let file = wire.run(to_file(range, &path)).await.map_err(class);
    assert_eq!(reply.is_ok(), file.is_ok(), "{reply:?} {file:?}");
    let (reply, file) = (reply?, file?);
    let bytes = reply.body.unwrap().bytes;
    let written = std::fs::read(&path).unwrap();
    assert_eq!(bytes, written);
    for result in [reply.result, file.result] {
        let JobResult::Object { size, .. } = result else {
            panic!()
        };
        assert_eq!(size, bytes.len() as u64);
    }
    Ok(String::from_utf8(written).unwrap())
}

#[tokio::test]
async fn all_bytes_instead_of_a_range_are_cut_to_the_range() {
    let whole = || reply(200, &[ID, "etag: \"e\""], object());
    for (range, bytes) in [
        ("bytes=10-19", "klmnopqrst"),
        ("bytes=20-", "uvwxyz"),
        ("bytes=-3", "xyz"),
        ("bytes=0-0", "a"),
        ("bytes=24-99", "yz"),
    ] {
        assert_eq!(
            both(Some(range), whole()).await.as_deref(),
            Ok(bytes),
            "{range}"
        );
    }
    assert_eq!(both(Some("bytes=26-"), whole()).await, Err(Unreadable));
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_no_answer() {
    let part = |range: &str, body: &str| {
        reply(
            206,
            &[ID, "etag: \"e\"", &format!("content-range: {range}")],
            body,
        )
    };
    let wanted = Some("bytes=2-4");
    assert_eq!(
        both(wanted, part("bytes 2-4/26", "cde")).await.as_deref(),
        Ok("cde")
    );
    for (range, answer) in [
        (wanted, part("bytes 0-2/26", "abc")),
        (wanted, part("bytes 2-3/26", "cd")),
        (wanted, part("bytes 2-4/26", "cdefg")),
        (wanted, part("pages 1-2", "cde")),
        (None, part("bytes 0-2/26", "abc")),
    ] {
        assert_eq!(both(range, answer).await, Err(Unreadable), "{range:?}");
    }
}
