//! What goes out in headers, whichever way an object is created, and with every request of a job.

use std::io::Write;

use super::*;
use crate::{
    job::{
        Job, Operation,
        operation::{CopyObject, CopySource},
        options::{
            ENCRYPTION, ENCRYPTION_KEY, LEGAL_HOLD, NO_HEADERS, OPTIONS, STORAGE_CLASS, Scope,
        },
    },
    storage::script::{Answer, Stage, job, keys, op, settings, shared},
};

const OWNER: &str = "x-amz-expected-bucket-owner";
const PAYER: &str = "x-amz-request-payer";

/// All options of an object at once.
fn full() -> PutOptions {
    let message: serde_json::Map<_, _> = OPTIONS
        .iter()
        .map(|row| (row.header.to_owned(), value_of(row.header)))
        .collect();
    let headers = OPTIONS
        .iter()
        .filter(|row| row.scope != Scope::Request)
        .fold(Headers::default(), |headers, row| {
            headers.with(row.header, message[row.header].clone())
        });
    PutOptions {
        headers,
        metadata: [("Who".to_owned(), "grün".to_owned())].into(),
        tags: [("a b".to_owned(), "c&d".to_owned())].into(),
        ..PutOptions::default()
    }
}

fn value_of(header: &str) -> serde_json::Value {
    match header {
        "expires" => "2026-03-20T09:46:40Z".into(),
        "x-amz-object-lock-retain-until-date" => "2030-01-01T00:00:00Z".into(),
        ENCRYPTION => "aws:kms".into(),
        "x-amz-server-side-encryption-bucket-key-enabled" | LEGAL_HOLD => true.into(),
        "x-amz-acl" => "private".into(),
        "x-amz-object-lock-mode" => "COMPLIANCE".into(),
        "x-amz-website-redirect-location" => "/there".into(),
        OWNER => "000000000001".into(),
        PAYER => "requester".into(),
        other => format!("of-{other}").into(),
    }
}

/// What must be in a request with [`full`].
fn assert_full(said: &std::collections::BTreeMap<String, String>) {
    let options = full();
    for (row, value) in options.headers.iter() {
        let value = row.header_value(value);
        assert_eq!(said.get(row.header), Some(&value), "{}", row.header);
    }
    assert_eq!(said["x-amz-meta-who"], "=?UTF-8?B?Z3LDvG4=?=");
    assert_eq!(said["x-amz-tagging"], "a%20b=c%26d");
    let signed = &said["authorization"];
    for (row, _) in options.headers.iter() {
        assert!(signed.contains(row.header), "{}: {signed}", row.header);
    }
}

fn created() -> Answer {
    let xml =
        "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
    Answer::body(200, xml)
}

/// 5 MiB and a bit: two parts.
fn large_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; (5 << 20) + 1]).unwrap();
    file
}

fn completed() -> Answer {
    let xml = "<CompleteMultipartUploadResult><ETag>\"c-2\"</ETag></CompleteMultipartUploadResult>";
    Answer::body(200, xml)
}

#[tokio::test(start_paused = true)]
async fn put_upload_and_copy_carry_every_option_in_one_call_and_in_parts() {
    let stage = Stage::new([Answer::status(200)]);
    stage.run(op::put(full())).await.unwrap();
    assert_full(&stage.seen()[0].headers);

    let mut small = tempfile::NamedTempFile::new().unwrap();
    small.write_all(b"small").unwrap();
    let stage = Stage::new([Answer::status(200)]);
    stage.run(op::upload(small.path(), full())).await.unwrap();
    assert_full(&stage.seen()[0].headers);

    let large = large_file();
    let stage = Stage::new([
        created(),
        Answer::status(200),
        Answer::status(200),
        completed(),
        Answer::status(200),
    ]);
    stage.run(op::upload(large.path(), full())).await.unwrap();
    assert_full(&stage.seen()[0].headers);

    let source = |size: u32| Answer::status(200).header("content-length", size);
    let copied = Answer::body(
        200,
        "<CopyObjectResult><ETag>\"c\"</ETag></CopyObjectResult>",
    );
    let part = Answer::body(200, "<CopyPartResult><ETag>\"p\"</ETag></CopyPartResult>");
    for answers in [
        vec![source(1), copied],
        vec![source(101), created(), part, completed()],
    ] {
        let stage = Stage::new(answers);
        stage.run(copy(full())).await.unwrap();
        assert_full(&stage.seen()[1].headers);
    }
}

fn copy(options: PutOptions) -> Operation {
    Operation::CopyObject(CopyObject {
        bucket: "b".into(),
        key: "copy".into(),
        source: CopySource {
            bucket: "from".into(),
            key: "k".into(),
            version_id: None,
        },
        options,
    })
}

#[tokio::test(start_paused = true)]
async fn the_operators_defaults_hold_where_the_job_says_nothing() {
    let mut settings = settings();
    settings.put_defaults = Headers::default()
        .with(ENCRYPTION, "aws:kms")
        .with(ENCRYPTION_KEY, "theirs")
        .with(STORAGE_CLASS, "COLD");
    let stage = || Stage::with([Answer::status(200)], &settings, &shared(keys()));
    let unsaid = stage();
    unsaid.run(op::put(PutOptions::default())).await.unwrap();
    let said = unsaid.seen()[0].headers.clone();
    assert_eq!(said[ENCRYPTION], "aws:kms");
    assert_eq!(said[ENCRYPTION_KEY], "theirs");
    assert_eq!(said[STORAGE_CLASS], "COLD");

    let own = PutOptions {
        headers: Headers::default().with(ENCRYPTION, "AES256"),
        ..PutOptions::default()
    };
    let stage = stage();
    stage.run(op::put(own)).await.unwrap();
    let said = stage.seen()[0].headers.clone();
    assert_eq!(said[ENCRYPTION], "AES256");
    assert!(!said.contains_key(ENCRYPTION_KEY));
    assert_eq!(said[STORAGE_CLASS], "COLD");
}

fn of_job(operation: Operation) -> Job {
    let headers = Headers::default()
        .with(OWNER, "000000000001")
        .with(PAYER, "requester");
    Job {
        headers,
        ..job(operation)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_job_says_goes_with_all_of_its_requests() {
    let large = large_file();
    let upload = op::upload(large.path(), PutOptions::default());
    let stage = Stage::new([
        created(),
        Answer::status(200),
        Answer::status(200),
        completed(),
        Answer::status(200),
    ]);
    let context = stage.context();
    stage.storage.run(&of_job(upload), &context).await.unwrap();
    assert_eq!(stage.requests(), 5);
    for operation in [op::head(), op::get(), op::delete()] {
        let stage = Stage::new([Answer::status(200).header("x-amz-id-2", "a")]);
        let context = stage.context();
        stage
            .storage
            .run(&of_job(operation), &context)
            .await
            .unwrap();
        assert_eq!(stage.requests(), 1);
        for seen in stage.seen() {
            assert_eq!(seen.headers[OWNER], "000000000001", "{seen:?}");
        }
    }
    for seen in stage.seen() {
        assert_eq!(seen.headers[OWNER], "000000000001", "{seen:?}");
        assert_eq!(seen.headers[PAYER], "requester", "{seen:?}");
        assert!(seen.headers["authorization"].contains(PAYER), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_source_of_a_copy_is_asked_for_no_owner_and_paid_for() {
    let stage = Stage::new([
        Answer::status(200).header("content-length", 1),
        Answer::body(
            200,
            "<CopyObjectResult><ETag>\"c\"</ETag></CopyObjectResult>",
        ),
    ]);
    let context = stage.context();
    let job = of_job(copy(PutOptions::default()));
    stage.storage.run(&job, &context).await.unwrap();
    let [head, put] = stage.seen().try_into().unwrap();
    assert_eq!(head.headers[PAYER], "requester");
    assert!(!head.headers.contains_key(OWNER), "{head:?}");
    assert_eq!(put.headers[PAYER], "requester");
    assert_eq!(put.headers[OWNER], "000000000001");
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_says_something_shares_no_call() {
    let stage = Stage::new([Answer::status(204)]);
    let context = stage.context();
    assert!(
        stage
            .storage
            .for_batch(&job(op::delete()), &context, 10)
            .is_some()
    );
    assert!(
        stage
            .storage
            .for_batch(&of_job(op::delete()), &context, 10)
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_locked_has_a_checksum_where_the_sdk_sends_none() {
    let options = || PutOptions {
        headers: Headers::default().with(LEGAL_HOLD, true),
        ..PutOptions::default()
    };
    let stage = Stage::new([Answer::status(200)]);
    stage.run(op::put(options())).await.unwrap();
    // MD5 of "hello".
    assert_eq!(
        stage.seen()[0].headers["content-md5"],
        "XUFAKrxLKna5cZ2REBfFkg=="
    );
    stage.run(op::put(PutOptions::default())).await.unwrap();
    assert!(!stage.seen()[1].headers.contains_key("content-md5"));

    let large = large_file();
    let stage = Stage::new([
        created(),
        Answer::status(200),
        Answer::status(200),
        completed(),
        Answer::status(200),
    ]);
    stage
        .run(op::upload(large.path(), options()))
        .await
        .unwrap();
    let seen = stage.seen();
    assert!(!seen[0].headers.contains_key("content-md5"));
    for part in &seen[1..3] {
        assert!(part.headers.contains_key("content-md5"), "{}", part.uri);
    }
}

#[tokio::test(start_paused = true)]
async fn the_origin_of_a_conditional_put_is_still_known_beside_its_options() {
    let conditional = PutOptions {
        if_none_match: true,
        ..full()
    };
    let own = Answer::status(200)
        .header("content-length", 5)
        .header("x-amz-meta-brigade-job", "job-1");
    let stage = Stage::new([Answer::error(412, "PreconditionFailed"), own]);
    stage.run(op::put(conditional)).await.unwrap();
    let put = &stage.seen()[0].headers;
    assert_full(put);
    assert_eq!(put["if-none-match"], "*");
    assert_eq!(put["x-amz-meta-brigade-job"], "job-1");
}

#[tokio::test(start_paused = true)]
async fn doctor_puts_what_a_job_would_put() {
    let mut settings = settings();
    settings.put_defaults = Headers::default().with(ENCRYPTION, "AES256");
    let stage = Stage::with([Answer::status(200)], &settings, &shared(keys()));
    let minute = std::time::Duration::from_secs(60);
    crate::storage::checks::check(&stage.storage.clients, "b", minute).await;
    let seen = stage.seen();
    let put = seen.iter().find(|seen| seen.method == "PUT").unwrap();
    assert_eq!(put.headers[ENCRYPTION], "AES256");
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_pays_for_an_abort_that_is_denied_otherwise() {
    let denied = Answer::error(403, "AccessDenied");
    let gone = Answer::error(404, "NoSuchUpload");
    let stage = Stage::new([denied.clone(), Answer::status(204), gone]);
    let calls = std::sync::atomic::AtomicU32::new(0);
    let abort = || {
        stage
            .storage
            .abort_upload(("b", "k"), "u1", &NO_HEADERS, &calls)
    };
    abort().await.unwrap();
    let [free, paid, look] = stage.seen().try_into().unwrap();
    assert!(!free.headers.contains_key(PAYER));
    assert_eq!(paid.headers[PAYER], "requester");
    assert_eq!(look.headers[PAYER], "requester");

    let stage = Stage::new([denied]);
    let abort = stage
        .storage
        .abort_upload(("b", "k"), "u1", &NO_HEADERS, &calls);
    assert_eq!(abort.await.unwrap_err().code, "AccessDenied");
    assert_eq!(stage.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_says_what_all_requests_of_the_job_said() {
    let gone = Answer::error(404, "NoSuchUpload");
    let stage = Stage::new([Answer::status(204), gone]);
    let calls = std::sync::atomic::AtomicU32::new(0);
    let headers = of_job(op::head()).headers;
    let abort = stage
        .storage
        .abort_upload(("b", "k"), "u1", &headers, &calls);
    abort.await.unwrap();
    for seen in stage.seen() {
        assert_eq!(seen.headers[PAYER], "requester", "{seen:?}");
        assert_eq!(seen.headers[OWNER], "000000000001", "{seen:?}");
    }

    // One that pays is not asked again.
    let stage = Stage::new([Answer::error(403, "AccessDenied")]);
    let abort = stage
        .storage
        .abort_upload(("b", "k"), "u1", &headers, &calls);
    assert_eq!(abort.await.unwrap_err().code, "AccessDenied");
    assert_eq!(stage.requests(), 1);
}

#[test]
fn a_digest_of_what_is_said_is_the_same_in_every_version_and_another_for_other_words() {
    let digest = |options: &PutOptions| -> String {
        let digest = Said::by_job(options).digest();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let nothing = digest(&PutOptions::default());
    assert_eq!(nothing, "e3b0c44298fc1c149afbf4c8996fb924");
    let full = full();
    assert_eq!(digest(&full), "0888fc2cba7a3bb68ef26fd0338dbe98");
    let mut other = full.clone();
    other.tags.clear();
    assert_ne!(digest(&other), digest(&full));
    let mut other = full.clone();
    other.metadata = [("who".to_owned(), "rot".to_owned())].into();
    assert_ne!(digest(&other), digest(&full));
    // What is checked of the bytes, or of what is there, is nothing of the object.
    let checked = PutOptions {
        sha256: Some([1; 32]),
        if_none_match: true,
        ..full.clone()
    };
    assert_eq!(digest(&checked), digest(&full));
}
