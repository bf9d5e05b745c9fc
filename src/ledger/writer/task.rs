//! The task behind a [`LedgerWriter`](super::LedgerWriter): gathers, writes, answers, renews, and waits out a ledger
//! that is down.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep_until, timeout},
};

use super::{
    LedgerStatus, Request, WriterSettings,
    leases::{Hold, Leases},
    queue::{Burial, Entry, Queue, Renewal, answer},
};
use crate::{
    job::{AttemptLog, JobId, State},
    ledger::{Claim, ClaimRequest, Ending, Ledger, LedgerError, Taken},
    metrics::Metrics,
    watch,
};

/// Waiting pays from this many jobs in flight on: fewer would mostly wait for one another. A guess.
const COMPANY: usize = 16;
/// The ledger is asked whether it still answers after so long without a write.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The wait before a probe of a ledger that is down: first and longest.
const PROBE_FIRST: Duration = Duration::from_millis(500);
const PROBE_MOST: Duration = Duration::from_secs(4);

pub(super) struct Task {
    ledger: Arc<dyn Ledger>,
    settings: WriterSettings,
    metrics: Arc<Metrics>,
    leases: Arc<Leases>,
    status: watch::Sender<LedgerStatus>,
    inbox: mpsc::UnboundedReceiver<Request>,
    /// Nothing more will come in.
    closed: bool,
    waiting: Waiting,
    /// When the last batch of claims and endings began, and how many rows it had.
    last_batch: (Instant, usize),
    renew_at: Instant,
    alive_at: Instant,
    /// Held while a round is written; the purger has its turn in between.
    turn: Arc<Mutex<()>>,
}

/// What is to be written.
#[derive(Default)]
struct Waiting {
    claims: Queue<ClaimRequest>,
    endings: Queue<Ending>,
    renewals: Queue<Renewal>,
    burials: Queue<Burial>,
}

/// The ledger is down, and why.
struct Down(String);

impl Task {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        settings: WriterSettings,
        metrics: Arc<Metrics>,
        leases: Arc<Leases>,
        status: watch::Sender<LedgerStatus>,
        inbox: mpsc::UnboundedReceiver<Request>,
        turn: Arc<Mutex<()>>,
    ) -> Self {
        let now = Instant::now();
        metrics.ledger_up.set(1);
        Self {
            renew_at: now + leases.interval(),
            alive_at: now + KEEP_ALIVE,
            turn,
            ledger,
            settings,
            metrics,
            leases,
            status,
            inbox,
            closed: false,
            waiting: Waiting::default(),
            last_batch: (now, 0),
        }
    }

    /// Ends when it is closed and everything that came before is written, or every handle is gone.
    pub(super) async fn run(mut self) {
        loop {
            self.gather().await;
            if self.closed && self.waiting.is_empty() {
                return;
            }
            let turn = Arc::clone(&self.turn);
            let turn = turn.lock().await;
            let written = self.write().await;
            drop(turn);
            if let Err(Down(why)) = written {
                self.wait_until_up(why).await;
            }
        }
    }

    /// Waits until there is something to do, and then for company if that pays.
    async fn gather(&mut self) {
        while self.waiting.is_empty() && !self.closed {
            let chore = self.renew_at.min(self.alive_at);
            tokio::select! {
                biased;
                request = self.inbox.recv() => self.accept(request),
                () = sleep_until(chore) => return,
            }
        }
        self.accept_ready();
        let company = self.last_batch.1 > 1 && self.leases.count() >= COMPANY;
        let begin = self.last_batch.0 + self.settings.commit_wait;
        while company && !self.closed && self.waiting.rows() < self.settings.batch_rows {
            tokio::select! {
                biased;
                () = sleep_until(begin) => break,
                request = self.inbox.recv() => self.accept(request),
            }
            self.accept_ready();
        }
    }

    fn accept_ready(&mut self) {
        while let Ok(request) = self.inbox.try_recv() {
            self.accept(Some(request));
        }
    }

    /// `None`: every handle is gone.
    fn accept(&mut self, request: Option<Request>) {
        match request {
            Some(Request::Claim(request, reply)) => self.waiting.claims.push(request, Some(reply)),
            Some(Request::Commit(ending, reply)) => self.waiting.endings.push(ending, Some(reply)),
            Some(Request::Renew(renewal, reply)) => {
                self.waiting.renewals.push(renewal, Some(reply));
            }
            Some(Request::Bury(burial, reply)) => self.waiting.burials.push(burial, Some(reply)),
            Some(Request::Abandon(id)) => self.abandon(&id),
            Some(Request::Close) => self.inbox.close(),
            None => self.closed = true,
        }
    }

    /// Forgets a claim that nobody waits for, or gives it back if it was taken already.
    fn abandon(&mut self, id: &JobId) {
        if self.waiting.claims.withdraw(id).is_none()
            && let Some(taken) = self.leases.remove(id)
        {
            self.waiting.endings.push(interrupted(id, taken), None);
        }
    }

    /// One round: what keeps leases first, then endings before claims, so that a job that ended and comes
    /// again is seen as it ended.
    async fn write(&mut self) -> Result<(), Down> {
        self.renew().await?;
        let rows = self.waiting.rows();
        if rows > 0 {
            self.last_batch = (Instant::now(), rows);
            self.alive_at = Instant::now() + KEEP_ALIVE;
        }
        self.commit().await?;
        self.claim().await?;
        self.bury().await?;
        if Instant::now() >= self.alive_at {
            self.keep_alive().await?;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), Down> {
        let now = Instant::now();
        if now >= self.renew_at {
            self.renew_at = now + self.leases.interval();
            for renewal in self.leases.due(now) {
                self.waiting.renewals.push_first(renewal);
            }
        }
        while !self.waiting.renewals.is_empty() {
            let (renewals, replies) = self.waiting.renewals.cut(self.settings.batch_rows);
            let now = Instant::now();
            let mut stale = Vec::new();
            for (renewal, reply) in renewals.into_iter().zip(replies) {
                // Another may have asked for it, or have ended it, while this one waited.
                match self.leases.look(&renewal.id, renewal.fence, now) {
                    Hold::Fresh if reply.is_some() => answer(reply, Ok(true)),
                    Hold::Lost => answer(reply, Ok(false)),
                    Hold::Fresh | Hold::Stale => stale.push((renewal, reply)),
                }
            }
            let (stale, replies): (Vec<_>, Vec<_>) = stale.into_iter().unzip();
            let answers = self.answers(&stale).await;
            let mut down = None;
            for ((renewal, reply), still_ours) in stale.iter().zip(replies).zip(answers) {
                match &still_ours {
                    Ok(still_ours) => {
                        if !still_ours {
                            // Its run hears of it before its next attempt, or when it ends, and says so.
                            tracing::debug!(id = %renewal.id, "a lease is lost");
                        }
                        self.leases.renewed(renewal, *still_ours, now);
                    }
                    Err(LedgerError::Refused(why)) => {
                        tracing::debug!(id = %renewal.id, why, "a lease can't be renewed");
                    }
                    Err(LedgerError::Down(why) | LedgerError::Ended(why)) => {
                        down = Some(why.clone())
                    }
                }
                answer(reply, still_ours);
            }
            if let Some(why) = down {
                return Err(Down(why));
            }
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Down> {
        let (endings, replies) = self.waiting.endings.cut(self.settings.batch_rows);
        let answers = self.answers(&endings).await;
        if !answers.is_empty() {
            crash_point!("endings.written");
        }
        let mut down = None;
        for ((ending, reply), committed) in endings.iter().zip(replies).zip(answers) {
            match &committed {
                // A lease that is down is kept: its ending will come again.
                Err(LedgerError::Down(why) | LedgerError::Ended(why)) => down = Some(why.clone()),
                Ok(_) | Err(LedgerError::Refused(_)) => {
                    self.leases.forget(&ending.id, ending.fence);
                }
            }
            answer(reply, committed);
        }
        down.map_or(Ok(()), |why| Err(Down(why)))
    }

    async fn claim(&mut self) -> Result<(), Down> {
        let (requests, replies) = self.waiting.claims.cut(self.settings.batch_rows);
        let since = Instant::now();
        let answers = self.answers(&requests).await;
        if !answers.is_empty() {
            crash_point!("claims.written");
        }
        let mut down = None;
        for ((request, reply), claim) in requests.iter().zip(replies).zip(answers) {
            match &claim {
                // Before the answer: who gets it may ask at once whether it holds.
                Ok(Claim::Taken(taken)) => self.leases.took(&request.id, *taken, since),
                Err(LedgerError::Down(why) | LedgerError::Ended(why)) => down = Some(why.clone()),
                Ok(_) | Err(LedgerError::Refused(_)) => {}
            }
            answer(reply, claim);
        }
        down.map_or(Ok(()), |why| Err(Down(why)))
    }

    async fn bury(&mut self) -> Result<(), Down> {
        let (burials, replies) = self.waiting.burials.cut(self.settings.batch_rows);
        let answers = self.answers(&burials).await;
        if !answers.is_empty() {
            crash_point!("burials.written");
        }
        let mut down = None;
        for (reply, noted) in replies.into_iter().zip(answers) {
            if let Err(LedgerError::Down(why)) = &noted {
                down = Some(why.clone());
            }
            answer(reply, noted);
        }
        down.map_or(Ok(()), |why| Err(Down(why)))
    }

    /// An idle worker is to know that its ledger has gone, and says so, before the next job comes.
    async fn keep_alive(&mut self) -> Result<(), Down> {
        let limit = self.settings.timeout;
        let alive = timeout(limit, self.ledger.keep_alive()).await;
        self.alive_at = Instant::now() + KEEP_ALIVE;
        match alive {
            Ok(Ok(())) => Ok(()),
            Ok(Err(
                LedgerError::Down(why) | LedgerError::Refused(why) | LedgerError::Ended(why),
            )) => Err(Down(why)),
            Err(_) => Err(Down(format!("no answer within {limit:?}"))),
        }
    }

    /// One answer an entry. A batch that the database refuses is written row by row, so that a bad row
    /// hurts only itself; once the ledger is down, so is it for the rest.
    async fn answers<T: Entry>(&self, batch: &[T]) -> Vec<Result<T::Answer, LedgerError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let write = |rows| T::write(&*self.ledger, rows);
        let error = match self.timed(batch.len(), write(batch)).await {
            Ok(answers) => return answers.into_iter().map(Ok).collect(),
            Err(error) => error,
        };
        if matches!(error, LedgerError::Down(_)) || batch.len() == 1 {
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        tracing::warn!(%error, rows = batch.len(), "a batch was refused; its rows are written one by one");
        let mut answers: Vec<Result<T::Answer, LedgerError>> = Vec::with_capacity(batch.len());
        for one in batch {
            if let Some(Err(down @ LedgerError::Down(_))) = answers.last() {
                let down = down.clone();
                answers.push(Err(down));
                continue;
            }
            let single = self.timed(1, write(std::slice::from_ref(one))).await;
            let missing = || LedgerError::Down("the ledger gave no answer".to_owned());
            answers.push(single.and_then(|mut only| only.pop().ok_or_else(missing)));
        }
        answers
    }

    /// Measures a transaction of that many rows and bounds its time.
    async fn timed<T>(
        &self,
        rows: usize,
        work: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let began = Instant::now();
        let limit = self.settings.timeout;
        let late = || LedgerError::Down(format!("no answer within {limit:?}"));
        let done = timeout(limit, work).await.unwrap_or_else(|_| Err(late()));
        self.metrics
            .ledger_commit
            .observe(began.elapsed().as_secs_f64());
        if rows > 0 {
            self.metrics.ledger_batch_rows.observe(rows as f64);
        }
        done
    }

    /// Answers everything with `Down`, and probes until the ledger takes a write again.
    async fn wait_until_up(&mut self, why: String) {
        tracing::warn!(
            why,
            "the ledger is down; it is probed until it can be written"
        );
        self.set_down(why);
        let mut wait = PROBE_FIRST;
        while !self.closed {
            let ledger = Arc::clone(&self.ledger);
            let limit = self.settings.timeout;
            let probe = async move {
                tokio::time::sleep(wait).await;
                let late = || LedgerError::Down(format!("no answer within {limit:?}"));
                timeout(limit, ledger.probe())
                    .await
                    .unwrap_or_else(|_| Err(late()))
            };
            match self.refuse_during(probe).await {
                None => return,
                Some(Ok(())) => {
                    tracing::info!("the ledger is up again");
                    self.metrics.ledger_up.set(1);
                    self.status.send_replace(LedgerStatus::Up);
                    // What was held all the time is to be renewed before anything else.
                    self.renew_at = Instant::now();
                    return;
                }
                Some(Err(
                    LedgerError::Down(why) | LedgerError::Refused(why) | LedgerError::Ended(why),
                )) => self.set_down(why),
            }
            wait = (wait * 2).min(PROBE_MOST);
        }
    }

    /// Waits for `probe`, and answers with `Down` what comes in meanwhile; `None` when nothing more will.
    async fn refuse_during<T>(&mut self, probe: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(probe);
        loop {
            tokio::select! {
                biased;
                probed = &mut probe => return Some(probed),
                request = self.inbox.recv() => {
                    self.accept(request);
                    self.refuse_waiting();
                    if self.closed {
                        return None;
                    }
                }
            }
        }
    }

    fn set_down(&mut self, why: String) {
        self.metrics.ledger_up.set(0);
        let down = LedgerStatus::Down(why);
        self.status.send_if_modified(|status| {
            let changed = *status != down;
            *status = down;
            changed
        });
        self.refuse_waiting();
    }

    fn refuse_waiting(&mut self) {
        let LedgerStatus::Down(why) = self.status.borrow().clone() else {
            return;
        };
        self.waiting.fail(&why);
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.rows() == 0 && self.renewals.is_empty()
    }

    /// Rows that a batch may gather; renewals wait for nobody.
    fn rows(&self) -> usize {
        self.claims.len() + self.endings.len() + self.burials.len()
    }

    fn fail(&mut self, why: &str) {
        self.claims.fail(why);
        self.endings.fail(why);
        self.renewals.fail(why);
        self.burials.fail(why);
    }
}

/// The ending of a claim that nobody waits for: nothing was done.
fn interrupted(id: &JobId, taken: Taken) -> Ending {
    Ending {
        id: id.clone(),
        fence: taken.fence,
        state: State::Interrupted,
        attempts: taken.attempts,
        parks: taken.parks,
        panics: taken.panics,
        failure: None,
        result: None,
        failed: AttemptLog::default(),
    }
}
