//! Copies within S3: in one call up to 5 GiB, in parts above.
//!
//! A HEAD of the source comes first: its size decides how, and how long a call may take (RESILIENCE.md, event
//! 18), and its `ETag` is a condition of every call after it, so that a source that changes meanwhile fails plainly
//! instead of giving half of each. A copy in parts is on record like an upload: what an earlier run completed
//! is not copied again, and what it only began is aborted and begun anew.

use std::ops::RangeInclusive;

use aws_sdk_s3::{
    config,
    operation::head_object::HeadObjectOutput,
    types::{CompletedMultipartUpload, CompletedPart},
};
use futures_util::future::join_all;

use super::{
    Done, Stop,
    attempt::Attempt,
    error::NOT_FOUND,
    guard::Caller,
    said::Said,
    service::{EXISTS, StorageService, Stored, escaped, query_string, unsigned},
    upload::UploadService,
};
use crate::job::{
    BegunUpload, CallName, Failure, FailureClass, JobResult, OperationName, SaidDigests,
    UploadNote,
    message::header,
    operation::{CopyObject, PutOptions},
    options::{OPTIONS, Scope},
};

const MIB: u64 = 1 << 20;
/// What one call copies at most, and S3's largest part.
pub const WHOLE: u64 = 5 << 30;
/// Size of a part, unless the object needs larger ones; chosen: no byte of it passes here.
const PART: u64 = 256 * MIB;
/// Parts of one object; S3 takes 10,000, and the rest is for rounding.
const MOST_PARTS: u64 = 9_500;
/// Parts of one copy at a time; each takes a slot of the lane.
const AT_A_TIME: usize = 4;

/// The copy of one job.
#[derive(Debug)]
pub(super) struct CopyService<'a>(pub(super) Caller<'a>);

/// The source as the HEAD found it.
struct Found {
    size: u64,
    etag: Option<String>,
    /// As the header `x-amz-copy-source` wants it.
    place: String,
    head: HeadObjectOutput,
}

type Copied = (Option<String>, Option<String>);

impl CopyService<'_> {
    /// Copies an object with its metadata and tags, but for what the job says of the copy.
    ///
    /// Fails `permanent` for a missing source, and `job_local` as `source_changed` when it is replaced meanwhile. May
    /// be dropped at any await; the next run starts anew.
    pub(super) async fn copy_object(&self, copy: &CopyObject) -> Result<Done, Stop> {
        let name = OperationName::CopyObject;
        let stored = self.0.counted(name, &copy.bucket, self.copy(copy)).await?;
        Ok(JobResult::from(stored).into())
    }

    async fn copy(&self, copy: &CopyObject) -> Result<Stored, Stop> {
        let uploads = UploadService(self.0);
        let earlier = uploads.recall().await?;
        // Before the source is looked at: what an earlier run completed needs it no more.
        if let Some(earlier) = &earlier
            && (&earlier.bucket, &earlier.key) == (&copy.bucket, &copy.key)
            && let Some(stored) = uploads.completed_before(earlier, &copy.options).await?
        {
            return Ok(stored);
        }
        // Parts of a copy cost little, so no earlier upload is gone on with.
        if let Some(earlier) = &earlier {
            uploads.abandon(earlier).await?;
        }
        let found = self.look(copy).await?;
        let (etag, version_id) = if found.size <= self.0.storage.clients.copy_whole_up_to {
            self.whole(copy, &found).await?
        } else {
            self.in_parts(copy, &found).await?
        };
        Ok(Stored {
            etag,
            version_id,
            size: found.size,
        })
    }

    async fn look(&self, copy: &CopyObject) -> Result<Found, Stop> {
        let source = &copy.source;
        let version_id = source.version_id.as_deref();
        let service = &StorageService(self.0);
        let name = OperationName::HeadObject;
        let there = self.0.to_bucket(&source.bucket);
        let head = there.guarded(name, |attempt| async move {
            let (bucket, key) = (&source.bucket, &source.key);
            match service.head(&attempt, bucket, key, version_id).await {
                // A HEAD does not say what is missing, and a copy says it as every other operation does.
                Err(missing) if missing.code == NOT_FOUND => {
                    let version_id = version_id.map(str::to_owned);
                    let look = service.first_byte(&attempt, bucket, key, version_id);
                    Err(look.await.err().unwrap_or(Failure {
                        class: FailureClass::Conflict,
                        ..missing
                    }))
                }
                end => end,
            }
        });
        let head = self.0.counted(name, &source.bucket, head).await?;
        let key: Vec<_> = source.key.split('/').map(escaped).collect();
        let version = version_id.map(|id| format!("?versionId={}", escaped(id)));
        Ok(Found {
            size: unsigned(head.content_length),
            etag: head.e_tag.clone(),
            place: format!(
                "{}/{}{}",
                source.bucket,
                key.join("/"),
                version.unwrap_or_default()
            ),
            head,
        })
    }

    async fn whole(&self, copy: &CopyObject, found: &Found) -> Result<Copied, Stop> {
        let said = self.said(copy, found).await?;
        let name = OperationName::CopyObject;
        let work = self.0.guarded(name, |attempt| {
            let request = self.0.client.copy_object();
            let request = request
                .bucket(&copy.bucket)
                .key(&copy.key)
                .copy_source(&found.place)
                .set_copy_source_if_match(found.etag.clone())
                .customize()
                .config_override(self.patience(found.size));
            let request = said.clone().on(request);
            async move {
                let copied = self.0.create(&attempt, name, &copy.options, request.send());
                let copied = copied.await.map_err(of_source)?;
                let result = copied.copy_object_result;
                Ok((result.and_then(|result| result.e_tag), copied.version_id))
            }
        });
        work.await
    }

    /// Of a copy in one call. S3 copies what describes the content, or takes all of it anew: so what the job leaves
    /// unsaid is said again, the tags too: not every store copies them then.
    async fn said(&self, copy: &CopyObject, found: &Found) -> Result<Said, Stop> {
        let options = &copy.options;
        let mut said = Said::of(options, &self.0.storage.clients.put_defaults);
        let mut headers = options.headers.iter();
        let mut tagged = !options.tags.is_empty();
        if !options.metadata.is_empty() || headers.any(|(row, _)| row.scope == Scope::Content) {
            said.add("x-amz-metadata-directive", "REPLACE".to_owned());
            add_content(&mut said, copy, &found.head);
            if !tagged && let Some(tags) = self.tags(copy, found).await? {
                said.add("x-amz-tagging", tags);
                tagged = true;
            }
        }
        if tagged {
            said.add("x-amz-tagging-directive", "REPLACE".to_owned());
        }
        Ok(said)
    }

    async fn in_parts(&self, copy: &CopyObject, found: &Found) -> Result<Copied, Stop> {
        let uploads = UploadService(self.0);
        let part_size = self.0.storage.clients.copy_whole_up_to;
        let begun = BegunUpload {
            bucket: copy.bucket.clone(),
            key: copy.key.clone(),
            upload_id: self.create(copy, found).await?,
            source: None,
            size: Some(found.size),
            part_size,
            largest_part: part_size,
            said: Some(self.digests(&copy.options)),
            headers: self.0.headers.clone(),
        };
        uploads.record(&begun).await?;
        let end = self.fill(copy, found, &begun.upload_id).await;
        // Best effort: a copy that is there stays done, and the sweeper finds what is not noted.
        drop(match &end {
            Ok(_) => uploads.note(UploadNote::Completed(begun.upload_id)).await,
            Err(_) => uploads.abandon(&begun).await,
        });
        end
    }

    /// What the source says of itself is left out: no copy is gone on with.
    fn digests(&self, options: &PutOptions) -> SaidDigests {
        let defaults = &self.0.storage.clients.put_defaults;
        SaidDigests {
            by_job: Said::by_job(options).digest(),
            in_all: Said::of(options, defaults).digest(),
        }
    }

    async fn create(&self, copy: &CopyObject, found: &Found) -> Result<String, Stop> {
        let mut said = Said::of(&copy.options, &self.0.storage.clients.put_defaults);
        // What a copy in one call takes over by itself; the job's id tells a repeated completion its own object.
        add_content(&mut said, copy, &found.head);
        if copy.options.tags.is_empty()
            && let Some(tags) = self.tags(copy, found).await?
        {
            said.add("x-amz-tagging", tags);
        }
        let said = said.by(self.0.job);
        let name = CallName::CreateMultipartUpload;
        let create = self.0.client.create_multipart_upload();
        let create = create.bucket(&copy.bucket).key(&copy.key);
        let work = self.0.guarded(name, |attempt| {
            let create = said.clone().on(create.clone().customize());
            async move {
                let created = self.0.create(&attempt, name, &copy.options, create.send());
                created
                    .await?
                    .upload_id
                    .ok_or_else(|| attempt.heard().unproven("upload id"))
            }
        });
        self.0.counted(name, &copy.bucket, work).await
    }

    /// The source's tags as a query, if it has any. Not every store says in a HEAD how many there are; where it does
    /// not, tags that can't be read are none.
    async fn tags(&self, copy: &CopyObject, found: &Found) -> Result<Option<String>, Stop> {
        let count = found.head.tag_count;
        if count == Some(0) {
            return Ok(None);
        }
        let source = &copy.source;
        let name = CallName::GetObjectTagging;
        let get = self.0.client.get_object_tagging();
        let get = get.bucket(&source.bucket).key(&source.key);
        let get = get.set_version_id(source.version_id.clone());
        let there = self.0.to_bucket(&source.bucket);
        let work = there.guarded(name, |attempt| {
            let get = get.clone();
            async move { attempt.request(name, get.send()).await }
        });
        let tagging = match self.0.counted(name, &source.bucket, work).await {
            Err(Stop::Failed(failure)) if count.is_none() && is_no_answer(&failure) => {
                return Ok(None);
            }
            end => end?,
        };
        let tags = tagging.tag_set.into_iter().map(|tag| (tag.key, tag.value));
        let tags = query_string(&tags.collect());
        Ok((!tags.is_empty()).then_some(tags))
    }

    async fn fill(
        &self,
        copy: &CopyObject,
        found: &Found,
        upload_id: &str,
    ) -> Result<Copied, Stop> {
        let ranges = parts_of(found.size, self.0.storage.clients.copy_whole_up_to);
        let numbered: Vec<_> = (1..).zip(ranges).collect();
        let mut parts = Vec::with_capacity(numbered.len());
        for few in numbered.chunks(AT_A_TIME) {
            let few = few
                .iter()
                .map(|(number, range)| self.copy_part(copy, found, upload_id, *number, range));
            for part in join_all(few).await {
                parts.push(part?);
            }
        }
        self.complete(copy, found, upload_id, parts).await
    }

    async fn copy_part(
        &self,
        copy: &CopyObject,
        found: &Found,
        upload_id: &str,
        number: i32,
        range: &RangeInclusive<u64>,
    ) -> Result<CompletedPart, Stop> {
        let name = CallName::UploadPartCopy;
        let work = self.0.guarded(name, |attempt| {
            let request = self.0.client.upload_part_copy();
            let request = request
                .bucket(&copy.bucket)
                .key(&copy.key)
                .upload_id(upload_id)
                .part_number(number)
                .copy_source(&found.place)
                .copy_source_range(format!("bytes={}-{}", range.start(), range.end()))
                .set_copy_source_if_match(found.etag.clone())
                .customize()
                .config_override(self.patience(range.end() - range.start() + 1));
            async move {
                let part = attempt.request(name, request.send()).await;
                let result = part.map_err(of_source)?.copy_part_result;
                let etag = result.and_then(|result| result.e_tag);
                let etag = etag.ok_or_else(|| attempt.heard().unproven("ETag of the part"))?;
                let part = CompletedPart::builder().part_number(number).e_tag(etag);
                Ok(part.build())
            }
        });
        self.0.counted(name, &copy.bucket, work).await
    }

    async fn complete(
        &self,
        copy: &CopyObject,
        found: &Found,
        upload_id: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<Copied, Stop> {
        let name = CallName::CompleteMultipartUpload;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let parts = parts.build();
        let work = self.0.guarded(name, |attempt| {
            let request = self.0.client.complete_multipart_upload();
            let request = request
                .bucket(&copy.bucket)
                .key(&copy.key)
                .upload_id(upload_id)
                .multipart_upload(parts.clone())
                .customize()
                .config_override(self.patience(found.size));
            async move {
                match attempt.request(name, request.send()).await {
                    Ok(done) => Ok((done.e_tag, done.version_id)),
                    Err(failure) if failure.code == "NoSuchUpload" => {
                        self.own_object(&attempt, copy, found, failure).await
                    }
                    Err(failure) => Err(failure),
                }
            }
        });
        self.0.counted(name, &copy.bucket, work).await
    }

    /// Second look at an upload that is gone: an earlier try, whose answer was lost, may have completed it.
    async fn own_object(
        &self,
        attempt: &Attempt<'_>,
        copy: &CopyObject,
        found: &Found,
        gone: Failure,
    ) -> Result<Copied, Failure> {
        let head = StorageService(self.0)
            .head(attempt, &copy.bucket, &copy.key, None)
            .await?;
        let owner = head.metadata.as_ref().and_then(|it| it.get(header::JOB));
        let is_own = owner.is_some_and(|owner| owner == self.0.job.as_str());
        if is_own && unsigned(head.content_length) == found.size {
            Ok((head.e_tag, head.version_id))
        } else {
            Err(gone)
        }
    }

    /// Time for so many bytes: S3 sends next to nothing while it copies.
    fn patience(&self, size: u64) -> config::Builder {
        config::Builder::new().timeout_config(self.0.storage.clients.timeouts_for(size))
    }
}

/// Whether the store has no tags, or shows them to nobody.
fn is_no_answer(failure: &Failure) -> bool {
    use FailureClass::{Misrouted, Permanent, Unreadable};
    matches!(failure.class, Permanent | Misrouted | Unreadable)
}

/// What describes the source's content, where the job says nothing.
fn add_content(said: &mut Said, copy: &CopyObject, source: &HeadObjectOutput) {
    for row in OPTIONS.iter().filter(|row| row.scope == Scope::Content) {
        if let Some(value) = content_of(source, row.header) {
            said.add_missing(row.header, value);
        }
    }
    if copy.options.metadata.is_empty() {
        said.add_metadata(source.metadata.as_ref());
    }
}

fn content_of<'h>(source: &'h HeadObjectOutput, header: &str) -> Option<&'h str> {
    match header {
        "content-type" => source.content_type(),
        "cache-control" => source.cache_control(),
        "content-disposition" => source.content_disposition(),
        "content-encoding" => source.content_encoding(),
        "content-language" => source.content_language(),
        "expires" => source.expires_string(),
        _ => None,
    }
}

/// The ranges of the parts, in order: equal but for the last.
fn parts_of(size: u64, whole_up_to: u64) -> impl Iterator<Item = RangeInclusive<u64>> {
    let needed = size.div_ceil(MOST_PARTS).div_ceil(MIB) * MIB;
    let part = needed.max(PART.min(whole_up_to)).min(WHOLE);
    let starts = (0..size.div_ceil(part)).map(move |index| index * part);
    starts.map(move |start| start..=(start + part).min(size) - 1)
}

/// A condition that does not hold: the source is not what the HEAD saw.
fn of_source(failure: Failure) -> Failure {
    if failure.code != EXISTS {
        return failure;
    }
    Failure {
        class: FailureClass::JobLocal,
        code: "source_changed".to_owned(),
        message: "the source was replaced while it was copied".to_owned(),
        ..failure
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
