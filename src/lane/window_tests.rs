use std::sync::Arc;

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::{
    broker::{Acker, PublishError, Stale, Tag, Target},
    job::HeaderValue,
};

const MIB: u64 = 1024 * 1024;

/// A handle on nothing.
struct NoTag;

#[async_trait]
impl Tag for NoTag {
    fn is_stale(&self) -> bool {
        false
    }

    async fn ack(self: Box<Self>) -> Result<(), Stale> {
        Ok(())
    }

    async fn requeue(self: Box<Self>) -> Result<(), Stale> {
        Ok(())
    }

    async fn publish(&self, _: &Target, _: &Message) -> Result<(), PublishError> {
        Ok(())
    }
}

/// A delivery in the binary form.
fn delivery(size: u64) -> Delivery {
    let mut message = Message {
        body: vec![0; size as usize].into(),
        ..Message::default()
    };
    let job = HeaderValue::Text("{}".to_owned());
    message.headers.insert(header::JOB.to_owned(), job);
    let message = Arc::new(message);
    Delivery {
        message: Arc::clone(&message),
        redelivered: false,
        acker: Acker::new(Box::new(NoTag), message),
    }
}

/// The delivery, counted.
fn taken(window: &mut Window, mut delivery: Delivery) -> Delivery {
    window.count(&mut delivery);
    delivery
}

fn upload(budget: u64, largest: u64) -> Window {
    Window::new(&Budget::new(budget), Lane::Upload, 128, largest)
}

#[test]
fn a_lane_begins_as_if_every_message_were_as_large_as_allowed() {
    assert_eq!(upload(64 * MIB, MIB).prefetch(), 31);
    assert_eq!(upload(64 * MIB, 16 * MIB).prefetch(), 1);
    assert_eq!(upload(64 * MIB, 1000).prefetch(), 128);
    let read = Window::new(&Budget::new(64 * MIB), Lane::Read, 128, MIB);
    assert_eq!(read.prefetch(), 15);
}

#[test]
fn small_messages_soon_get_the_whole_prefetch_and_nothing_changes_any_more() {
    let mut window = upload(64 * MIB, MIB);
    let mut changes = 0;
    for _ in 0..10_000 {
        drop(taken(&mut window, delivery(500)));
        changes += u32::from(window.grow());
    }
    assert_eq!((changes, window.prefetch()), (1, 128));
}

#[test]
fn a_window_that_grows_counts_what_is_in_hand() {
    let mut window = upload(64 * MIB, MIB);
    let some = |window: &mut Window, count| -> Vec<_> {
        (0..count).map(|_| taken(window, delivery(500))).collect()
    };
    let held = some(&mut window, 31);
    assert!(window.grow());
    assert_eq!(window.prefetch(), 97, "128 in all");
    drop(held);
    assert!(!window.grow(), "not worth a new consumer");
    assert_eq!(window.next_prefetch(), 97);
    drop(some(&mut window, 97));
    assert_eq!(
        window.next_prefetch(),
        128,
        "where there is a new one anyway"
    );
}

#[tokio::test]
async fn window_full_of_large_messages_get_lighter_before_they_take_more_and_fewer() {
    let mut window = upload(64 * MIB, 16 * MIB);
    let mut held: Vec<_> = (0..2)
        .map(|_| taken(&mut window, delivery(15 * MIB)))
        .collect();
    assert!(!window.is_full());
    held.push(taken(&mut window, delivery(15 * MIB)));
    assert!(window.is_full(), "45 MiB, and 32 are theirs");
    let is_lighter = async |window: &Window| {
        futures_util::future::poll_immediate(window.lighter())
            .await
            .is_some()
    };
    held.pop();
    assert!(!is_lighter(&window).await);
    held.pop();
    assert!(is_lighter(&window).await, "half of their share");
    assert_eq!(window.next_prefetch(), 1);
    assert!(!window.grow());
}

#[test]
fn sizes_that_have_grown_lower_the_prefetch_and_sizes_that_shrink_raise_it_step_by_step() {
    let mut window = upload(64 * MIB, 1000);
    let large: Vec<_> = (0..33).map(|_| taken(&mut window, delivery(MIB))).collect();
    assert!(window.is_full());
    drop(large);
    assert_eq!(window.next_prefetch(), 31);
    let mut steps = Vec::new();
    for _ in 0..1_000 {
        drop(taken(&mut window, delivery(100)));
        if window.grow() {
            steps.push(window.prefetch());
        }
    }
    assert_eq!(window.prefetch(), 128);
    assert!(steps.len() <= 2, "{steps:?}");
}

#[test]
fn json_counts_twice_and_the_binary_form_once() {
    let mut message = Message {
        body: vec![b' '; 1000].into(),
        ..Message::default()
    };
    assert_eq!(weight(&message), 2000 + BESIDE);
    let job = HeaderValue::Text("{}".to_owned());
    message.headers.insert(header::JOB.to_owned(), job);
    assert_eq!(weight(&message), 1000 + BESIDE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// A broker that sends as many as the prefetch says, and a lane that settles one after the other: whatever the
    /// sizes are, no more is in hand than the share, one window of what was seen before, and one message.
    #[test]
    fn uniform_messages_stay_within_the_share_from_the_first_one_on(
        size in 1u64..16 * MIB,
        count in 1usize..200,
    ) {
        let mut window = upload(64 * MIB, 16 * MIB);
        let (mut held, mut delivered, mut subscriptions) = (VecDeque::new(), 0, 1);
        // What of the present subscription is not settled.
        let mut own = 0;
        let mut consuming = true;
        while delivered < count || !held.is_empty() {
            while consuming && own < window.prefetch() && delivered < count {
                // Not a buffer that is filled: only its size matters.
                held.push_back((taken(&mut window, empty_of(size)), subscriptions));
                own += 1;
                delivered += 1;
                prop_assert!(window.share.bytes() <= 32 * MIB + size + BESIDE);
                if window.is_full() {
                    consuming = false;
                }
            }
            if let Some((_, of)) = held.pop_front()
                && of == subscriptions
            {
                own -= 1;
            }
            let again = match consuming {
                true => window.grow(),
                false => !window.is_heavy() && window.next_prefetch() > 0,
            };
            if again {
                (consuming, own) = (true, 0);
                subscriptions += 1;
            }
        }
        prop_assert!(subscriptions <= 5, "{subscriptions} for {count} of {size}");
    }
}

/// A delivery whose body takes no memory.
fn empty_of(size: u64) -> Delivery {
    let body = bytes::Bytes::from_static(&ZEROS[..size as usize]);
    let mut delivery = delivery(0);
    let mut message = (*delivery.message).clone();
    message.body = body;
    delivery.message = Arc::new(message);
    delivery
}

static ZEROS: [u8; 16 << 20] = [0; 16 << 20];
