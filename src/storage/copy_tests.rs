use super::*;
use crate::{
    job::{
        Headers, Operation,
        operation::{CopySource, PutOptions},
    },
    storage::{
        CallContext, UploadMemory,
        script::{Answer, Stage},
        upload::tests::Memory,
    },
};

fn copy(version_id: Option<&str>) -> Operation {
    copy_with(version_id, PutOptions::default())
}

fn copy_with(version_id: Option<&str>, options: PutOptions) -> Operation {
    Operation::CopyObject(CopyObject {
        bucket: "b".into(),
        key: "copy".into(),
        source: CopySource {
            bucket: "from".into(),
            key: "a b/ä".into(),
            version_id: version_id.map(str::to_owned),
        },
        options,
    })
}

/// The script copies up to 100 bytes at once.
fn source(size: u64) -> Answer {
    Answer::status(200)
        .header("content-length", size)
        .header("etag", "\"s\"")
        .header("content-type", "x/y")
        .header("x-amz-meta-who", "me")
        .header("x-amz-tagging-count", 0)
}

fn copied() -> Answer {
    Answer::body(
        200,
        "<CopyObjectResult><ETag>\"c\"</ETag></CopyObjectResult>",
    )
}

fn part(number: u32) -> Answer {
    let etag = format!("<CopyPartResult><ETag>\"p{number}\"</ETag></CopyPartResult>");
    Answer::body(200, &etag)
}

fn created() -> Answer {
    let xml =
        "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
    Answer::body(200, xml)
}

fn completed() -> Answer {
    let xml = "<CompleteMultipartUploadResult><ETag>\"c-2\"</ETag></CompleteMultipartUploadResult>";
    Answer::body(200, xml)
}

#[tokio::test(start_paused = true)]
async fn a_small_object_is_one_call_bound_to_the_etag_that_was_seen() {
    let stage = Stage::new([source(100), copied().header("x-amz-version-id", "v2")]);
    let done = stage.run(copy(Some("v/1"))).await.unwrap();
    let expected = JobResult::Stored {
        etag: Some("\"c\"".into()),
        version_id: Some("v2".into()),
        size: 100,
    };
    assert_eq!(done.result, expected);
    let [head, put] = stage.seen().try_into().unwrap();
    assert_eq!(head.method, "HEAD");
    assert!(
        head.uri.contains("/from/a%20b/%C3%A4?versionId=v%2F1"),
        "{}",
        head.uri
    );
    assert!(put.uri.contains("/b/copy"), "{}", put.uri);
    let place = "from/a%20b/%C3%A4?versionId=v%2F1";
    assert_eq!(put.headers["x-amz-copy-source"], place);
    assert_eq!(put.headers["x-amz-copy-source-if-match"], "\"s\"");
    assert_eq!(stage.operations("copy_object", "success"), 1);
    assert_eq!(stage.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_200_is_tried_again() {
    let inside = "<Error><Code>InternalError</Code><Message>x</Message></Error>";
    let stage = Stage::new([source(1), Answer::body(200, inside), copied()]);
    assert!(stage.run(copy(None)).await.is_ok());
    assert_eq!(stage.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_or_is_missing_fails_for_good() {
    let changed = Answer::error(412, "PreconditionFailed");
    let stage = Stage::new([source(1), changed]);
    let failure = stage.failure(copy(None)).await;
    assert_eq!(failure.code, "source_changed");
    assert_eq!(failure.class, FailureClass::JobLocal);
    assert_eq!(stage.requests(), 2);

    let stage = Stage::new([Answer::status(404), Answer::error(404, "NoSuchKey")]);
    let failure = stage.failure(copy(None)).await;
    assert_eq!(failure.class, FailureClass::Permanent);
    assert_eq!((failure.code.as_str(), stage.requests()), ("NoSuchKey", 2));
    assert_eq!(stage.operations("copy_object", "error"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_a_second_for_each_mebibyte_of_the_source() {
    let stage = Stage::new([source(100), Answer::Silence]);
    let began = tokio::time::Instant::now();
    stage.failure(copy(None)).await;
    let small = began.elapsed();
    let stage = Stage::new([source(1 << 30), created(), Answer::Silence]);
    let began = tokio::time::Instant::now();
    stage.failure(copy(None)).await;
    // Parts have 1 MiB at least: three attempts of a second more each.
    assert!(began.elapsed() >= small + std::time::Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_large_object_goes_in_parts_with_what_describes_it() {
    let size = 2 * MIB + 1;
    let tags = "<Tagging><TagSet><Tag><Key>t</Key><Value>1 2</Value></Tag></TagSet></Tagging>";
    let stage = Stage::new([
        source(size).header("x-amz-tagging-count", 1),
        Answer::body(200, tags),
        created(),
        part(1),
        part(2),
        part(3),
        completed(),
    ]);
    let done = stage.run(copy(None)).await.unwrap();
    let expected = JobResult::Stored {
        etag: Some("\"c-2\"".into()),
        version_id: None,
        size,
    };
    assert_eq!(done.result, expected);
    let seen = stage.seen();
    let create = &seen[2].headers;
    assert_eq!(create["content-type"], "x/y");
    assert_eq!(create["x-amz-meta-who"], "me");
    assert_eq!(create["x-amz-tagging"], "t=1%202");
    let ranges: Vec<_> = seen[3..6]
        .iter()
        .map(|seen| {
            assert_eq!(seen.headers["x-amz-copy-source-if-match"], "\"s\"");
            seen.headers["x-amz-copy-source-range"].as_str()
        })
        .collect();
    assert_eq!(
        ranges,
        [
            "bytes=0-1048575",
            "bytes=1048576-2097151",
            "bytes=2097152-2097152"
        ]
    );
    assert!(seen[6].body.contains("<PartNumber>3</PartNumber>"));
    assert_eq!(stage.operations("upload_part_copy", "success"), 3);
    assert_eq!(stage.operations("copy_object", "success"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_fails_midway_aborts_what_it_began() {
    let changed = Answer::error(412, "PreconditionFailed");
    let stage = Stage::new([source(MIB), created(), changed, Answer::status(204)]);
    assert_eq!(stage.failure(copy(None)).await.code, "source_changed");
    let seen = stage.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.method, "DELETE");
    assert!(last.uri.contains("uploadId=u1"), "{}", last.uri);
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_answer_was_lost_finds_its_own_object() {
    let gone = || Answer::error(404, "NoSuchUpload");
    let own = source(MIB).header("x-amz-meta-brigade-job", "job-1");
    let begun = [source(MIB), created(), part(1), Answer::Reset, gone()];
    let stage = Stage::new(begun.clone().into_iter().chain([own]));
    assert!(stage.run(copy(None)).await.is_ok());
    let stage = Stage::new(begun.into_iter().chain([source(MIB)]));
    assert_eq!(stage.failure(copy(None)).await.code, "NoSuchUpload");
}

#[test]
fn parts_cover_the_object_and_stay_within_s3_s_numbers() {
    let five_tib = 5 << 40;
    for size in [WHOLE + 1, 100 * WHOLE, five_tib, 48 << 40] {
        let parts: Vec<_> = parts_of(size, WHOLE).collect();
        assert!(parts.len() <= 10_000, "{} parts", parts.len());
        assert_eq!(
            (*parts[0].start(), *parts[parts.len() - 1].end()),
            (0, size - 1)
        );
        let joined = |pair: &[RangeInclusive<u64>]| pair[0].end() + 1 == *pair[1].start();
        assert!(parts.windows(2).all(joined));
        assert!(parts.iter().all(|part| part.end() - part.start() < WHOLE));
    }
}

async fn run_with(stage: &Stage, memory: UploadMemory) -> Result<Done, Stop> {
    let context = CallContext {
        uploads: Some(memory),
        ..stage.context()
    };
    stage.run_in(copy(None), &context).await
}

/// What is on record after a run was killed that had begun a copy of 1 MiB.
fn begun() -> Memory {
    Memory::of(BegunUpload {
        bucket: "b".into(),
        key: "copy".into(),
        upload_id: "u0".into(),
        source: None,
        size: Some(MIB),
        part_size: 100,
        largest_part: 100,
        said: None,
        headers: Headers::default(),
    })
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_completed_is_not_copied_again_whatever_became_of_its_source() {
    let memory = begun();
    let own = source(MIB).header("x-amz-meta-brigade-job", "job-1");
    let stage = Stage::new([own]);
    assert!(run_with(&stage, memory.port(true)).await.is_ok());
    let [look] = stage.seen().try_into().unwrap();
    assert_eq!(look.method, "HEAD");
    assert!(look.uri.contains("/b/copy"), "{}", look.uri);
    assert_eq!(stage.operations("copy_object", "success"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_only_began_is_aborted_and_begun_anew() {
    let foreign = source(MIB).header("x-amz-meta-brigade-job", "job-2");
    let another = source(MIB - 1).header("x-amz-meta-brigade-job", "job-1");
    for found in [Answer::status(404), foreign, another] {
        let memory = begun();
        let anew = [source(MIB), created(), part(1), completed()];
        let answers = [found, Answer::status(204)].into_iter().chain(anew);
        let stage = Stage::new(answers);
        assert!(run_with(&stage, memory.port(true)).await.is_ok());
        let methods: Vec<_> = stage.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, ["HEAD", "DELETE", "HEAD", "POST", "PUT", "POST"]);
        assert_eq!(memory.notes(), ["doomed", "gone", "begun", "completed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_no_longer_ours_leaves_no_upload_behind() {
    let gone = Answer::error(404, "NoSuchUpload");
    let stage = Stage::new([source(MIB), created(), Answer::status(204), gone]);
    let end = run_with(&stage, Memory::default().port(false)).await;
    assert_eq!(end.unwrap_err(), Stop::LeaseLost);
    let abort = &stage.seen()[2];
    assert_eq!(abort.method, "DELETE");
    assert!(abort.uri.contains("uploadId=u1"), "{}", abort.uri);
}

/// A source with all that describes content.
fn described() -> Answer {
    source(100)
        .header("cache-control", "no-store")
        .header("content-disposition", "inline")
        .header("content-encoding", "gzip")
        .header("content-language", "de")
        .header("expires", "Fri, 20 Mar 2026 09:46:40 GMT")
        .header("x-amz-meta-more", "=?UTF-8?B?w7w=?=")
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_changes_one_thing_says_the_rest_again_and_loses_nothing() {
    let headers = Headers::default().with("content-language", "en");
    let options = PutOptions {
        headers,
        ..PutOptions::default()
    };
    let stage = Stage::new([described(), copied()]);
    stage.run(copy_with(None, options)).await.unwrap();
    let seen = stage.seen();
    let said = &seen[1].headers;
    for (name, value) in [
        ("x-amz-metadata-directive", "REPLACE"),
        ("content-language", "en"),
        ("content-type", "x/y"),
        ("cache-control", "no-store"),
        ("content-disposition", "inline"),
        ("content-encoding", "gzip"),
        ("expires", "Fri, 20 Mar 2026 09:46:40 GMT"),
        ("x-amz-meta-who", "me"),
        ("x-amz-meta-more", "=?UTF-8?B?w7w=?="),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    assert!(!said.contains_key("x-amz-tagging-directive"));
}

#[test]
fn whatever_describes_content_is_known_of_a_source() {
    let whole = HeadObjectOutput::builder()
        .content_type("a")
        .cache_control("a")
        .content_disposition("a")
        .content_encoding("a")
        .content_language("a")
        .expires_string("a")
        .build();
    for row in OPTIONS.iter().filter(|row| row.scope == Scope::Content) {
        assert_eq!(content_of(&whole, row.header), Some("a"), "{}", row.header);
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_and_tags_of_a_job_replace_those_of_the_source_and_other_options_leave_them() {
    let of_job = PutOptions {
        metadata: [("only".to_owned(), "this".to_owned())].into(),
        tags: [("t".to_owned(), "1".to_owned())].into(),
        ..PutOptions::default()
    };
    let stage = Stage::new([described(), copied()]);
    stage.run(copy_with(None, of_job)).await.unwrap();
    let said = stage.seen()[1].headers.clone();
    assert_eq!(said["x-amz-metadata-directive"], "REPLACE");
    assert_eq!(said["x-amz-tagging-directive"], "REPLACE");
    assert_eq!(said["x-amz-meta-only"], "this");
    assert_eq!(said["content-encoding"], "gzip");
    assert!(!said.contains_key("x-amz-meta-who"));

    let of_object = PutOptions {
        headers: Headers::default().with("x-amz-acl", "private"),
        ..PutOptions::default()
    };
    let stage = Stage::new([described(), copied()]);
    stage.run(copy_with(None, of_object)).await.unwrap();
    let said = stage.seen()[1].headers.clone();
    assert_eq!(said["x-amz-acl"], "private");
    assert!(!said.contains_key("x-amz-metadata-directive"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_parts_says_the_same_when_it_begins() {
    let options = PutOptions {
        headers: Headers::default()
            .with("content-language", "en")
            .with("x-amz-acl", "private"),
        tags: [("t".to_owned(), "1".to_owned())].into(),
        ..PutOptions::default()
    };
    let large = described()
        .header("content-length", 101)
        .header("x-amz-tagging-count", 1);
    let stage = Stage::new([large, created(), part(1), completed()]);
    stage.run(copy_with(None, options)).await.unwrap();
    let seen = stage.seen();
    let said = &seen[1].headers;
    for (name, value) in [
        ("content-language", "en"),
        ("content-encoding", "gzip"),
        ("expires", "Fri, 20 Mar 2026 09:46:40 GMT"),
        ("x-amz-acl", "private"),
        ("x-amz-tagging", "t=1"),
        ("x-amz-meta-who", "me"),
        ("x-amz-meta-brigade-job", "job-1"),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn tags_are_asked_for_where_a_head_does_not_count_them() {
    let head = || {
        Answer::status(200)
            .header("content-length", 101)
            .header("etag", "\"s\"")
    };
    let tags = "<Tagging><TagSet><Tag><Key>t</Key><Value>1</Value></Tag></TagSet></Tagging>";
    for (answer, said) in [
        (Answer::body(200, tags), Some("t=1")),
        (Answer::body(200, "<Tagging><TagSet/></Tagging>"), None),
        (Answer::error(403, "AccessDenied"), None),
        (Answer::error(501, "NotImplemented"), None),
    ] {
        let stage = Stage::new([head(), answer, created(), part(1), completed()]);
        stage.run(copy(None)).await.unwrap();
        let seen = stage.seen();
        let tagging = seen[2].headers.get("x-amz-tagging");
        assert_eq!(tagging.map(String::as_str), said);
    }
}

#[tokio::test(start_paused = true)]
async fn tags_are_said_again_with_the_rest() {
    let tags = "<Tagging><TagSet><Tag><Key>t</Key><Value>1</Value></Tag></TagSet></Tagging>";
    let options = PutOptions {
        headers: Headers::default().with("content-language", "en"),
        ..PutOptions::default()
    };
    let head = described().header("x-amz-tagging-count", 1);
    let stage = Stage::new([head, Answer::body(200, tags), copied()]);
    stage.run(copy_with(None, options)).await.unwrap();
    let said = stage.seen()[2].headers.clone();
    assert_eq!(said["x-amz-tagging"], "t=1");
    assert_eq!(said["x-amz-tagging-directive"], "REPLACE");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_copied_says_that_it_has_no_body() {
    let stage = Stage::new([source(101), created(), part(1), completed()]);
    stage.run(copy(None)).await.unwrap();
    let seen = stage.seen();
    assert_eq!(seen[2].headers["content-length"], "0");
    assert!(seen[2].headers["authorization"].contains("content-length"));
}
