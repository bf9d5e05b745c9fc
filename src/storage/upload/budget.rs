//! The memory that all uploads of a process may hold: reserved before a byte is read, given back when its
//! part is done.
//!
//! First come, first served: a job with many parts waits behind the others for each of them. Who holds some of
//! it waits for no more of it, so nobody waits for ever. Buffers are used again while uploads run: an
//! allocator gives memory of this size back to the system at once, and fetching it anew for each part was a
//! fifth of an upload's CPU when measured. What is idle counts as held.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is reserved at a time: the budget is counted in these, since a semaphore counts in `u32`.
const UNIT: u64 = 4096;
/// Smaller buffers are left to the allocator.
const WORTH_KEEPING: usize = 1024 * 1024;
/// Idle buffers at most.
const MOST_IDLE: usize = 64;

/// The budget of one process.
#[derive(Debug)]
pub(super) struct Budget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    units: u32,
    free: Arc<Semaphore>,
    /// Buffers that nobody uses; together with the reserved ones they stay within the budget. Nothing
    /// awaits under it.
    idle: Mutex<Vec<Vec<u8>>>,
}

/// Bytes that may be held until this is dropped, and the buffer to hold them in.
#[derive(Debug)]
#[must_use = "dropped, the bytes are free for others"]
pub(super) struct Reserved {
    buffer: Vec<u8>,
    pool: Arc<Pool>,
    /// Given back after the buffer.
    units: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self(Arc::new(Pool {
            units,
            free: Arc::new(Semaphore::new(units as usize)),
            idle: Mutex::default(),
        }))
    }

    /// Waits until that many bytes are free. More than the whole budget is never asked for but by the
    /// rounding to units; it gets all of it.
    pub(super) async fn reserve(&self, bytes: u64) -> Reserved {
        let pool = &self.0;
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let wanted = Arc::clone(&pool.free).acquire_many_owned(units.min(pool.units));
        // The semaphore is never closed.
        let units = wanted.await.ok();
        Reserved {
            buffer: pool.take(usize::try_from(bytes).unwrap_or(usize::MAX)),
            pool: Arc::clone(pool),
            units,
        }
    }
}

impl Pool {
    /// An empty buffer of exactly that capacity that was used before, or else one without memory; room is made
    /// for what it will need.
    fn take(&self, capacity: usize) -> Vec<u8> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = idle.iter().position(|buffer| buffer.capacity() == capacity) {
            return idle.swap_remove(at);
        }
        let free = self.free.available_permits() as u64 * UNIT;
        let held = |idle: &Vec<Vec<u8>>| {
            idle.iter()
                .map(|buffer| buffer.capacity() as u64)
                .sum::<u64>()
        };
        while held(&idle) > free {
            idle.pop();
        }
        Vec::new()
    }

    fn give_back(&self, mut buffer: Vec<u8>, units: u32) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = self.free.available_permits() + units as usize >= self.units as usize;
        if is_last {
            // No upload runs: an idle worker is small.
            idle.clear();
        } else if buffer.capacity() >= WORTH_KEEPING && idle.len() < MOST_IDLE {
            buffer.clear();
            idle.push(buffer);
        }
    }
}

impl Reserved {
    /// The buffer, to be filled and put back.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Holds these bytes for as long as anybody uses them.
    pub(super) fn hold(mut self, filled: Vec<u8>) -> Bytes {
        self.buffer = filled;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let units = self.units.as_ref().map_or(0, |units| {
            u32::try_from(units.num_permits()).unwrap_or(u32::MAX)
        });
        self.pool.give_back(std::mem::take(&mut self.buffer), units);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Capacities of the idle buffers.
    fn idle(budget: &Budget) -> Vec<u64> {
        let idle = budget.0.idle.lock().unwrap();
        idle.iter().map(|buffer| buffer.capacity() as u64).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_held_never_exceeds_the_budget_and_everybody_gets_a_turn(
            budget in 8u64..64,
            parts in proptest::collection::vec(1u64..=8, 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let whole = Budget::new(budget * MIB);
                let held = AtomicU64::new(0);
                let most = AtomicU64::new(0);
                let (whole, held, most) = (&whole, &held, &most);
                join_all(parts.iter().map(|part| async move {
                    let reserved = whole.reserve(part * MIB).await;
                    let now = held.fetch_add(*part, Ordering::Relaxed) + part;
                    let kept: u64 = idle(whole).iter().sum();
                    most.fetch_max(now + kept / MIB, Ordering::Relaxed);
                    let mut reserved = reserved;
                    let mut buffer = reserved.take_buffer();
                    buffer.reserve_exact((part * MIB) as usize);
                    let reserved = reserved.hold(buffer);
                    for _ in 0..*part {
                        tokio::task::yield_now().await;
                    }
                    held.fetch_sub(*part, Ordering::Relaxed);
                    drop(reserved);
                }))
                .await;
                assert!(most.load(Ordering::Relaxed) <= budget);
                assert_eq!(whole.0.free.available_permits(), whole.0.units as usize);
                assert!(idle(whole).is_empty(), "an idle worker is small");
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_upload_waits_for_one_part_of_a_huge_one_and_not_for_all() {
        let budget = Budget::new(16 * MIB);
        let (first, second) = (budget.reserve(8 * MIB).await, budget.reserve(8 * MIB).await);
        let small = budget.reserve(MIB);
        tokio::pin!(small);
        assert!(futures_util::poll!(&mut small).is_pending());
        let next = budget.reserve(8 * MIB);
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(first);
        let held = futures_util::poll!(&mut small);
        assert!(held.is_ready(), "it came first");
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(second);
        assert!(futures_util::poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn a_buffer_is_used_again_and_an_odd_one_makes_room() {
        let budget = Budget::new(4 * MIB);
        let filled = |mut reserved: Reserved, bytes: u64| {
            let mut buffer = reserved.take_buffer();
            buffer.resize(bytes as usize, 7);
            buffer.shrink_to_fit();
            reserved.hold(buffer)
        };
        let one = filled(budget.reserve(2 * MIB).await, 2 * MIB);
        let two = filled(budget.reserve(2 * MIB).await, 2 * MIB);
        let (memory, copy) = (one.as_ptr(), one.clone());
        drop(one);
        assert!(idle(&budget).is_empty(), "somebody still reads it");
        drop(copy);
        assert_eq!(idle(&budget), [2 * MIB]);
        let again = filled(budget.reserve(2 * MIB).await, 2 * MIB);
        assert_eq!(again.as_ptr(), memory);
        drop(again);
        let odd = filled(budget.reserve(MIB).await, MIB);
        assert!(
            idle(&budget).is_empty(),
            "3 MiB are in use, and 2 do not fit"
        );
        drop((odd, two));
        assert!(idle(&budget).is_empty());
    }

    #[tokio::test]
    async fn a_part_of_the_whole_budget_gets_it_whatever_the_rounding() {
        let budget = Budget::new(5 * MIB + 1);
        drop(budget.reserve(5 * MIB + 1).await);
    }
}
