//! What waits to be written, by kind, and the batches that are cut from it.

use std::collections::{HashSet, VecDeque};

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::{
    job::JobId,
    ledger::{Claim, ClaimRequest, Committed, Ending, Fence, Ledger, LedgerError},
};

/// Where an answer goes. Who asked may have gone.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// A row to be written: all of a kind are written the same way.
#[async_trait]
pub(super) trait Entry: Sized + Send + Sync {
    /// What the ledger answers to one.
    type Answer: Send;

    /// Whose row it is.
    fn id(&self) -> &JobId;

    /// Writes a batch in which no id stands twice; answers in its order.
    async fn write(ledger: &dyn Ledger, batch: &[Self]) -> Result<Vec<Self::Answer>, LedgerError>;
}

/// A lease to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renewal {
    pub(super) id: JobId,
    pub(super) fence: Fence,
}

/// A dead letter whose copy is in the dead queue.
#[derive(Debug)]
pub(super) struct Burial {
    pub(super) id: JobId,
    pub(super) fence: Fence,
}

#[async_trait]
impl Entry for ClaimRequest {
    type Answer = Claim;

    fn id(&self) -> &JobId {
        &self.id
    }

    async fn write(ledger: &dyn Ledger, batch: &[Self]) -> Result<Vec<Claim>, LedgerError> {
        ledger.claim(batch).await
    }
}

#[async_trait]
impl Entry for Ending {
    type Answer = Committed;

    fn id(&self) -> &JobId {
        &self.id
    }

    async fn write(ledger: &dyn Ledger, batch: &[Self]) -> Result<Vec<Committed>, LedgerError> {
        ledger.commit(batch).await
    }
}

#[async_trait]
impl Entry for Renewal {
    type Answer = bool;

    fn id(&self) -> &JobId {
        &self.id
    }

    async fn write(ledger: &dyn Ledger, batch: &[Self]) -> Result<Vec<bool>, LedgerError> {
        let held: Vec<_> = batch
            .iter()
            .map(|one| (one.id.clone(), one.fence))
            .collect();
        ledger.renew(&held).await
    }
}

#[async_trait]
impl Entry for Burial {
    type Answer = ();

    fn id(&self) -> &JobId {
        &self.id
    }

    async fn write(ledger: &dyn Ledger, batch: &[Self]) -> Result<Vec<()>, LedgerError> {
        let held: Vec<_> = batch
            .iter()
            .map(|one| (one.id.clone(), one.fence))
            .collect();
        ledger.note_buried(&held).await?;
        Ok(vec![(); batch.len()])
    }
}

/// Entries of one kind, each with whoever waits for its answer; an entry of our own has nobody.
#[derive(Debug)]
pub(super) struct Queue<T: Entry>(VecDeque<(T, Option<Reply<T::Answer>>)>);

impl<T: Entry> Default for Queue<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

/// A batch: the entries, and their replies in the same order.
pub(super) type Batch<T> = (Vec<T>, Vec<Option<Reply<<T as Entry>::Answer>>>);

impl<T: Entry> Queue<T> {
    pub(super) fn push(&mut self, entry: T, reply: Option<Reply<T::Answer>>) {
        self.0.push_back((entry, reply));
    }

    /// An entry of our own, before all that wait.
    pub(super) fn push_first(&mut self, entry: T) {
        self.0.push_front((entry, None));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out an entry that is not to be written any more.
    pub(super) fn withdraw(&mut self, id: &JobId) -> Option<T> {
        let position = self.0.iter().position(|(entry, _)| entry.id() == id)?;
        self.0.remove(position).map(|(entry, _)| entry)
    }

    /// Cuts off a batch of at most `most`, sorted by id, so that two workers lock rows in the same order. The
    /// second entry of an id waits for the next batch.
    pub(super) fn cut(&mut self, most: usize) -> Batch<T> {
        let mut ids = HashSet::new();
        let (mut batch, mut later) = (Vec::new(), Vec::new());
        while batch.len() < most
            && let Some((entry, reply)) = self.0.pop_front()
        {
            if ids.insert(entry.id().clone()) {
                batch.push((entry, reply));
            } else {
                later.push((entry, reply));
            }
        }
        for waits in later.into_iter().rev() {
            self.0.push_front(waits);
        }
        batch.sort_unstable_by(|(one, _), (other, _)| one.id().cmp(other.id()));
        batch.into_iter().unzip()
    }

    /// Answers all that wait, because the ledger is down.
    pub(super) fn fail(&mut self, why: &str) {
        for (_, reply) in self.0.drain(..) {
            answer(reply, Err(LedgerError::Down(why.to_owned())));
        }
    }
}

/// Sends an answer, if anybody waits for one.
pub(super) fn answer<T>(reply: Option<Reply<T>>, answer: Result<T, LedgerError>) {
    if let Some(reply) = reply {
        // Who asked has gone; a claim's asker says so itself.
        drop(reply.send(answer));
    }
}
