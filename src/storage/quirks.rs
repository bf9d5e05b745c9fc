//! What stores were found to lack, bucket by bucket, so that each is not asked for it again and again.
//!
//! Not settings: a store says by its answers what it can't do (facts: s3.md, 8), and may learn it. Forgotten with
//! the process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::job::Failure;

/// How long a bucket gets single deletes before `DeleteObjects` is tried again; chosen.
const SINGLE_FOR: Duration = Duration::from_secs(600);
/// Names come from messages: with more buckets than this all is forgotten.
const MOST_BUCKETS: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Quirks {
    /// Nothing awaits under it.
    buckets: Mutex<BTreeMap<String, Quirk>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Quirk {
    single_until: Option<Instant>,
    wants_md5: bool,
    etags: Etags,
}

/// What a bucket's `ETags` of single puts are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Etags {
    /// Not seen yet.
    #[default]
    Unknown,
    /// The MD5 of the bytes, as AWS has it.
    Md5,
    /// Something else of the same form.
    Other,
}

impl Quirks {
    pub(super) const fn new() -> Self {
        Self {
            buckets: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether `DeleteObjects` is worth a call.
    pub(super) fn has_multi_delete(&self, bucket: &str) -> bool {
        let until = self.lock().get(bucket).and_then(|it| it.single_until);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether `DeleteObjects` needs the header `Content-MD5`.
    pub(super) fn wants_md5(&self, bucket: &str) -> bool {
        self.lock().get(bucket).is_some_and(|it| it.wants_md5)
    }

    pub(super) fn note_no_multi_delete(&self, bucket: &str) {
        self.note(bucket, |it| {
            it.single_until = Some(Instant::now() + SINGLE_FOR);
        });
    }

    pub(super) fn note_md5(&self, bucket: &str) {
        self.note(bucket, |it| it.wants_md5 = true);
    }

    /// What was seen of the bucket's `ETags`.
    pub(super) fn etags(&self, bucket: &str) -> Etags {
        self.lock()
            .get(bucket)
            .map_or(Etags::Unknown, |it| it.etags)
    }

    pub(super) fn note_etags(&self, bucket: &str, etags: Etags) {
        if self.etags(bucket) != etags {
            self.note(bucket, |it| it.etags = etags);
        }
    }

    fn note(&self, bucket: &str, change: impl Fn(&mut Quirk)) {
        let mut buckets = self.lock();
        if buckets.len() >= MOST_BUCKETS && !buckets.contains_key(bucket) {
            buckets.clear();
        }
        change(buckets.entry(bucket.to_owned()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Quirk>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a store says so that it has no `DeleteObjects`.
pub(super) fn lacks_multi_delete(failure: &Failure) -> bool {
    let codes = ["NotImplemented", "MethodNotAllowed", "http_501", "http_405"];
    codes.contains(&failure.code.as_str())
}

/// Whether a store says so that it insists on `Content-MD5`.
pub(super) fn asks_for_md5(failure: &Failure) -> bool {
    failure.code == "MissingContentMD5"
}
