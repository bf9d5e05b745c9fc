//! Keys and their echoes: only what came whole from a list is deleted, and an echo in another form is no failure.

use std::collections::BTreeSet;

use super::{
    delete_prefix,
    server::{ID, Wire, good, reply},
};
use crate::{
    job::{FailureClass::Unreadable, JobResult},
    storage::script::op,
};

const OLD: &str = "<LastModified>2026-03-20T09:00:00.000Z</LastModified>";

/// A bucket whose list has these keys, as they stand in the XML.
async fn listed(encoding: &'static str, keys: &'static [&'static str]) -> Wire {
    Wire::new(move |request, _| {
        if !request.target.contains("list-type=2") {
            return good(request);
        }
        let entries = keys.iter().map(|key| format!("<Contents><Key>{key}</Key>{OLD}</Contents>"));
        let entries: String = entries.collect();
        let list = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{encoding}{entries}</ListBucketResult>");
        reply(200, &[ID], list)
    })
    .await
}

/// The keys that S3 was told to delete, as XML has them, or paths.
fn deleted(wire: &Wire) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for request in wire.requests() {
        if request.method == "DELETE" {
            let path = request.target.split('?').next().unwrap();
            keys.insert(path.trim_start_matches("/b/").to_owned());
        }
        let text = request.text();
        let in_body = text
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split_once("</Key>"));
        keys.extend(in_body.map(|(key, _)| key.to_owned()));
    }
    keys
}

#[tokio::test]
async fn a_key_that_is_read_in_part_deletes_nothing_and_leaves_the_job_undone() {
    for odd in [
        "p/<![CDATA[a]]>",
        "<![CDATA[p/]]>a",
        "p/<!-- a -->b",
        "",
        "other/a",
        "P/a",
    ] {
        let keys: &'static [&'static str] = Box::leak(Box::new(["p/first", odd, "p/last"]));
        let wire = listed("", keys).await;
        let failure = wire.failure(delete_prefix("p/")).await;
        assert_eq!(failure.class, Unreadable, "{odd}: {failure}");
        let wanted: BTreeSet<_> = ["p/first", "p/last"].map(str::to_owned).into();
        assert_eq!(deleted(&wire), wanted, "{odd}");
    }
}

#[tokio::test]
async fn a_key_that_is_one_section_is_a_key() {
    let encoding = "<EncodingType>url</EncodingType>";
    let wire = listed(encoding, &["<![CDATA[p/a%26b]]>", "p/c"]).await;
    let done = wire.run(delete_prefix("p/")).await.unwrap();
    assert!(
        matches!(
            done.result,
            JobResult::DeletedPrefix {
                deleted: 2,
                spared: 0,
                ..
            }
        ),
        "{done:?}"
    );
    assert_eq!(
        deleted(&wire),
        ["p/a&amp;b", "p/c"].map(str::to_owned).into()
    );
    let done = wire.run(op::list(10)).await.unwrap();
    assert_eq!(done.result.to_json()["keys"][0]["key"], "p/a&b");
}

#[tokio::test]
async fn a_list_for_a_reader_has_whole_keys_or_fails() {
    for odd in ["p/<![CDATA[a]]>", ""] {
        let keys: &'static [&'static str] = Box::leak(Box::new(["p/first", odd]));
        let wire = listed("", keys).await;
        assert_eq!(wire.failure(op::list(10)).await.class, Unreadable, "{odd}");
    }
}

#[tokio::test]
async fn an_echo_in_another_normal_form_is_settled_by_a_delete_of_that_key_alone() {
    // The store answers in NFC what was asked for in NFD.
    let (nfd, nfc) = ("cafe\u{301}", "caf\u{e9}");
    let wire = Wire::new(move |request, _| match request.method.as_str() {
        "POST" => reply(200, &[ID], {
            let keys =
                format!("<Deleted><Key>a</Key></Deleted><Deleted><Key>{nfc}</Key></Deleted>");
            format!("<DeleteResult>{keys}</DeleteResult>")
        }),
        _ => good(request),
    })
    .await;
    let done = wire.run(op::delete_many(&["a", nfd])).await.unwrap();
    assert!(
        matches!(done.result, JobResult::DeletedMany { deleted: 2, .. }),
        "{done:?}"
    );
    assert_eq!(
        (
            wire.count("POST", "delete"),
            wire.count("DELETE", "/b/cafe%CC%81")
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn one_key_without_an_answer_keeps_no_other_from_being_tried() {
    // 2,500 keys in three calls; nothing ever says anything of the first.
    let wire = Wire::new(|request, _| match request.method.as_str() {
        "POST" => {
            let body = String::from_utf8(good(request)).unwrap();
            let (_, xml) = body.split_once("\r\n\r\n").unwrap();
            reply(
                200,
                &[ID],
                xml.replace("<Deleted><Key>k0</Key></Deleted>", ""),
            )
        }
        "DELETE" => reply(200, &[ID, "x-amz-version-id: \u{1}"], ""),
        _ => good(request),
    })
    .await;
    let keys: Vec<_> = (0..2500).map(|number| format!("k{number}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let failure = wire.failure(op::delete_many(&keys)).await;
    assert_eq!(failure.class, Unreadable, "{failure}");
    assert_eq!(wire.count("POST", "delete"), 3, "all were tried");
}
