//! From the first part to the object: parts on their way at the same time, then the completion.
//!
//! A part that fails with all its attempts ends the run, but not the parts on their way: what arrives need
//! not be sent again. An answer to the completion gets a second look within its attempt, since an earlier
//! one may have done it: a 412, and an upload that is gone.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use futures_util::{StreamExt, future::OptionFuture, stream::FuturesUnordered};

use super::{
    UploadService,
    parts::{Held, Parts, Sent},
    plan::Plan,
    requests::{crc32_of, full_crc32},
};
use crate::{
    job::{
        BegunUpload, CallName, Failure, FailureClass, OperationName, SaidDigests, UploadNote,
        operation::UploadFileobj,
    },
    storage::{
        Stop,
        service::{EXISTS, Placed, StorageService, Stored, check_digest, unsigned},
    },
};

/// What S3 says of an upload that was completed or aborted.
pub(super) const GONE: &str = "NoSuchUpload";
/// What it says of a completion that names a part that it has not.
const LOST_PART: &str = "InvalidPart";

impl UploadService<'_> {
    /// Begins an upload. Its id is on record before any part is sent, so that it is never forgotten.
    pub(super) async fn begin(
        &self,
        upload: &UploadFileobj,
        plan: &Plan,
        source: Option<String>,
        said: SaidDigests,
    ) -> Result<BegunUpload, Stop> {
        let name = CallName::CreateMultipartUpload;
        let work = self.0.guarded(name, |attempt| async move {
            let request = self.create_request(upload);
            let created = self.0.create(&attempt, name, &upload.options, request);
            created
                .await?
                .upload_id
                .ok_or_else(|| attempt.heard().unproven("upload id"))
        });
        let upload_id = self.0.counted(name, &upload.bucket, work).await?;
        let place = (upload.bucket.as_str(), upload.key.as_str());
        let begun = BegunUpload {
            headers: self.0.headers.clone(),
            ..plan.begun(place, upload_id, source, said)
        };
        self.record(&begun).await?;
        Ok(begun)
    }

    /// Sends what is missing and makes it the object.
    pub(super) async fn send_and_complete(
        &self,
        upload: &UploadFileobj,
        parts: Parts<'_>,
        begun: &BegunUpload,
    ) -> Result<Stored, Stop> {
        let end = async {
            let (parts, mut sent) = self.send_parts(upload, parts, begun).await?;
            parts.check_unchanged().await.map_err(Stop::Failed)?;
            let size = parts.size();
            let (digest, finished) = parts.finish();
            if let (Some(got), Some(wanted)) = (digest, upload.options.sha256) {
                check_digest(got, wanted).map_err(Stop::Failed)?;
            }
            sent.extend(finished);
            self.complete(upload, begun, &sent, size).await
        };
        match end.await {
            // Somebody else ended it: the next run begins anew.
            Err(Stop::Failed(failure)) if failure.code == GONE => Err(anew(failure)),
            Err(Stop::Failed(failure)) if failure.code == LOST_PART => {
                self.abandon(begun).await?;
                Err(anew(failure))
            }
            end => end,
        }
    }

    async fn send_parts<'p>(
        &self,
        upload: &UploadFileobj,
        parts: Parts<'p>,
        begun: &BegunUpload,
    ) -> Result<(Parts<'p>, BTreeMap<u32, Sent>), Stop> {
        let most = self.0.storage.uploads.settings.part_concurrency;
        let mut on_their_way = FuturesUnordered::new();
        let mut sent = BTreeMap::new();
        let (mut read, mut stop) = (None, None);
        let mut reading = Some(Box::pin(parts.step()));
        loop {
            tokio::select! {
                biased;
                Some((number, end)) = on_their_way.next() => match end {
                    Ok(part) => {
                        sent.insert(number, part);
                    }
                    Err(why) => {
                        stop.get_or_insert(why);
                        reading = None;
                    }
                },
                Some((parts, held)) = OptionFuture::from(reading.as_mut()), if on_their_way.len() < most => {
                    reading = None;
                    match held {
                        Ok(Some(held)) => {
                            on_their_way.push(self.send_part(upload, begun, held));
                            reading = Some(Box::pin(parts.step()));
                        }
                        Ok(None) => read = Some(parts),
                        Err(failure) => {
                            stop.get_or_insert(Stop::Failed(failure));
                        }
                    }
                }
                else => break,
            }
        }
        match (stop, read) {
            (None, Some(parts)) => Ok((parts, sent)),
            (Some(stop), _) => Err(stop),
            // Reading ends in one of the two.
            (None, None) => {
                let message = "the source has no end".to_owned();
                let failure = Failure::ours(FailureClass::Unavailable, "interrupted", message);
                Err(Stop::Failed(failure))
            }
        }
    }

    async fn send_part(
        &self,
        upload: &UploadFileobj,
        begun: &BegunUpload,
        held: Held,
    ) -> (u32, Result<Sent, Stop>) {
        let Held { number, bytes } = held;
        let uploads = &self.0.storage.uploads;
        let place = uploads.places.acquire().await;
        let size = bytes.len() as u64;
        let checksums = self.0.storage.clients.checksums_supported;
        let crc32 = checksums.then(|| crc32_of(&bytes));
        let md5 = match self.0.lock_md5(&upload.options, &bytes).await {
            Ok(md5) => md5,
            Err(failure) => return (number, Err(Stop::Failed(failure))),
        };
        let name = CallName::UploadPart;
        let work = self.0.guarded(name, |attempt| {
            let request = self.part_request(begun, number, bytes.clone(), (crc32, md5.clone()));
            async move {
                let answer = attempt.request(name, request).await?;
                answer.e_tag.ok_or_else(|| attempt.heard().unproven("ETag"))
            }
        });
        let end = self.0.counted(name, &begun.bucket, work).await;
        drop((place, bytes));
        if end.is_ok() {
            // Progress only if the next run can go on from it.
            if begun.source.is_some() {
                self.0.context.parts.fetch_add(1, Ordering::Relaxed);
            }
            let out = self.0.metrics().s3_bytes.with_label_values(&["out"]);
            out.inc_by(size);
        }
        (number, end.map(|etag| Sent { etag, size, crc32 }))
    }

    async fn complete(
        &self,
        upload: &UploadFileobj,
        begun: &BegunUpload,
        sent: &BTreeMap<u32, Sent>,
        size: u64,
    ) -> Result<Stored, Stop> {
        let name = CallName::CompleteMultipartUpload;
        let placed = Placed {
            bucket: &upload.bucket,
            key: &upload.key,
            size: Some(size),
        };
        let conditional = upload.options.if_none_match;
        let crc32 = self
            .0
            .storage
            .clients
            .checksums_supported
            .then(|| full_crc32(sent))
            .flatten();
        let work = self.0.guarded(name, |attempt| async move {
            let request = self.complete_request(begun, sent, size, crc32, conditional);
            match attempt.request(name, request).await {
                Ok(stored) => Ok((stored.e_tag, stored.version_id)),
                Err(failure) if failure.code == GONE || (conditional && failure.code == EXISTS) => {
                    let service = StorageService(self.0);
                    let own = service.own_object(&attempt, placed, failure).await?;
                    Ok((own.e_tag, own.version_id))
                }
                Err(failure) => Err(failure),
            }
        });
        let (etag, version_id) = self.0.counted(name, &upload.bucket, work).await?;
        if let Err(why) = self
            .note(UploadNote::Completed(begun.upload_id.clone()))
            .await
        {
            // The object is there, and says whose it is.
            let operation = OperationName::UploadFileobj.as_str();
            tracing::debug!(job = %self.0.job, lane = "upload", operation, bucket = upload.bucket, ?why, "a completed upload is not noted");
        }
        self.verify(placed, etag.as_deref()).await?;
        Ok(Stored {
            etag,
            version_id,
            size,
        })
    }

    /// Looks at the object: the one that the completion named has the size of what was sent. An object that
    /// may not be looked at, or is another's or gone by now, is not ours to judge.
    async fn verify(&self, placed: Placed<'_>, etag: Option<&str>) -> Result<(), Stop> {
        let name = OperationName::HeadObject;
        let look = self.0.guarded(name, |attempt| async move {
            let service = StorageService(self.0);
            service
                .head(&attempt, placed.bucket, placed.key, None)
                .await
        });
        let found = match look.await {
            Ok(found) => found,
            // The completion was a good answer: a look that fails takes nothing back.
            Err(Stop::Failed(failure)) => {
                let operation = OperationName::UploadFileobj.as_str();
                tracing::debug!(job = %self.0.job, lane = "upload", operation, bucket = placed.bucket, %failure, "the object can't be looked at");
                return Ok(());
            }
            Err(stop) => return Err(stop),
        };
        let size = unsigned(found.content_length);
        let is_ours = etag.is_some() && found.e_tag.as_deref() == etag;
        match placed.size {
            Some(sent) if is_ours && size != sent => {
                let message = format!("S3 has an object of {size} bytes of the {sent} sent");
                let failure = Failure::ours(FailureClass::Unavailable, "size_mismatch", message);
                Err(Stop::Failed(Failure {
                    called: true,
                    ..failure
                }))
            }
            _ => Ok(()),
        }
    }
}

/// The upload is lost, the job is not.
fn anew(failure: Failure) -> Stop {
    Stop::Failed(Failure {
        class: FailureClass::Conflict,
        ..failure
    })
}
