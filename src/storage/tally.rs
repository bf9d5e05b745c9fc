//! The sum of what became of a job's keys, and the end that it makes of the job. Pure.

use crate::job::{Failure, FailureClass, JobResult, failure::Retry, result::KeyFailure};

/// What became of one job's keys.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) deleted: u64,
    /// Refused for good.
    pub(super) failed: Vec<(String, Failure)>,
    /// What speaks for the keys that may still work.
    again: Option<Failure>,
}

impl Tally {
    pub(super) fn add(&mut self, key: String, end: Result<(), Failure>) {
        match end {
            Ok(()) => self.deleted += 1,
            Err(failure) if is_final(&failure) => self.failed.push((key, failure)),
            Err(failure) => worst(&mut self.again, &failure),
        }
    }

    pub(super) fn join(&mut self, other: Self) {
        self.deleted += other.deleted;
        self.failed.extend(other.failed);
        if let Some(failure) = other.again {
            worst(&mut self.again, &failure);
        }
    }

    /// The failure of keys that may still work, if there are any: the job is to be repeated as a whole.
    pub(super) const fn unfinished(&self) -> Option<&Failure> {
        self.again.as_ref()
    }

    /// The job's end: fails while keys may still work, and when all of them are refused for good.
    pub(super) fn conclude(self) -> Result<JobResult, Failure> {
        if let Some(failure) = self.again {
            return Err(failure);
        }
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

/// One failure speaks for all; what a retry can't cure comes first.
pub(super) fn worst(so_far: &mut Option<Failure>, failure: &Failure) {
    if so_far.is_none() || failure.class.policy().retry == Retry::No {
        *so_far = Some(failure.clone());
    }
}

/// Whether a key's failure is its last word.
pub(super) fn is_final(failure: &Failure) -> bool {
    matches!(
        failure.class,
        FailureClass::Permanent | FailureClass::JobLocal
    )
}
