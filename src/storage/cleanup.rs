//! Deletes: best effort, in batches, and without a breaker, on purpose.
//!
//! A delete waits for nobody, so it need not fail fast; its failures say nothing that should stop uploads
//! or reads; and repeating it is harmless. A store that is ill is spared by the cleanup lane's low
//! concurrency, the waits between attempts, parking, and the rate limiter of the lane's own client. Who
//! needs a delete to have happened must not use this lane.
//!
//! A `DeleteObjects` answer is a 200 with an error for each key that failed, so every key is classified
//! for itself, and only those that may still work are sent again. A call that fails as a whole is split, since
//! a single key may be the reason; who waits for which key is in `batch.rs`, what a store lacks in `quirks.rs`.

use aws_sdk_s3::{operation::delete_objects::DeleteObjectsOutput, types::Delete};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::join_all;
use md5::{Digest, Md5};

use super::{
    CallContext, Done, Stop,
    attempt::Attempt,
    batch::{Batch, DeleteJob, DeleteKey, MISSING},
    guard::Caller,
    quirks::{asks_for_md5, lacks_multi_delete},
    tally::{Tally, is_final},
};
use crate::job::{
    Failure, FailureClass, JobResult, OperationName,
    operation::{DeleteObject, DeleteObjects},
};

/// Keys in one call; S3 takes no more.
pub(super) const BATCH: usize = 1000;
/// Single deletes of one job that wait for a slot at a time.
const SINGLES: usize = 16;

/// Deletes of one job, or of those that share a batch.
#[derive(Debug)]
pub(super) struct CleanupService<'a>(pub(super) Caller<'a>);

/// Whose operation the calls of a batch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// Their own: they carry keys of several jobs.
    Calls,
    /// Their own, beside that of the one job.
    Inside,
    /// That of the one job, which counts once.
    Job,
}

impl CleanupService<'_> {
    /// Deletes one object, or one version of it; a missing one is success.
    pub(super) async fn delete_object(&self, delete: &DeleteObject) -> Result<Done, Stop> {
        let key = DeleteKey {
            key: delete.key.clone(),
            version_id: delete.version_id.clone(),
        };
        self.delete_one(&delete.bucket, key).await?;
        Ok(JobResult::Deleted { deleted: 1 }.into())
    }

    /// Deletes up to 10,000 objects of one bucket, 1,000 a call; a key named twice is sent and counted once.
    ///
    /// Succeeds when any key was deleted or was not there, with the keys that S3 refuses for good beside
    /// it; fails `permanent` when all are refused. When keys could still work after all attempts, the
    /// job fails with their class: deletes are repeated as a whole, which is harmless.
    pub(super) async fn delete_objects(&self, delete: &DeleteObjects) -> Result<Done, Stop> {
        let work = async {
            let keys = DeleteKey::distinct(&delete.keys);
            let tally = self.delete_keys(&delete.bucket, keys, Counted::Job).await?;
            tally.conclude().map(Done::from).map_err(Stop::Failed)
        };
        self.0
            .counted(OperationName::DeleteObjects, &delete.bucket, work)
            .await
    }

    /// Deletes for several jobs; each is answered as soon as its own keys have their ends.
    pub(super) async fn delete_for_all(&self, bucket: &str, jobs: Vec<DeleteJob>) {
        let batch = Batch::of_jobs(jobs);
        match self.send(bucket, &batch, Counted::Calls).await {
            Ok(()) => {}
            // By itself each job would call a store that made the batch wait.
            Err(stop @ Stop::Draining) => batch.end_all(&stop),
            // A batch has neither breaker nor lease: each job by itself will hear the same.
            Err(stop) => tracing::debug!(?stop, "a batch of deletes was stopped"),
        }
        batch.release();
    }

    /// Deletes distinct keys of one job, and stops at the first call after which keys may still work.
    pub(super) async fn delete_keys(
        &self,
        bucket: &str,
        keys: Vec<DeleteKey>,
        counted: Counted,
    ) -> Result<Tally, Stop> {
        let (keys, odd): (Vec<_>, Vec<_>) = keys.into_iter().partition(DeleteKey::fits_xml);
        let mut tally = Tally::default();
        for keys in keys.chunks(BATCH) {
            let batch = Batch::of_keys(keys.iter().cloned());
            self.send(bucket, &batch, counted).await?;
            tally.join(batch.ends());
            if tally.unfinished().is_some_and(is_of_all) {
                return Ok(tally);
            }
        }
        for key in odd {
            let name = key.key.clone();
            match self.delete_one(bucket, key).await {
                Ok(()) => tally.add(name, Ok(())),
                Err(Stop::Failed(failure)) => tally.add(name, Err(failure)),
                Err(stop) => return Err(stop),
            }
        }
        Ok(tally)
    }

    async fn delete_one(&self, bucket: &str, key: DeleteKey) -> Result<(), Stop> {
        let batch = Batch::of_keys([key]);
        self.send_part(&self.0, bucket, &batch, &[0], Counted::Job)
            .await
    }

    /// Sends a batch until every key has its end.
    ///
    /// A call that fails as a whole, after its attempts, is split, and the parts get one attempt each. While
    /// nothing but failures has come, a single key is asked next: fails that too, the store is ill, and
    /// the rest is spared.
    async fn send(&self, bucket: &str, batch: &Batch, counted: Counted) -> Result<(), Stop> {
        let once = self.0.context.once();
        let hasty = self.0.within(&once);
        let (mut caller, mut answered) = (&self.0, false);
        let mut parts = vec![batch.all()];
        while let Some(part) = parts.pop() {
            let part = batch.open(&part);
            if part.len() > 1 && !self.0.storage.quirks.has_multi_delete(bucket) {
                parts.push(part);
                return self
                    .one_by_one(bucket, batch, &parts.concat(), counted)
                    .await;
            }
            let is_whole = std::ptr::eq(caller, &self.0);
            let failure = match self.send_part(caller, bucket, batch, &part, counted).await {
                Ok(()) => None,
                Err(Stop::Failed(failure)) => Some(failure),
                Err(stop) => return Err(stop),
            };
            let unheard = batch.unheard(&part);
            answered |= !unheard.is_empty();
            if unheard.len() > SINGLES {
                self.one_by_one(bucket, batch, &unheard, counted).await?;
            } else {
                parts.extend(unheard.iter().rev().map(|number| vec![*number]));
            }
            let Some(failure) = failure else {
                answered |= !part.is_empty();
                continue;
            };
            let part: Vec<_> = part
                .into_iter()
                .filter(|it| !unheard.contains(it))
                .collect();
            caller = &hasty;
            if part.len() > 1 && lacks_multi_delete(&failure) {
                tracing::info!(
                    bucket,
                    code = failure.code,
                    "no DeleteObjects here: keys are deleted one by one"
                );
                self.0.storage.quirks.note_no_multi_delete(bucket);
                parts.push(part);
            } else if batch.is_answered(&part) {
                answered = true;
                batch.give_up(&part, &failure);
            } else if part.len() == 1 || !may_be_a_keys_fault(&failure) {
                batch.give_up(&part, &failure);
                answered |= is_final(&failure);
                if !answered || !may_be_a_keys_fault(&failure) {
                    batch.give_up(&parts.concat(), &failure);
                }
            } else {
                answered |= is_final(&failure);
                let middle = if is_whole || answered {
                    part.len() / 2
                } else {
                    1
                };
                let (left, right) = part.split_at(middle);
                parts.push(right.to_vec());
                parts.push(left.to_vec());
            }
        }
        Ok(())
    }

    /// For a store without `DeleteObjects`. Jobs that share the batch go on by themselves, as many at a time as
    /// the lane has slots.
    async fn one_by_one(
        &self,
        bucket: &str,
        batch: &Batch,
        part: &[usize],
        counted: Counted,
    ) -> Result<(), Stop> {
        if counted == Counted::Calls {
            batch.release();
            return Ok(());
        }
        for few in batch.open(part).chunks(SINGLES) {
            let singles = few.iter().map(|number| async move {
                let part = [*number];
                match self.send_part(&self.0, bucket, batch, &part, counted).await {
                    Err(Stop::Failed(failure)) => {
                        batch.give_up(&part, &failure);
                        Ok(())
                    }
                    end => end,
                }
            });
            for end in join_all(singles).await {
                end?;
            }
        }
        Ok(())
    }

    /// One guarded operation for the open keys of `part`: a key alone is sent as `DeleteObject`. Fails while
    /// any key has no end.
    async fn send_part(
        &self,
        caller: &Caller<'_>,
        bucket: &str,
        batch: &Batch,
        part: &[usize],
        counted: Counted,
    ) -> Result<(), Stop> {
        let name = match part {
            [_] => OperationName::DeleteObject,
            _ => OperationName::DeleteObjects,
        };
        let work = async {
            let work = caller.guarded(name, |attempt| async move {
                let open = batch.open(part);
                let attempt = attempt.carrying(batch, &open);
                let end = match &open[..] {
                    [] => return Ok(()),
                    [number] if name == OperationName::DeleteObject => {
                        self.call_for_one(&attempt, bucket, batch, *number).await
                    }
                    open => self.call_for_many(&attempt, bucket, batch, open).await,
                };
                if let Err(failure) = &end
                    && failure.called
                {
                    batch.note_failed(&open, name.as_str(), attempt.took(), failure);
                }
                end
            });
            match work.await {
                // Some keys are gone: as an operation it is no error.
                Err(Stop::Failed(failure)) if batch.has_deleted(part) => Ok(Some(failure)),
                end => end.map(|()| None),
            }
        };
        let end = match (counted, name) {
            (Counted::Job, OperationName::DeleteObjects) => work.await,
            _ => caller.counted(name, bucket, work).await,
        };
        end?.map_or(Ok(()), |failure| Err(Stop::Failed(failure)))
    }

    async fn call_for_one(
        &self,
        attempt: &Attempt<'_>,
        bucket: &str,
        batch: &Batch,
        number: usize,
    ) -> Result<(), Failure> {
        let DeleteKey { key, version_id } = batch.key(number);
        let request = self.0.client.delete_object().bucket(bucket).key(key);
        let request = request.set_version_id(version_id);
        self.0.metrics().cleanup_batch_keys.observe(1.0);
        let end = attempt.request(OperationName::DeleteObject, request.send());
        match end.await {
            Err(failure) if failure.code != MISSING => Err(failure),
            Ok(_) | Err(_) => {
                batch.end(number, Ok(()));
                Ok(())
            }
        }
    }

    async fn call_for_many(
        &self,
        attempt: &Attempt<'_>,
        bucket: &str,
        batch: &Batch,
        open: &[usize],
    ) -> Result<(), Failure> {
        let quirks = &self.0.storage.quirks;
        let answer = self.delete_call(attempt, bucket, batch, open).await;
        let answer = match answer {
            Err(failure) if asks_for_md5(&failure) && !quirks.wants_md5(bucket) => {
                quirks.note_md5(bucket);
                self.delete_call(attempt, bucket, batch, open).await
            }
            answer => answer,
        };
        batch.settle(open, &answer?)
    }

    async fn delete_call(
        &self,
        attempt: &Attempt<'_>,
        bucket: &str,
        batch: &Batch,
        open: &[usize],
    ) -> Result<DeleteObjectsOutput, Failure> {
        let keys = batch.identifiers(open);
        let observed = keys.len() as f64;
        self.0.metrics().cleanup_batch_keys.observe(observed);
        // Verbose: in quiet mode an answer that broke off looks like full success.
        let delete = Delete::builder()
            .set_objects(Some(keys))
            .quiet(false)
            .build();
        let delete = delete.map_err(|error| {
            Failure::ours(FailureClass::JobLocal, "invalid_request", error.to_string())
        })?;
        let request = self.0.client.delete_objects().bucket(bucket).delete(delete);
        let name = OperationName::DeleteObjects;
        if self.0.storage.quirks.wants_md5(bucket) {
            // The SDK never sends it (facts: s3.md, 8). Before signing, so that the header is signed.
            let request = request.customize().mutate_request(|request| {
                let digest = Md5::digest(request.body().bytes().unwrap_or_default());
                let headers = request.headers_mut();
                headers.remove("x-amz-sdk-checksum-algorithm");
                headers.remove("x-amz-checksum-crc32");
                headers.insert("content-md5", STANDARD.encode(digest));
            });
            return attempt.request(name, request.send()).await;
        }
        attempt.request(name, request.send()).await
    }
}

impl CallContext {
    /// The same with one attempt a call.
    fn once(&self) -> Self {
        Self {
            breaker: self.breaker.clone(),
            probe: std::sync::Mutex::new(None),
            slots: std::sync::Arc::clone(&self.slots),
            retry: crate::resilience::RetryPolicy {
                max_attempts: 1,
                ..self.retry
            },
            max_reply_bytes: self.max_reply_bytes,
            calls: std::sync::Arc::clone(&self.calls),
            failed: std::sync::Arc::clone(&self.failed),
            parts: std::sync::Arc::clone(&self.parts),
            uploads: None,
            draining: self.draining.clone(),
            lease: self.lease.clone(),
            unfinished: self.unfinished,
            enqueued_at: self.enqueued_at,
        }
    }
}

/// Whether a failure speaks for the keys that were not tried yet: an answer that can't be read does not.
pub(super) fn is_of_all(failure: &Failure) -> bool {
    failure.class != FailureClass::Unreadable
}

/// Whether a call that failed as a whole may work for some of its keys.
fn may_be_a_keys_fault(failure: &Failure) -> bool {
    use FailureClass::{Cancelled, Credentials, Misrouted, Throttled};
    let elsewhere = matches!(
        failure.class,
        Throttled | Credentials | Misrouted | Cancelled
    );
    !elsewhere && failure.code != "NoSuchBucket"
}

#[cfg(test)]
#[path = "cleanup_tests.rs"]
mod tests;
