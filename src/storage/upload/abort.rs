//! Uploads that nobody will go on with: aborted, or left to the sweeper, and never forgotten before S3 has
//! let go of them.
//!
//! Only uploads that are on record are touched: what else is under way in a bucket is somebody's.

use std::{
    sync::{Arc, LazyLock, atomic::AtomicU32},
    time::Duration,
};

use aws_sdk_s3::error::ProvideErrorMetadata;
use tokio::time::Instant;

use super::{UploadService, transfer::GONE};
use crate::{
    job::{BegunUpload, CallName, Failure, FailureClass, Headers, Lane, UploadNote},
    metrics::OperationResult,
    storage::{
        Stop, Storage,
        answer::{Heard, called},
        door::Door,
        error,
        proof::Proof,
        said::saying,
    },
};

/// What a request says for which its sender pays.
static PAYING: LazyLock<Headers> =
    LazyLock::new(|| Headers::default().with("x-amz-request-payer", "requester"));

/// How much longer than the time without a byte a call of a sweep may take: one that trickles must not hold the others up.
const MOST: Duration = Duration::from_secs(60);

impl UploadService<'_> {
    /// Puts an upload on record before its first part is sent. One that can't be is aborted, best effort and
    /// outside of the job's circuit and lease: the job may no longer be ours, and nobody will know of its upload.
    pub(in crate::storage) async fn record(&self, begun: &BegunUpload) -> Result<(), Stop> {
        let noted = self.note(UploadNote::Begun(begun.clone())).await;
        if noted.is_err() {
            let place = (begun.bucket.as_str(), begun.key.as_str());
            let calls = &self.0.context.calls;
            let storage = self.0.storage;
            drop(
                storage
                    .abort_upload(place, &begun.upload_id, &begun.headers, calls)
                    .await,
            );
        }
        noted
    }

    /// The job has failed for good: nobody will go on with what it began.
    pub(super) async fn give_up(&self) -> Result<(), Stop> {
        match self.recall().await? {
            Some(begun) => self.abandon(&begun).await,
            None => Ok(()),
        }
    }

    /// Aborts an upload if that can be done now; else the sweeper will.
    pub(in crate::storage) async fn abandon(&self, begun: &BegunUpload) -> Result<(), Stop> {
        self.note(UploadNote::Doomed(begun.upload_id.clone()))
            .await?;
        match self.abort(begun).await {
            Ok(()) => self.forget(begun).await,
            Err(Stop::Failed(_) | Stop::Refused(_) | Stop::Draining) => Ok(()),
            Err(stop) => Err(stop),
        }
    }

    /// The call alone; an upload that is gone is aborted.
    pub(super) async fn abort(&self, begun: &BegunUpload) -> Result<(), Stop> {
        let name = CallName::AbortMultipartUpload;
        let work = self.0.guarded(name, |attempt| {
            let request = self.abort_request(begun);
            async move {
                match attempt.request(name, request).await {
                    Err(failure) if failure.code != GONE => Err(failure),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        });
        self.0.counted(name, &begun.bucket, work).await
    }
}

impl Storage {
    /// Aborts an upload of a job that has ended, and looks whether it is gone: a part that was on its way may
    /// arrive late, and counts as a failure then, to be tried again. One call each, outside of circuits, over
    /// the client of cleanup; `calls` is raised for each request that is sent. `headers`: what all requests of the job
    /// say. One that is denied is asked for again as by somebody who pays for it: of an upload that an older version
    /// began it is not known whether its job did.
    pub async fn abort_upload(
        &self,
        (bucket, key): (&str, &str),
        upload_id: &str,
        headers: &Headers,
        calls: &AtomicU32,
    ) -> Result<(), Failure> {
        if let Some(failure) = &self.clients.misconfigured {
            return Err(failure.clone());
        }
        let place = (bucket, key);
        let attempt = Box::pin(self.try_abort(place, upload_id, calls));
        let end = saying(headers, bucket, attempt).await;
        let paying = headers.or(&PAYING);
        if paying == *headers || !matches!(&end, Err(denied) if denied.code == "AccessDenied") {
            return end;
        }
        let again = Box::pin(self.try_abort(place, upload_id, calls));
        saying(&paying, bucket, again).await
    }

    async fn try_abort(
        &self,
        (bucket, key): (&str, &str),
        upload_id: &str,
        calls: &AtomicU32,
    ) -> Result<(), Failure> {
        let client = self.clients.of(Lane::Cleanup);
        let abort = client.abort_multipart_upload();
        let abort = abort.bucket(bucket).key(key).upload_id(upload_id);
        let name = CallName::AbortMultipartUpload;
        let mut aborted = self.swept(bucket, name, calls, abort.clone().send()).await;
        // It may have told us where the bucket is.
        if matches!(&aborted, Err(failure) if failure.class == FailureClass::Misrouted) {
            aborted = self.swept(bucket, name, calls, abort.send()).await;
        }
        match aborted {
            // A bucket that is gone took its uploads along.
            Err(failure) if failure.code == "NoSuchBucket" => return Ok(()),
            Err(failure) if failure.code != GONE => return Err(failure),
            Ok(_) | Err(_) => {}
        }
        let list = client.list_parts().max_parts(1);
        let list = list.bucket(bucket).key(key).upload_id(upload_id);
        let name = CallName::ListParts;
        match self.swept(bucket, name, calls, list.send()).await {
            Ok(left) if !left.parts().is_empty() => {
                let message = "parts arrived after the abort".to_owned();
                Err(called(FailureClass::Unavailable, "parts_left", message))
            }
            // Gone, or S3 does not let us look.
            Ok(_) => Ok(()),
            Err(failure) if failure.class == FailureClass::Permanent => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn swept<T, E>(
        &self,
        bucket: &str,
        name: CallName,
        calls: &AtomicU32,
        send: impl Future<Output = Result<T, aws_sdk_s3::error::SdkError<E>>>,
    ) -> Result<T, Failure>
    where
        T: Proof,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let began = Instant::now();
        let heard = Arc::new(Heard::default());
        let most = self.clients.attempt_timeout + MOST;
        let end = match Door::counting(calls, most, heard.listen(Box::pin(send))).await {
            Some(end) => end.map_err(error::failure),
            None => {
                let message = format!("the answer was not whole after {most:.0?}");
                Err(called(FailureClass::TimedOut, "attempt_timeout", message))
            }
        };
        let end = end.and_then(|answer| heard.prove(answer, true));
        let (class, result) = match &end {
            Ok(_) => (None, OperationResult::Success),
            Err(failure) => (Some(failure.class), OperationResult::Error),
        };
        self.metrics.s3_attempt(name, class, began.elapsed());
        self.metrics
            .s3_operation(name, bucket, result, began.elapsed());
        end
    }
}
