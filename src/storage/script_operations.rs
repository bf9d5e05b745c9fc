//! Operations on bucket `b`, key `k`, for tests.

use super::Operation;
use crate::job::operation::{
    DeleteObject, DeleteObjects, GetObject, HeadObject, ListObjects, PutObject, PutOptions,
    SourceRef, UploadFileobj,
};

pub(in crate::storage) fn upload(source: &std::path::Path, options: PutOptions) -> Operation {
    Operation::UploadFileobj(UploadFileobj {
        bucket: "b".into(),
        key: "k".into(),
        source: SourceRef::File(source.to_owned()),
        options,
    })
}

pub(in crate::storage) fn put(options: PutOptions) -> Operation {
    let body = bytes::Bytes::from_static(b"hello");
    Operation::PutObject(PutObject {
        bucket: "b".into(),
        key: "k".into(),
        body,
        options,
    })
}

pub(in crate::storage) fn head() -> Operation {
    Operation::HeadObject(HeadObject {
        bucket: "b".into(),
        key: "k".into(),
        version_id: None,
    })
}

pub(in crate::storage) fn get() -> Operation {
    get_range(None)
}

pub(in crate::storage) fn get_range(range: Option<&str>) -> Operation {
    Operation::GetObject(GetObject {
        bucket: "b".into(),
        key: "k".into(),
        range: range.map(str::to_owned),
        version_id: None,
        destination: crate::job::operation::Destination::Reply,
    })
}

pub(in crate::storage) fn list(max_keys: u32) -> Operation {
    Operation::ListObjects(ListObjects {
        bucket: "b".into(),
        prefix: None,
        delimiter: None,
        max_keys,
        start_after: Some("a".into()),
    })
}

pub(crate) fn delete() -> Operation {
    let (bucket, key) = ("b".into(), "k".into());
    Operation::DeleteObject(DeleteObject {
        bucket,
        key,
        version_id: None,
    })
}

pub(in crate::storage) fn delete_many(keys: &[&str]) -> Operation {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Operation::DeleteObjects(DeleteObjects {
        bucket: "b".into(),
        keys,
    })
}
