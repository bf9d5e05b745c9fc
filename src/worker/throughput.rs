//! Completed jobs a second, for the status page.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::lane::Totals;

/// Completed jobs a second, over the last ten seconds.
#[derive(Debug, Default)]
pub struct Throughput(
    /// Totals, a second apart. Nothing awaits under it.
    Mutex<VecDeque<u64>>,
);

impl Throughput {
    const SECONDS: usize = 10;

    /// The rate now.
    pub fn per_second(&self) -> f64 {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (totals.front(), totals.back()) {
            (Some(first), Some(last)) if totals.len() > 1 => {
                (last - first) as f64 / (totals.len() - 1) as f64
            }
            _ => 0.0,
        }
    }

    pub(super) async fn sample(self: Arc<Self>, totals: Arc<Totals>, stop: CancellationToken) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                _ = second.tick() => {}
                () = stop.cancelled() => return,
            }
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() > Self::SECONDS {
                seen.pop_front();
            }
            seen.push_back(totals.completed.load(Ordering::Relaxed));
        }
    }
}
