//! Deletes all that begins with a prefix, page by page.
//!
//! Keeps no place: a run that ends early is begun again, and finds only what is left. So it survives
//! restarts and deadlines, and its result counts what the last run deleted. What was written after the job was
//! enqueued is spared (CONTRACT.md, section 4), or a job that waited would delete what came meanwhile. In a
//! versioned bucket a delete adds a marker, and older versions stay.
//!
//! Nothing is deleted whose key did not come whole from a list and begin with the prefix: a key that was read wrongly
//! is another object's.

use aws_sdk_s3::{
    operation::list_objects_v2::ListObjectsV2Output,
    types::{EncodingType, Object},
};

use super::{
    Done, Stop,
    answer::{UNREADABLE, called},
    batch::DeleteKey,
    checks::Clock,
    cleanup::{BATCH, CleanupService, Counted, is_of_all},
    listing::{Pages, Turn, decoded},
    tally::Tally,
};
use crate::job::{
    Failure, FailureClass, JobResult, OperationName, Timestamp, operation::DeletePrefix,
    result::Spared,
};

/// Keys that S3 refuses for good and that the result names; the others are counted in the log only.
const MOST_NAMED: usize = 100;
/// Seconds that two clocks may be apart: a `Date` has whole seconds, and an answer takes time.
const CLOCKS_AGREE: i64 = 5;

/// What one run did so far.
#[derive(Debug, Default)]
struct Swept {
    tally: Tally,
    refused: usize,
    spared: Spared,
    /// Keys that can't be read as a whole, or do not begin with the prefix.
    odd: u64,
}

impl CleanupService<'_> {
    /// Deletes what begins with the prefix and is not newer than the job, to the whole second.
    ///
    /// Goes on past keys that S3 refuses for good, and names the first hundred beside the count; fails `permanent`
    /// when it could delete nothing else. Goes on past keys that may still work, and fails with their class at
    /// the end, so that the job comes again; at once, when nothing of a page could be deleted. Fails `unreadable`
    /// when the list does not come to its end, or holds keys that can't be trusted.
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
        let mut swept = Swept::default();
        let mut pages = Pages::default();
        let clock = Clock::default();
        loop {
            let page = self.page(delete, pages.token(), &clock).await?;
            let turn = pages.turn(&page);
            let ahead = clock.ahead().filter(|ahead| ahead.abs() > CLOCKS_AGREE);
            let objects = page.contents.unwrap_or_default().into_iter();
            let keys = objects.filter_map(|object| {
                match verdict(&object, &delete.prefix, enqueued_at, ahead) {
                    Verdict::Delete => {}
                    Verdict::Odd => {
                        swept.odd += 1;
                        return None;
                    }
                    Verdict::Spare(reason) => {
                        *reason(&mut swept.spared) += 1;
                        return None;
                    }
                }
                Some(DeleteKey {
                    key: object.key?,
                    version_id: None,
                })
            });
            let keys: Vec<_> = keys.collect();
            if !keys.is_empty() {
                let ends = self
                    .delete_keys(&delete.bucket, keys, Counted::Inside)
                    .await?;
                let is_stuck = ends.deleted == 0 && ends.unfinished().is_some_and(is_of_all);
                swept.refused += ends.failed.len();
                swept.tally.join(ends);
                swept.tally.failed.truncate(MOST_NAMED);
                if is_stuck {
                    break;
                }
            }
            match turn.map_err(Stop::Failed)? {
                Turn::More(next) => pages.go(next),
                Turn::End => break,
            }
        }
        self.tell(delete, &swept, clock.ahead());
        swept.conclude().map(Done::from).map_err(Stop::Failed)
    }

    fn tell(&self, delete: &DeletePrefix, swept: &Swept, ahead: Option<i64>) {
        let operation = OperationName::DeletePrefix.as_str();
        let (bucket, refused, deleted) = (&delete.bucket, swept.refused, swept.tally.deleted);
        let spared = swept.spared.total();
        if refused > 0 {
            tracing::warn!(job = %self.0.job, lane = "cleanup", operation, bucket, refused, deleted, "S3 refuses to delete some of the keys");
        }
        if let Some(ahead) = ahead.filter(|ahead| ahead.abs() > CLOCKS_AGREE) {
            tracing::warn!(job = %self.0.job, lane = "cleanup", operation, bucket, ahead_s = ahead, spared, "this machine's clock and S3's differ: what either of them calls newer than the job is spared");
        }
    }

    async fn page(
        &self,
        delete: &DeletePrefix,
        token: Option<String>,
        clock: &Clock,
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
            let page = page.clone().customize().interceptor(clock.clone());
            async move { attempt.request(name, page.send()).await }
        });
        self.0
            .counted(name, &delete.bucket, page)
            .await
            .map(decoded)
    }
}

impl Swept {
    fn conclude(mut self) -> Result<JobResult, Failure> {
        if self.odd > 0 {
            let message = format!(
                "{} of the listed keys can't be read as a whole or do not begin with the prefix, and were not deleted",
                self.odd
            );
            let failure = called(FailureClass::Unreadable, UNREADABLE, message);
            self.tally.add(String::new(), Err(failure));
        }
        let spared = self.spared;
        Ok(match self.tally.conclude()? {
            JobResult::DeletedMany { deleted, failed } => JobResult::DeletedPrefix {
                deleted,
                spared: spared.total(),
                spared_why: (spared.total() > 0).then_some(spared),
                failed,
            },
            other => other,
        })
    }
}

/// What becomes of a listed object.
enum Verdict {
    Delete,
    /// Which count says why.
    Spare(fn(&mut Spared) -> &mut u64),
    Odd,
}

/// By whole seconds, which is all that S3 says. An object of which S3 does not say when it was written may be new.
/// `ahead` are the seconds that our clock is ahead of S3's, when they differ: then both have a say.
fn verdict(object: &Object, prefix: &str, enqueued_at: Timestamp, ahead: Option<i64>) -> Verdict {
    if !object.key().is_some_and(|key| key.starts_with(prefix)) {
        return Verdict::Odd;
    }
    let Some(modified) = object.last_modified().map(|modified| modified.secs()) else {
        return Verdict::Spare(|spared| &mut spared.no_date);
    };
    let enqueued_at = enqueued_at.as_micros().div_euclid(1_000_000);
    let by_s3 = modified > enqueued_at;
    let by_us = modified.saturating_add(ahead.unwrap_or(0)) > enqueued_at;
    match (by_s3, by_us) {
        (false, false) => Verdict::Delete,
        (true, true) => Verdict::Spare(|spared| &mut spared.newer),
        _ => Verdict::Spare(|spared| &mut spared.clock),
    }
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
