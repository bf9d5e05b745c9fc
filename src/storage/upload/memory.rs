//! What outlives a run: which upload a job has begun. Asked and told through closures, so that nothing
//! here knows the ledger.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::{
    job::{BegunUpload, Failure, FailureClass, UploadNote},
    storage::{LedgerTrouble, Stop},
};

/// The uploads of one claimed job, as the ledger remembers them.
pub struct UploadMemory {
    recall: Box<Recall>,
    note: Box<Note>,
}

type Recall =
    dyn Fn() -> BoxFuture<'static, Result<Option<BegunUpload>, LedgerTrouble>> + Send + Sync;
type Note = dyn Fn(UploadNote) -> BoxFuture<'static, Result<bool, LedgerTrouble>> + Send + Sync;

impl UploadMemory {
    /// `recall` answers with the upload that the job began last and that is not doomed, completed ones
    /// included; `note` writes something down, and answers false when it can't because the job is no longer
    /// ours. Both fail when the ledger is down or refuses the row.
    pub fn new(
        recall: impl Fn() -> BoxFuture<'static, Result<Option<BegunUpload>, LedgerTrouble>>
        + Send
        + Sync
        + 'static,
        note: impl Fn(UploadNote) -> BoxFuture<'static, Result<bool, LedgerTrouble>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            recall: Box::new(recall),
            note: Box::new(note),
        }
    }

    pub(super) async fn recall(&self) -> Result<Option<BegunUpload>, Stop> {
        (self.recall)().await.map_err(unrecorded)
    }

    pub(super) async fn note(&self, note: UploadNote) -> Result<(), Stop> {
        match (self.note)(note).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop::LeaseLost),
            Err(trouble) => Err(unrecorded(trouble)),
        }
    }
}

/// While the ledger is down the job is parked, not requeued: the ledger may be well but for this, and a job at the
/// head of its queue would come again at once, for ever.
fn unrecorded(trouble: LedgerTrouble) -> Stop {
    match trouble {
        LedgerTrouble::Down(why) => {
            let class = FailureClass::Unavailable;
            Stop::Failed(Failure::ours(class, "upload_unrecorded", why))
        }
        refused @ LedgerTrouble::Refused(_) => refused.into(),
    }
}

impl fmt::Debug for UploadMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadMemory")
    }
}
