//! Going on with what an earlier run began: S3's own list says which parts it has.
//!
//! An upload that S3 does not know any more was completed if the object names this job: then the job is done, whatever
//! has become of its source. Only an upload of the same bytes, cut the same way, of an object of which the same is said,
//! is gone on with; any other is aborted. A part that is not as long as the plan says is sent again (`Parts::skip`).

use std::collections::BTreeMap;

use super::{UploadService, parts::Sent, plan::Plan, requests::from_base64, transfer::GONE};
use crate::{
    job::{
        BegunUpload, CallName, FailureClass, OperationName, SaidDigests, UploadNote,
        operation::{PutOptions, UploadFileobj},
    },
    storage::{
        Stop,
        answer::{UNREADABLE, called},
        said::Said,
        service::{StorageService, Stored, unsigned},
    },
};

/// Parts that S3 has, by number.
pub(super) type Finished = BTreeMap<u32, Sent>;

/// What is left of the job's earlier runs.
#[derive(Debug)]
pub(super) enum Earlier {
    Nothing,
    /// The object is there; only the job's outcome was never written down.
    Completed(Stored),
    /// The upload that was begun last, and what S3 has of it.
    Unfinished(BegunUpload, Finished),
}

impl UploadService<'_> {
    /// Asks the ledger, and S3 only if there was an upload.
    pub(super) async fn earlier(&self, upload: &UploadFileobj) -> Result<Earlier, Stop> {
        let Some(begun) = self.recall().await? else {
            return Ok(Earlier::Nothing);
        };
        if let Some(finished) = self.finished_parts(&begun).await? {
            return Ok(Earlier::Unfinished(begun, finished));
        }
        if is_of_place(&begun, upload)
            && let Some(stored) = self.completed_before(&begun, &upload.options).await?
        {
            return Ok(Earlier::Completed(stored));
        }
        self.forget(&begun).await?;
        Ok(Earlier::Nothing)
    }

    /// The upload that an earlier run of this job began, if there is one.
    pub(in crate::storage) async fn recall(&self) -> Result<Option<BegunUpload>, Stop> {
        match &self.0.context.uploads {
            Some(memory) => memory.recall().await,
            None => Ok(None),
        }
    }

    pub(in crate::storage) async fn note(&self, note: UploadNote) -> Result<(), Stop> {
        match &self.0.context.uploads {
            Some(memory) => memory.note(note).await,
            None => Ok(()),
        }
    }

    /// Gives back the upload to go on with; one of other bytes, of another cut, of another place or of an object of
    /// which something else was said is aborted.
    /// Without a `plan` none is gone on with.
    pub(super) async fn take_up(
        &self,
        upload: &UploadFileobj,
        plan: Option<Plan>,
        identity: Option<&str>,
        said: SaidDigests,
        earlier: Option<(BegunUpload, Finished)>,
    ) -> Result<Option<(BegunUpload, Finished)>, Stop> {
        let Some((begun, finished)) = earlier else {
            return Ok(None);
        };
        let is_same = plan.is_some_and(|plan| plan.is_of(&begun))
            && identity.is_some()
            && begun.source.as_deref() == identity
            && is_of_place(&begun, upload)
            && said_of(&begun).in_all == said.in_all;
        if is_same {
            return Ok(Some((begun, finished)));
        }
        let operation = OperationName::UploadFileobj.as_str();
        tracing::info!(job = %self.0.job, lane = "upload", operation, bucket = upload.bucket, "the source, the part size or the options of the object have changed: the upload begins anew");
        self.abandon(&begun).await?;
        Ok(None)
    }

    /// The parts that S3 has, by number, from all pages; `None` when it has no such upload any more.
    async fn finished_parts(&self, begun: &BegunUpload) -> Result<Option<Finished>, Stop> {
        let name = CallName::ListParts;
        match self
            .0
            .counted(name, &begun.bucket, self.list_parts(begun))
            .await
        {
            Ok(parts) => Ok(Some(parts)),
            Err(Stop::Failed(failure)) if failure.code == GONE => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    async fn list_parts(&self, begun: &BegunUpload) -> Result<Finished, Stop> {
        let name = CallName::ListParts;
        let mut found = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.0.guarded(name, |attempt| {
                let request = self.list_request(begun, after.clone());
                async move { attempt.request(name, request).await }
            });
            let page = page.await?;
            for part in page.parts.unwrap_or_default() {
                let number = part
                    .part_number
                    .and_then(|number| u32::try_from(number).ok());
                if let (Some(number), Some(etag)) = (number, part.e_tag) {
                    let crc32 = part.checksum_crc32.as_deref().and_then(from_base64);
                    let size = unsigned(part.size);
                    found.insert(number, Sent { etag, size, crc32 });
                }
            }
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            let next = page.next_part_number_marker;
            let number = |marker: &Option<String>| marker.as_deref()?.parse::<u64>().ok();
            if number(&next) <= number(&after) {
                let message = "the list of parts says that it goes on, and does not move on";
                return Err(Stop::Failed(called(
                    FailureClass::Unreadable,
                    UNREADABLE,
                    message.to_owned(),
                )));
            }
            after = next;
        }
    }

    /// The object, if an earlier run completed the upload and could not say so. Not one of which the job said something
    /// else then; what the worker's settings said does not matter: the object was there before they changed.
    pub(in crate::storage) async fn completed_before(
        &self,
        begun: &BegunUpload,
        options: &PutOptions,
    ) -> Result<Option<Stored>, Stop> {
        if said_of(begun).by_job != Said::by_job(options).digest() {
            return Ok(None);
        }
        let service = &StorageService(self.0);
        let look = self
            .0
            .guarded(OperationName::HeadObject, |attempt| async move {
                service
                    .head(&attempt, &begun.bucket, &begun.key, None)
                    .await
            });
        match look.await {
            Ok(found) if service.is_own(&found, begun.size) => Ok(Some(Stored {
                size: unsigned(found.content_length),
                etag: found.e_tag,
                version_id: found.version_id,
            })),
            Ok(_) => Ok(None),
            // There is none, or it may not be looked at.
            Err(Stop::Failed(failure)) if failure.class == FailureClass::Permanent => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    /// S3 has no such upload any more.
    pub(super) async fn forget(&self, begun: &BegunUpload) -> Result<(), Stop> {
        self.note(UploadNote::Gone(begun.upload_id.clone())).await
    }
}

/// What was said of the object when its upload began. A version that did not keep it may have said less than the job
/// asked for, or something else: nobody goes on with that, unless nothing is to be said.
fn said_of(begun: &BegunUpload) -> SaidDigests {
    begun.said.unwrap_or_else(|| {
        let nothing = Said::default().digest();
        SaidDigests {
            by_job: nothing,
            in_all: nothing,
        }
    })
}

fn is_of_place(begun: &BegunUpload, upload: &UploadFileobj) -> bool {
    (&begun.bucket, &begun.key) == (&upload.bucket, &upload.key)
}
