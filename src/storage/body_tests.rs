//! What reads hold in memory, and how they wait for it.

use super::*;
use crate::storage::script::{Answer, Stage, op};

/// An object of 100,000 bytes, and a stage that may read it.
fn large(answer: impl Fn(Answer) -> Answer) -> Stage {
    let mut stage = Stage::new([answer(Answer::body(200, &"x".repeat(100_000)))]);
    stage.max_reply_bytes = 1024 * 1024;
    stage
}

#[tokio::test(start_paused = true)]
async fn a_body_that_finds_no_memory_gives_up_its_slot_and_is_asked_for_again_once_there_is_some() {
    let stage = large(|answer| answer.header("content-length", 100_000));
    let budget = stage.storage.budget();
    let all = budget.reserve(budget.total()).await;
    let mut run = std::pin::pin!(stage.run(op::get()));
    let minute = tokio::time::sleep(Duration::from_secs(60));
    tokio::select! {
        biased;
        _ = &mut run => panic!("there is no memory"),
        () = minute => {}
    }
    assert_eq!((stage.requests(), stage.slots.available()), (1, 2));
    drop(all);
    let done = run.await.unwrap();
    assert_eq!(done.body.unwrap().bytes.len(), 100_000);
    assert_eq!(stage.requests(), 2);
    assert_eq!(stage.operations("get_object", "success"), 1);
    assert_eq!(budget.in_use(), 125_000, "until the reply is out");
    drop(done.held);
    assert_eq!(budget.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_finds_memory_soon_is_asked_for_once() {
    let stage = large(|answer| answer.header("content-length", 100_000));
    let budget = stage.storage.budget();
    let all = budget.reserve(budget.total()).await;
    let mut run = std::pin::pin!(stage.run(op::get()));
    let soon = tokio::time::sleep(Duration::from_millis(900));
    tokio::select! {
        biased;
        _ = &mut run => panic!("there is no memory"),
        () = soon => drop(all),
    }
    run.await.unwrap();
    assert_eq!(stage.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_reserves_all_it_may_have_and_keeps_what_it_has() {
    let stage = large(|answer| answer);
    let budget = stage.storage.budget();
    let rest = budget.reserve(budget.total() - stage.max_reply_bytes).await;
    let mut run = std::pin::pin!(stage.run(op::get()));
    let minute = tokio::time::sleep(Duration::from_secs(60));
    tokio::select! {
        biased;
        _ = &mut run => panic!("a byte is missing"),
        () = minute => drop(rest),
    }
    let done = run.await.unwrap();
    assert_eq!(done.held.unwrap().bytes(), 125_000);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_reserves_its_memory_before_it_begins_and_a_short_one_waits_for_nobody() {
    let page = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let stage = Stage::new([Answer::body(200, page)]);
    let budget = stage.storage.budget();
    let all = budget.reserve(budget.total()).await;
    stage.run(op::list(10)).await.unwrap();
    let mut run = std::pin::pin!(stage.run(op::list(1000)));
    let minute = tokio::time::sleep(Duration::from_secs(60));
    tokio::select! {
        biased;
        _ = &mut run => panic!("there is no memory"),
        () = minute => drop(all),
    }
    assert_eq!(stage.requests(), 1);
    run.await.unwrap();
}

/// CRC-32 of "hello", as S3 writes it.
const OF_HELLO: &str = "NhCmhg==";

fn vouched(body: &str, crc32: &str) -> Answer {
    let answer = Answer::body(200, body).header("content-length", body.len());
    answer
        .header("etag", "\"e\"")
        .header("x-amz-checksum-crc32", crc32)
}

#[tokio::test(start_paused = true)]
async fn a_reply_holds_only_bytes_that_s3_vouches_for_where_it_has_a_checksum_of_all_of_them() {
    let stage = Stage::new([vouched("hellx", OF_HELLO), vouched("hello", OF_HELLO)]);
    let done = stage.run(op::get()).await.unwrap();
    assert_eq!(done.body.unwrap().bytes, "hello");
    assert_eq!(stage.requests(), 2);
    for seen in stage.seen() {
        assert_eq!(seen.headers["x-amz-checksum-mode"], "ENABLED");
    }

    let stage = Stage::new([vouched("hellx", OF_HELLO)]);
    let failure = stage.failure(op::get()).await;
    assert_eq!(failure.class, FailureClass::Unavailable);
    assert_eq!(failure.code, "checksum_mismatch", "{failure}");
    assert_eq!(stage.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn checksums_of_parts_and_ranges_say_nothing_of_a_reply() {
    for composite in [
        vouched("hellx", "NhCmhg==-2"),
        vouched("hellx", OF_HELLO).header("x-amz-checksum-type", "COMPOSITE"),
    ] {
        let stage = Stage::new([composite]);
        stage.run(op::get()).await.unwrap();
    }
    let part = Answer::Reply(
        206,
        vec![
            ("content-range", "bytes 0-1/5".to_owned()),
            ("content-length", "2".to_owned()),
            ("etag", "\"e\"".to_owned()),
            ("x-amz-checksum-crc32", OF_HELLO.to_owned()),
        ],
        "he".to_owned(),
    );
    let stage = Stage::new([part]);
    stage.run(op::get_range(Some("bytes=0-1"))).await.unwrap();
    let headers = &stage.seen()[0].headers;
    assert!(!headers.contains_key("x-amz-checksum-mode"));
}
