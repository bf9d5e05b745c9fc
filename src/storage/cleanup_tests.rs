use super::*;
use crate::storage::{
    CallContext,
    script::{Answer, Stage, op},
};

fn answer(deleted: &[&str], failed: &[(&str, &str)]) -> Answer {
    Answer::deletes(deleted, failed)
}

async fn run(stage: &Stage, operation: crate::job::Operation) -> Result<Done, Stop> {
    let context = CallContext {
        breaker: None,
        ..stage.context()
    };
    stage.run_in(operation, &context).await
}

fn many(end: Result<Done, Stop>) -> (u64, Vec<(String, String)>) {
    match end.map(|done| done.result) {
        Ok(JobResult::DeletedMany { deleted, failed }) => (
            deleted,
            failed
                .into_iter()
                .map(|failure| (failure.key, failure.code))
                .collect(),
        ),
        other => panic!("expected a result, got {other:?}"),
    }
}

fn failure(end: Result<Done, Stop>) -> Failure {
    match end {
        Err(Stop::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_deleted() {
    for answer in [Answer::status(204), Answer::error(404, "NoSuchKey")] {
        let stage = Stage::new([answer]);
        let done = run(&stage, op::delete()).await.unwrap();
        assert_eq!(done.result, JobResult::Deleted { deleted: 1 });
        assert_eq!(stage.operations("delete_object", "success"), 1);
    }
    let stage = Stage::new([Answer::error(404, "NoSuchBucket")]);
    assert_eq!(
        failure(run(&stage, op::delete()).await).class,
        FailureClass::Permanent
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_delete_is_tried_three_times_and_no_breaker_hears_of_it() {
    let stage = Stage::new([Answer::status(503)]);
    for _ in 0..6 {
        let failure = failure(run(&stage, op::delete()).await);
        assert_eq!(failure.class, FailureClass::Unavailable);
    }
    assert_eq!(stage.requests(), 18);
    assert_eq!(stage.failures_in_a_row(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_end_and_only_those_that_may_work_are_sent_again() {
    let stage = Stage::new([
        answer(
            &["a"],
            &[
                ("b", "InternalError"),
                ("c", "AccessDenied"),
                ("d", "NoSuchKey"),
            ],
        ),
        answer(&["b"], &[]),
    ]);
    let end = run(&stage, op::delete_many(&["a", "b", "c", "d", "a"])).await;
    let refused = vec![("c".to_owned(), "AccessDenied".to_owned())];
    assert_eq!(many(end), (3, refused));
    let bodies: Vec<_> = stage.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0].matches("<Key>").count(), 4, "{}", bodies[0]);
    assert!(bodies[1].contains("<Key>b</Key>") && bodies[1].matches("<Key>").count() == 1);
    assert!(bodies[0].contains("<Quiet>false</Quiet>"), "{}", bodies[0]);
    assert_eq!(stage.operations("delete_objects", "success"), 1);
    assert_eq!(stage.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_answer_does_not_name_is_not_taken_for_deleted() {
    let stage = Stage::new([answer(&["a"], &[]), answer(&["b"], &[])]);
    assert_eq!(
        many(run(&stage, op::delete_many(&["a", "b"])).await),
        (2, vec![])
    );
    assert_eq!(stage.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_that_could_still_work_fail_the_job_with_their_class() {
    let stage = Stage::new([
        answer(&["a"], &[("b", "SlowDown")]),
        answer(&[], &[("b", "SlowDown")]),
    ]);
    let failure = failure(run(&stage, op::delete_many(&["a", "b"])).await);
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Throttled, "SlowDown")
    );
    assert_eq!(stage.requests(), 3);
    assert_eq!(stage.operations("delete_objects", "error"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_which_nothing_is_deleted_fails_for_good() {
    let stage = Stage::new([answer(&[], &[("a", "AccessDenied"), ("b", "AccessDenied")])]);
    let failure = failure(run(&stage, op::delete_many(&["a", "b"])).await);
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Permanent, "AccessDenied")
    );
    assert_eq!(stage.requests(), 1);
    assert_eq!(stage.operations("delete_objects", "error"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_keys_go_into_a_call() {
    let keys: Vec<String> = (0..2001).map(|number| format!("k{number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let answers = keys.chunks(1000).map(|chunk| answer(chunk, &[]));
    let stage = Stage::new(answers);
    assert_eq!(
        many(run(&stage, op::delete_many(&keys)).await),
        (2001, vec![])
    );
    let sent: Vec<_> = stage
        .seen()
        .iter()
        .map(|seen| seen.body.matches("<Key>").count())
        .collect();
    assert_eq!(sent, [1000, 1000, 0], "a key alone goes as DeleteObject");
    assert_eq!(stage.operations("delete_objects", "success"), 1);
    assert_eq!(stage.metrics.cleanup_batch_keys.get_sample_sum(), 2001.0);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_xml_cannot_carry_is_deleted_by_itself() {
    let stage = Stage::new([answer(&["a", "c"], &[]), Answer::status(204)]);
    assert_eq!(
        many(run(&stage, op::delete_many(&["a", "b\u{1}", "c"])).await),
        (3, vec![])
    );
    let seen = stage.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[1].method.as_str()),
        ("POST", "DELETE")
    );
    assert!(
        seen[1].uri.ends_with("/b/b%01?x-id=DeleteObject"),
        "{}",
        seen[1].uri
    );
    assert_eq!(stage.operations("delete_object", "success"), 1);
}
