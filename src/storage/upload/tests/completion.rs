//! The last step: what makes the parts an object, and how its answers are read.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_error_inside_the_200_of_a_completion_is_tried_again() {
    let file = File::new(PART);
    let inside = Answer::body(200, "<Error><Code>InternalError</Code></Error>");
    let stage = Stage::new([created(), part("\"p1\""), inside, completed(), object(PART)]);
    let end = stage.run(file.upload()).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    assert_eq!(
        asked(&stage),
        ["create", "part 1", "complete", "complete", "head"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_answer_was_lost_finds_its_own_object() {
    let file = File::new(PART);
    let gone = Answer::error(404, "NoSuchUpload");
    let stage = Stage::new([created(), part("\"p1\""), Answer::Reset, gone, object(PART)]);
    let end = stage.run(file.upload()).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    assert_eq!(
        asked(&stage),
        ["create", "part 1", "complete", "complete", "head", "head"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_conditional_completion_knows_its_own_object_and_aborts_before_a_foreign_one() {
    let file = File::new(PART);
    let options = || PutOptions {
        if_none_match: true,
        ..PutOptions::default()
    };
    let exists = || Answer::error(412, "PreconditionFailed");
    let stage = Stage::new([created(), part("\"p1\""), exists(), object(PART)]);
    let end = stage.run(file.upload_with(options())).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    let condition = stage.seen()[2].headers.get("if-none-match").cloned();
    assert_eq!(condition.as_deref(), Some("*"));

    let foreign = object(PART + 1);
    let stage = Stage::new([created(), part("\"p1\""), exists(), foreign, aborted()]);
    let memory = Memory::default();
    let end = run_with(&stage, file.upload_with(options()), &memory).await;
    let expected = Some((FailureClass::Permanent, "PreconditionFailed"));
    assert_eq!(code_of(&end), expected, "{end:?}");
    assert_eq!(
        asked(&stage),
        ["create", "part 1", "complete", "head", "abort"]
    );
    assert_eq!(memory.notes(), ["begun", "doomed", "gone"]);
}

#[tokio::test(start_paused = true)]
async fn a_completion_has_the_time_of_the_whole_object() {
    let file = File::new(10 * MIB);
    let stage = Stage::new([created(), part("\"p1\""), part("\"p2\""), Answer::Silence]);
    let began = Instant::now();
    let end = stage.run(file.upload()).await;
    let expected = Some((FailureClass::TimedOut, "attempt_timeout"));
    assert_eq!(code_of(&end), expected, "{end:?}");
    // Three attempts of 10 s and a second a MiB, and waits of 1 s and 2 s.
    let took = began.elapsed();
    let expected = Duration::from_secs(3 * (10 + 10) + 3);
    assert!(
        took >= expected && took < expected + Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_as_large_as_what_was_sent_is_no_success() {
    let file = File::new(PART);
    let stage = Stage::new([created(), part("\"p1\""), completed(), object(PART - 1)]);
    let end = stage.run(file.upload()).await;
    let expected = Some((FailureClass::Unavailable, "size_mismatch"));
    assert_eq!(code_of(&end), expected, "{end:?}");
    // Without the right to look, the answer to the completion is enough.
    let stage = Stage::new([
        created(),
        part("\"p1\""),
        completed(),
        Answer::status(403),
        Answer::error(403, "AccessDenied"),
    ]);
    let end = stage.run(file.upload()).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
}
