use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::{
    job::operation::{DeleteObject, DeleteObjects},
    storage::{
        LedgerTrouble,
        script::{Answer, Stage, job, lease},
    },
};

type End = Option<Result<Done, Stop>>;

/// A job that waits for a batch, and the count of its calls.
struct Waits {
    delete: Option<DeleteJob>,
    answer: BatchAnswer,
    calls: Arc<AtomicU32>,
}

impl Waits {
    fn new(stage: &Stage, operation: Operation) -> Self {
        Self::leased(stage, operation, None)
    }

    fn leased(stage: &Stage, operation: Operation, lease: Option<Lease>) -> Self {
        let calls: Arc<AtomicU32> = Arc::default();
        let context = CallContext {
            calls: Arc::clone(&calls),
            lease,
            breaker: None,
            ..stage.context()
        };
        let job = job(operation);
        let (delete, answer) = stage.storage.for_batch(&job, &context, 1000).unwrap();
        Self {
            delete: Some(delete),
            answer,
            calls,
        }
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}

fn one(key: &str) -> Operation {
    version(key, None)
}

fn version(key: &str, version_id: Option<&str>) -> Operation {
    Operation::DeleteObject(DeleteObject {
        bucket: "b".into(),
        key: key.into(),
        version_id: version_id.map(str::to_owned),
    })
}

fn many(keys: &[&str]) -> Operation {
    Operation::DeleteObjects(DeleteObjects {
        bucket: "b".into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    })
}

/// Runs the jobs as one batch: the end of each, and the calls it counts.
async fn run(stage: &Stage, jobs: &mut [Waits]) -> Vec<(End, u32)> {
    let taken = jobs.iter_mut().filter_map(|job| job.delete.take());
    let context = CallContext {
        breaker: None,
        ..stage.context()
    };
    let batch = stage.storage.delete_batch("b", taken.collect(), &context);
    batch.await;
    let mut ends = Vec::new();
    for job in jobs {
        ends.push(((&mut job.answer).await.ok(), job.calls()));
    }
    ends
}

async fn run_keys(stage: &Stage, keys: &[&str]) -> Vec<(End, u32)> {
    let mut jobs: Vec<Waits> = keys.iter().map(|key| Waits::new(stage, one(key))).collect();
    run(stage, &mut jobs).await
}

/// `ok`, or the code of the failure.
fn short(ends: &[(End, u32)]) -> Vec<String> {
    let short = |end: &End| match end {
        Some(Ok(done)) if done.result == JobResult::Deleted { deleted: 1 } => "ok".to_owned(),
        Some(Err(Stop::Failed(failure))) => failure.code.clone(),
        other => format!("{other:?}"),
    };
    ends.iter().map(|(end, _)| short(end)).collect()
}

fn calls(ends: &[(End, u32)]) -> Vec<u32> {
    ends.iter().map(|(_, calls)| *calls).collect()
}

fn keys_sent(stage: &Stage) -> Vec<usize> {
    let seen = stage.seen();
    seen.iter()
        .map(|seen| seen.body.matches("<Key>").count())
        .collect()
}

fn unavailable() -> Answer {
    Answer::error(503, "ServiceUnavailable")
}

#[tokio::test(start_paused = true)]
async fn each_job_of_a_batch_ends_by_its_own_key() {
    let failed = [("b", "AccessDenied"), ("c", "NoSuchKey")];
    let stage = Stage::new([Answer::deletes(&["a"], &failed)]);
    let ends = run_keys(&stage, &["a", "b", "c"]).await;
    assert_eq!(short(&ends), ["ok", "AccessDenied", "ok"]);
    assert_eq!(calls(&ends), [1, 1, 1]);
    assert_eq!(stage.requests(), 1);
    assert_eq!(stage.operations("delete_objects", "success"), 1);
    assert_eq!(stage.operations("delete_object", "success"), 0);
    assert_eq!(stage.metrics.cleanup_batch_keys.get_sample_sum(), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_key_alone_in_its_batch_is_sent_and_counted_as_delete_object() {
    let stage = Stage::new([Answer::status(204)]);
    assert_eq!(short(&run_keys(&stage, &["a"]).await), ["ok"]);
    assert_eq!(stage.seen()[0].method, "DELETE");
    assert_eq!(stage.operations("delete_object", "success"), 1);
    assert_eq!(stage.operations("delete_objects", "success"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_named_by_two_jobs_is_sent_once_and_settles_both() {
    let stage = Stage::new([Answer::deletes(&["a"], &[("b", "AccessDenied")])]);
    let ends = run_keys(&stage, &["a", "b", "a", "b"]).await;
    assert_eq!(short(&ends), ["ok", "AccessDenied", "ok", "AccessDenied"]);
    assert_eq!(keys_sent(&stage), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_several_keys_shares_a_call_and_has_its_own_result() {
    let failed = [("c", "AccessDenied")];
    let stage = Stage::new([Answer::deletes(&["a", "b", "d"], &failed)]);
    let jobs = [
        many(&["b", "c", "b"]),
        one("a"),
        many(&["c", "d"]),
        many(&["c"]),
    ];
    let mut jobs = jobs.map(|job| Waits::new(&stage, job));
    let ends = run(&stage, &mut jobs).await;
    let refused = |end: &End| match end {
        Some(Ok(Done {
            result: JobResult::DeletedMany { deleted, failed },
            ..
        })) => (*deleted, failed.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&ends[0].0), (1, 1));
    assert_eq!(refused(&ends[2].0), (1, 1));
    assert_eq!(
        short(&ends[3..]),
        ["AccessDenied"],
        "all its keys are refused"
    );
    assert_eq!(keys_sent(&stage), [4]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_tried_again_keeps_no_other_job_waiting() {
    let stage = Stage::new([
        Answer::deletes(&["a"], &[("b", "InternalError")]),
        Answer::deletes(&["b"], &[]),
    ]);
    let mut jobs = ["a", "b"].map(|key| Waits::new(&stage, one(key)));
    let taken = jobs
        .iter_mut()
        .filter_map(|job| job.delete.take())
        .collect();
    let [a, b] = jobs;
    let (context, began) = (stage.context(), Instant::now());
    let ((), quick, slow) = tokio::join!(
        stage.storage.delete_batch("b", taken, &context),
        async { a.answer.await.map(|_| began.elapsed()) },
        async { b.answer.await.map(|_| began.elapsed()) },
    );
    assert_eq!(quick, Ok(Duration::ZERO));
    assert_eq!(slow, Ok(Duration::from_secs(1)));
    let counted = (
        a.calls.load(Ordering::Relaxed),
        b.calls.load(Ordering::Relaxed),
    );
    assert_eq!((counted, keys_sent(&stage)), ((1, 2), vec![2, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_works_fails_only_its_own_job() {
    let stage = Stage::new([
        Answer::deletes(&["a", "c"], &[("b", "InternalError")]),
        Answer::deletes(&[], &[("b", "InternalError")]),
    ]);
    let ends = run_keys(&stage, &["a", "b", "c"]).await;
    assert_eq!(short(&ends), ["ok", "InternalError", "ok"]);
    assert_eq!(calls(&ends), [1, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_as_a_whole_is_halved_until_its_bad_key_is_alone() {
    let stage = Stage::new([
        unavailable(),
        unavailable(),
        unavailable(),
        Answer::deletes(&["a", "b"], &[]),
        unavailable(),
        Answer::status(204),
        unavailable(),
    ]);
    let ends = run_keys(&stage, &["a", "b", "c", "d"]).await;
    assert_eq!(short(&ends), ["ok", "ok", "ok", "ServiceUnavailable"]);
    assert_eq!(keys_sent(&stage), [4, 4, 4, 2, 2, 0, 0]);
    assert_eq!(calls(&ends), [4, 4, 5, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_ill_is_not_asked_for_every_key() {
    let stage = Stage::new([unavailable()]);
    let ends = run_keys(&stage, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    assert_eq!(short(&ends), ["ServiceUnavailable"; 8]);
    // Three attempts for all, one for a half, one for a key.
    assert_eq!(keys_sent(&stage), [8, 8, 8, 4, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_as_a_whole_is_asked_key_by_key() {
    let refused = || Answer::error(403, "AccessDenied");
    let halves = [refused(), refused(), refused(), Answer::status(204)];
    let last = [Answer::deletes(&["c", "d"], &[])];
    let stage = Stage::new(halves.into_iter().chain(last));
    let ends = run_keys(&stage, &["a", "b", "c", "d"]).await;
    assert_eq!(short(&ends), ["AccessDenied", "ok", "ok", "ok"]);
    assert_eq!(keys_sent(&stage), [4, 2, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_no_key_can_be_the_reason_of_is_not_split() {
    for (answer, requests) in [
        (Answer::error(503, "SlowDown"), 3),
        (Answer::error(404, "NoSuchBucket"), 1),
        (Answer::error(400, "ExpiredToken"), 1),
    ] {
        let stage = Stage::new([answer]);
        let ends = run_keys(&stage, &["a", "b", "c", "d"]).await;
        assert!(short(&ends).iter().all(|end| end != "ok"), "{ends:?}");
        assert_eq!(stage.requests(), requests, "{ends:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_multi_delete_the_jobs_go_on_by_themselves_and_it_is_remembered_for_a_while() {
    for answer in [Answer::error(501, "NotImplemented"), Answer::status(405)] {
        let stage = Stage::new([answer, Answer::status(204)]);
        let ends = run_keys(&stage, &["a", "b"]).await;
        assert!(ends.iter().all(|(end, _)| end.is_none()), "{ends:?}");
        let context = stage.context();
        let gathers = || stage.storage.for_batch(&job(one("a")), &context, 1000);
        assert!(gathers().is_none());
        // A job of many keys doesn't ask again either.
        let context = CallContext {
            breaker: None,
            ..stage.context()
        };
        let keys = ["a", "b", "c"];
        let done = stage.run_in(many(&keys), &context).await.unwrap();
        let deleted = JobResult::DeletedMany {
            deleted: 3,
            failed: vec![],
        };
        assert_eq!(done.result, deleted);
        let methods: Vec<_> = stage.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, ["POST", "DELETE", "DELETE", "DELETE"]);
        tokio::time::advance(Duration::from_secs(601)).await;
        assert!(gathers().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_wants_content_md5_gets_it_from_then_on() {
    let stage = Stage::new([
        Answer::error(400, "MissingContentMD5"),
        Answer::deletes(&["a", "b"], &[]),
    ]);
    let ends = run_keys(&stage, &["a", "b"]).await;
    assert_eq!(
        (short(&ends), calls(&ends)),
        (vec!["ok".to_owned(); 2], vec![2, 2])
    );
    run_keys(&stage, &["a", "b"]).await;
    let seen = stage.seen();
    assert_eq!(seen.len(), 3);
    assert!(!seen[0].headers.contains_key("content-md5"));
    for request in &seen[1..] {
        use base64::{Engine, engine::general_purpose::STANDARD};
        use md5::Digest;
        let digest = STANDARD.encode(md5::Md5::digest(&request.body));
        assert_eq!(request.headers.get("content-md5"), Some(&digest));
        assert!(!request.headers.contains_key("x-amz-checksum-crc32"));
        let signed = &request.headers["authorization"];
        assert!(signed.contains("content-md5"), "{signed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_not_ours_any_more_takes_no_part_in_the_call() {
    let stage = Stage::new([Answer::deletes(&["b"], &[])]);
    let asked = Arc::default();
    let mut jobs = [
        Waits::leased(&stage, one("a"), lease(Ok(false), &asked)),
        Waits::leased(&stage, one("b"), lease(Ok(true), &asked)),
        Waits::leased(
            &stage,
            one("c"),
            lease(Err(LedgerTrouble::Down("away".into())), &asked),
        ),
    ];
    let ends = run(&stage, &mut jobs).await;
    assert!(
        matches!(ends[0], (Some(Err(Stop::LeaseLost)), 0)),
        "{ends:?}"
    );
    assert_eq!(short(&ends[1..2]), ["ok"]);
    assert!(
        matches!(ends[2], (Some(Err(Stop::LedgerDown(_))), 0)),
        "{ends:?}"
    );
    // The one that is left is asked for again, for the call that is made without the others.
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    assert_eq!(stage.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_stopped_waiting_is_left_out() {
    let stage = Stage::new([Answer::deletes(&["b", "c"], &[])]);
    let [mut gone, mut b, mut c] = ["a", "b", "c"].map(|key| Waits::new(&stage, one(key)));
    let taken = [&mut gone, &mut b, &mut c].map(|job| job.delete.take().unwrap());
    drop(gone);
    let context = stage.context();
    let batch = stage.storage.delete_batch("b", taken.into(), &context);
    batch.await;
    assert!(b.answer.await.is_ok());
    assert!(!stage.seen()[0].body.contains("<Key>a</Key>"));
}

#[tokio::test(start_paused = true)]
async fn versions_of_one_key_are_told_apart() {
    let answer = "<DeleteResult><Deleted><Key>k</Key><VersionId>1</VersionId></Deleted>\
        <Error><Key>k</Key><VersionId>2</VersionId><Code>AccessDenied</Code></Error></DeleteResult>";
    let stage = Stage::new([Answer::body(200, answer)]);
    let mut jobs = ["1", "2"].map(|id| Waits::new(&stage, version("k", Some(id))));
    let ends = run(&stage, &mut jobs).await;
    assert_eq!(short(&ends), ["ok", "AccessDenied"]);
    let body = &stage.seen()[0].body;
    assert!(body.contains("<VersionId>1</VersionId>"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_dropped_sends_its_jobs_on_their_own_way() {
    let stage = Stage::new([Answer::Silence]);
    let mut job = Waits::new(&stage, one("a"));
    drop(Batch::of_jobs(vec![job.delete.take().unwrap()]));
    assert!(job.answer.await.is_err(), "as after a panic");
}

#[tokio::test(start_paused = true)]
async fn what_xml_cannot_carry_or_is_too_much_for_a_call_is_not_batched() {
    let stage = Stage::new([Answer::Silence]);
    let context = stage.context();
    let fits = |operation, most| {
        let job = job(operation);
        stage.storage.for_batch(&job, &context, most).is_some()
    };
    assert!(fits(one("a"), 1));
    assert!(!fits(one("a\u{1}"), 1000));
    assert!(fits(many(&["a", "b", "a"]), 2));
    assert!(!fits(many(&["a", "b", "c"]), 2));
}
