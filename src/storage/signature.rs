//! Whose fault a signature is that does not match: the credentials', or one job's.
//!
//! A store that rewrites a header before it checks the signature, such as metadata with odd spaces, refuses one
//! job's request for ever, with the error that wrong credentials have for everybody. Credentials that S3 takes
//! for another request are not the reason (RESILIENCE.md, class `job_local`).

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use super::{attempt::Attempt, guard::Caller};
use crate::job::{Failure, FailureClass, JobId, OperationName};

/// With more jobs than this in doubt, all are forgotten: then it is no job's fault.
const MOST_SUSPECTS: usize = 1000;

/// Jobs whose signature did not match, and since when; and what worked since for others.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    /// Nothing awaits under it.
    inner: Mutex<Inner>,
    /// Whether there is anybody in doubt: asked after every success, which mostly is all.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    suspects: BTreeMap<JobId, Instant>,
    /// The last two jobs that S3 served, and when their calls began: one of them is another than a suspect.
    good: [Option<(JobId, Instant)>; 2],
}

impl Signatures {
    /// A call of the job, begun then, was served.
    pub(super) fn good(&self, job: &JobId, began: Instant) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.lock();
        let place = match &inner.good[0] {
            Some((last, _)) if last != job => {
                let last = inner.good[0].take();
                inner.good[1] = last;
                0
            }
            _ => 0,
        };
        inner.good[place] = Some((job.clone(), began));
    }

    /// The job's signature did not match. True when it did not before, and another job's did since.
    fn is_jobs_fault(&self, job: &JobId) -> bool {
        let mut inner = self.lock();
        if let Some(since) = inner.suspects.get(job).copied() {
            let mut good = inner.good.iter().flatten();
            return good.any(|(other, began)| other != job && *began >= since);
        }
        if inner.suspects.len() >= MOST_SUSPECTS {
            inner.suspects.clear();
        }
        inner.suspects.insert(job.clone(), Instant::now());
        self.any.store(true, Ordering::Relaxed);
        false
    }

    fn clear(&self, job: &JobId) {
        let mut inner = self.lock();
        inner.suspects.remove(job);
        let any = !inner.suspects.is_empty();
        self.any.store(any, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller<'_> {
    /// A failure over a signature, again; `job_local` when the credentials are good: S3 takes them
    /// for a plain request now, or took them for another job since this one was refused first.
    pub(super) async fn judged(&self, attempt: &Attempt<'_>, failure: Failure) -> Failure {
        if failure.class != FailureClass::Credentials {
            return failure;
        }
        let signatures = &self.storage.signatures;
        let by_others = signatures.is_jobs_fault(self.job);
        if !by_others && !self.signs_well(attempt).await {
            return failure;
        }
        signatures.clear(self.job);
        let message = format!(
            "{}; S3 takes these credentials for other requests, so the store must have changed this one before it \
             checked the signature: look for odd characters or spaces in the job's metadata and key",
            failure.message
        );
        Failure {
            class: FailureClass::JobLocal,
            message,
            ..failure
        }
    }

    /// Asks for one key of the bucket, a request with nothing of the job in it. A refusal that is not about the
    /// credentials proves them, too.
    async fn signs_well(&self, attempt: &Attempt<'_>) -> bool {
        let Some(bucket) = attempt.heard().bucket() else {
            return false;
        };
        let list = self.client.list_objects_v2().bucket(bucket).max_keys(1);
        let look = attempt.request(OperationName::ListObjects, list.send());
        use FailureClass::{Conflict, Permanent, Unreadable};
        match attempt.end(look).await {
            Ok(Ok(_)) => true,
            Ok(Err(look)) => matches!(look.class, Permanent | Conflict | Unreadable),
            // It was held back for too long, or the circuit has opened.
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_worked_for_another_job_since_speaks_for_the_credentials() {
        let signatures = Signatures::default();
        let [bad, other, third] = ["bad", "other", "third"].map(|id| JobId::parse(id).unwrap());
        let before = Instant::now();
        signatures.good(&other, before);
        assert!(!signatures.is_jobs_fault(&bad), "the first time");
        signatures.good(&other, before);
        signatures.good(&bad, Instant::now());
        assert!(!signatures.is_jobs_fault(&bad), "before, and itself");
        signatures.good(&third, Instant::now());
        signatures.good(&bad, Instant::now());
        assert!(signatures.is_jobs_fault(&bad));
        signatures.clear(&bad);
        assert!(
            !signatures.is_jobs_fault(&bad),
            "judged anew after a replay"
        );
    }
}
