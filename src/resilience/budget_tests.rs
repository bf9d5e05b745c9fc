//! The budget's rules, on a paused clock.

use std::{
    pin::{Pin, pin},
    task::Poll,
};

use futures_util::{future::join_all, poll};
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;

/// Capacities of the idle buffers.
fn idle(budget: &Budget) -> Vec<u64> {
    let state = budget.0.lock();
    let sizes = state.idle.iter().map(|buffer| buffer.capacity() as u64);
    let sizes: Vec<u64> = sizes.collect();
    assert_eq!(sizes.iter().sum::<u64>(), state.idle_bytes);
    sizes
}

/// Reserved and charged bytes, and waiters.
fn account(budget: &Budget) -> (u64, u64, usize) {
    let state = budget.0.lock();
    (state.reserved, state.charged, state.waiting.len())
}

async fn is_ready<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
    match poll!(future) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Takes the buffer's memory and fills it.
fn filled(mut buffer: Buffer, bytes: u64) -> Bytes {
    let mut memory = buffer.take_memory();
    memory.reserve_exact(bytes as usize);
    memory.resize(bytes as usize, 7);
    buffer.hold(memory)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_held_never_exceeds_the_budget_and_everybody_gets_a_turn(
        total in 8u64..64,
        parts in proptest::collection::vec((1u64..=8, 0usize..4), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let budget = &Budget::new(total * MIB);
            let most = AtomicU64::new(0);
            join_all(parts.iter().map(|(part, kind)| {
                let most = &most;
                async move {
                    let bytes = part * MIB;
                    // Some give up while they wait.
                    if *kind == 3 {
                        drop(futures_util::future::poll_immediate(budget.buffer(bytes)).await);
                        return;
                    }
                    let held: Box<dyn Send> = match kind {
                        0 => Box::new(budget.reserve(bytes).await),
                        _ => {
                            let mut buffer = budget.buffer(bytes).await;
                            let mut memory = buffer.take_memory();
                            memory.reserve_exact(bytes as usize);
                            Box::new(buffer.hold(memory))
                        }
                    };
                    let kept: u64 = idle(budget).iter().sum();
                    most.fetch_max(account(budget).0 + kept, Ordering::Relaxed);
                    for _ in 0..*part {
                        tokio::task::yield_now().await;
                    }
                    drop(held);
                }
            }))
            .await;
            assert!(most.load(Ordering::Relaxed) <= total * MIB);
            assert_eq!(account(budget), (0, 0, 0));
            assert!(idle(budget).is_empty(), "an idle worker is small");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_comes_first_and_a_part_of_a_huge_upload_waits_behind_a_lesser_one() {
    let budget = Budget::new(16 * MIB);
    let (first, second) = (budget.reserve(8 * MIB).await, budget.reserve(8 * MIB).await);
    let mut lesser = pin!(budget.reserve(MIB));
    assert!(is_ready(&mut lesser).await.is_none());
    let mut next = pin!(budget.reserve(8 * MIB));
    assert!(is_ready(&mut next).await.is_none());
    assert!(budget.try_reserve(MIB).is_none(), "nobody overtakes");
    drop(first);
    let lesser = is_ready(&mut lesser).await.expect("it came first");
    assert!(is_ready(&mut next).await.is_none());
    drop(second);
    assert!(is_ready(&mut next).await.is_some());
    drop(lesser);
}

#[tokio::test(start_paused = true)]
async fn an_item_larger_than_the_budget_runs_alone() {
    let budget = Budget::new(4 * MIB);
    let small = budget.reserve(MIB).await;
    let mut huge = pin!(budget.reserve(100 * MIB));
    assert!(is_ready(&mut huge).await.is_none());
    let mut behind = pin!(budget.reserve(MIB));
    assert!(is_ready(&mut behind).await.is_none());
    drop(small);
    let huge = is_ready(&mut huge).await.expect("nothing else is reserved");
    assert!(is_ready(&mut behind).await.is_none(), "it is alone");
    drop(huge);
    assert!(is_ready(&mut behind).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn messages_in_hand_leave_less_for_the_others_and_never_nothing() {
    let budget = Budget::new(16 * MIB);
    let messages = budget.share();
    let first = messages.charge(12 * MIB);
    let second = messages.charge(12 * MIB);
    assert_eq!(messages.bytes(), 24 * MIB, "they are here already");
    let one = budget.reserve(8 * MIB).await;
    let mut other = pin!(budget.reserve(2 * MIB));
    assert!(is_ready(&mut other).await.is_none());
    drop(first);
    assert!(is_ready(&mut other).await.is_none(), "12 and 8 are held");
    drop(second);
    assert!(is_ready(&mut other).await.is_some());
    drop(one);
    assert_eq!(account(&budget), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn small_ones_are_counted_and_wait_for_nobody() {
    let budget = Budget::new(MIB);
    let all = budget.reserve(MIB).await;
    let mut large = pin!(budget.reserve(MIB));
    assert!(is_ready(&mut large).await.is_none());
    let small = pin!(budget.reserve(SMALL)).as_mut().await;
    assert_eq!(account(&budget), (MIB, SMALL, 1));
    drop(filled(budget.buffer(SMALL).await, 10));
    drop((all, small));
    assert!(is_ready(&mut large).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_leaves_the_line_and_gives_back_what_it_was_granted() {
    let budget = Budget::new(4 * MIB);
    let all = budget.reserve(4 * MIB).await;
    let mut granted = Box::pin(budget.buffer(3 * MIB));
    assert!(poll!(&mut granted).is_pending());
    let mut gone = Box::pin(budget.reserve(2 * MIB));
    assert!(poll!(&mut gone).is_pending());
    let mut last = pin!(budget.reserve(MIB));
    assert!(is_ready(&mut last).await.is_none());
    drop(gone);
    assert_eq!(account(&budget), (4 * MIB, 0, 2));
    drop(all);
    // Granted by now, and never looked at.
    drop(granted);
    assert_eq!(account(&budget), (MIB, 0, 0));
    drop(is_ready(&mut last).await.expect("it fits"));
    assert_eq!(account(&budget), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_turns_out_to_be_smaller_is_given_back_at_once() {
    let budget = Budget::new(4 * MIB);
    let mut held = budget.reserve(4 * MIB).await;
    let mut other = pin!(budget.reserve(MIB));
    assert!(is_ready(&mut other).await.is_none());
    held.shrink_to(3 * MIB);
    assert_eq!(held.bytes(), 3 * MIB);
    assert!(is_ready(&mut other).await.is_some());
    held.shrink_to(4 * MIB);
    assert_eq!(held.bytes(), 3 * MIB, "it never grows");
}

#[tokio::test(start_paused = true)]
async fn a_share_says_when_it_has_become_light() {
    let budget = Budget::new(MIB);
    let share = budget.share();
    let (one, other) = (share.charge(MIB), share.charge(MIB));
    let mut light = pin!(share.at_most(MIB / 2));
    assert!(is_ready(&mut light).await.is_none());
    drop(one);
    assert!(is_ready(&mut light).await.is_none());
    drop(other);
    assert!(is_ready(&mut light).await.is_some());
}

#[tokio::test]
async fn a_buffer_is_used_again_and_an_odd_one_makes_room() {
    let budget = Budget::new(4 * MIB);
    let one = filled(budget.buffer(2 * MIB).await, 2 * MIB);
    let two = filled(budget.buffer(2 * MIB).await, 2 * MIB);
    let (memory, copy) = (one.as_ptr(), one.clone());
    drop(one);
    assert!(idle(&budget).is_empty(), "somebody still reads it");
    drop(copy);
    assert_eq!(idle(&budget), [2 * MIB]);
    let again = filled(budget.buffer(2 * MIB).await, 2 * MIB);
    assert_eq!(again.as_ptr(), memory);
    let mut waits = pin!(budget.buffer(2 * MIB));
    assert!(is_ready(&mut waits).await.is_none());
    drop(again);
    let waited = is_ready(&mut waits).await.expect("it is free");
    let waited = filled(waited, 2 * MIB);
    assert_eq!(waited.as_ptr(), memory, "handed over, though all was full");
    drop(waited);
    let odd = filled(budget.buffer(MIB).await, MIB);
    assert!(
        idle(&budget).is_empty(),
        "3 MiB are in use, and 2 do not fit"
    );
    drop((odd, two));
    assert!(idle(&budget).is_empty());
}

#[tokio::test]
async fn a_charge_makes_idle_buffers_go() {
    let budget = Budget::new(4 * MIB);
    let kept = budget.reserve(MIB).await;
    drop(filled(budget.buffer(2 * MIB).await, 2 * MIB));
    assert_eq!(idle(&budget), [2 * MIB]);
    let message = budget.charge(2 * MIB);
    assert!(idle(&budget).is_empty());
    drop((kept, message));
}
