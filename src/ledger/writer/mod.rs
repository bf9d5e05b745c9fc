//! Group commit: single claims and endings of many jobs become few transactions.
//!
//! One task owns all writing. What arrives while a batch is being written makes the next one, so a lone
//! job never waits for company; with many jobs in flight batches also keep a distance of `commit_wait`,
//! which makes them larger and each row cheaper. The task renews the leases of all that was claimed and
//! not yet committed, has old rows purged in between, and while the database is away answers everything at once and
//! probes it (RESILIENCE.md, event 17). It refuses to know what a row means and how it is stored.

mod leases;
mod life;
mod purger;
mod queue;
mod task;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use self::{
    leases::{Hold, Leases},
    life::{Announcer, Life},
    purger::Purger,
    queue::{Burial, Renewal, Reply},
    task::Task,
};
use super::{Claim, ClaimRequest, Committed, Ending, Fence, Ledger, LedgerError, SweptUpload};
use crate::{
    job::{BegunUpload, JobId, UploadNote},
    metrics::Metrics,
    watch,
};

/// How a [`LedgerWriter`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterSettings {
    /// Batches begin at least this far apart while many jobs are in flight.
    pub commit_wait: Duration,
    /// The lease that the ledger gives with a claim; it was opened with the same.
    pub lease: Duration,
    /// How long a finished job's row is kept.
    pub retention: Duration,
    /// A statement without an answer for this long means that the ledger is down.
    pub timeout: Duration,
    /// Rows in one transaction, at most.
    pub batch_rows: usize,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            commit_wait: Duration::from_millis(5),
            lease: Duration::from_secs(15),
            retention: Duration::from_secs(14 * 86_400),
            timeout: Duration::from_secs(10),
            batch_rows: 256,
        }
    }
}

/// Whether the ledger can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerStatus {
    /// It can.
    Up,
    /// It can't, and is being probed; says why.
    Down(String),
}

/// The one way by which jobs write to the ledger. Cheap to clone; all clones share one task.
#[derive(Debug, Clone)]
pub struct LedgerWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Not bounded: who asks waits for the answer, so it holds no more than there are jobs in flight.
    requests: mpsc::UnboundedSender<Request>,
    status: watch::Receiver<LedgerStatus>,
    life: watch::Receiver<Life>,
    leases: Arc<Leases>,
    /// For what is so rare that it needs no batch.
    ledger: Arc<dyn Ledger>,
    timeout: Duration,
    /// The task, until it is joined. Nothing awaits under the lock.
    task: Mutex<JoinSet<()>>,
}

/// What the task is asked for.
#[derive(Debug)]
enum Request {
    Claim(ClaimRequest, Reply<Claim>),
    Commit(Ending, Reply<Committed>),
    Renew(Renewal, Reply<bool>),
    Bury(Burial, Reply<()>),
    /// Nobody waits for the claim of this job any more.
    Abandon(JobId),
    Close,
}

impl LedgerWriter {
    /// Starts writing to `ledger`, which is taken to be up until it says otherwise. Needs a Tokio runtime.
    pub fn start(ledger: Arc<dyn Ledger>, settings: WriterSettings, metrics: Arc<Metrics>) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (status, seen) = watch::channel(LedgerStatus::Up);
        let (life, seen_life) = watch::channel(Life::Running);
        let announcer = Announcer {
            life,
            status: status.clone(),
            metrics: Arc::clone(&metrics),
        };
        let leases = Arc::new(Leases::new(settings.lease));
        let timeout = settings.timeout;
        let turn = Arc::default();
        let purger = Purger::new(
            Arc::clone(&ledger),
            settings.retention,
            timeout,
            seen.clone(),
            Arc::clone(&turn),
        );
        let task = Task::new(
            Arc::clone(&ledger),
            settings,
            metrics,
            Arc::clone(&leases),
            status,
            inbox,
            turn,
        );
        let mut tasks = JoinSet::new();
        // Together: neither ends unseen, and the purger ends with the writer.
        tasks.spawn(announcer.supervise(async {
            tokio::select! {
                biased;
                () = task.run() => {}
                () = purger.run() => {}
            }
        }));
        Self(Arc::new(Shared {
            requests,
            status: seen,
            life: seen_life,
            leases,
            ledger,
            timeout,
            task: Mutex::new(tasks),
        }))
    }

    /// Claims a job. A claim that is taken is renewed until [`commit`](Self::commit) or
    /// [`forget`](Self::forget). May be cancelled: what was taken for nobody is given back as `interrupted`.
    pub async fn claim(&self, request: ClaimRequest) -> Result<Claim, LedgerError> {
        let mut abandon = Abandon {
            writer: self,
            job: Some(request.id.clone()),
        };
        let answer = self.ask(|reply| Request::Claim(request, reply)).await;
        abandon.job = None;
        answer
    }

    /// Records how a run ended. After [`LedgerError::Down`] the same ending may be given again. Cancelled,
    /// it may be written all the same.
    pub async fn commit(&self, ending: Ending) -> Result<Committed, LedgerError> {
        self.ask(|reply| Request::Commit(ending, reply)).await
    }

    /// Notes that the copy of a dead letter is in the dead queue.
    pub async fn note_buried(&self, id: JobId, fence: Fence) -> Result<(), LedgerError> {
        self.ask(|reply| Request::Bury(Burial { id, fence }, reply))
            .await
    }

    /// Whether the job is still ours, to be asked before every S3 attempt. At least half the lease is left
    /// when it is `true`. Costs a look into a table, unless the renewals are behind: then it renews first.
    pub async fn hold(&self, id: &JobId, fence: Fence) -> Result<bool, LedgerError> {
        match self.0.leases.look(id, fence, Instant::now()) {
            Hold::Fresh => Ok(true),
            Hold::Lost => Ok(false),
            Hold::Stale => {
                let renewal = Renewal {
                    id: id.clone(),
                    fence,
                };
                self.ask(|reply| Request::Renew(renewal, reply)).await
            }
        }
    }

    /// Notes what became of an upload; `false` when the job is no longer ours to begin one.
    pub async fn note_upload(
        &self,
        id: &JobId,
        fence: Fence,
        note: &UploadNote,
    ) -> Result<bool, LedgerError> {
        self.at_once(self.0.ledger.note_upload(id, fence, note))
            .await
    }

    /// The upload that the job began last, unless it is doomed.
    pub async fn recall_upload(&self, id: &JobId) -> Result<Option<BegunUpload>, LedgerError> {
        self.at_once(self.0.ledger.recall_upload(id)).await
    }

    /// Takes at most `limit` uploads to be aborted, for `lease`: see [`Ledger::sweep_uploads`].
    pub async fn sweep_uploads(
        &self,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<SweptUpload>, LedgerError> {
        self.at_once(self.0.ledger.sweep_uploads(lease, limit))
            .await
    }

    /// Renews a claim no longer, because its run was dropped without an ending. Its lease runs out.
    pub fn forget(&self, id: &JobId, fence: Fence) {
        self.0.leases.forget(id, fence);
    }

    /// Whether the ledger can be written, as it changes.
    pub fn status(&self) -> watch::Receiver<LedgerStatus> {
        self.0.status.clone()
    }

    /// Waits until the writer's task ends without [`close`](Self::close), and says why. From then on nothing is
    /// written, every answer is [`LedgerError::Ended`], and the process should end: a new one can write again.
    /// Never resolves after `close`.
    pub async fn ended(&self) -> String {
        life::ended(self.0.life.clone()).await
    }

    /// Writes what was asked for before, and ends. From then on every answer is [`LedgerError::Down`].
    pub async fn close(&self) {
        // Closed before: there is nobody to tell.
        drop(self.0.requests.send(Request::Close));
        let mut task = {
            let mut task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *task)
        };
        // How it ended is announced already.
        while task.join_next().await.is_some() {}
    }

    /// Outside of batches, and within the time that a ledger has to answer.
    async fn at_once<T>(
        &self,
        work: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let limit = self.0.timeout;
        let late = |_| LedgerError::Down(format!("no answer within {limit:?}"));
        tokio::time::timeout(limit, work).await.map_err(late)?
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        if self.0.requests.send(request(reply)).is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        Err(self.gone().await)
    }

    /// What a request gets whose answer will never come.
    async fn gone(&self) -> LedgerError {
        let closed = LedgerError::Down("the ledger's writer is closed".to_owned());
        let mut life = self.0.life.clone();
        // A panic drops the requests a moment before its end is announced.
        let end = life.wait_for(|life| *life != Life::Running);
        match tokio::time::timeout(self.0.timeout, end).await {
            Ok(Ok(life)) => match &*life {
                Life::Ended(why) => LedgerError::Ended(why.clone()),
                Life::Running | Life::Closed => closed,
            },
            Ok(Err(_)) => LedgerError::Ended("its task was dropped".to_owned()),
            Err(_) => closed,
        }
    }
}

/// Tells the task, when dropped, that nobody waits for a claim any more.
struct Abandon<'a> {
    writer: &'a LedgerWriter,
    job: Option<JobId>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.job.take() {
            // The task has ended: then no claim is renewed either.
            drop(self.writer.0.requests.send(Request::Abandon(id)));
        }
    }
}
