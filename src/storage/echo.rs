//! What the answer to a `DeleteObjects` says of each key. Pure.

use std::collections::BTreeMap;

use aws_sdk_s3::{operation::delete_objects::DeleteObjectsOutput, types};

use super::batch::DeleteKey;

/// What an answer says of a key or version: deleted, or why not. A store may leave a version id out of its
/// answer, or put one in.
pub(super) struct Named<'a>(BTreeMap<&'a str, Vec<Said<'a>>>);

/// Of which version, and why it was not deleted.
type Said<'a> = (Option<&'a str>, Option<&'a types::Error>);

impl<'a> Named<'a> {
    pub(super) fn new(answer: &'a DeleteObjectsOutput) -> Self {
        let deleted = answer
            .deleted()
            .iter()
            .map(|it| (it.key(), it.version_id(), None));
        let errors = answer
            .errors()
            .iter()
            .map(|it| (it.key(), it.version_id(), Some(it)));
        let mut named: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, version_id, error) in deleted.chain(errors) {
            if let Some(key) = key {
                named.entry(key).or_default().push((version_id, error));
            }
        }
        Self(named)
    }

    /// `None` when it says nothing; `Some(None)` for a key that is gone.
    pub(super) fn find(&self, key: &DeleteKey) -> Option<Option<&'a types::Error>> {
        let entries = self.0.get(key.key.as_str())?;
        let exact = entries
            .iter()
            .find(|(version, _)| *version == key.version_id.as_deref());
        match (exact, &entries[..]) {
            (Some((_, said)), _) | (None, [(_, said)]) => Some(*said),
            (None, _) => None,
        }
    }
}
