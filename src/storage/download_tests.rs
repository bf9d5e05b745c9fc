//! Downloads on a scripted S3: what is asked for after a cut, what is left behind, and what is refused.

use std::{fs, os::unix::fs::symlink, sync::Arc};

use super::*;
use crate::{
    job::{Operation, operation::Destination, place::Roots},
    storage::script::{Answer, Stage, op},
};

/// A scripted S3 whose storage may write beneath a folder of its own.
fn stage(answers: impl IntoIterator<Item = Answer>) -> (Stage, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::new(answers);
    let roots = Roots::new("destinations.file_roots", vec![folder.path().to_owned()]);
    Arc::get_mut(&mut stage.storage).unwrap().destinations = Arc::new(roots);
    (stage, folder)
}

fn to(path: &Path, range: Option<&str>) -> Operation {
    let mut operation = op::get_range(range);
    if let Operation::GetObject(get) = &mut operation {
        get.destination = Destination::File(path.to_owned());
    }
    operation
}

fn whole(body: &str) -> Answer {
    let answer = Answer::body(200, body).header("etag", "\"v1\"");
    answer.header("content-length", body.len())
}

/// The head of all of `body`, and only the first `sent` bytes of it.
fn cut(body: &str, sent: usize) -> Answer {
    let answer = Answer::body(200, &body[..sent]).header("etag", "\"v1\"");
    answer.header("content-length", body.len())
}

fn rest(body: &str, at: usize) -> Answer {
    let (rest, last) = (&body[at..], body.len() - 1);
    Answer::body(206, rest)
        .header("etag", "\"v1\"")
        .header("content-length", rest.len())
        .header("content-range", format!("bytes {at}-{last}/{}", body.len()))
}

fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Fails unless the folder comes to have these names: files are closed and removed by threads of their own.
async fn assert_names(folder: &tempfile::TempDir, expected: &[impl AsRef<str>]) {
    let expected: Vec<_> = expected.iter().map(AsRef::as_ref).collect();
    for _ in 0..10_000 {
        if names(folder) == expected {
            return;
        }
        let pause = || {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
            Ok(())
        };
        crate::storage::file_threads::off_thread(pause)
            .await
            .unwrap();
    }
    assert_eq!(names(folder), expected);
}

fn header<'a>(stage: &'a [super::super::script::Seen], at: usize, name: &str) -> Option<&'a str> {
    stage[at].headers.get(name).map(String::as_str)
}

#[tokio::test(start_paused = true)]
async fn an_object_is_written_whole_and_its_result_names_the_file() {
    let (stage, folder) = stage([whole("hello")]);
    let path = folder.path().join("file");
    fs::write(&path, "what was there before").unwrap();
    let done = stage.run(to(&path, None)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    assert_names(&folder, &["file"]).await;
    let json = done.result.to_json();
    assert_eq!(
        (&json["size"], &json["file"]),
        (&5.into(), &path.to_str().into())
    );
    assert!(done.body.is_none());
    assert_eq!(stage.operations("get_object", "success"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_is_an_empty_file() {
    let (stage, folder) = stage([whole("")]);
    stage
        .run(to(&folder.path().join("file"), None))
        .await
        .unwrap();
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn a_cut_download_goes_on_at_the_first_missing_byte_if_the_object_is_the_same() {
    let body = "0123456789";
    let (stage, folder) = stage([cut(body, 4), rest(body, 4)]);
    stage
        .run(to(&folder.path().join("file"), None))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        body
    );
    let seen = stage.seen();
    assert_eq!(header(&seen, 0, "range"), None);
    assert_eq!(header(&seen, 1, "range"), Some("bytes=4-9"));
    assert_eq!(header(&seen, 1, "if-match"), Some("\"v1\""));
    assert_eq!(stage.calls(), 2);
    assert_eq!(stage.metrics.s3_bytes.with_label_values(&["in"]).get(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_range_is_resumed_within_itself() {
    let first = Answer::body(206, "34")
        .header("etag", "\"v1\"")
        .header("content-length", 4);
    let second = Answer::body(206, "56")
        .header("etag", "\"v1\"")
        .header("content-length", 2);
    let (stage, folder) = stage([
        first.header("content-range", "bytes 3-6/7"),
        second.header("content-range", "bytes 5-6/7"),
    ]);
    let done = stage
        .run(to(&folder.path().join("file"), Some("bytes=-4")))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        "3456"
    );
    assert_eq!(header(&stage.seen(), 1, "range"), Some("bytes=5-6"));
    assert_eq!(done.result.to_json()["size"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_comes_on_is_not_out_of_attempts() {
    let body = "x".repeat(6 << 20);
    let mib = 1 << 20;
    let cuts = (0..6).map(|at| match at {
        0 => cut(&body, mib),
        5 => rest(&body, 5 * mib),
        at => {
            let last = body.len() - 1;
            Answer::body(206, &body[..mib])
                .header("content-length", body.len() - at * mib)
                .header(
                    "content-range",
                    format!("bytes {}-{last}/{}", at * mib, body.len()),
                )
        }
    });
    let (stage, folder) = stage(cuts);
    stage
        .run(to(&folder.path().join("file"), None))
        .await
        .unwrap();
    assert_eq!(
        fs::metadata(folder.path().join("file")).unwrap().len(),
        6 << 20
    );
    assert_eq!(stage.calls(), 6);
    let retries = stage
        .metrics
        .s3_retries
        .with_label_values(&["get_object", "unavailable"])
        .get();
    assert_eq!(retries, 5);
    assert_eq!(stage.failures_in_a_row(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_changes_after_a_cut_is_read_anew() {
    let (stage, folder) = stage([
        cut("0123456789", 4),
        Answer::error(412, "PreconditionFailed"),
        whole("new"),
    ]);
    stage
        .run(to(&folder.path().join("file"), None))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        "new"
    );
    assert_eq!(header(&stage.seen(), 2, "range"), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_the_range_is_read_anew() {
    let (stage, folder) = stage([
        cut("0123456789", 4),
        whole("0123456789"),
        whole("0123456789"),
    ]);
    stage
        .run(to(&folder.path().join("file"), None))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        "0123456789"
    );
}

#[tokio::test(start_paused = true)]
async fn bodies_that_always_break_off_open_the_circuit() {
    let (stage, folder) = stage([cut("0123456789", 4)]);
    for number in 1..=5 {
        let path = folder.path().join(format!("file{number}"));
        stage.failure(to(&path, None)).await;
        assert_eq!(stage.breaker.snapshot().is_closed(), number < 5, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_download_leaves_nothing_and_touches_nothing() {
    for answer in [
        cut("0123456789", 4),
        Answer::error(404, "NoSuchKey"),
        Answer::Reset,
    ] {
        let (stage, folder) = stage([answer]);
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        stage.failure(to(&path, None)).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_names(&folder, &["file"]).await;
    }
    // Dropped on the way, as by a drain.
    let (stage, folder) = stage([Answer::Stalls(vec!["some"])]);
    let operation = to(&folder.path().join("file"), None);
    let run = stage.run(operation);
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(1), run)
            .await
            .is_err()
    );
    assert_names(&folder, &[""; 0]).await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_s3_does_not_vouch_for_never_get_the_name() {
    // Of "hello", as S3 writes them.
    let right = [
        ("x-amz-checksum-crc32", "NhCmhg=="),
        ("x-amz-checksum-crc32c", "mnG7TA=="),
        (
            "x-amz-checksum-sha256",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        ),
    ];
    for (name, value) in right {
        let (stage, folder) = stage([whole("hello").header(name, value)]);
        stage
            .run(to(&folder.path().join("file"), None))
            .await
            .unwrap();
        // Cut and resumed, so that only our own sum has seen all of it.
        let wrong = whole("hellx").header(name, value);
        let answers = [cut("hellx", 4).header(name, value), rest("hellx", 4), wrong];
        let (stage, folder) = self::stage(answers);
        let failure = stage.failure(to(&folder.path().join("file"), None)).await;
        assert_eq!(failure.code, "checksum_mismatch", "{name}: {failure}");
        assert_names(&folder, &[""; 0]).await;
        assert_eq!(stage.failures_in_a_row(), 0);
    }
    // Of parts, or of a range: they say nothing of these bytes.
    let composite = whole("hello").header("x-amz-checksum-crc32", "AAAAAA==-2");
    let (stage, folder) = stage([composite]);
    stage
        .run(to(&folder.path().join("file"), None))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_path_leads_out_of_the_roots_or_onto_anything_but_a_file() {
    let (stage, folder) = stage([whole("hello")]);
    let outside = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    fs::create_dir(here("sub")).unwrap();
    symlink(outside.path(), here("out")).unwrap();
    symlink("..", here("up")).unwrap();
    symlink(outside.path().join("victim"), here("link")).unwrap();
    symlink("sub", here("inside")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, here("pipe"), rustix::fs::Mode::RUSR).unwrap();
    for (path, expected) in [
        (here("out/x"), "forbidden_source"),
        (here("up/x"), "forbidden_source"),
        (here("../x"), "forbidden_source"),
        (here("sub/../../x"), "forbidden_source"),
        (here(""), "forbidden_source"),
        (outside.path().join("x"), "forbidden_source"),
        ("/etc/cron.d/x".into(), "forbidden_source"),
        ("/proc/self/cwd/x".into(), "forbidden_source"),
        (here("link"), "destination_not_a_file"),
        (here("sub"), "destination_not_a_file"),
        (here("pipe"), "destination_not_a_file"),
        (here("none/x"), "destination_not_found"),
        (here(&"x".repeat(300)), "destination_not_found"),
    ] {
        let failure = stage.failure(to(&path, None)).await;
        assert_eq!(failure.code, expected, "{path:?}");
        assert!(!failure.called);
    }
    assert_eq!(
        stage.calls(),
        0,
        "nothing is asked of S3 for a place that is refused"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    stage.run(to(&here("inside/x"), None)).await.unwrap();
    assert_eq!(fs::read_to_string(here("sub/x")).unwrap(), "hello");
}

/// A download whose worker is killed while the bytes come; the name of what it leaves.
async fn killed(folder: &tempfile::TempDir, job: crate::job::Job) -> String {
    let before = names(folder);
    let mut stage = Stage::new([Answer::Stalls(vec!["some"])]);
    let roots = Roots::new("destinations.file_roots", vec![folder.path().to_owned()]);
    Arc::get_mut(&mut stage.storage).unwrap().destinations = Arc::new(roots);
    let (stage, job) = (Box::leak(Box::new(stage)), Box::leak(Box::new(job)));
    let context = Box::leak(Box::new(stage.context()));
    let mut run = Box::pin(stage.storage.run(job, context));
    let second = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(second, &mut run).await.is_err());
    // Nothing that it would do at its end is done.
    std::mem::forget(run);
    let mut left = names(folder);
    left.retain(|name| !before.contains(name));
    assert_eq!(left.len(), 1, "{left:?}");
    left.remove(0)
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_run_left_is_removed_by_the_jobs_next_one_and_nothing_else_is() {
    use crate::{
        job::JobId,
        storage::{CallContext, script::job},
    };
    let (stage, folder) = stage([whole("hello"), whole("hello")]);
    let here = |name: &str| folder.path().join(name);
    let get = || job(to(&here("file"), None));
    let other_job = crate::job::Job {
        id: JobId::parse("job-2").unwrap(),
        ..get()
    };
    let others = [
        killed(&folder, other_job).await,
        killed(&folder, job(to(&here("other"), None))).await,
    ];
    let ours = [killed(&folder, get()).await, killed(&folder, get()).await];
    // Of our form, and no such file.
    let form = ours[0].strip_suffix(".part").unwrap();
    let alike = |digits: &str| format!("{}{digits}.part", &form[..form.len() - digits.len()]);
    let (link, sub) = (alike("0000"), alike("1111"));
    let outside = tempfile::NamedTempFile::new().unwrap();
    symlink(outside.path(), here(&link)).unwrap();
    fs::create_dir(here(&sub)).unwrap();
    let odd = [
        format!("{form}0.part"),
        format!("{form}.parts"),
        format!("{}.part", form.replace('-', "_")),
        format!("{}zz.part", &form[..form.len() - 2]),
        ".brigade-0123456789abcdef.part".to_owned(),
    ];
    for name in &odd {
        fs::write(here(name), "not ours").unwrap();
    }
    let mut stays: Vec<_> = others.into_iter().chain(odd).chain([link, sub]).collect();
    stays.push("file".to_owned());
    stays.sort();

    stage.run(to(&here("file"), None)).await.unwrap();
    for name in &ours {
        assert!(here(name).exists(), "no worker is known to have died");
    }
    let context = CallContext {
        unfinished: 1,
        ..stage.context()
    };
    stage
        .run_in(to(&here("file"), None), &context)
        .await
        .unwrap();
    assert_names(&folder, &stays).await;
    assert!(outside.path().exists());
}
