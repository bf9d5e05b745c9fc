//! The managed transfer against a scripted S3: what is asked, in which order, and what is made of the answers.

use std::{fs, path::PathBuf, sync::atomic::Ordering, time::Duration};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::Instant;

mod completion;
mod memory;
mod resume;
mod sweep;

pub(in crate::storage) use memory::Memory;

use crate::{
    job::{
        FailureClass, Headers, JobResult, Operation, operation::PutOptions, options::CONTENT_TYPE,
    },
    storage::{
        CallContext, Checksums, Done, LedgerTrouble, Stop, UploadMemory,
        script::{Answer, Stage, keys, op, settings, shared},
    },
};

const MIB: u64 = 1024 * 1024;
const PART: u64 = 5 * MIB;

/// A file of so many bytes, of which each MiB differs from the one before.
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    _folder: TempDir,
}

impl File {
    fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        let bytes: Vec<u8> = (0..size).map(|at| b'a' + (at / MIB % 26) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        Self {
            path,
            bytes,
            _folder: folder,
        }
    }

    fn upload(&self) -> Operation {
        self.upload_with(PutOptions::default())
    }

    fn upload_with(&self, options: PutOptions) -> Operation {
        op::upload(&self.path, options)
    }
}

fn created() -> Answer {
    let xml =
        "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
    Answer::body(200, xml)
}

fn part(etag: &str) -> Answer {
    Answer::status(200).header("etag", etag)
}

fn completed() -> Answer {
    let xml =
        "<CompleteMultipartUploadResult><ETag>\"whole-3\"</ETag></CompleteMultipartUploadResult>";
    Answer::body(200, xml)
}

fn object(size: u64) -> Answer {
    Answer::status(200)
        .header("etag", "\"whole-3\"")
        .header("content-length", size)
        .header("x-amz-meta-brigade-job", "job-1")
}

fn gone() -> Answer {
    Answer::error(404, "NoSuchUpload")
}

fn aborted() -> Answer {
    Answer::status(204)
}

fn listed(parts: &[(u32, u64)], next: Option<u32>) -> Answer {
    let mut xml = "<ListPartsResult><IsTruncated>false</IsTruncated>".to_owned();
    for (number, size) in parts {
        xml += &format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>\"old-{number}\"</ETag><Size>{size}</Size></Part>"
        );
    }
    if let Some(next) = next {
        xml += &format!(
            "<IsTruncated>true</IsTruncated><NextPartNumberMarker>{next}</NextPartNumberMarker>"
        );
    }
    Answer::body(200, &(xml + "</ListPartsResult>"))
}

/// What a run asked, in short: `create`, `part 1`, `complete`, `head`, `abort`, `list`, `put`. Parts between the same two
/// others are sorted: they go out side by side.
fn asked(stage: &Stage) -> Vec<String> {
    let seen = stage.seen().into_iter();
    let asked = seen.map(|seen| {
        let query = seen.uri.split_once('?').map_or("", |(_, query)| query);
        let value = |name: &str| {
            let mut pairs = query.split('&');
            pairs.find_map(|pair| pair.strip_prefix(&format!("{name}=")).map(str::to_owned))
        };
        match (seen.method.as_str(), value("partNumber")) {
            ("PUT", Some(number)) => format!("part {number}"),
            ("PUT", None) => "put".to_owned(),
            ("POST", _) if value("uploadId").is_some() => "complete".to_owned(),
            ("POST", _) => "create".to_owned(),
            ("GET", _) => "list".to_owned(),
            ("DELETE", _) => "abort".to_owned(),
            (method, _) => method.to_lowercase(),
        }
    });
    let mut asked: Vec<String> = asked.collect();
    let is_part = |asked: &String| asked.starts_with("part ");
    for parts in asked.chunk_by_mut(|one, next| is_part(one) && is_part(next)) {
        parts.sort_by_key(|part| (part.len(), part.clone()));
    }
    asked
}

async fn run_with(stage: &Stage, operation: Operation, memory: &Memory) -> Result<Done, Stop> {
    let context = CallContext {
        uploads: Some(memory.port(true)),
        ..stage.context()
    };
    stage.run_in(operation, &context).await
}

fn size_of(end: &Result<Done, Stop>) -> Option<u64> {
    match end {
        Ok(Done {
            result: JobResult::Stored { size, .. },
            ..
        }) => Some(*size),
        _ => None,
    }
}

fn code_of(end: &Result<Done, Stop>) -> Option<(FailureClass, &str)> {
    match end {
        Err(Stop::Failed(failure)) => Some((failure.class, failure.code.as_str())),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_cannot_be_put_on_record_is_parked_and_leaves_nothing_behind() {
    let end = upload_without_a_record(LedgerTrouble::Down("disk full".to_owned())).await;
    let failure = (FailureClass::Unavailable, "upload_unrecorded");
    assert_eq!(code_of(&end), Some(failure), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_ledger_refuses_to_record_leaves_nothing_behind() {
    let end = upload_without_a_record(LedgerTrouble::Refused("odd row".to_owned())).await;
    let refused = Stop::LedgerRefused("odd row".to_owned());
    assert_eq!(end.unwrap_err(), refused);
}

async fn upload_without_a_record(trouble: LedgerTrouble) -> Result<Done, Stop> {
    let file = File::new(3 * PART);
    let stage = Stage::new([created(), aborted(), gone()]);
    let refuses = UploadMemory::new(
        || Box::pin(async { Ok(None) }),
        move |_| {
            let trouble = trouble.clone();
            Box::pin(async { Err(trouble) })
        },
    );
    let context = CallContext {
        uploads: Some(refuses),
        ..stage.context()
    };
    let end = stage.run_in(file.upload(), &context).await;
    assert_eq!(asked(&stage), ["create", "abort", "list"]);
    end
}

#[tokio::test(start_paused = true)]
async fn a_file_below_the_threshold_is_one_put_in_the_jobs_name() {
    let file = File::new(PART - 1);
    let stage = Stage::new([part("\"e\"")]);
    let end = stage.run(file.upload()).await;
    assert_eq!(size_of(&end), Some(PART - 1), "{end:?}");
    assert_eq!(asked(&stage), ["put"]);
    assert_eq!(stage.seen()[0].body.as_bytes(), file.bytes);
    assert_eq!(stage.operations("upload_fileobj", "success"), 1);
    assert_eq!(stage.operations("put_object", "success"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_file_goes_up_in_parts_and_each_step_counts_under_its_own_name() {
    let file = File::new(2 * PART + 7);
    let size = 2 * PART + 7;
    let etags = ["\"p1\"", "\"p2\"", "\"p3\""].map(part);
    let [one, two, three] = etags;
    let stage = Stage::new([created(), one, two, three, completed(), object(size)]);
    let memory = Memory::default();
    let options = PutOptions {
        headers: Headers::default().with(CONTENT_TYPE, "text/plain"),
        metadata: [("who".to_owned(), "me".to_owned())].into(),
        tags: [("a".to_owned(), "b".to_owned())].into(),
        sha256: Some(Sha256::digest(&file.bytes).into()),
        ..PutOptions::default()
    };
    let done = run_with(&stage, file.upload_with(options), &memory).await;
    assert_eq!(size_of(&done), Some(size), "{done:?}");
    assert_eq!(
        asked(&stage),
        ["create", "part 1", "part 2", "part 3", "complete", "head"]
    );
    let seen = stage.seen();
    let header = |name: &str| seen[0].headers.get(name).cloned();
    assert_eq!(header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(header("x-amz-meta-who").as_deref(), Some("me"));
    assert_eq!(header("x-amz-tagging").as_deref(), Some("a=b"));
    assert_eq!(header("x-amz-meta-brigade-job").as_deref(), Some("job-1"));
    let sent: String = seen[1..4].iter().map(|seen| seen.body.as_str()).collect();
    assert!(sent.as_bytes() == file.bytes, "the parts are not the file");
    for etag in ["p1", "p2", "p3"] {
        assert!(seen[4].body.contains(etag), "{}", seen[4].body);
    }
    assert_eq!(memory.notes(), ["begun", "completed"]);
    for (name, count) in [
        ("upload_fileobj", 1),
        ("create_multipart_upload", 1),
        ("upload_part", 3),
        ("complete_multipart_upload", 1),
    ] {
        assert_eq!(stage.operations(name, "success"), count, "{name}");
    }
    assert_eq!(stage.calls(), 6);
    let out = stage.metrics.s3_bytes.with_label_values(&["out"]).get();
    assert_eq!(out, size);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_twice_is_sent_again_alone() {
    let file = File::new(2 * PART);
    let again = Answer::error(503, "SlowDown");
    let stage = Stage::new([
        created(),
        again,
        part("\"p2\""),
        Answer::Reset,
        part("\"p1\""),
        completed(),
        object(2 * PART),
    ]);
    let end = stage.run(file.upload()).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    let asked = asked(&stage);
    let sent = |part: &str| asked.iter().filter(|asked| *asked == part).count();
    let mut sent = [sent("part 1"), sent("part 2")];
    // Either may be first.
    sent.sort_unstable();
    assert_eq!((sent, asked.len()), ([1, 3], 7), "{asked:?}");
    assert_eq!(stage.failures_in_a_row(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_a_part_has_used_its_attempts_up_those_on_their_way_arrive_and_no_more_is_read() {
    let file = File::new(40 * PART);
    let mut answers = vec![created(), Answer::error(500, "InternalError")];
    answers.extend((2..=4).map(|n| part(&format!("\"p{n}\""))));
    answers.push(Answer::error(500, "InternalError"));
    let stage = Stage::new(answers);
    let memory = Memory::default();
    let end = run_with(&stage, file.upload(), &memory).await;
    let failed = code_of(&end);
    assert_eq!(failed, Some((FailureClass::Unavailable, "InternalError")));
    assert_eq!(memory.notes(), ["begun"], "the parts are wanted");
    let asked = asked(&stage);
    assert!(asked.len() <= 1 + 3 * 8, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_somebody_aborted_is_begun_anew_by_the_next_run() {
    let file = File::new(PART);
    let stage = Stage::new([created(), Answer::error(404, "NoSuchUpload")]);
    let end = stage.run(file.upload()).await;
    let expected = Some((FailureClass::Conflict, "NoSuchUpload"));
    assert_eq!(code_of(&end), expected, "{end:?}");
    assert_eq!(asked(&stage), ["create", "part 1"]);
}

#[tokio::test(start_paused = true)]
async fn bytes_of_another_sha256_are_aborted_before_the_object_can_be_seen() {
    let options = PutOptions {
        sha256: Some([7; 32]),
        ..PutOptions::default()
    };
    let file = File::new(PART + 1);
    let stage = Stage::new([created(), part("\"p1\""), part("\"p2\""), aborted()]);
    let end = run_with(
        &stage,
        file.upload_with(options.clone()),
        &Memory::default(),
    )
    .await;
    let expected = Some((FailureClass::JobLocal, "checksum_mismatch"));
    assert_eq!(code_of(&end), expected, "{end:?}");
    assert_eq!(asked(&stage), ["create", "part 1", "part 2", "abort"]);

    let small = File::new(10);
    let stage = Stage::new([part("\"e\"")]);
    let end = stage.run(small.upload_with(options)).await;
    assert_eq!(code_of(&end), expected, "{end:?}");
    assert_eq!(stage.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_no_longer_ours_sends_no_part_and_leaves_no_upload_behind() {
    let file = File::new(PART);
    let stage = Stage::new([created(), aborted(), gone()]);
    let context = CallContext {
        uploads: Some(Memory::default().port(false)),
        ..stage.context()
    };
    let end = stage.run_in(file.upload(), &context).await;
    assert_eq!(end.unwrap_err(), Stop::LeaseLost);
    assert_eq!(asked(&stage), ["create", "abort", "list"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_checksums_gets_one_a_part_and_one_for_the_whole_object() {
    let file = File::new(PART + 3);
    let settings = crate::storage::StorageSettings {
        checksums: Checksums::WhenSupported,
        ..settings()
    };
    let answers = [
        created(),
        part("\"p1\""),
        part("\"p2\""),
        completed(),
        object(PART + 3),
    ];
    let stage = Stage::with(answers, &settings, &shared(keys()));
    let end = stage.run(file.upload()).await;
    assert_eq!(size_of(&end), Some(PART + 3), "{end:?}");
    let seen = stage.seen();
    let header = |request: usize, name: &str| seen[request].headers.get(name).cloned();
    let crc = |bytes: &[u8]| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        Some(STANDARD.encode(crate::storage::upload::requests::crc32_of(bytes).to_be_bytes()))
    };
    let name = "x-amz-checksum-crc32";
    let (first, second) = file.bytes.split_at(PART as usize);
    let type_is = |request| header(request, "x-amz-checksum-type");
    assert_eq!(type_is(0).as_deref(), Some("FULL_OBJECT"));
    assert_eq!(
        header(0, "x-amz-checksum-algorithm").as_deref(),
        Some("CRC32")
    );
    assert_eq!(header(1, name), crc(first));
    assert_eq!(header(2, name), crc(second));
    assert_eq!(header(3, name), crc(&file.bytes));
    assert_eq!(type_is(3).as_deref(), Some("FULL_OBJECT"));
}

#[tokio::test(start_paused = true)]
async fn one_slot_is_enough_and_the_first_call_takes_the_probe() {
    let file = File::new(3 * PART);
    let mut stage = Stage::new([
        // The probe is a look at the place: nothing is there, and S3 is well.
        Answer::status(404),
        created(),
        part("\"p1\""),
        part("\"p2\""),
        part("\"p3\""),
        completed(),
        object(3 * PART),
    ]);
    stage.slots = crate::resilience::Slots::fixed(1);
    for _ in 0..5 {
        stage.breaker.acquire().unwrap().failure();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let context = stage.context();
    let probe = stage.breaker.reserve_probe().unwrap();
    *context.probe.lock().unwrap() = Some(probe);
    let end = stage.run_in(file.upload(), &context).await;
    assert_eq!(size_of(&end), Some(3 * PART), "{end:?}");
    assert_eq!(context.parts.load(Ordering::Relaxed), 3);
}
