//! The memory that all uploads of a process may hold: reserved before a byte is read, given back when its
//! part is done.
//!
//! First come, first served: a job with many parts waits behind the others for each of them. Who holds some of
//! it waits for no more of it, so nobody waits for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is reserved at a time: the budget is counted in these, since a semaphore counts in `u32`.
const UNIT: u64 = 4096;

/// The budget of one process.
#[derive(Debug)]
pub(super) struct Budget {
    units: u32,
    free: Arc<Semaphore>,
}

/// Bytes that may be held until this is dropped.
#[derive(Debug)]
#[must_use = "dropped, the bytes are free for others"]
pub(super) struct Reserved {
    _units: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            units,
            free: Arc::new(Semaphore::new(units as usize)),
        }
    }

    /// Waits until that many bytes are free. More than the whole budget is never asked for but by the
    /// rounding to units; it gets all of it.
    pub(super) async fn reserve(&self, bytes: u64) -> Reserved {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let wanted = Arc::clone(&self.free).acquire_many_owned(units.min(self.units));
        Reserved {
            // The semaphore is never closed.
            _units: wanted.await.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MIB: u64 = 1024 * 1024;

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
                    most.fetch_max(now, Ordering::Relaxed);
                    for _ in 0..*part {
                        tokio::task::yield_now().await;
                    }
                    held.fetch_sub(*part, Ordering::Relaxed);
                    drop(reserved);
                }))
                .await;
                assert!(most.load(Ordering::Relaxed) <= budget);
                assert_eq!(whole.free.available_permits(), whole.units as usize);
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
    async fn a_part_of_the_whole_budget_gets_it_whatever_the_rounding() {
        let budget = Budget::new(5 * MIB + 1);
        drop(budget.reserve(5 * MIB + 1).await);
    }
}
