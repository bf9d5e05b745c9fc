//! Fields that this version does not know: named for a worker, refused for our own tools.

use super::*;

fn ignored(message: &Message) -> Vec<String> {
    decoded(message).unwrap().ignored
}

fn refused(job: &Value) -> String {
    let message = message(job);
    let bad = decode_strictly(&message, lane_of(&message), &rules(), NOW).unwrap_err();
    assert_eq!(bad.reason, DeadReason::Malformed);
    bad.message
}

fn on_key(operation: &str, extra: &Value) -> Value {
    let mut job = json!({"version": 1, "operation": operation, "bucket": "b", "key": "k"});
    let extra = extra.as_object().unwrap().clone();
    job.as_object_mut().unwrap().extend(extra);
    job
}

#[test]
fn unknown_fields_are_named_at_every_depth() {
    let table = [
        (put(json!({})), &[][..]),
        (
            put(json!({"metadata": {"any": "x"}, "tags": {"any": "x"}, "nothing": null})),
            &[],
        ),
        (
            put(json!({"contentType": "x", "acl2": {"b": 1}})),
            &["acl2", "contentType"],
        ),
        (
            put(json!({"body": {"text": "t", "charset": "x", "base64": null}})),
            &["body.charset"],
        ),
        (
            on_key(
                "upload_fileobj",
                &json!({"source": {"file": "/srv/in/a", "size": 7}, "keys": []}),
            ),
            &["keys", "source.size"],
        ),
        (
            on_key(
                "copy_object",
                &json!({"source": {"bucket": "b", "key": "s", "etag": "e"}}),
            ),
            &["source.etag"],
        ),
        (
            on_key(
                "get_object",
                &json!({"destination": {"reply": {"queue": "q"}, "tape": 1}}),
            ),
            &["destination.reply.queue", "destination.tape"],
        ),
        (
            on_key("head_object", &json!({"range": "bytes=0-1"})),
            &["range"],
        ),
    ];
    for (job, names) in table {
        assert_eq!(ignored(&message(&job)), names, "{job}");
    }
    let binary = binary(
        &json!({"version": 1, "bucket": "b", "key": "k", "ttl": 3}),
        b"x",
    );
    assert_eq!(ignored(&binary), ["ttl"]);
}

#[test]
fn names_are_bounded_in_number_and_length_and_may_be_shown_anywhere() {
    let many = (0..1_000).map(|number| (format!("x{number:04}"), json!(1)));
    let names = ignored(&message(&put(Value::Object(many.collect()))));
    assert_eq!(names.len(), 16);
    assert_eq!(names[15], "x0015");
    let mut odd = serde_json::Map::new();
    odd.insert("ä".repeat(500), json!(1));
    odd.insert("\u{1b}[2Jx\n".to_owned(), json!(1));
    let names = ignored(&message(&put(Value::Object(odd))));
    assert_eq!(
        names,
        ["ä".repeat(100) + "…", "\u{fffd}[2Jx\u{fffd}".to_owned()]
    );
}

#[test]
fn our_own_tools_refuse_what_they_do_not_know_and_say_what_was_meant() {
    let table = [
        (
            put(json!({"contentType": "text/plain"})),
            "field contentType is not known; did you mean content_type?",
        ),
        (
            put(json!({"body": {"text": "t", "bsae64": "x"}})),
            "field body.bsae64 is not known; did you mean body.base64?",
        ),
        (put(json!({"zzzzzz": 1})), "field zzzzzz is not known"),
        (
            put(json!({"a": 1, "tagz": {}})),
            "field a is not known, field tagz is not known; did you mean tags?",
        ),
        // Before the worker's settings are asked.
        (
            on_key(
                "upload_fileobj",
                &json!({"source": {"file": "/etc/passwd"}, "Tags": {}}),
            ),
            "field Tags is not known; did you mean tags?",
        ),
    ];
    for (job, expected) in table {
        assert_eq!(refused(&job), expected);
    }
    let known = message(&put(json!({"content_type": "text/plain", "later": null})));
    assert_eq!(
        decode_strictly(&known, Lane::Upload, &rules(), NOW),
        decoded(&known)
    );
}

#[test]
fn a_missing_field_is_told_with_the_one_that_looks_like_it() {
    let job = json!({"version": 1, "operation": "head_object", "bukcet": "b", "key": "k"});
    let bad = decoded(&message(&job)).unwrap_err();
    assert_eq!(bad.message, "field bucket is missing, but there is bukcet");
    assert_eq!(refused(&job), bad.message);
    let job = json!({"version": 1, "operation": "head_object", "bucket": "b", "size": 1});
    let bad = decoded(&message(&job)).unwrap_err();
    assert_eq!(bad.message, "field key is missing");
}
