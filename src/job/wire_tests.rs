//! The contract's section 2 as tables: what decodes, what doesn't, and with which reason.

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::job::place::Origin;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn rules() -> Rules {
    Rules {
        max_message_bytes: 1 << 20,
        destination_roots: Roots::new("destinations.file_roots", vec!["/srv/out".into()]),
        source_roots: Roots::new("sources.file_roots", vec!["/srv/in".into()]),
        source_origins: Origins::new(vec![Origin::parse("cdn.example.com").unwrap()]),
    }
}

fn message(body: &Value) -> Message {
    Message {
        body: Bytes::from(body.to_string()),
        message_id: Some("job-1".to_owned()),
        ..Message::default()
    }
}

fn binary(job: &Value, body: &'static [u8]) -> Message {
    Message {
        body: Bytes::from_static(body),
        ..message(&json!({}))
    }
    .with_text(header::JOB, job.to_string())
}

fn lane_of(message: &Message) -> Lane {
    let job = message
        .text(header::JOB)
        .map_or(&message.body[..], str::as_bytes);
    let value: Value = serde_json::from_slice(job).unwrap_or_default();
    let name = value
        .get("operation")
        .and_then(Value::as_str)
        .and_then(OperationName::parse);
    name.map_or(Lane::Upload, OperationName::lane)
}

fn decoded(message: &Message) -> Result<Job, BadJob> {
    decode(message, lane_of(message), &rules(), NOW)
}

fn put(extra: Value) -> Value {
    let mut job = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
        "body": {"text": "hi"}});
    job.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    job
}

#[test]
fn every_operation_of_the_contract_decodes() {
    let jobs = [
        put(
            json!({"content_type": "text/markdown", "metadata": {"a": "b"}, "tags": {"t": "1"},
            "storage_class": "STANDARD", "cache_control": "no-store", "if_none_match": "*",
            "sha256": "ab".repeat(32), "from_the_future": {"x": [1]}}),
        ),
        put(json!({"body": {"base64": "aGk=", "text": null, "new": 1}})),
        put(json!({"version": 1.0, "content_type": null})),
        json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k",
            "range": "bytes=0-99", "version_id": "v", "destination": {"reply": {}}}),
        json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k",
            "destination": {"file": "/srv/out/a"}}),
        json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
            "source": {"file": "/srv/in/a"}, "storage_class": "STANDARD"}),
        json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
            "source": {"url": "https://cdn.example.com/a?sig=1"}, "if_none_match": "*"}),
        json!({"version": 1, "operation": "head_object", "bucket": "b", "key": "k"}),
        json!({"version": 1, "operation": "list_objects", "bucket": "b", "prefix": "p/",
            "delimiter": "/", "max_keys": 10000, "start_after": "p/a"}),
        json!({"version": 1, "operation": "delete_object", "bucket": "b", "key": "k"}),
        json!({"version": 1, "operation": "delete_objects", "bucket": "b", "keys": ["a", "b"]}),
        json!({"version": 1, "operation": "delete_prefix", "bucket": "b", "prefix": "p/"}),
        json!({"version": 1, "operation": "copy_object", "bucket": "b", "key": "k",
            "source": {"bucket": "c", "key": "l", "version_id": "v"}, "metadata": {"a": "b"},
            "expires": "2027-01-31T12:00:00Z", "object_lock": {"legal_hold": true},
            "expected_bucket_owner": "000000000001", "request_payer": "requester"}),
        json!({"version": 1, "operation": "put_object_tagging", "bucket": "b", "key": "k",
            "tags": {"team": "a", "empty": ""}, "version_id": "v"}),
    ];
    for job in jobs {
        let read = decoded(&message(&job)).unwrap_or_else(|bad| panic!("{job}: {bad:?}"));
        assert_eq!(read.operation.name().as_str(), job["operation"]);
        assert_eq!(read.operation.bucket(), "b");
    }
}

fn eleven_tags() -> Value {
    let tags = (0..11).map(|n| (format!("t{n}"), Value::from("x")));
    Value::Object(tags.collect())
}

#[test]
fn both_forms_carry_the_same_bytes() {
    let expect = |message: Message, content_type: Option<&str>| {
        let job = decoded(&message).unwrap();
        let Operation::PutObject(put) = job.operation else {
            panic!("no put: {job:?}")
        };
        assert_eq!(&put.body[..], b"hi");
        assert_eq!(put.options.headers.get("content-type"), content_type);
    };
    expect(message(&put(json!({}))), None);
    expect(
        message(&put(
            json!({"body": {"base64": "aGk="}, "content_type": "a/b"}),
        )),
        Some("a/b"),
    );
    let job = json!({"version": 1, "bucket": "b", "key": "k", "content_type": "a/b"});
    expect(binary(&job, b"hi"), Some("a/b"));
    expect(
        Message {
            content_type: Some("image/png".into()),
            ..binary(&job, b"hi")
        },
        Some("image/png"),
    );
}

#[test]
fn bad_messages_say_their_reason_and_name_the_field() {
    use DeadReason::{Malformed, Unsupported};
    let get = |extra: Value| {
        let mut job = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k"});
        job.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        job
    };
    let rows = [
        (json!([]), Malformed, "JSON object"),
        (json!("x"), Malformed, "JSON object"),
        (json!({}), Malformed, "version"),
        (put(json!({"version": null})), Malformed, "version"),
        (put(json!({"version": "1"})), Malformed, "version"),
        (put(json!({"version": 1.5})), Malformed, "version"),
        (put(json!({"version": 2})), Unsupported, "version 2"),
        (
            put(json!({"version": 2, "operation": 7, "key": ""})),
            Unsupported,
            "version 2",
        ),
        (put(json!({"operation": null})), Malformed, "operation"),
        (put(json!({"operation": 7})), Malformed, "operation"),
        (
            put(json!({"operation": "explode", "key": ""})),
            Unsupported,
            "explode",
        ),
        (
            put(json!({"operation": "copy_object"})),
            Malformed,
            "source is missing",
        ),
        (
            put(json!({"operation": "copy_object", "source": {"bucket": "b", "key": ""}})),
            Malformed,
            "source.key",
        ),
        (
            put(json!({"operation": "put_object_tagging"})),
            Malformed,
            "tags must hold 1 to 10 tags, but holds 0",
        ),
        (
            put(json!({"operation": "put_object_tagging", "tags": {}})),
            Malformed,
            "holds 0",
        ),
        (
            put(json!({"operation": "put_object_tagging", "tags": eleven_tags()})),
            Malformed,
            "holds 11",
        ),
        (
            put(json!({"operation": "put_object_tagging", "tags": {"a": 1}})),
            Malformed,
            "tags.a",
        ),
        (
            get(json!({"operation": "delete_prefix", "prefix": ""})),
            Malformed,
            "prefix",
        ),
        (put(json!({"bucket": null})), Malformed, "bucket is missing"),
        (put(json!({"bucket": ""})), Malformed, "bucket"),
        (put(json!({"bucket": "a/b"})), Malformed, "bucket"),
        (put(json!({"bucket": "x".repeat(256)})), Malformed, "bucket"),
        (put(json!({"bucket": 1})), Malformed, "bucket"),
        (put(json!({"key": ""})), Malformed, "key"),
        (
            put(json!({"key": "ä".repeat(513)})),
            Malformed,
            "1,024 bytes",
        ),
        (put(json!({"key": "a\0b"})), Malformed, "U+0000"),
        (
            put(json!({"future": {"deep": ["\0"]}})),
            Malformed,
            "U+0000",
        ),
        (put(json!({"body": null})), Malformed, "body is missing"),
        (
            put(json!({"body": "hi"})),
            Malformed,
            "body must be an object",
        ),
        (put(json!({"body": {}})), Malformed, "neither"),
        (
            put(json!({"body": {"text": "a", "base64": "aGk="}})),
            Malformed,
            "both",
        ),
        (put(json!({"body": {"base64": "a b"}})), Malformed, "base64"),
        (put(json!({"body": {"text": 7}})), Malformed, "body.text"),
        (
            put(json!({"content_type": "a\r\nb: c"})),
            Malformed,
            "line break",
        ),
        (
            put(json!({"metadata": {"a": "b\n"}})),
            Malformed,
            "metadata.a",
        ),
        (put(json!({"metadata": {"a": 1}})), Malformed, "metadata.a"),
        (put(json!({"metadata": ["a"]})), Malformed, "metadata"),
        (
            put(json!({"metadata": {"a": "b\tc"}})),
            Malformed,
            "metadata.a",
        ),
        (
            put(json!({"metadata": {"a": "\u{7f}"}})),
            Malformed,
            "metadata.a",
        ),
        (
            put(json!({"metadata": {"Name": "1", "name": "2"}})),
            Malformed,
            "Name and name",
        ),
        (
            put(json!({"metadata": {"a b": "1"}})),
            Malformed,
            "metadata",
        ),
        (
            put(json!({"metadata": {"größe": "1"}})),
            Malformed,
            "metadata",
        ),
        (put(json!({"metadata": {"": "1"}})), Malformed, "metadata"),
        (
            put(json!({"metadata": {"Brigade-Job": "x"}})),
            Malformed,
            "brigade-job",
        ),
        (put(json!({"tags": "a=b"})), Malformed, "tags"),
        (
            put(json!({"if_none_match": "etag"})),
            Malformed,
            "if_none_match",
        ),
        (put(json!({"sha256": "ab"})), Malformed, "sha256"),
        (put(json!({"sha256": "zz".repeat(32)})), Malformed, "sha256"),
        (get(json!({"range": "0-99"})), Malformed, "range"),
        (get(json!({"range": "bytes=9-1"})), Malformed, "range"),
        (get(json!({"range": "bytes=0-1,4-5"})), Malformed, "range"),
        (get(json!({"range": "bytes=-"})), Malformed, "range"),
        (get(json!({"version_id": ""})), Malformed, "version_id"),
        (
            get(json!({"operation": "list_objects", "max_keys": 0})),
            Malformed,
            "max_keys",
        ),
        (
            get(json!({"operation": "list_objects", "max_keys": 10001})),
            Malformed,
            "max_keys",
        ),
        (
            get(json!({"operation": "list_objects", "prefix": 1})),
            Malformed,
            "prefix",
        ),
        (
            get(json!({"operation": "delete_objects"})),
            Malformed,
            "keys is missing",
        ),
        (
            get(json!({"operation": "delete_objects", "keys": []})),
            Malformed,
            "keys",
        ),
        (
            get(json!({"operation": "delete_objects", "keys": ["a", ""]})),
            Malformed,
            "keys[1]",
        ),
        (
            get(json!({"operation": "delete_objects", "keys": ["a", 1]})),
            Malformed,
            "keys[1]",
        ),
        (
            get(json!({"operation": "delete_objects", "keys": vec!["k"; 10_001]})),
            Malformed,
            "10,000",
        ),
    ];
    for (job, reason, part) in rows {
        let bad = decoded(&message(&job)).expect_err(&job.to_string());
        assert_eq!(bad.reason, reason, "{job}: {}", bad.message);
        assert!(
            bad.message.contains(part),
            "{job}: {:?} lacks {part:?}",
            bad.message
        );
        assert_eq!(bad.known.id.as_ref().map(JobId::as_str), Some("job-1"));
    }
}

#[test]
fn the_envelope_is_checked_before_the_json() {
    let good = message(&put(json!({})));
    let rows = [
        (
            Message {
                message_id: None,
                ..good.clone()
            },
            "message_id is missing",
        ),
        (
            Message {
                message_id: Some(String::new()),
                ..good.clone()
            },
            "message_id",
        ),
        (
            Message {
                message_id: Some("a b".into()),
                ..good.clone()
            },
            "message_id",
        ),
        (
            Message {
                content_type: Some("text/plain".into()),
                ..good.clone()
            },
            "content_type",
        ),
        (
            Message {
                body: Bytes::from(vec![b' '; (1 << 20) + 1]),
                ..good.clone()
            },
            "max_message_bytes",
        ),
        (
            Message {
                body: Bytes::from_static(b"{\"version\": 1"),
                ..good.clone()
            },
            "JSON",
        ),
        (
            Message {
                body: Bytes::from_static(b"\xff\xfe"),
                ..good.clone()
            },
            "JSON",
        ),
        (
            Message {
                body: Bytes::new(),
                ..good.clone()
            },
            "JSON",
        ),
        (good.clone().with_count(header::JOB, 7), "brigade-job"),
        (good.clone().with_text(header::JOB, "{"), "brigade-job"),
        (binary(&put(json!({})), b"x"), "brigade-job"),
        (
            binary(
                &json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k"}),
                b"",
            ),
            "always put_object",
        ),
    ];
    for (message, part) in rows {
        let bad = decoded(&message).expect_err(part);
        assert_eq!(bad.reason, DeadReason::Malformed);
        assert!(
            bad.message.contains(part),
            "{:?} lacks {part:?}",
            bad.message
        );
    }
    let typed = |kind: &str| Message {
        content_type: Some(kind.into()),
        ..good.clone()
    };
    assert!(decoded(&typed("Application/JSON; charset=utf-8")).is_ok());
}

#[test]
fn a_good_job_in_the_wrong_queue_is_told_the_right_one_and_a_bad_one_its_first_fault() {
    let good = message(&put(json!({})));
    let bad = decode(&good, Lane::Cleanup, &rules(), NOW).unwrap_err();
    assert_eq!(bad.reason, DeadReason::WrongLane);
    assert!(bad.message.contains("lane upload"), "{}", bad.message);
    let worse = message(&put(json!({"key": ""})));
    assert_eq!(
        decode(&worse, Lane::Cleanup, &rules(), NOW)
            .unwrap_err()
            .reason,
        DeadReason::Malformed
    );
}

#[test]
fn our_own_headers_are_read_back() {
    let message = message(&put(json!({})))
        .with_count(header::ATTEMPTS, 6)
        .with_count(header::PARKS, 2)
        .with_count(header::REPLAY, 1)
        .with_text(header::FIRST_SEEN, "2026-01-01T00:00:00Z")
        .with_text(header::DEAD_AT, "2026-01-02T00:00:00Z");
    let carried = decoded(&message).unwrap().carried;
    assert_eq!((carried.attempts, carried.parks, carried.replay), (6, 2, 1));
    assert_eq!(
        carried.first_seen,
        Timestamp::parse_rfc3339("2026-01-01T00:00:00Z")
    );
    assert!(carried.was_dead);
}

#[test]
fn an_unbelievable_publish_time_is_ignored() {
    let secs = |secs| Timestamp::from_secs(secs);
    assert_eq!(believable(Some(1_799_999_000), NOW), secs(1_799_999_000));
    assert_eq!(believable(Some(1_800_080_000), NOW), secs(1_800_080_000));
    for bad in [
        None,
        Some(0),
        Some(946_684_799),
        Some(1_800_090_000),
        Some(u64::MAX),
    ] {
        assert_eq!(believable(bad, NOW), None, "{bad:?}");
    }
}

#[test]
fn a_glance_reads_what_it_can_of_any_message() {
    let known = glance(&message(
        &json!({"version": 9, "operation": "get_object", "bucket": "b", "key": 7}),
    ));
    assert_eq!(known.bucket.as_deref(), Some("b"));
    assert_eq!(known.operation, Some(OperationName::GetObject));
    assert_eq!(known.key, None);
    let known = glance(&binary(&json!({"bucket": "b", "key": "k"}), b"\xff"));
    assert_eq!(known.operation, Some(OperationName::PutObject));
    assert_eq!(known.key.as_deref(), Some("k"));
    let nonsense = Message {
        body: Bytes::from_static(b"\xff{"),
        ..Message::default()
    };
    assert_eq!(glance(&nonsense), Known::default());
}

#[path = "wire_forms_tests.rs"]
mod forms;
#[path = "wire_names_tests.rs"]
mod names;
#[path = "wire_place_tests.rs"]
mod places;
#[path = "wire_round_trip_tests.rs"]
mod round_trip;
