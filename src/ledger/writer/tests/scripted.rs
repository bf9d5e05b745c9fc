//! A ledger that does as it is told.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::{sync::Semaphore, time::sleep};

use super::super::*;
use crate::{
    job::{BegunUpload, State, UploadNote},
    ledger::{JobFilter, JobRecord, Page, StatRow, SweptUpload, Taken},
};

/// Keeps nothing but a log of what it was asked for.
#[derive(Debug)]
pub(super) struct Scripted {
    pub(super) log: Mutex<Vec<String>>,
    faults: Mutex<Faults>,
    fence: AtomicU64,
    /// One permit lets one call begin.
    pub(super) gate: Semaphore,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) down: bool,
    pub(super) hangs: bool,
    pub(super) panics: bool,
    pub(super) refused: HashSet<&'static str>,
    pub(super) lost: HashSet<&'static str>,
    /// Purges that find a full batch.
    pub(super) old: u32,
    /// Rows that become due in a second, since then; what a row takes to delete, and those that were due before.
    pub(super) rate: u32,
    pub(super) began: Option<Instant>,
    pub(super) row: Duration,
    pub(super) backlog: u64,
    pub(super) purged: u64,
    pub(super) purges_apart: bool,
    /// What a batch takes.
    pub(super) batch: Duration,
}

pub(super) const OPEN: usize = 1_000_000;

impl Scripted {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            faults: Mutex::default(),
            fence: AtomicU64::new(0),
            gate: Semaphore::new(OPEN),
        })
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
    }

    /// What was asked for since the last look.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Rows that might be purged now.
    pub(super) fn due(&self) -> u64 {
        let faults = self.faults.lock().unwrap();
        let Some(began) = faults.began else {
            return 0;
        };
        let ended = began.elapsed().as_secs_f64() * f64::from(faults.rate);
        faults.backlog + ended as u64 - faults.purged
    }

    async fn call(&self, what: &str, ids: Vec<&JobId>) -> Result<(), LedgerError> {
        let ids = ids
            .iter()
            .fold(what.to_owned(), |log, id| format!("{log} {id}"));
        self.log.lock().unwrap().push(ids.clone());
        self.gate.acquire().await.unwrap().forget();
        let batch = self.faults.lock().unwrap().batch;
        if what != "purge" && !batch.is_zero() {
            sleep(batch).await;
        }
        if self.faults.lock().unwrap().hangs {
            std::future::pending::<()>().await;
        }
        let panics = self.faults.lock().unwrap().panics;
        assert!(!panics, "as scripted");
        let faults = self.faults.lock().unwrap();
        if faults.down {
            return Err(LedgerError::Down("unplugged".to_owned()));
        }
        match ids.split(' ').find(|id| faults.refused.contains(id)) {
            Some(id) => Err(LedgerError::Refused(id.to_owned())),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Ledger for Scripted {
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, LedgerError> {
        self.call("claim", requests.iter().map(|one| &one.id).collect())
            .await?;
        let take = |request: &ClaimRequest| {
            let fence = self.fence.fetch_add(1, Ordering::Relaxed);
            Claim::Taken(Taken {
                fence: Fence(i64::try_from(fence).unwrap()),
                attempts: 4,
                parks: 3,
                panics: 2,
                unfinished: 0,
                enqueued_at: request.enqueued_at,
                started_at: request.enqueued_at,
                age_from: request.enqueued_at,
                replaces: false,
            })
        };
        Ok(requests.iter().map(take).collect())
    }

    async fn commit(&self, endings: &[Ending]) -> Result<Vec<Committed>, LedgerError> {
        let what = match endings {
            [one] if one.state == State::Interrupted => "interrupt",
            _ => "commit",
        };
        self.call(what, endings.iter().map(|one| &one.id).collect())
            .await?;
        Ok(endings.iter().map(|_| Committed::Superseded).collect())
    }

    async fn renew(&self, held: &[(JobId, Fence)]) -> Result<Vec<bool>, LedgerError> {
        self.call("renew", held.iter().map(|(id, _)| id).collect())
            .await?;
        let faults = self.faults.lock().unwrap();
        let kept = held
            .iter()
            .map(|(id, _)| !faults.lost.contains(id.as_str()));
        Ok(kept.collect())
    }

    async fn note_buried(&self, held: &[(JobId, Fence)]) -> Result<(), LedgerError> {
        self.call("bury", held.iter().map(|(id, _)| id).collect())
            .await
    }

    async fn get(&self, _: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        Ok(None)
    }

    async fn list(&self, _: &JobFilter) -> Result<Page, LedgerError> {
        let jobs = Vec::new();
        Ok(Page { jobs, next: None })
    }

    async fn stats(&self) -> Result<Vec<StatRow>, LedgerError> {
        Ok(Vec::new())
    }

    fn purges_apart(&self) -> bool {
        self.faults.lock().unwrap().purges_apart
    }

    async fn purge(&self, _: Duration, limit: u32) -> Result<u64, LedgerError> {
        self.call("purge", Vec::new()).await?;
        if self.faults.lock().unwrap().began.is_some() {
            let rows = self.due().min(u64::from(limit));
            let row = self.faults.lock().unwrap().row;
            sleep(row * u32::try_from(rows).unwrap()).await;
            self.set(|faults| faults.purged += rows);
            return Ok(rows);
        }
        let mut faults = self.faults.lock().unwrap();
        let full = faults.old > 0;
        faults.old = faults.old.saturating_sub(1);
        Ok(if full { u64::from(limit) } else { 0 })
    }

    async fn purge_lost(&self, _: Duration, _: u32) -> Result<u64, LedgerError> {
        Ok(0)
    }

    async fn note_upload(&self, id: &JobId, _: Fence, _: &UploadNote) -> Result<bool, LedgerError> {
        self.call("upload", vec![id]).await.map(|()| true)
    }

    async fn recall_upload(&self, id: &JobId) -> Result<Option<BegunUpload>, LedgerError> {
        self.call("recall", vec![id]).await.map(|()| None)
    }

    async fn sweep_uploads(&self, _: Duration, _: u32) -> Result<Vec<SweptUpload>, LedgerError> {
        Ok(Vec::new())
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.call("probe", Vec::new()).await
    }
}
