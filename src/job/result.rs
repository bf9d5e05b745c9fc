//! What a completed job gives back, and how much of it the ledger keeps (CONTRACT.md, section 3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What a completed job gives back; the shapes are the contract's, section 3.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the fields are S3's own")]
pub enum JobResult {
    /// An object was written; `size` in bytes.
    Stored {
        etag: Option<String>,
        version_id: Option<String>,
        size: u64,
    },
    /// An object has new tags; `version_id` is that of the object.
    Tagged { version_id: Option<String> },
    /// An object, or a range of it, was read; `size` is what was delivered, in bytes.
    Object {
        size: u64,
        etag: Option<String>,
        version_id: Option<String>,
        content_type: Option<String>,
        last_modified: Option<Timestamp>,
        metadata: BTreeMap<String, String>,
        /// The path it was written to.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
    /// A bucket was listed, in key order.
    Listed {
        keys: Vec<ListedObject>,
        common_prefixes: Vec<String>,
        truncated: bool,
    },
    /// One object is gone.
    Deleted { deleted: u64 },
    /// Of several keys these many are gone; the others were refused for good.
    DeletedMany {
        deleted: u64,
        failed: Vec<KeyFailure>,
    },
    /// All below a prefix is gone, but for what was spared and what was refused for good.
    DeletedPrefix {
        deleted: u64,
        spared: u64,
        /// Absent when nothing was spared.
        #[serde(skip_serializing_if = "Option::is_none")]
        spared_why: Option<Spared>,
        /// At most a hundred.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        failed: Vec<KeyFailure>,
    },
}

/// Objects that a delete of a prefix left alone, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spared {
    /// Written after the job was enqueued.
    pub newer: u64,
    /// The store does not say when they were written.
    pub no_date: u64,
    /// Newer by one of two clocks that differ: the store's and the worker's.
    pub clock: u64,
}

impl Spared {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.newer + self.no_date + self.clock
    }
}

impl JobResult {
    /// The JSON that the ledger keeps: as it is, but of a list only the counts.
    pub fn for_ledger(&self) -> serde_json::Value {
        match self {
            Self::Listed {
                keys, truncated, ..
            } => {
                serde_json::json!({"count": keys.len(), "truncated": truncated})
            }
            other => other.to_json(),
        }
    }

    /// The JSON of replies and events.
    pub fn to_json(&self) -> serde_json::Value {
        // Plain data: the only errors of serde_json are failing `Serialize` impls and odd map keys.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}

/// One object of a list; `size` in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are S3's own")]
pub struct ListedObject {
    pub key: String,
    pub size: u64,
    pub etag: Option<String>,
    pub last_modified: Option<Timestamp>,
}

/// A key that S3 refuses to delete for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are S3's own")]
pub struct KeyFailure {
    pub key: String,
    pub code: String,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_keeps_only_the_counts_of_a_list() {
        let listed = ListedObject {
            key: "k".into(),
            size: 1,
            etag: None,
            last_modified: None,
        };
        let result = JobResult::Listed {
            keys: vec![listed],
            common_prefixes: vec![],
            truncated: true,
        };
        assert_eq!(
            result.for_ledger(),
            serde_json::json!({"count": 1, "truncated": true})
        );
        assert_eq!(result.to_json()["keys"][0]["key"], "k");
    }
}
