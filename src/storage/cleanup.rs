//! Deletes: best effort, in batches, and without a breaker, on purpose.
//!
//! A delete waits for nobody, so it need not fail fast; its failures say nothing that should stop uploads
//! or reads; and repeating it is harmless. A store that is ill is spared by the cleanup lane's low
//! concurrency, the waits between attempts, parking, and the rate limiter of the lane's own client. Who
//! needs a delete to have happened must not use this lane.
//!
//! A `DeleteObjects` answer is a 200 with an error for each key that failed, so every key is classified
//! for itself, and only those that may still work are sent again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use aws_sdk_s3::{
    operation::delete_objects::DeleteObjectsOutput,
    types::{Delete, DeletedObject, ObjectIdentifier},
};

use super::{
    Done, Stop, error,
    guard::{Attempt, Caller},
};
use crate::job::{
    Failure, FailureClass, JobResult, OperationName,
    failure::Retry,
    operation::{DeleteObject, DeleteObjects},
    result::KeyFailure,
};

/// Keys in one call; S3 takes no more.
const BATCH: usize = 1000;
/// A key that was not there: deleted, as far as anybody can tell.
const MISSING: &str = "NoSuchKey";

/// Deletes of one job.
#[derive(Debug)]
pub(super) struct CleanupService<'a>(pub(super) Caller<'a>);

/// What became of the keys so far.
#[derive(Debug, Default)]
struct Tally {
    deleted: u64,
    /// Refused for good.
    failed: Vec<(String, Failure)>,
}

impl CleanupService<'_> {
    /// Deletes one object, or one version of it; a missing one is success.
    pub(super) async fn delete_object(&self, delete: &DeleteObject) -> Result<Done, Stop> {
        let version_id = delete.version_id.as_deref();
        self.delete_one(&delete.bucket, &delete.key, version_id)
            .await?;
        Ok(JobResult::Deleted { deleted: 1 }.into())
    }

    /// Deletes up to 10,000 objects of one bucket, 1,000 a call; a key named twice is sent and counted once.
    ///
    /// Succeeds when any key was deleted or was not there, with the keys that S3 refuses for good beside
    /// it; fails `permanent` when all are refused. When keys could still work after all attempts, the
    /// job fails with their class: deletes are repeated as a whole, which is harmless.
    pub(super) async fn delete_objects(&self, delete: &DeleteObjects) -> Result<Done, Stop> {
        let work = self.delete_all(delete);
        self.0
            .counted(OperationName::DeleteObjects, &delete.bucket, work)
            .await
    }

    async fn delete_all(&self, delete: &DeleteObjects) -> Result<Done, Stop> {
        let mut seen = BTreeSet::new();
        let distinct = delete.keys.iter().filter(|key| seen.insert(key.as_str()));
        // A batch is XML, and one key that XML can't carry would fail all of it.
        let (keys, odd): (Vec<_>, Vec<_>) = distinct.cloned().partition(|key| xml_carries(key));
        let mut tally = Tally::default();
        for batch in keys.chunks(BATCH) {
            let batch = &Batch {
                inner: Mutex::new((batch.to_vec(), std::mem::take(&mut tally))),
            };
            let work = self
                .0
                .guarded(OperationName::DeleteObjects, |attempt| async move {
                    self.delete_batch(&attempt, &delete.bucket, batch).await
                });
            work.await?;
            tally = batch.tally();
        }
        for key in odd {
            match self.delete_one(&delete.bucket, &key, None).await {
                Ok(()) => tally.deleted += 1,
                Err(Stop::Failed(failure)) if is_final(&failure) => {
                    tally.failed.push((key, failure));
                }
                Err(stop) => return Err(stop),
            }
        }
        tally.conclude().map(Done::from).map_err(Stop::Failed)
    }

    async fn delete_one(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<(), Stop> {
        let name = OperationName::DeleteObject;
        let work = self.0.guarded(name, |attempt| async move {
            let request = self.0.client.delete_object().bucket(bucket).key(key);
            let request = request.set_version_id(version_id.map(str::to_owned));
            self.0.metrics().cleanup_batch_keys.observe(1.0);
            match attempt.request(name, request.send()).await {
                Err(failure) if failure.code != MISSING => Err(failure),
                Ok(_) | Err(_) => Ok(()),
            }
        });
        self.0.counted(name, bucket, work).await
    }

    /// One call for the keys still open: settles what it can, and fails while any key may still work.
    async fn delete_batch(
        &self,
        attempt: &Attempt<'_>,
        bucket: &str,
        batch: &Batch,
    ) -> Result<(), Failure> {
        let keys = batch.identifiers();
        self.0
            .metrics()
            .cleanup_batch_keys
            .observe(keys.len() as f64);
        // Verbose: in quiet mode an answer that broke off looks like full success.
        let delete = Delete::builder()
            .set_objects(Some(keys))
            .quiet(false)
            .build();
        let delete = delete.map_err(|error| {
            Failure::ours(FailureClass::JobLocal, "invalid_request", error.to_string())
        })?;
        let request = self
            .0
            .client
            .delete_objects()
            .bucket(bucket)
            .delete(delete)
            .send();
        let answer = attempt
            .request(OperationName::DeleteObjects, request)
            .await?;
        batch.settle(&answer)
    }
}

/// The keys of one call that are still open, and what became of the others.
#[derive(Debug)]
struct Batch {
    /// Nothing awaits under it.
    inner: Mutex<(Vec<String>, Tally)>,
}

impl Batch {
    fn tally(&self) -> Tally {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.1)
    }

    fn identifiers(&self) -> Vec<ObjectIdentifier> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // A key is all that an identifier needs, so none is left out.
        inner
            .0
            .iter()
            .filter_map(|key| ObjectIdentifier::builder().key(key).build().ok())
            .collect()
    }

    /// Takes an answer in; fails while keys are open that may still work.
    fn settle(&self, answer: &DeleteObjectsOutput) -> Result<(), Failure> {
        let deleted: BTreeSet<_> = answer
            .deleted()
            .iter()
            .filter_map(DeletedObject::key)
            .collect();
        let errors: BTreeMap<_, _> = answer
            .errors()
            .iter()
            .filter_map(|error| Some((error.key()?, error)))
            .collect();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, tally) = &mut *inner;
        let mut again: Option<Failure> = None;
        open.retain(|key| {
            let failure = match errors.get(key.as_str()).map(|error| error::of_key(error)) {
                None if deleted.contains(key.as_str()) => None,
                None => Some(unanswered(key)),
                failure => failure.filter(|failure| failure.code != MISSING),
            };
            let Some(failure) = failure else {
                tally.deleted += 1;
                return false;
            };
            if is_final(&failure) {
                tally.failed.push((key.clone(), failure));
                return false;
            }
            // One class speaks for all; what a retry can't cure comes first.
            if again.is_none() || failure.class.policy().retry == Retry::No {
                again = Some(failure);
            }
            true
        });
        again.map_or(Ok(()), Err)
    }
}

impl Tally {
    fn conclude(self) -> Result<JobResult, Failure> {
        match self.failed.first() {
            Some((_, first)) if self.deleted == 0 => Err(first.clone()),
            _ => Ok(JobResult::DeletedMany {
                deleted: self.deleted,
                failed: self.failed.into_iter().map(key_failure).collect(),
            }),
        }
    }
}

fn key_failure((key, failure): (String, Failure)) -> KeyFailure {
    KeyFailure {
        key,
        code: failure.code,
        message: failure.message,
    }
}

/// Whether a key's failure is its last word.
fn is_final(failure: &Failure) -> bool {
    matches!(
        failure.class,
        FailureClass::Permanent | FailureClass::JobLocal
    )
}

fn unanswered(key: &str) -> Failure {
    let message = format!("the answer says nothing of key {key}");
    let failure = Failure::ours(FailureClass::Unavailable, "key_unanswered", message);
    Failure {
        called: true,
        ..failure
    }
}

/// Whether XML 1.0 has all of the key's characters.
fn xml_carries(key: &str) -> bool {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..);
    key.chars().all(allowed)
}

#[cfg(test)]
#[path = "cleanup_tests.rs"]
mod tests;
