//! The ledger's twin in memory, on Tokio's clock, for tests of whatever stands on a ledger: rows by the same
//! decisions as in the databases, and faults that are hard to time on a real one. It keeps no lists and no uploads.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Claim, ClaimRequest, Committed, Ending, Fence, JobFilter, JobRecord, Ledger, LedgerError, Page,
    StatRow, SweptUpload,
    decision::{self, Decision, Row, Taking},
};
use crate::job::{
    AttemptLog, BegunUpload, JobId, State, Timestamp, UploadNote, report::ReportedError,
};

/// One worker's handle; its clones and those for other workers share the rows.
#[derive(Debug, Clone)]
pub(crate) struct MemoryLedger {
    worker: Arc<str>,
    lease: Duration,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    rows: HashMap<JobId, Kept>,
    faults: Faults,
    /// The clock's time at a moment of Tokio's.
    began: (Timestamp, Instant),
    /// How far the clock has been put on.
    passed: Duration,
    claims: u32,
    recalls: u32,
}

/// What goes wrong from now on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Nothing can be read or written.
    pub(crate) down: bool,
    /// Claims go well, endings don't.
    pub(crate) commits_down: bool,
    /// Rows that the database refuses to take.
    pub(crate) refused: HashSet<&'static str>,
    /// Rows whose endings the database refuses.
    pub(crate) refused_endings: HashSet<&'static str>,
    /// Rows whose leases the database refuses to lengthen.
    pub(crate) refused_renewals: HashSet<&'static str>,
}

#[derive(Debug, Clone)]
struct Kept {
    record: JobRecord,
    row: Row,
    failed: String,
}

impl Kept {
    /// The row is for this request from now on.
    fn describe(&mut self, request: &ClaimRequest) {
        self.row.digest = Some(request.digest);
        self.row.ignored.clone_from(&request.ignored);
        let record = &mut self.record;
        record.lane = request.lane;
        record.operation = request.operation.as_str().to_owned();
        record.bucket.clone_from(&request.bucket);
        record.key.clone_from(&request.key);
        record.digest = self.row.digest;
        record.ignored.clone_from(&request.ignored);
    }
}

impl MemoryLedger {
    pub(crate) fn new(worker: &str, lease: Duration) -> Self {
        let shared = Shared {
            rows: HashMap::new(),
            faults: Faults::default(),
            began: (Timestamp::now(), Instant::now()),
            passed: Duration::ZERO,
            claims: 0,
            recalls: 0,
        };
        Self {
            worker: worker.into(),
            lease,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The same rows for another worker.
    pub(crate) fn for_worker(&self, worker: &str) -> Self {
        Self {
            worker: worker.into(),
            ..self.clone()
        }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Puts the clock on.
    pub(crate) fn pass(&self, time: Duration) {
        self.lock().passed += time;
    }

    /// What its clock shows.
    pub(crate) fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// As rows of versions that noted no requests.
    pub(crate) fn forget_requests(&self) {
        for kept in self.lock().rows.values_mut() {
            (kept.row.digest, kept.record.digest) = (None, None);
            kept.row.ignored.clear();
            kept.record.ignored.clear();
        }
    }

    pub(crate) fn row(&self, id: &str) -> Option<JobRecord> {
        let shared = self.lock();
        let kept = shared.rows.get(&JobId::parse(id).unwrap());
        kept.map(|kept| kept.record.clone())
    }

    /// How many claims were asked for.
    pub(crate) fn claims(&self) -> u32 {
        self.lock().claims
    }

    /// How often somebody asked for a job's upload.
    pub(crate) fn recalls(&self) -> u32 {
        self.lock().recalls
    }

    /// Whether the job's letter is known to be in the dead queue.
    pub(crate) fn is_buried(&self, id: &str) -> bool {
        let shared = self.lock();
        shared.rows[&JobId::parse(id).unwrap()].row.buried
    }

    /// Panics and unfinished claims in the row.
    pub(crate) fn costs(&self, id: &str) -> (u32, u32) {
        let shared = self.lock();
        let row = &shared.rows[&JobId::parse(id).unwrap()].row;
        (row.panics, row.unfinished)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    fn up(&self) -> Result<MutexGuard<'_, Shared>, LedgerError> {
        let shared = self.lock();
        if shared.faults.down {
            return Err(LedgerError::Down("unplugged".to_owned()));
        }
        Ok(shared)
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        let (time, moment) = self.began;
        time.plus(moment.elapsed() + self.passed)
    }

    fn claim(&mut self, request: &ClaimRequest, worker: &str, lease: Duration) -> Claim {
        let now = self.now();
        let Some(kept) = self.rows.get_mut(&request.id) else {
            let Taking { taken, replay, .. } = decision::first(request, now);
            let row = Row {
                state: State::Running,
                owner: worker.to_owned(),
                leased_until: Some(now.plus(lease)),
                fence: taken.fence,
                attempts: taken.attempts,
                parks: taken.parks,
                panics: taken.panics,
                unfinished: taken.unfinished,
                replay,
                enqueued_at: taken.enqueued_at,
                started_at: taken.started_at,
                age_from: taken.age_from,
                buried: false,
                digest: Some(request.digest),
                ignored: request.ignored.clone(),
            };
            let record = JobRecord {
                id: request.id.clone(),
                lane: request.lane,
                operation: request.operation.as_str().to_owned(),
                bucket: request.bucket.clone(),
                key: request.key.clone(),
                state: row.state,
                attempts: row.attempts,
                parks: row.parks,
                replay,
                error: None,
                result: None,
                enqueued_at: row.enqueued_at,
                started_at: Some(row.started_at),
                finished_at: None,
                leased_until: row.leased_until,
                worker: Some(worker.to_owned()),
                failed: Vec::new(),
                digest: row.digest,
                ignored: row.ignored.clone(),
            };
            let failed = String::new();
            let kept = Kept {
                record,
                row,
                failed,
            };
            self.rows.insert(request.id.clone(), kept);
            return Claim::Taken(taken);
        };
        let record = Box::new(kept.record.clone());
        match decision::decide(&kept.row, request, worker, now) {
            Decision::Finished => Claim::Finished(record),
            Decision::LeasedElsewhere => Claim::LeasedElsewhere,
            Decision::OtherRequest => Claim::OtherRequest,
            Decision::Dead { buried, fence } => Claim::Dead {
                record,
                buried,
                fence,
            },
            Decision::Take(Taking {
                taken,
                replay,
                describes,
            }) => {
                kept.row = Row {
                    state: State::Running,
                    owner: worker.to_owned(),
                    leased_until: Some(now.plus(lease)),
                    fence: taken.fence,
                    parks: taken.parks,
                    panics: taken.panics,
                    unfinished: taken.unfinished,
                    replay,
                    age_from: taken.age_from,
                    buried: false,
                    ..kept.row.clone()
                };
                kept.record.state = State::Running;
                kept.record.worker = Some(worker.to_owned());
                kept.record.parks = taken.parks;
                kept.record.replay = replay;
                kept.record.finished_at = None;
                kept.record.leased_until = kept.row.leased_until;
                if describes {
                    kept.describe(request);
                }
                Claim::Taken(taken)
            }
        }
    }

    fn commit(&mut self, ending: &Ending) -> Committed {
        let now = self.now();
        let kept = self.rows.get_mut(&ending.id);
        let Some(kept) = kept.filter(|kept| {
            let state = kept.row.state;
            kept.row.fence == ending.fence && (state == State::Running || state == ending.state)
        }) else {
            return Committed::Superseded;
        };
        (kept.row.state, kept.row.leased_until) = (ending.state, None);
        kept.row.attempts = ending.attempts;
        (kept.row.parks, kept.row.panics) = (ending.parks, ending.panics);
        let record = &mut kept.record;
        record.state = ending.state;
        (record.attempts, record.parks) = (ending.attempts, ending.parks);
        record.finished_at = ending.state.is_final().then_some(now);
        record.leased_until = (!ending.state.is_final()).then_some(now);
        if !ending.keeps_error() {
            record.error = ending.failure.as_ref().map(ReportedError::from);
        }
        record.result.clone_from(&ending.result);
        if let Some(failed) = ending.failed.to_text()
            && !kept.failed.starts_with(&failed)
        {
            kept.failed = format!("{failed}\n{}", kept.failed);
            kept.failed.truncate(4096);
            record.failed = AttemptLog::read(&kept.failed);
        }
        Committed::Recorded(Box::new(record.clone()))
    }

    fn held(&mut self, (id, fence): &(JobId, Fence), state: State) -> Option<&mut Row> {
        let row = &mut self.rows.get_mut(id)?.row;
        (row.fence == *fence && row.state == state).then_some(row)
    }
}

fn refusal(id: &JobId) -> LedgerError {
    LedgerError::Refused(format!("row {id} breaks a rule"))
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, LedgerError> {
        let mut shared = self.up()?;
        let refused = |request: &&ClaimRequest| shared.faults.refused.contains(request.id.as_str());
        if let Some(request) = requests.iter().find(refused) {
            return Err(refusal(&request.id));
        }
        let claims = requests.iter();
        let claims = claims.map(|request| {
            shared.claims += 1;
            shared.claim(request, &self.worker, self.lease)
        });
        Ok(claims.collect())
    }

    async fn commit(&self, endings: &[Ending]) -> Result<Vec<Committed>, LedgerError> {
        let mut shared = self.up()?;
        if shared.faults.commits_down {
            return Err(LedgerError::Down("disk full".to_owned()));
        }
        let refused = |one: &&Ending| shared.faults.refused_endings.contains(one.id.as_str());
        if let Some(ending) = endings.iter().find(refused) {
            return Err(refusal(&ending.id));
        }
        Ok(endings.iter().map(|ending| shared.commit(ending)).collect())
    }

    async fn renew(&self, held: &[(JobId, Fence)]) -> Result<Vec<bool>, LedgerError> {
        let mut shared = self.up()?;
        let refused = |id: &JobId| shared.faults.refused_renewals.contains(id.as_str());
        if let Some((id, _)) = held.iter().find(|(id, _)| refused(id)) {
            return Err(refusal(id));
        }
        let until = shared.now().plus(self.lease);
        let renew = |one: &(JobId, Fence)| {
            let Some(row) = shared.held(one, State::Running) else {
                return false;
            };
            row.leased_until = Some(until);
            if let Some(kept) = shared.rows.get_mut(&one.0) {
                kept.record.leased_until = Some(until);
            }
            true
        };
        Ok(held.iter().map(renew).collect())
    }

    async fn note_buried(&self, held: &[(JobId, Fence)]) -> Result<(), LedgerError> {
        let mut shared = self.up()?;
        for one in held {
            if let Some(row) = shared.held(one, State::DeadLettered) {
                row.buried = true;
            }
        }
        Ok(())
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        Ok(self.up()?.rows.get(id).map(|kept| kept.record.clone()))
    }

    async fn list(&self, _: &JobFilter) -> Result<Page, LedgerError> {
        let jobs = Vec::new();
        Ok(Page { jobs, next: None })
    }

    async fn stats(&self) -> Result<Vec<StatRow>, LedgerError> {
        Ok(Vec::new())
    }

    async fn purge(&self, _: Duration, _: u32) -> Result<u64, LedgerError> {
        self.up().map(|_| 0)
    }

    async fn purge_lost(&self, _: Duration, _: u32) -> Result<u64, LedgerError> {
        self.up().map(|_| 0)
    }

    async fn note_upload(&self, _: &JobId, _: Fence, _: &UploadNote) -> Result<bool, LedgerError> {
        self.up().map(|_| true)
    }

    async fn recall_upload(&self, _: &JobId) -> Result<Option<BegunUpload>, LedgerError> {
        self.up()?.recalls += 1;
        Ok(None)
    }

    async fn sweep_uploads(&self, _: Duration, _: u32) -> Result<Vec<SweptUpload>, LedgerError> {
        Ok(Vec::new())
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        let commits_down = self.up()?.faults.commits_down;
        if commits_down {
            return Err(LedgerError::Down("disk full".to_owned()));
        }
        Ok(())
    }
}

/// The twin keeps the promises that it makes.
mod tests {
    use super::{super::contract_tests::*, *};

    #[async_trait]
    impl TestDatabase for MemoryLedger {
        async fn ledger(&self, worker: &str) -> Arc<dyn Ledger> {
            Arc::new(self.for_worker(worker))
        }

        async fn pass(&self, time: Duration) {
            MemoryLedger::pass(self, time);
        }

        async fn forget_requests(&self) {
            MemoryLedger::forget_requests(self);
        }

        async fn end(self) {}
    }

    async fn empty() -> Option<MemoryLedger> {
        Some(MemoryLedger::new("a", LEASE))
    }

    ledger_contract! { @rows empty }
}
