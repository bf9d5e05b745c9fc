use super::*;
use crate::{
    job::{Failure, FailureClass, Operation},
    storage::{
        CallContext,
        script::{Answer, Stage},
    },
};

/// The job's second, as the script's context has it: 2026-03-20T09:46:40.5Z.
const THEN: &str = "2026-03-20T09:46:40.999Z";
const LATER: &str = "2026-03-20T09:46:41.000Z";

fn page(objects: &[(&str, &str)], next: Option<&str>) -> Answer {
    let objects = objects.iter().map(|(key, modified)| {
        format!("<Contents><Key>{key}</Key><LastModified>{modified}</LastModified></Contents>")
    });
    let objects: String = objects.collect();
    let next = next.map_or(String::new(), |token| {
        format!("<NextContinuationToken>{token}</NextContinuationToken>")
    });
    let truncated = !next.is_empty();
    Answer::body(
        200,
        &format!(
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>\
            {next}{objects}</ListBucketResult>"
        ),
    )
}

fn deleted(deleted: u64, spared: Spared) -> JobResult {
    JobResult::DeletedPrefix {
        deleted,
        spared: spared.total(),
        spared_why: (spared.total() > 0).then_some(spared),
        failed: Vec::new(),
    }
}

async fn run(stage: &Stage) -> Result<JobResult, Failure> {
    let delete = DeletePrefix {
        bucket: "b".to_owned(),
        prefix: "p/".to_owned(),
    };
    let context = CallContext {
        breaker: None,
        ..stage.context()
    };
    match stage
        .run_in(Operation::DeletePrefix(delete), &context)
        .await
    {
        Ok(done) => Ok(done.result),
        Err(Stop::Failed(failure)) => Err(failure),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_followed_and_counted_beside_the_job() {
    let stage = Stage::new([
        page(&[("p/a", THEN), ("p/b+c", THEN)], Some("next")),
        Answer::deletes(&["p/a", "p/b c"], &[]),
        page(&[("p/d", THEN), ("p/e", THEN)], None),
        Answer::deletes(&["p/d", "p/e"], &[]),
    ]);
    assert_eq!(run(&stage).await, Ok(deleted(4, Spared::default())));
    let seen = stage.seen();
    assert!(seen[0].uri.contains("prefix=p%2F"), "{}", seen[0].uri);
    assert!(seen[0].uri.contains("encoding-type=url"), "{}", seen[0].uri);
    assert!(
        seen[1].body.contains("<Key>p/b c</Key>"),
        "{}",
        seen[1].body
    );
    assert!(seen[2].uri.contains("continuation-token=next"));
    assert_eq!(stage.operations("delete_prefix", "success"), 1);
    assert_eq!(stage.operations("list_objects", "success"), 2);
    assert_eq!(stage.operations("delete_objects", "success"), 2);
    assert_eq!(stage.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_after_the_job_s_second_is_spared() {
    let stage = Stage::new([
        page(&[("p/old", THEN), ("p/new", LATER)], None),
        Answer::status(204),
    ]);
    let newer = Spared {
        newer: 1,
        ..Spared::default()
    };
    assert_eq!(run(&stage).await, Ok(deleted(1, newer)));
    let seen = stage.seen();
    assert!(seen[1].uri.contains("/p/old"), "{}", seen[1].uri);
    assert_eq!(seen.len(), 2);

    let undated = "<ListBucketResult><IsTruncated>false</IsTruncated>\
        <Contents><Key>p/a</Key></Contents></ListBucketResult>";
    let stage = Stage::new([Answer::body(200, undated)]);
    let no_date = Spared {
        no_date: 1,
        ..Spared::default()
    };
    assert_eq!(run(&stage).await, Ok(deleted(0, no_date)));
    assert_eq!(stage.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_refused_for_good_is_named_and_the_rest_goes_on() {
    let stage = Stage::new([
        page(&[("p/a", THEN), ("p/b", THEN)], Some("next")),
        Answer::deletes(&["p/a"], &[("p/b", "AccessDenied")]),
        page(&[("p/c", THEN)], None),
        Answer::status(204),
    ]);
    match run(&stage).await {
        Ok(JobResult::DeletedPrefix {
            deleted, failed, ..
        }) => {
            assert_eq!(deleted, 2);
            assert_eq!((failed.len(), failed[0].key.as_str()), (1, "p/b"));
        }
        other => panic!("{other:?}"),
    }
    let refused = Answer::deletes(&[], &[("p/a", "AccessDenied"), ("p/b", "AccessDenied")]);
    let stage = Stage::new([page(&[("p/a", THEN), ("p/b", THEN)], None), refused]);
    let failure = run(&stage).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_may_still_work_brings_the_job_back_after_the_rest_is_done() {
    let again = || Answer::deletes(&[], &[("p/b", "InternalError")]);
    let stage = Stage::new([
        page(&[("p/a", THEN), ("p/b", THEN)], Some("next")),
        Answer::deletes(&["p/a"], &[("p/b", "InternalError")]),
        again(),
        again(),
        page(&[("p/c", THEN)], None),
        Answer::status(204),
    ]);
    let failure = run(&stage).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unavailable);
    assert_eq!(stage.requests(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_ill_store_is_not_asked_for_page_after_page() {
    let stage = Stage::new([
        page(&[("p/a", THEN), ("p/b", THEN)], Some("next")),
        Answer::error(503, "SlowDown"),
    ]);
    let failure = run(&stage).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Throttled);
    assert_eq!(stage.requests(), 4);
}
