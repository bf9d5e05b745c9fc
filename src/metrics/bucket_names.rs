//! Bounds the `bucket` label.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use super::OperationResult;

/// What every bucket without a name of its own is called.
const OTHER: &str = "other";

/// The buckets that are named in the label. A bucket gets its name when an operation on it succeeds for the first
/// time, as long as there are names left; before that, and without one, it is `other`. So jobs for buckets that do
/// not exist use no names up.
#[derive(Debug)]
pub(super) struct BucketNames {
    most: usize,
    /// Nothing awaits under it. Names are leaked once each, at most `most` of them, so that a label
    /// costs no allocation a job.
    names: RwLock<HashSet<&'static str>>,
}

impl BucketNames {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            names: RwLock::default(),
        }
    }

    /// The label of an operation on `bucket` that ended so.
    pub(super) fn label(&self, bucket: &str, result: OperationResult) -> &'static str {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(bucket) {
            return name;
        }
        if result != OperationResult::Success || names.len() >= self.most {
            return OTHER;
        }
        drop(names);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been quicker.
        if let Some(name) = names.get(bucket) {
            return name;
        }
        if names.len() >= self.most {
            return OTHER;
        }
        let name: &'static str = Box::leak(bucket.to_owned().into_boxed_str());
        names.insert(name);
        name
    }
}
