//! Files and URLs in messages: what is malformed, and what the settings do not allow.

use proptest::prelude::*;

use super::*;

#[test]
fn a_place_is_judged_by_its_form_first_and_by_the_settings_last() {
    use DeadReason::{ForbiddenSource, Malformed};
    let upload = |source: Value| json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k", "source": source});
    let get = |extra: Value| {
        let mut job = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k"});
        job.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        job
    };
    let rows = [
        (get(json!({"destination": {}})), Malformed, "neither"),
        (
            get(json!({"destination": {"file": "a", "reply": {}}})),
            Malformed,
            "both",
        ),
        (
            get(json!({"destination": {"file": "a/b"}})),
            Malformed,
            "absolute",
        ),
        (
            get(json!({"destination": {"file": "/etc/passwd"}})),
            ForbiddenSource,
            "file_roots",
        ),
        (
            get(json!({"destination": {"file": "/srv/out/../x"}})),
            ForbiddenSource,
            "file_roots",
        ),
        (
            get(json!({"destination": {"file": "/srv/out/x/"}})),
            Malformed,
            "path of a file",
        ),
        (upload(json!(null)), Malformed, "source is missing"),
        (upload(json!({})), Malformed, "neither"),
        (
            upload(json!({"file": "/a", "url": "https://a"})),
            Malformed,
            "both",
        ),
        (upload(json!({"file": 7})), Malformed, "source.file"),
        (upload(json!({"file": "in/a"})), Malformed, "absolute"),
        (upload(json!({"file": "/srv/in/"})), Malformed, "absolute"),
        (
            upload(json!({"file": "/etc/passwd"})),
            ForbiddenSource,
            "sources.file_roots",
        ),
        (
            upload(json!({"file": "/srv/in/../x"})),
            ForbiddenSource,
            "sources.file_roots",
        ),
        (
            upload(json!({"url": "https://cdn.example.com/a\r\nb"})),
            Malformed,
            "source.url",
        ),
        (
            upload(json!({"url": "cdn.example.com"})),
            Malformed,
            "source.url",
        ),
        (
            upload(json!({"url": "file:///etc/passwd"})),
            ForbiddenSource,
            "sources.url_hosts",
        ),
        (
            upload(json!({"url": "https://other.example/"})),
            ForbiddenSource,
            "sources.url_hosts",
        ),
        (
            upload(json!({"url": "http://cdn.example.com/"})),
            ForbiddenSource,
            "sources.url_hosts",
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
    }
}

#[test]
fn a_refusal_shows_no_secret_of_a_url() {
    for url in [
        "https://u:hunter2@cdn.example.com/",
        "https://x.example/?sig=hunter2",
        "http:/hunter2",
    ] {
        let job = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
            "source": {"url": url}});
        let bad = decoded(&message(&job)).unwrap_err();
        assert!(!bad.message.contains("hunter2"), "{}", bad.message);
    }
}

/// A good message, broken at some places.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let good = [
        json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k",
            "body": {"base64": "aGk="}, "metadata": {"a": "b"}, "sha256": "ab".repeat(32)}),
        json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
            "source": {"url": "https://cdn.example.com/a?b=c"}, "tags": {"a": "b"}}),
        json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
            "source": {"file": "/srv/in/a"}, "if_none_match": "*"}),
        json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k",
            "range": "bytes=0-9", "destination": {"file": "/srv/out/a"}}),
        json!({"version": 1, "operation": "list_objects", "bucket": "b", "max_keys": 7}),
        json!({"version": 1, "operation": "delete_objects", "bucket": "b", "keys": ["a", "b"]}),
    ];
    let edit = (
        any::<proptest::sample::Index>(),
        prop_oneof![
            any::<u8>(),
            proptest::sample::select(b"\"\\{}[]:,./@%#?-0\0\r\n".to_vec()),
        ],
        0..3,
    );
    (
        proptest::sample::select(good.to_vec()),
        proptest::collection::vec(edit, 0..6),
    )
        .prop_map(|(job, edits)| {
            let mut text = job.to_string().into_bytes();
            for (at, byte, how) in edits {
                let at = at.index(text.len());
                match how {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    _ => drop(text.remove(at)),
                }
            }
            text
        })
}

proptest! {
    #[test]
    fn whatever_decodes_keeps_to_what_the_settings_allow(body in mangled()) {
        for lane in Lane::ALL {
            let sent = Message { body: Bytes::from(body.clone()), ..message(&json!({})) };
            let Ok(job) = decode(&sent, lane, &rules(), NOW) else { continue };
            prop_assert_eq!(job.operation.name().lane(), lane);
            match &job.operation {
                Operation::UploadFileobj(upload) => match &upload.source {
                    SourceRef::File(file) => prop_assert!(file.starts_with("/srv/in")),
                    SourceRef::Url(url) => prop_assert!(rules().source_origins.check(url).is_ok()),
                },
                Operation::GetObject(get) => if let Destination::File(file) = &get.destination {
                    prop_assert!(file.starts_with("/srv/out"));
                },
                _ => {}
            }
            // And says the same again.
            let again = encode(&job.id, &job.operation, &job.headers, NOW);
            prop_assert_eq!(decode(&again, lane, &rules(), NOW).map(|job| job.operation), Ok(job.operation));
        }
    }
}

/// What fuzzing begins with, and whatever it has found, is tried with every run of the tests.
#[test]
fn the_corpus_of_the_fuzz_targets_is_decoded_or_refused() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let texts = |name: &str| {
        let entries = std::fs::read_dir(corpus.join(name)).unwrap();
        let read = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        read.collect::<Vec<_>>()
    };
    let mut good = 0;
    for body in texts("message") {
        let sent = Message {
            body: Bytes::from(body),
            ..message(&json!({}))
        };
        let decoded = Lane::ALL.map(|lane| decode(&sent, lane, &rules(), NOW).is_ok());
        good += decoded.into_iter().filter(|good| *good).count();
    }
    assert_eq!(good, 6);
    let urls = texts("url");
    let admitted = urls.iter().filter(|url| {
        let text = String::from_utf8_lossy(url);
        rules().source_origins.check(&text).is_ok()
    });
    assert_eq!(admitted.count(), 2);
}
