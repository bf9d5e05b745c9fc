//! The ledger as one worker sees it: the twin, the faults of the schedule, and a look at each row that changes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{chance::Chance, mark::Mark};
use crate::{
    job::{BegunUpload, JobId, State, UploadNote},
    ledger::{
        Claim, ClaimRequest, Committed, Ending, Fence, JobFilter, JobRecord, Ledger, LedgerError,
        Page, StatRow, SweptUpload, memory::MemoryLedger,
    },
};

#[derive(Debug)]
pub(super) struct SimLedger {
    pub(super) mark: Arc<Mark>,
    pub(super) inner: MemoryLedger,
    /// A write takes so long at most, in milliseconds.
    pub(super) commit: u64,
}

impl SimLedger {
    /// Waits as the schedule says, and fails if it says so.
    async fn reach(&self, what: &str, ids: &[&JobId]) -> Result<(), LedgerError> {
        let Self { mark, commit, .. } = self;
        mark.before().await;
        let world = &mark.world;
        let (faults, refused) = {
            let state = world.state();
            let refused = ids
                .iter()
                .find(|id| state.refused_rows.contains(id.as_str()));
            (state.ledger.clone(), refused.map(ToString::to_string))
        };
        if faults.silent > 0 {
            mark.say(format_args!("{what}: the ledger is silent"));
            self.failed();
            std::future::pending::<()>().await;
        }
        let mut chance = Chance::of(world.seed, what, world.now().as_millis() as u64);
        let wait = chance.between(0, *commit) + faults.slow.values().sum::<u64>();
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        if faults.down > 0 || (faults.commits_down > 0 && matches!(what, "commit" | "probe")) {
            mark.say(format_args!("{what}: the ledger is down"));
            self.failed();
            return Err(LedgerError::Down("unplugged".to_owned()));
        }
        if let Some(id) = refused {
            mark.say(format_args!("{what}: the ledger refuses {id}"));
            return Err(LedgerError::Refused(format!("row {id} breaks a rule")));
        }
        Ok(())
    }

    /// The answer, unless it is lost on its way.
    async fn answer<T>(
        &self,
        what: &str,
        answer: Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.mark.after().await;
        let is_lost = {
            let mut state = self.mark.world.state();
            let is_lost = state.ledger.answers_to_lose > 0;
            state.ledger.answers_to_lose -= u64::from(is_lost);
            is_lost
        };
        if is_lost {
            self.mark.say(format_args!("{what}: its answer is lost"));
            self.failed();
            return Err(LedgerError::Down("reset".to_owned()));
        }
        answer
    }

    fn failed(&self) {
        let now = self.mark.world.now();
        self.mark.world.state().unrest += 1;
        self.mark.with(|held| held.ledger_failed = Some(now));
    }

    fn rows(&self, ids: &[&JobId]) -> Vec<Option<JobRecord>> {
        ids.iter()
            .map(|id| self.mark.world.row(id.as_str()))
            .collect()
    }

    /// Each row before and after: did it go where it may?
    fn check(&self, ids: &[&JobId], before: &[Option<JobRecord>]) {
        for ((id, before), after) in ids.iter().zip(before).zip(self.rows(ids)) {
            let from = before.as_ref().map(|row| row.state);
            let Some(after) = after else {
                continue;
            };
            let replayed = before.as_ref().is_some_and(|row| after.replay > row.replay);
            if !is_legal(from, after.state, replayed) {
                let text = format!("{id} goes from {from:?} to {:?}", after.state);
                self.mark.world.broken("illegal row", text);
            }
            if before
                .as_ref()
                .is_some_and(|row| after.attempts < row.attempts)
            {
                self.mark
                    .world
                    .broken("illegal row", format!("{id} forgets attempts"));
            }
        }
    }
}

/// Whether a row may go from one state to the other.
fn is_legal(from: Option<State>, to: State, replayed: bool) -> bool {
    match (from, to) {
        (None, State::Running) => true,
        (Some(from), to) if from == to => true,
        (Some(State::Running), _) => true,
        (Some(State::Retrying | State::Requeued | State::Interrupted), State::Running) => true,
        (Some(State::DeadLettered), State::Running) => replayed,
        _ => false,
    }
}

#[async_trait]
impl Ledger for SimLedger {
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, LedgerError> {
        let ids: Vec<_> = requests.iter().map(|request| &request.id).collect();
        self.reach("claim", &ids).await?;
        let before = self.rows(&ids);
        let claims = self.inner.claim(requests).await;
        self.check(&ids, &before);
        for (request, claim) in requests.iter().zip(claims.iter().flatten()) {
            let answer = match claim {
                Claim::Taken(taken) => format!("taken with fence {}", taken.fence.0),
                Claim::Finished(row) => format!("{:?} already", row.state),
                Claim::Dead { buried, .. } => format!("dead already, buried: {buried}"),
                Claim::LeasedElsewhere => "another worker's".to_owned(),
                Claim::OtherRequest => "another request's".to_owned(),
            };
            self.mark
                .say(format_args!("claims {}: {answer}", request.id));
        }
        self.answer("claim", claims).await
    }

    async fn commit(&self, endings: &[Ending]) -> Result<Vec<Committed>, LedgerError> {
        let ids: Vec<_> = endings.iter().map(|ending| &ending.id).collect();
        self.reach("commit", &ids).await?;
        let before = self.rows(&ids);
        let committed = self.inner.commit(endings).await;
        self.check(&ids, &before);
        let answers = committed.iter().flatten();
        for ((ending, answer), before) in endings.iter().zip(answers).zip(&before) {
            let Ending { id, state, .. } = ending;
            let is_new = before.as_ref().is_some_and(|row| row.state != *state);
            match answer {
                Committed::Recorded(_) => {
                    self.mark.say(format_args!("records {id}: {state:?}"));
                    let is_done = is_new && *state == State::Completed;
                    self.mark.with(|held| held.completed += u64::from(is_done));
                }
                Committed::Superseded => {
                    self.mark
                        .say(format_args!("records {id}: {state:?}, in vain"));
                }
            }
        }
        self.answer("commit", committed).await
    }

    async fn renew(&self, held: &[(JobId, Fence)]) -> Result<Vec<bool>, LedgerError> {
        let ids: Vec<_> = held.iter().map(|(id, _)| id).collect();
        self.reach("renew", &ids).await?;
        let renewed = self.inner.renew(held).await;
        self.answer("renew", renewed).await
    }

    async fn note_buried(&self, held: &[(JobId, Fence)]) -> Result<(), LedgerError> {
        let ids: Vec<_> = held.iter().map(|(id, _)| id).collect();
        self.reach("note", &ids).await?;
        let noted = self.inner.note_buried(held).await;
        self.answer("note", noted).await
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        self.reach("get", &[]).await?;
        self.inner.get(id).await
    }

    async fn list(&self, filter: &JobFilter) -> Result<Page, LedgerError> {
        self.inner.list(filter).await
    }

    async fn stats(&self) -> Result<Vec<StatRow>, LedgerError> {
        self.inner.stats().await
    }

    async fn purge(&self, age: Duration, most: u32) -> Result<u64, LedgerError> {
        self.reach("purge", &[]).await?;
        self.inner.purge(age, most).await
    }

    async fn purge_lost(&self, age: Duration, most: u32) -> Result<u64, LedgerError> {
        self.reach("purge", &[]).await?;
        self.inner.purge_lost(age, most).await
    }

    async fn note_upload(
        &self,
        id: &JobId,
        fence: Fence,
        note: &UploadNote,
    ) -> Result<bool, LedgerError> {
        self.reach("note", &[]).await?;
        self.inner.note_upload(id, fence, note).await
    }

    async fn recall_upload(&self, id: &JobId) -> Result<Option<BegunUpload>, LedgerError> {
        self.reach("recall", &[]).await?;
        self.inner.recall_upload(id).await
    }

    async fn sweep_uploads(
        &self,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<SweptUpload>, LedgerError> {
        self.reach("sweep", &[]).await?;
        self.inner.sweep_uploads(lease, limit).await
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.reach("probe", &[]).await?;
        self.inner.probe().await
    }

    async fn keep_alive(&self) -> Result<(), LedgerError> {
        self.reach("keep alive", &[]).await?;
        self.inner.keep_alive().await
    }
}
