use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::job::{
    HeaderValue, Lane, Message, OperationName, Timestamp,
    message::header,
    place::{Origin, Origins, Roots},
    wire::{Rules, decode},
};

fn digest_of(message: &Message) -> RequestDigest {
    let rules = Rules {
        max_message_bytes: 1_000_000,
        destination_roots: Roots::new("d", vec!["/data".into()]),
        source_roots: Roots::new("s", vec!["/data".into()]),
        source_origins: Origins::new(vec![Origin::parse("cdn.example.com").unwrap()]),
    };
    let json = match message.text(header::JOB) {
        Some(text) => serde_json::from_str(text).unwrap(),
        None => serde_json::from_slice::<Value>(&message.body).unwrap(),
    };
    let name = json["operation"].as_str().and_then(OperationName::parse);
    let lane = name.map_or(Lane::Upload, OperationName::lane);
    let job = decode(message, lane, &rules, Timestamp::from_micros(0)).unwrap();
    assert_eq!(job.digest, RequestDigest::of(&job.operation, &job.headers));
    job.digest
}

fn json_form(text: &str) -> Message {
    Message {
        message_id: Some("j".to_owned()),
        body: text.to_owned().into(),
        ..Message::default()
    }
}

fn with(base: &Value, more: &Value) -> Value {
    let mut both = base.clone();
    for (name, value) in more.as_object().unwrap() {
        both[name] = value.clone();
    }
    both
}

#[test]
fn a_put_has_one_digest_in_every_form() {
    let text = json_form(
        r#"{"version":1,"operation":"put_object","bucket":"b","key":"k","body":{"text":"h\u0069 ä"},
        "content_type":"text/plain","metadata":{"a":"1","b":"2"},"tags":{}}"#,
    );
    let base64 = json_form(
        r#" { "metadata":{"b":"2","a":"1"}, "content_type":"text/plain", "body":{"base64":"aGkgw6Q=", "text":null},
        "key":"k", "bucket":"b", "operation":"put_object", "version":1.0, "sha256":null, "if_none_match":null,
        "of_tomorrow": [1]}"#,
    );
    let mut binary = Message {
        content_type: Some("text/plain".to_owned()),
        reply_to: Some("somewhere".to_owned()),
        timestamp: Some(1_700_000_000),
        ..json_form("hi ä")
    };
    let head =
        r#"{"version":1,"bucket":"b","key":"k","metadata":{"a":"1","b":"2"},"content_type":"x/y"}"#;
    let head = HeaderValue::Text(head.to_owned());
    binary.headers.insert(header::JOB.to_owned(), head);
    let digests = [text, base64, binary].map(|message| digest_of(&message));
    assert_eq!(digests, [digests[0]; 3]);
}

/// Each line is another request than all the others.
#[test]
fn everything_that_a_job_asks_for_is_in_its_digest() {
    let put = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k", "body": {"text": "t"}});
    let get = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k"});
    let list = json!({"version": 1, "operation": "list_objects", "bucket": "b"});
    let copy = json!({"version": 1, "operation": "copy_object", "bucket": "b", "key": "k",
        "source": {"bucket": "b", "key": "s"}});
    let tagging = json!({"version": 1, "operation": "put_object_tagging", "bucket": "b", "key": "k", "tags": {"a": "1"}});
    let upload = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
        "source": {"file": "/data/x"}});
    let delete =
        json!({"version": 1, "operation": "delete_objects", "bucket": "b", "keys": ["k", "l"]});
    let one = |operation: &str| with(&get, &json!({"operation": operation}));
    let requests = [
        put.clone(),
        with(&put, &json!({"bucket": "c"})),
        with(&put, &json!({"key": "l"})),
        with(&put, &json!({"body": {"text": ""}})),
        with(&put, &json!({"body": {"text": "u"}})),
        with(&put, &json!({"content_type": "text/plain"})),
        with(&put, &json!({"metadata": {"a": "1"}})),
        with(&put, &json!({"tags": {"a": "1"}})),
        with(&put, &json!({"storage_class": "GLACIER"})),
        with(&put, &json!({"cache_control": "no-store"})),
        with(&put, &json!({"acl": "private"})),
        with(&put, &json!({"server_side_encryption": {"type": "AES256"}})),
        with(&put, &json!({"expected_bucket_owner": "000000000001"})),
        with(&put, &json!({"request_payer": "requester"})),
        with(&put, &json!({"if_none_match": "*"})),
        with(
            &put,
            &json!({"sha256": "e3b98a4da31a127d4bde6e43033f66ba274cab0eb7eb1c70ec41402bf6273dd8"}),
        ),
        get.clone(),
        with(&get, &json!({"range": "bytes=0-9"})),
        with(&get, &json!({"version_id": "v"})),
        with(&get, &json!({"destination": {"file": "/data/x"}})),
        one("head_object"),
        with(&one("head_object"), &json!({"version_id": "v"})),
        one("delete_object"),
        with(&one("delete_object"), &json!({"version_id": "v"})),
        list.clone(),
        with(&list, &json!({"prefix": "p"})),
        with(&list, &json!({"delimiter": "/"})),
        with(&list, &json!({"max_keys": 7})),
        with(&list, &json!({"start_after": "p"})),
        copy.clone(),
        with(&copy, &json!({"source": {"bucket": "c", "key": "s"}})),
        with(&copy, &json!({"source": {"bucket": "b", "key": "t"}})),
        with(
            &copy,
            &json!({"source": {"bucket": "b", "key": "s", "version_id": "v"}}),
        ),
        with(&copy, &json!({"metadata": {"a": "1"}})),
        with(&copy, &json!({"content_type": "text/plain"})),
        with(&get, &json!({"request_payer": "requester"})),
        tagging.clone(),
        with(&tagging, &json!({"tags": {"a": "2"}})),
        with(&tagging, &json!({"version_id": "v"})),
        upload.clone(),
        with(&upload, &json!({"source": {"file": "/data/y"}})),
        with(
            &upload,
            &json!({"source": {"url": "https://cdn.example.com/x"}}),
        ),
        with(&upload, &json!({"content_type": "text/plain"})),
        delete.clone(),
        with(&delete, &json!({"keys": ["l", "k"]})),
        with(&delete, &json!({"keys": ["kl"]})),
        json!({"version": 1, "operation": "delete_prefix", "bucket": "b", "prefix": "k"}),
    ];
    let mut seen = HashMap::new();
    for request in requests {
        let digest = digest_of(&json_form(&request.to_string()));
        if let Some(other) = seen.insert(digest, request.clone()) {
            panic!("{request} has the digest of {other}");
        }
    }
    // What the contract takes for the same as absent.
    for (same, request) in [
        (with(&get, &json!({"destination": {"reply": {}}})), get),
        (
            with(&list, &json!({"max_keys": 1_000, "delimiter": ""})),
            list,
        ),
        (with(&put, &json!({"metadata": {}, "version": 1.0})), put),
    ] {
        let digests = [same, request].map(|json| digest_of(&json_form(&json.to_string())));
        assert_eq!(digests[0], digests[1]);
    }
}

/// Rows of older versions hold these.
#[test]
fn a_digest_is_the_same_in_every_version() {
    let put = json_form(
        r#"{"version":1,"operation":"put_object","bucket":"reports","key":"a","body":{"text":"hello"},"tags":{"a":"1"}}"#,
    );
    let list =
        json_form(r#"{"version":1,"operation":"list_objects","bucket":"reports","prefix":"p/"}"#);
    let digests = [put, list].map(|message| digest_of(&message).to_string());
    assert_eq!(
        digests,
        [
            "1acc0f9f8190e71f2b785a9a57b48029",
            "bccf2fa97eae70880cbb5c41c41c7a13"
        ]
    );
}
