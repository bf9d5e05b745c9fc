//! Forgets old jobs as fast as jobs end, and without being in the way of claims.
//!
//! It deletes in slices. Where the database has one writer at a time a slice has its turn between two batches, when
//! the writer gathers the next one anyway; elsewhere it runs beside them. A slice is as large as fits into a short
//! time, measured as it goes, so that a batch waits for none longer than that.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::LedgerStatus;
use crate::{
    ledger::{Ledger, LedgerError},
    watch,
};

/// The time for a slice: the least between two batches, and beside them.
const SLICE: Duration = Duration::from_millis(2);
const SLICE_APART: Duration = Duration::from_millis(10);
/// When every slice was full for so long, the time for one doubles: to the most below, and never to more than the slice waited
/// for its turn. So a purge keeps up with a writer that has no pauses, and takes at most half of the time.
const BEHIND: Duration = Duration::from_secs(3);
const SLICE_MOST: Duration = Duration::from_millis(200);
/// Rows in a slice: before anything is measured, at least, at most.
const ROWS_FIRST: u32 = 50;
const ROWS_LEAST: u32 = 16;
const ROWS_MOST: u32 = 4_000;
/// The least wait after a slice, which lets others write.
const PAUSE: Duration = Duration::from_millis(1);
/// The wait after a slice that found some rows, but not as many as it might have taken.
const SOON: Duration = Duration::from_millis(100);
/// The wait after one that found none: a tenth of the retention within these bounds.
const IDLE_LEAST: Duration = Duration::from_secs(1);
const IDLE_MOST: Duration = Duration::from_secs(60);

pub(super) struct Purger {
    ledger: Arc<dyn Ledger>,
    retention: Duration,
    /// For one slice, as for a batch.
    limit: Duration,
    status: watch::Receiver<LedgerStatus>,
    /// Held by whoever writes.
    turn: Arc<Mutex<()>>,
    /// What a row takes, as measured so far.
    row: Option<Duration>,
    /// What a slice between two batches may take, and since when every one was full.
    most: Duration,
    full_since: Option<Instant>,
    /// When jobs that left unseen are looked for again.
    lost_at: Instant,
}

impl Purger {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        retention: Duration,
        limit: Duration,
        status: watch::Receiver<LedgerStatus>,
        turn: Arc<Mutex<()>>,
    ) -> Self {
        let now = Instant::now();
        let mut purger = Self {
            ledger,
            retention,
            limit,
            status,
            turn,
            row: None,
            most: SLICE,
            full_since: None,
            lost_at: now,
        };
        purger.lost_at = now + purger.idle();
        purger
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut wait = self.idle();
        loop {
            sleep(wait).await;
            // The writer has ended, and this will with it.
            if self
                .status
                .wait_for(|status| *status == LedgerStatus::Up)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
            wait = self.slice().await;
        }
    }

    /// Deletes some rows, and says how long to wait before the next.
    async fn slice(&mut self) -> Duration {
        let asked = Instant::now();
        let (turn, time) = match self.ledger.purges_apart() {
            true => (None, SLICE_APART),
            false => {
                let turn = self.turn.lock().await;
                (Some(turn), asked.elapsed().clamp(SLICE, self.most))
            }
        };
        let rows = self.rows(time);
        let began = Instant::now();
        let is_lost = began >= self.lost_at;
        let purge = match is_lost {
            true => self.ledger.purge_lost(self.retention, rows),
            false => self.ledger.purge(self.retention, rows),
        };
        let purged = timeout(self.limit, purge).await;
        drop(turn);
        let took = began.elapsed();
        let purged = match purged {
            Ok(Ok(purged)) => purged,
            Ok(Err(LedgerError::Refused(why))) => {
                tracing::warn!(why, "old jobs can't be purged");
                return self.idle();
            }
            // The writer learns of it by itself.
            Ok(Err(LedgerError::Down(_) | LedgerError::Ended(_))) | Err(_) => return IDLE_LEAST,
        };
        let is_full = purged >= u64::from(rows);
        if is_lost {
            if !is_full {
                self.lost_at = Instant::now() + self.idle();
            }
            return SOON;
        }
        if purged >= u64::from(ROWS_LEAST) {
            let row = took / u32::try_from(purged).unwrap_or(u32::MAX);
            self.row = Some(self.row.map_or(row, |before| (before * 3 + row) / 4));
        }
        self.keep_up(is_full);
        match purged {
            // No more than half of the time, however much there is. Between batches the turns see to that.
            _ if is_full && self.ledger.purges_apart() => took.max(PAUSE),
            _ if is_full => PAUSE,
            0 => self.idle(),
            _ => SOON,
        }
    }

    /// Longer slices when it is behind, and shorter ones when it is not: a claim waits for them.
    fn keep_up(&mut self, is_full: bool) {
        let now = Instant::now();
        if !is_full {
            self.full_since = None;
            self.most = (self.most / 2).max(SLICE);
        } else if now.duration_since(*self.full_since.get_or_insert(now)) >= BEHIND {
            self.full_since = Some(now);
            self.most = (self.most * 2).min(SLICE_MOST);
        }
    }

    /// How many rows can be deleted in that time.
    fn rows(&self, time: Duration) -> u32 {
        let Some(row) = self.row else {
            return ROWS_FIRST;
        };
        let rows = time.as_nanos() / row.as_nanos().max(1);
        u32::try_from(rows)
            .unwrap_or(ROWS_MOST)
            .clamp(ROWS_LEAST, ROWS_MOST)
    }

    fn idle(&self) -> Duration {
        (self.retention / 10).clamp(IDLE_LEAST, IDLE_MOST)
    }
}
