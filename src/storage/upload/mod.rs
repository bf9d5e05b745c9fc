//! The managed transfer: one PUT for a small object, parts for a large one, from a source that is streamed.
//!
//! Each part is a guarded call of its own: its bytes stay in memory until it is done, so it can be sent
//! again alone. What a run leaves behind is taken up by the next one (`resume.rs`); what nobody will take
//! up is aborted. An object is complete only when its source was read to its end unchanged and its SHA-256,
//! if the job names one, is right. Where the bytes come from is `source`'s; that they stay within the memory of the
//! process is the budget's.

mod abort;
mod memory;
mod parts;
mod plan;
mod requests;
mod resume;
#[cfg(test)]
pub(super) mod tests;
mod transfer;

use bytes::Bytes;
use tokio::sync::Semaphore;

pub use memory::UploadMemory;

use self::{
    parts::Parts,
    plan::Plan,
    resume::{Earlier, Finished},
};
use super::{
    Done, Stop,
    guard::Caller,
    said::Said,
    service::{StorageService, Stored, check_sha256},
    source::Source,
};
use crate::job::{
    BegunUpload, FailureClass, JobResult, Lane, OperationName, SaidDigests,
    failure::Then,
    operation::{PutObject, UploadFileobj},
};

/// The numbers of all uploads of a process. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadSettings {
    /// Objects from this size on go up in parts; so do smaller ones that the budget does not hold.
    pub multipart_threshold: u64,
    /// Size of a part, unless the object needs larger ones.
    pub part_size: u64,
    /// Parts sent at a time.
    pub part_concurrency: usize,
    /// Bytes in memory at a time, those of everything else in the process included; at least `part_size`.
    pub memory_budget: u64,
}

/// What the uploads of a process share.
#[derive(Debug)]
pub(super) struct Uploads {
    settings: UploadSettings,
    /// Parts on their way at a time, over all jobs. Who has a place waits for no memory, so nobody waits
    /// for ever.
    places: Semaphore,
}

impl Uploads {
    pub(super) fn new(settings: UploadSettings) -> Self {
        Self {
            settings,
            places: Semaphore::new(settings.part_concurrency),
        }
    }
}

/// The upload of one job.
#[derive(Debug, Clone, Copy)]
pub(super) struct UploadService<'a>(pub(super) Caller<'a>);

impl UploadService<'_> {
    /// Stores the bytes of the job's source.
    ///
    /// Fails `job_local` when the source can't be read, changes, is too large, or has another SHA-256 than
    /// the job says; `permanent` when `if_none_match` finds another's object. Its own object, from an earlier
    /// attempt or delivery, is success. May be dropped at any await: the next run goes on from the parts
    /// that S3 has.
    pub(super) async fn upload_fileobj(&self, upload: &UploadFileobj) -> Result<Done, Stop> {
        let work = async {
            let end = self.upload(upload).await;
            if let Err(Stop::Failed(failure)) = &end
                && failure.class.policy().exhausted.in_lane(Lane::Upload) == Then::Bury
            {
                self.give_up().await?;
            }
            end
        };
        let name = OperationName::UploadFileobj;
        let stored = self.0.counted(name, &upload.bucket, work).await?;
        Ok(JobResult::from(stored).into())
    }

    /// The circuit's probe, when this job is it: a look at the place, since a slow source must not keep a
    /// circuit open over a store that is well.
    async fn probe(&self, upload: &UploadFileobj) -> Result<(), Stop> {
        let name = OperationName::HeadObject;
        let service = &StorageService(self.0);
        let look = self.0.guarded(name, |attempt| async move {
            service
                .head(&attempt, &upload.bucket, &upload.key, None)
                .await
        });
        match look.await {
            // That nothing is there is an answer too.
            Err(Stop::Failed(failure)) if failure.class == FailureClass::Permanent => Ok(()),
            end => end.map(drop),
        }
    }

    async fn upload(&self, upload: &UploadFileobj) -> Result<Stored, Stop> {
        if self.0.context.holds_probe() {
            self.probe(upload).await?;
        }
        // Before the source is opened: what an earlier run completed needs it no more.
        let earlier = match self.earlier(upload).await? {
            Earlier::Completed(stored) => return Ok(stored),
            Earlier::Unfinished(begun, finished) => Some((begun, finished)),
            Earlier::Nothing => None,
        };
        let opened = self.0.storage.sources.open(&upload.source).await;
        let source = opened.map_err(Stop::Failed)?;
        let by_job = Said::by_job(&upload.options).digest();
        let upload = &with_content(upload, &source);
        let in_all = self.said(upload).digest();
        let said = SaidDigests { by_job, in_all };
        let settings = self.0.storage.uploads.settings;
        let (part_size, budget) = (settings.part_size, settings.memory_budget);
        match source.size {
            Some(size) if size < settings.multipart_threshold && size <= budget => {
                self.take_up(upload, None, None, said, earlier).await?;
                self.put_whole(upload, source, size).await
            }
            Some(size) => {
                let plan = Plan::known(size, part_size, budget).map_err(Stop::Failed)?;
                self.in_parts(upload, source, plan, said, earlier).await
            }
            None => {
                let plan = Plan::unknown(part_size, budget);
                self.in_parts(upload, source, plan, said, earlier).await
            }
        }
    }

    async fn put_whole(
        &self,
        upload: &UploadFileobj,
        mut source: Source,
        size: u64,
    ) -> Result<Stored, Stop> {
        let budget = &self.0.storage.budget;
        let body = parts::read(&mut source, budget, size).await;
        let body = body.map_err(Stop::Failed)?;
        if body.len() as u64 != size {
            return Err(Stop::Failed(parts::changed("the source ended early")));
        }
        parts::check_unchanged(&source)
            .await
            .map_err(Stop::Failed)?;
        self.put(upload, body).await
    }

    async fn in_parts(
        &self,
        upload: &UploadFileobj,
        source: Source,
        plan: Plan,
        said: SaidDigests,
        earlier: Option<(BegunUpload, Finished)>,
    ) -> Result<Stored, Stop> {
        let identity = source.identity.as_text().map(str::to_owned);
        let hashes = upload.options.sha256.is_some();
        let budget = &self.0.storage.budget;
        let mut parts = Parts::new(source, plan, budget, hashes);
        let resumed = self
            .take_up(upload, Some(plan), identity.as_deref(), said, earlier)
            .await?;
        if let Some((begun, finished)) = resumed {
            parts.skip(finished);
            return self.send_and_complete(upload, parts, &begun).await;
        }
        if plan.size().is_none()
            && let Some(only) = parts.read_first().await.map_err(Stop::Failed)?
        {
            return self.put(upload, only.bytes).await;
        }
        let begun = self.begin(upload, &plan, identity, said).await?;
        self.send_and_complete(upload, parts, &begun).await
    }

    /// One PUT, by the rules of `put_object`.
    async fn put(&self, upload: &UploadFileobj, body: Bytes) -> Result<Stored, Stop> {
        let put = PutObject {
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            body,
            options: upload.options.clone(),
        };
        check_sha256(&put).map_err(Stop::Failed)?;
        StorageService(self.0)
            .put(OperationName::UploadFileobj, &put)
            .await
    }
}

/// The upload with what its source says of its content, where the job says nothing.
fn with_content(upload: &UploadFileobj, source: &Source) -> UploadFileobj {
    let mut upload = upload.clone();
    upload.options.headers = upload.options.headers.or(&source.content);
    upload
}
