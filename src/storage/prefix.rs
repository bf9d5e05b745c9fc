//! Deletes all that begins with a prefix, page by page.
//!
//! Keeps no place: a run that ends early is begun again, and finds only what is left. So it survives
//! restarts and deadlines, and its result counts what the last run deleted. What was written after the job was
//! enqueued is spared (CONTRACT.md, section 4), or a job that waited would delete what came meanwhile. In a
//! versioned bucket a delete adds a marker, and older versions stay.

use aws_sdk_s3::{
    operation::list_objects_v2::ListObjectsV2Output,
    types::{EncodingType, Object},
};

use super::{
    Done, Stop,
    batch::DeleteKey,
    cleanup::{BATCH, CleanupService, Counted},
    listing::decoded,
    tally::Tally,
};
use crate::job::{JobResult, OperationName, Timestamp, operation::DeletePrefix};

/// Keys that S3 refuses for good and that the result names; the others are counted in the log only.
const MOST_NAMED: usize = 100;

impl CleanupService<'_> {
    /// Deletes what begins with the prefix and is not newer than the job, to the whole second.
    ///
    /// Goes on past keys that S3 refuses for good, and names the first hundred beside the count; fails `permanent`
    /// when it could delete nothing else. Goes on past keys that may still work, and fails with their class at
    /// the end, so that the job comes again; at once, when nothing of a page could be deleted.
    pub(super) async fn delete_prefix(&self, delete: &DeletePrefix) -> Result<Done, Stop> {
        self.0
            .counted(
                OperationName::DeletePrefix,
                &delete.bucket,
                self.delete_pages(delete),
            )
            .await
    }

    async fn delete_pages(&self, delete: &DeletePrefix) -> Result<Done, Stop> {
        let enqueued_at = self.0.context.enqueued_at;
        let (mut tally, mut refused) = (Tally::default(), 0);
        let mut token = None;
        loop {
            let page = self.page(delete, token).await?;
            let objects = page.contents.unwrap_or_default().into_iter();
            let old = objects.filter(|object| !is_newer(object, enqueued_at));
            let keys: Vec<_> = old
                .filter_map(|object| {
                    Some(DeleteKey {
                        key: object.key?,
                        version_id: None,
                    })
                })
                .collect();
            if !keys.is_empty() {
                let ends = self
                    .delete_keys(&delete.bucket, keys, Counted::Inside)
                    .await?;
                let is_stuck = ends.deleted == 0 && ends.unfinished().is_some();
                refused += ends.failed.len();
                tally.join(ends);
                tally.failed.truncate(MOST_NAMED);
                if is_stuck {
                    break;
                }
            }
            token = page.next_continuation_token;
            if token.is_none() || page.is_truncated != Some(true) {
                break;
            }
        }
        if refused > 0 {
            let operation = OperationName::DeletePrefix.as_str();
            let bucket = &delete.bucket;
            tracing::warn!(job = %self.0.job, lane = "cleanup", operation, bucket, refused, deleted = tally.deleted, "S3 refuses to delete some of the keys");
        }
        match tally.conclude().map_err(Stop::Failed)? {
            JobResult::DeletedMany { deleted, failed } if failed.is_empty() => {
                Ok(JobResult::Deleted { deleted }.into())
            }
            result => Ok(result.into()),
        }
    }

    async fn page(
        &self,
        delete: &DeletePrefix,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output, Stop> {
        let name = OperationName::ListObjects;
        let page = self.0.client.list_objects_v2();
        let page = page
            .bucket(&delete.bucket)
            .prefix(&delete.prefix)
            .encoding_type(EncodingType::Url)
            .max_keys(i32::try_from(BATCH).unwrap_or(i32::MAX))
            .set_continuation_token(token);
        let page = self.0.guarded(name, |attempt| {
            let page = page.clone();
            async move { attempt.request(name, page.send()).await }
        });
        self.0
            .counted(name, &delete.bucket, page)
            .await
            .map(decoded)
    }
}

/// Whether the object was written after the job, by whole seconds, which is all that S3 says. One of which S3
/// does not say when it was written may be new.
fn is_newer(object: &Object, enqueued_at: Timestamp) -> bool {
    let enqueued_at = enqueued_at.as_micros().div_euclid(1_000_000);
    let modified = object.last_modified();
    modified.is_none_or(|modified| modified.secs() > enqueued_at)
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
