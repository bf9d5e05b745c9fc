//! How many deliveries a lane may take, so that the messages in its hands stay within their share of the budget.
//!
//! Messages are here before they can be reserved: RabbitMQ sends as many as the prefetch says, and reads it only when
//! a consumer starts. So the lane looks at the sizes that it gets, and consumes anew with another prefetch when they
//! have changed: with a lower one when its hands were full, with a higher one when many more would fit. Nothing is
//! given back for it. It begins as if every message were as large as `limits.max_message_bytes` allows.

use std::collections::VecDeque;

use crate::{
    broker::Delivery,
    job::{Lane, Message, message::header},
    resilience::{Budget, Share},
};

/// Sizes that the mean is taken of; chosen.
const SAMPLE: usize = 64;
/// A higher prefetch is at most so many times the one before: sizes that were seen so far promise only so much.
const GROWTH: u16 = 16;
/// Deliveries that must be seen before the prefetch grows, at least.
const EVIDENCE: u32 = 8;
/// What a delivery takes beside its body, in bytes: properties, headers, handles. Roughly measured.
const BESIDE: u64 = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    share: Share,
    /// Bytes that should not be exceeded.
    most_bytes: u64,
    /// `lanes.<lane>.prefetch`.
    most: u16,
    /// Of the present subscription, or of the next one if nothing changes.
    prefetch: u16,
    /// Deliveries taken with this prefetch.
    seen: u32,
    /// Of the deliveries taken last.
    sizes: VecDeque<u64>,
    sum: u64,
}

impl Window {
    /// The first window of a lane that may take `prefetch` deliveries, the largest of `largest` bytes.
    pub(super) fn new(budget: &Budget, lane: Lane, prefetch: u16, largest: u64) -> Self {
        let most_bytes = budget.total() / part_of(lane);
        let mut window = Self {
            share: budget.share(),
            most_bytes,
            most: prefetch,
            prefetch,
            seen: 0,
            sizes: VecDeque::with_capacity(SAMPLE),
            sum: 0,
        };
        window.prefetch = window.fitting(largest + BESIDE);
        window
    }

    /// Counts a delivery that has come, until it is settled.
    pub(super) fn count(&mut self, delivery: &mut Delivery) {
        let size = weight(&delivery.message);
        delivery.acker.hold(self.share.charge(size));
        self.seen = self.seen.saturating_add(1);
        if self.sizes.len() == SAMPLE {
            self.sum -= self.sizes.pop_front().unwrap_or_default();
        }
        self.sizes.push_back(size);
        self.sum += size;
    }

    /// The prefetch to consume with from now on.
    pub(super) fn next_prefetch(&mut self) -> u16 {
        let next = self.best();
        if next != self.prefetch {
            (self.prefetch, self.seen) = (next, 0);
        }
        next
    }

    /// The prefetch that is consumed with.
    pub(super) const fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// Whether the lane must stop consuming until its hands are lighter.
    pub(super) fn is_full(&self) -> bool {
        self.share.bytes() > self.most_bytes
    }

    /// Whether a lane that does not consume must not begin to.
    pub(super) fn is_heavy(&self) -> bool {
        self.share.bytes() > self.most_bytes / 2
    }

    /// Waits until that is over. May be dropped.
    pub(super) async fn lighter(&self) {
        self.share.at_most(self.most_bytes / 2).await;
    }

    /// Whether it is worth consuming anew, for at least twice as many deliveries at a time; if so it is so many from
    /// now on. With what is in hand they are not more than the lane may have.
    pub(super) fn grow(&mut self) -> bool {
        if self.prefetch == self.most || self.is_heavy() {
            return false;
        }
        let in_hand = u16::try_from(self.share.items()).unwrap_or(u16::MAX);
        let next = self.best().min(self.most.saturating_sub(in_hand));
        if next / 2 < self.prefetch {
            return false;
        }
        (self.prefetch, self.seen) = (next, 0);
        true
    }

    /// What fits beside what is in hand, and not beyond what the deliveries so far promise.
    fn best(&self) -> u16 {
        if self.sizes.is_empty() {
            return self.prefetch;
        }
        let has_evidence = self.seen >= EVIDENCE.max(u32::from(self.prefetch));
        let promised = match has_evidence {
            true => self.prefetch.saturating_mul(GROWTH),
            false => self.prefetch,
        };
        self.fitting(self.mean()).min(promised)
    }

    fn mean(&self) -> u64 {
        (self.sum / self.sizes.len().max(1) as u64).max(1)
    }

    /// How many of that size have room now; 1 at least.
    fn fitting(&self, size: u64) -> u16 {
        let room = self.most_bytes.saturating_sub(self.share.bytes());
        let fitting = u16::try_from(room / size.max(1)).unwrap_or(u16::MAX);
        fitting.clamp(1, self.most)
    }
}

/// The part of the budget that a lane's messages may take: half of it for uploads, whose messages carry objects. What
/// the lanes leave, and one item in any case, is for parts and bodies.
const fn part_of(lane: Lane) -> u64 {
    match lane {
        Lane::Upload => 2,
        Lane::Read | Lane::Cleanup => 4,
    }
}

/// What a message takes: JSON twice, since the job that is read from it holds its texts once more.
fn weight(message: &Message) -> u64 {
    let body = message.body.len() as u64;
    let job = match message.headers.contains_key(header::JOB) {
        true => 0,
        false => body,
    };
    BESIDE + body + job
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
