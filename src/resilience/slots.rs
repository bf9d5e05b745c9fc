//! The slots of a lane: how many S3 calls it makes at a time. As many as it is told, or as many as an
//! [`AdaptiveLimit`] finds, which learns from each call that ends.
//!
//! A limit that falls takes no slot away from whoever holds one: so many are not given out again when they come
//! back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{AdaptiveLimit, EndedCall};

/// Hears of each new limit.
pub type LimitObserver = Box<dyn Fn(usize) + Send + Sync>;

/// See the module. Shared by reference.
pub struct Slots {
    free: Semaphore,
    /// Slots to be kept back when they come back.
    owed: AtomicUsize,
    limit: AtomicUsize,
    adaptive: Option<Adaptive>,
}

struct Adaptive {
    /// Nothing awaits under it; held for some dozens of instructions a call.
    limit: Mutex<AdaptiveLimit>,
    /// That of the limit, for whoever only looks.
    epoch: AtomicU32,
    observer: LimitObserver,
}

/// One slot, until it is dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    permit: Option<SemaphorePermit<'a>>,
}

impl Slots {
    /// Always so many.
    pub fn fixed(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(count),
            owed: AtomicUsize::new(0),
            limit: AtomicUsize::new(count),
            adaptive: None,
        })
    }

    /// As many as turn out to be good, at most `ceiling`. A call that does not move is given up after `patience`.
    /// `observer` hears the first limit, too.
    pub fn adaptive(ceiling: usize, patience: Duration, observer: LimitObserver) -> Arc<Self> {
        let limit = AdaptiveLimit::new(ceiling, patience);
        let count = limit.limit();
        observer(count);
        Arc::new(Self {
            free: Semaphore::new(count),
            owed: AtomicUsize::new(0),
            limit: AtomicUsize::new(count),
            adaptive: Some(Adaptive {
                epoch: AtomicU32::new(limit.epoch()),
                limit: Mutex::new(limit),
                observer,
            }),
        })
    }

    /// Slots in all, now.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Slots that nobody holds.
    pub fn available(&self) -> usize {
        self.free.available_permits()
    }

    /// Waits for a slot, in order. May be dropped.
    pub async fn acquire(&self) -> Slot<'_> {
        Slot {
            slots: self,
            // It is never closed.
            permit: self.free.acquire().await.ok(),
        }
    }

    /// A slot beside the limit, for a call that must not wait for others.
    pub const fn beside(&self) -> Slot<'_> {
        Slot {
            slots: self,
            permit: None,
        }
    }

    /// What a call is given when it is sent, and brings back in [`EndedCall::epoch`].
    pub fn epoch(&self) -> u32 {
        let adaptive = self.adaptive.as_ref();
        adaptive.map_or(0, |it| it.epoch.load(Ordering::Relaxed))
    }

    /// Whether anything is learnt from calls.
    pub const fn is_adaptive(&self) -> bool {
        self.adaptive.is_some()
    }

    /// Learns from a call that has ended.
    pub fn saw(&self, call: &EndedCall) {
        let Some(adaptive) = &self.adaptive else {
            return;
        };
        let mut limit = adaptive
            .limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        limit.saw(call);
        adaptive.epoch.store(limit.epoch(), Ordering::Relaxed);
        let (before, now) = (self.limit(), limit.limit());
        if before != now {
            self.limit.store(now, Ordering::Relaxed);
            if now > before {
                self.give(now - before);
            } else {
                let cut = before - now;
                let kept = self.free.forget_permits(cut);
                self.owed.fetch_add(cut - kept, Ordering::Relaxed);
            }
            (adaptive.observer)(now);
        }
    }

    /// More slots; those that are owed need not be made.
    fn give(&self, more: usize) {
        let paid = self
            .owed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| {
                Some(owed.saturating_sub(more))
            })
            .unwrap_or(0)
            .min(more);
        self.free.add_permits(more - paid);
    }

    /// Whether a slot that comes back is to be kept.
    fn keeps_one(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > 0
            && self
                .owed
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| {
                    owed.checked_sub(1)
                })
                .is_ok()
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.slots.keeps_one()
        {
            permit.forget();
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("limit", &self.limit())
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join_all, poll_immediate};

    use super::*;
    use crate::resilience::{CallEnd, CallKind};

    fn ended(slots: &Slots, end: CallEnd) -> EndedCall {
        EndedCall {
            kind: CallKind::new("put_object", 0, false),
            epoch: slots.epoch(),
            took: Duration::from_millis(20),
            full: true,
            end,
        }
    }

    async fn take(slots: &Slots, count: usize) -> Vec<Slot<'_>> {
        join_all((0..count).map(|_| slots.acquire())).await
    }

    #[tokio::test]
    async fn a_limit_that_falls_takes_no_slot_from_whoever_holds_one_and_gives_fewer_out() {
        let slots = Slots::adaptive(64, Duration::from_secs(10), Box::new(|_| {}));
        let mut held = take(&slots, 8).await;
        slots.saw(&ended(&slots, CallEnd::TimedOut));
        assert_eq!((slots.limit(), slots.available()), (4, 0));
        held.truncate(4);
        assert!(poll_immediate(slots.acquire()).await.is_none());
        held.truncate(3);
        assert!(poll_immediate(slots.acquire()).await.is_some());
        drop(held);
        assert_eq!(slots.available(), 4);
    }

    #[tokio::test]
    async fn a_limit_that_grows_while_slots_are_owed_forgives_them_first() {
        let slots = Slots::adaptive(64, Duration::from_secs(10), Box::new(|_| {}));
        let held = take(&slots, 8).await;
        slots.saw(&ended(&slots, CallEnd::Throttled));
        let fallen = slots.limit();
        assert!(fallen < 8);
        while slots.limit() == fallen {
            slots.saw(&ended(&slots, CallEnd::Answered));
        }
        assert_eq!(slots.available(), 0, "eight are still out");
        drop(held);
        assert_eq!(slots.available(), slots.limit());
    }

    #[tokio::test]
    async fn a_fixed_number_learns_nothing() {
        let slots = Slots::fixed(2);
        slots.saw(&ended(&slots, CallEnd::TimedOut));
        assert_eq!((slots.limit(), slots.available()), (2, 2));
    }
}
