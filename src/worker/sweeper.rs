//! Aborts uploads that nobody will go on with: those of jobs that have ended otherwise than completed, and
//! those that a job gave up.
//!
//! It knows only what is on record in the ledger; what others have under way in a bucket is not its business.
//! Every worker with the upload lane sweeps, and the ledger hands each upload to one of them at a time.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    job::UploadNote,
    ledger::{Fence, SweptUpload, writer::LedgerWriter},
    storage::Storage,
};

/// How often it looks; an upload that could not be aborted is tried again at the next look but one.
const EVERY: Duration = Duration::from_secs(300);
/// How long an upload is one sweeper's.
const LEASE: Duration = Duration::from_secs(400);
/// Uploads at a time.
const BATCH: u32 = 100;

/// Sweeps at once, and then every five minutes, until `stop`.
pub(super) async fn run(ledger: LedgerWriter, storage: Arc<Storage>, stop: CancellationToken) {
    let mut look = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sweep(&ledger, &storage) => {}
        }
    }
}

async fn sweep(ledger: &LedgerWriter, storage: &Storage) {
    loop {
        let swept = match ledger.sweep_uploads(LEASE, BATCH).await {
            Ok(swept) => swept,
            Err(error) => {
                tracing::warn!(%error, "uploads to abort can't be looked up");
                return;
            }
        };
        let more = swept.len() >= BATCH as usize;
        for upload in swept {
            abort(ledger, storage, upload).await;
        }
        if !more {
            return;
        }
    }
}

async fn abort(ledger: &LedgerWriter, storage: &Storage, upload: SweptUpload) {
    let SweptUpload {
        job,
        bucket,
        key,
        upload_id,
        headers,
    } = upload;
    match storage
        .abort_upload((&bucket, &key), &upload_id, &headers, &AtomicU32::new(0))
        .await
    {
        Ok(()) => {
            tracing::info!(%job, lane = "upload", bucket, "an upload that nobody goes on with is aborted");
            // A note that is not of a beginning needs no fence.
            let gone = UploadNote::Gone(upload_id);
            if let Err(error) = ledger.note_upload(&job, Fence(0), &gone).await {
                tracing::debug!(%job, %error, "an aborted upload is not noted, and is tried again");
            }
        }
        Err(failure) => {
            tracing::warn!(%job, lane = "upload", bucket, %failure, "an upload can't be aborted now, and is tried again");
        }
    }
}
