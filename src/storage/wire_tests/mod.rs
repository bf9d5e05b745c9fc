//! Answers as stores, proxies and half-built servers give them, on the wire: what each does to a job.

mod access;
mod keys;
mod lists;
mod misrouted;
mod proofs;
mod ranges;
mod regions;
mod server;
mod signatures;
mod unreadable;

use super::script::op;
use crate::job::{
    Operation,
    operation::{CopyObject, CopySource, DeletePrefix, PutObjectTagging, PutOptions},
};

fn put() -> Operation {
    op::put(PutOptions::default())
}

fn copy() -> Operation {
    Operation::CopyObject(CopyObject {
        options: PutOptions::default(),
        bucket: "b".into(),
        key: "k".into(),
        source: CopySource {
            bucket: "from".into(),
            key: "source".into(),
            version_id: None,
        },
    })
}

fn tag() -> Operation {
    Operation::PutObjectTagging(PutObjectTagging {
        bucket: "b".into(),
        key: "k".into(),
        tags: [("a".to_owned(), "1".to_owned())].into(),
        version_id: None,
    })
}

fn delete_prefix(prefix: &str) -> Operation {
    Operation::DeletePrefix(DeletePrefix {
        bucket: "b".into(),
        prefix: prefix.into(),
    })
}

/// One of each that is done in one call or two.
fn every_operation() -> [Operation; 9] {
    [
        put(),
        copy(),
        tag(),
        op::get(),
        op::head(),
        op::list(10),
        op::delete(),
        op::delete_many(&["a", "b"]),
        delete_prefix("p/"),
    ]
}
