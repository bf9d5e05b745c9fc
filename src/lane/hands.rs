//! The deliveries that a lane holds and has not started.
//!
//! They stay in hand for as long as the lane may start them: while it consumes, and while its copies can't be
//! published. When it must not run them, the runner gives all of them back at once. What was refused or given
//! back by its own task rests for a moment first, so that nothing goes round in a hot loop.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::broker::{Acker, Delivery};

/// How long a delivery rests that its own task gave back, doubled for each panic that it came out of; chosen.
const REST: Duration = Duration::from_secs(1);
/// So often at most: eight and a half minutes.
const MOST_DOUBLED: u32 = 9;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// In order of arrival.
    waiting: VecDeque<Delivery>,
    /// Given back by their tasks, with the time from which they may start again; the first one first.
    resting: VecDeque<(Instant, Delivery)>,
}

impl Hands {
    /// Deliveries in hand.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.resting.len()
    }

    /// Whether one of them may start now.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A delivery has come.
    pub(super) fn take(&mut self, delivery: Delivery) {
        self.waiting.push_back(delivery);
    }

    /// A task gave its delivery back.
    pub(super) fn take_back(&mut self, acker: Acker) {
        let delivery = Delivery {
            message: Arc::clone(acker.message()),
            // The broker did not hand it over again.
            redelivered: false,
            acker,
        };
        let rest = REST * 2_u32.pow(delivery.acker.returns().min(MOST_DOUBLED));
        let until = Instant::now() + rest;
        let place = self.resting.partition_point(|(other, _)| *other <= until);
        self.resting.insert(place, (until, delivery));
    }

    /// The next one to start. What went stale is let go: its redelivery decides.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        std::iter::from_fn(|| self.waiting.pop_front()).find(|delivery| !delivery.acker.is_stale())
    }

    /// Ends when something has rested enough, and lets it wait with the others. Never ends while nothing rests.
    pub(super) async fn rested(&mut self) {
        let Some((until, _)) = self.resting.front() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(*until).await;
        let now = Instant::now();
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            let rested = self.resting.pop_front();
            self.waiting.extend(rested.map(|(_, delivery)| delivery));
        }
    }

    /// Lets what rests wait with the others at once.
    pub(super) fn wake(&mut self) {
        let resting = self.resting.drain(..);
        self.waiting.extend(resting.map(|(_, delivery)| delivery));
    }

    /// Lets go of what went stale.
    pub(super) fn drop_stale(&mut self) {
        self.waiting.retain(|delivery| !delivery.acker.is_stale());
        self.resting
            .retain(|(_, delivery)| !delivery.acker.is_stale());
    }

    /// Everything in hand, the oldest first, to be given back.
    pub(super) fn empty(&mut self) -> impl Iterator<Item = Delivery> {
        self.wake();
        std::mem::take(&mut self.waiting).into_iter()
    }
}
