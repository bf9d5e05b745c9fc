//! What a job does to S3: one variant an operation, each with the request it carries.
//!
//! Adding an operation starts here: the compiler then asks which lane it rides in, and that choice
//! picks its circuit (`docs/how-to/add-an-s3-operation.md`).

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;

use super::{Headers, Lane};

/// One S3 operation with its request. Decoded means valid: nothing is left to check.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Store the bytes of the message.
    PutObject(PutObject),
    /// Store a copy of an object, server side.
    CopyObject(CopyObject),
    /// Store the bytes of a file or a URL, streamed.
    UploadFileobj(UploadFileobj),
    /// Replace the tags of an object.
    PutObjectTagging(PutObjectTagging),
    /// Read an object, or a range of it.
    GetObject(GetObject),
    /// Read what is known of an object, not its bytes.
    HeadObject(HeadObject),
    /// Name the objects of a bucket.
    ListObjects(ListObjects),
    /// Delete one object.
    DeleteObject(DeleteObject),
    /// Delete up to 10,000 objects of one bucket.
    DeleteObjects(DeleteObjects),
    /// Delete what begins with a prefix.
    DeletePrefix(DeletePrefix),
}

impl Operation {
    /// The fieldless name, for labels and for the ledger.
    pub const fn name(&self) -> OperationName {
        match self {
            Self::PutObject(_) => OperationName::PutObject,
            Self::CopyObject(_) => OperationName::CopyObject,
            Self::UploadFileobj(_) => OperationName::UploadFileobj,
            Self::PutObjectTagging(_) => OperationName::PutObjectTagging,
            Self::GetObject(_) => OperationName::GetObject,
            Self::HeadObject(_) => OperationName::HeadObject,
            Self::ListObjects(_) => OperationName::ListObjects,
            Self::DeleteObject(_) => OperationName::DeleteObject,
            Self::DeleteObjects(_) => OperationName::DeleteObjects,
            Self::DeletePrefix(_) => OperationName::DeletePrefix,
        }
    }

    /// The bucket it works on.
    pub fn bucket(&self) -> &str {
        match self {
            Self::PutObject(put) => &put.bucket,
            Self::CopyObject(copy) => &copy.bucket,
            Self::UploadFileobj(upload) => &upload.bucket,
            Self::PutObjectTagging(tagging) => &tagging.bucket,
            Self::GetObject(get) => &get.bucket,
            Self::HeadObject(head) => &head.bucket,
            Self::ListObjects(list) => &list.bucket,
            Self::DeleteObject(delete) => &delete.bucket,
            Self::DeleteObjects(delete) => &delete.bucket,
            Self::DeletePrefix(delete) => &delete.bucket,
        }
    }

    /// The object's key, for operations on exactly one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::PutObject(put) => Some(&put.key),
            Self::CopyObject(copy) => Some(&copy.key),
            Self::UploadFileobj(upload) => Some(&upload.key),
            Self::PutObjectTagging(tagging) => Some(&tagging.key),
            Self::GetObject(get) => Some(&get.key),
            Self::HeadObject(head) => Some(&head.key),
            Self::DeleteObject(delete) => Some(&delete.key),
            Self::ListObjects(_) | Self::DeleteObjects(_) | Self::DeletePrefix(_) => None,
        }
    }

    /// The bucket it reads from, if that is named beside the one it works on.
    pub fn source_bucket(&self) -> Option<&str> {
        match self {
            Self::CopyObject(copy) => Some(&copy.source.bucket),
            _ => None,
        }
    }

    /// Whether a finished job may run again to answer a `reply_to`: its bytes are not in the ledger
    /// and it has no effect to repeat. A read to a file has one.
    pub const fn is_rerun_for_reply(&self) -> bool {
        match self {
            Self::GetObject(get) => matches!(get.destination, Destination::Reply),
            Self::ListObjects(_) => true,
            _ => false,
        }
    }
}

/// The operation names of the contract, those included that this version refuses as unsupported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the names are those of the contract, section 2"
)]
pub enum OperationName {
    PutObject,
    UploadFileobj,
    CopyObject,
    PutObjectTagging,
    GetObject,
    HeadObject,
    ListObjects,
    DeleteObject,
    DeleteObjects,
    DeletePrefix,
}

impl OperationName {
    /// Every name, in the contract's order.
    pub const ALL: [Self; 10] = [
        Self::PutObject,
        Self::UploadFileobj,
        Self::CopyObject,
        Self::PutObjectTagging,
        Self::GetObject,
        Self::HeadObject,
        Self::ListObjects,
        Self::DeleteObject,
        Self::DeleteObjects,
        Self::DeletePrefix,
    ];

    /// As in messages, labels and the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PutObject => "put_object",
            Self::UploadFileobj => "upload_fileobj",
            Self::CopyObject => "copy_object",
            Self::PutObjectTagging => "put_object_tagging",
            Self::GetObject => "get_object",
            Self::HeadObject => "head_object",
            Self::ListObjects => "list_objects",
            Self::DeleteObject => "delete_object",
            Self::DeleteObjects => "delete_objects",
            Self::DeletePrefix => "delete_prefix",
        }
    }

    /// The operation of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.as_str() == name)
    }

    /// The lane it rides in.
    pub const fn lane(self) -> Lane {
        match self {
            Self::PutObject | Self::UploadFileobj | Self::CopyObject | Self::PutObjectTagging => {
                Lane::Upload
            }
            Self::GetObject | Self::HeadObject | Self::ListObjects => Lane::Read,
            Self::DeleteObject | Self::DeleteObjects | Self::DeletePrefix => Lane::Cleanup,
        }
    }
}

/// Store an object whose bytes came with the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutObject {
    /// 1 to 255 of `A-Z a-z 0-9 . _ -`.
    pub bucket: String,
    /// 1 to 1,024 bytes, passed to S3 as given.
    pub key: String,
    /// The object's bytes.
    pub body: Bytes,
    /// Everything optional.
    pub options: PutOptions,
}

/// Store an object whose bytes the worker fetches from where the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadFileobj {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// Where the bytes come from.
    pub source: SourceRef,
    /// Everything optional.
    pub options: PutOptions,
}

/// Where the bytes of an upload come from; whether that place is allowed is the operator's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRef {
    /// An absolute path, valid UTF-8, as the worker sees it.
    File(PathBuf),
    /// An `http` or `https` URL, as given.
    Url(String),
}

/// Where the bytes of a read go to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Destination {
    /// The reply, which is bounded.
    #[default]
    Reply,
    /// An absolute path, valid UTF-8, as the worker sees it.
    File(PathBuf),
}

/// Options of a put or a copy. Values hold no line breaks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// What is one header each, such as the MIME type.
    pub headers: Headers,
    /// User metadata; never holds `brigade-job`, which is ours.
    pub metadata: BTreeMap<String, String>,
    /// Object tags.
    pub tags: BTreeMap<String, String>,
    /// `If-None-Match: *`: only when no such object exists.
    pub if_none_match: bool,
    /// SHA-256 of the bytes, checked before the PUT.
    pub sha256: Option<[u8; 32]>,
}

/// Store a copy of an object, with its metadata and tags unless the options have others; the bytes stay with S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyObject {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// What is copied.
    pub source: CopySource,
    /// What the copy has in place of what it would have from its source; no condition and no SHA-256.
    pub options: PutOptions,
}

/// An object that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// A version of the object; the latest when absent.
    pub version_id: Option<String>,
}

/// Replace the tags of an object; its bytes, metadata and other versions stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutObjectTagging {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// 1 to 10 tags: all that the object has afterwards.
    pub tags: BTreeMap<String, String>,
    /// A version of the object; the latest when absent.
    pub version_id: Option<String>,
}

/// Read an object into the reply or into a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetObject {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// One byte range, as in HTTP: `bytes=0-99`, `bytes=100-` or `bytes=-5`.
    pub range: Option<String>,
    /// A version of the object; the latest when absent.
    pub version_id: Option<String>,
    /// Where the bytes go to.
    pub destination: Destination,
}

/// Read an object's size, `ETag` and metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadObject {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// A version of the object; the latest when absent.
    pub version_id: Option<String>,
}

/// Name the objects of a bucket; pages are followed inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListObjects {
    /// As for a put.
    pub bucket: String,
    /// Only keys that begin so.
    pub prefix: Option<String>,
    /// Groups keys up to this text into common prefixes.
    pub delimiter: Option<String>,
    /// At most this many keys and common prefixes, 1 to 10,000.
    pub max_keys: u32,
    /// Only keys after this one.
    pub start_after: Option<String>,
}

/// Delete one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteObject {
    /// As for a put.
    pub bucket: String,
    /// As for a put.
    pub key: String,
    /// Delete exactly this version; else a versioned bucket only gets a delete marker.
    pub version_id: Option<String>,
}

/// Delete many objects of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteObjects {
    /// As for a put.
    pub bucket: String,
    /// 1 to 10,000 keys, in the producer's order; may hold one twice.
    pub keys: Vec<String>,
}

/// Delete all objects that begin with a prefix and are not newer than the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletePrefix {
    /// As for a put.
    pub bucket: String,
    /// 1 to 1,024 bytes.
    pub prefix: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_rides_in_the_contracts_lane() {
        for name in OperationName::ALL {
            assert_eq!(OperationName::parse(name.as_str()), Some(name));
        }
        let lane_of = |name: &str| OperationName::parse(name).map(OperationName::lane);
        for name in [
            "put_object",
            "upload_fileobj",
            "copy_object",
            "put_object_tagging",
        ] {
            assert_eq!(lane_of(name), Some(Lane::Upload));
        }
        for name in ["get_object", "head_object", "list_objects"] {
            assert_eq!(lane_of(name), Some(Lane::Read));
        }
        for name in ["delete_object", "delete_objects", "delete_prefix"] {
            assert_eq!(lane_of(name), Some(Lane::Cleanup));
        }
    }
}
