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
