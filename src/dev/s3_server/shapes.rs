//! Between S3's shapes and the store's: the small steps that several operations share, and the long ones of one.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::stream::try_unfold;
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{
        CommonPrefix, CommonPrefixList, CopySource, DeletedObject, DeletedObjects, ETagCondition,
        EncodingType, Error, Errors, Object as S3Object, ObjectIdentifier, ObjectIdentifierList,
        ObjectList, ObjectStorageClass, StreamingBlob, Tag, TagSet,
    },
    s3_error,
};
use tokio::{io::AsyncReadExt, task::spawn_blocking};

use super::{
    call::form_pairs,
    kept,
    store::{After, DataFile, Object, Page, Query, Store},
};

/// Bodies up to this size are read at once, larger ones in pieces of this size.
const PIECE: u64 = 256 * 1024;
/// A page has no more entries.
pub(super) const MOST_KEYS: i32 = 1_000;

/// Keys that a fault rule keeps `DeleteObjects` from deleting; comes with the request.
#[derive(Debug, Clone)]
pub(super) struct RefusedKeys {
    pub(super) prefix: String,
    pub(super) code: String,
}

impl RefusedKeys {
    pub(super) fn check(refused: Option<&Self>, key: &str) -> S3Result<()> {
        match refused {
            Some(Self { prefix, code }) if key.starts_with(prefix) => {
                let code = S3ErrorCode::from_bytes(code.as_bytes());
                let code = code.unwrap_or(S3ErrorCode::InternalError);
                Err(S3Error::with_message(code, "made up by a fault rule"))
            }
            _ => Ok(()),
        }
    }
}

/// What an input says about the object; the inputs have these fields alike, but no type in common.
macro_rules! attributes_of {
    ($headers:expr, $input:ident) => {
        $crate::dev::s3_server::store::Attributes {
            headers: $crate::dev::s3_server::kept::said($headers),
            checksum: None,
            tags: tags($input.tagging.as_deref())?,
        }
    };
}
pub(super) use attributes_of;

/// Deletes key after key, each with its own result.
pub(super) fn delete_each(
    store: &Store,
    bucket: &str,
    objects: ObjectIdentifierList,
    refused: Option<&RefusedKeys>,
) -> (DeletedObjects, Errors) {
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for ObjectIdentifier {
        key, version_id, ..
    } in objects
    {
        let done = only_version_null(version_id.as_deref())
            .and_then(|()| RefusedKeys::check(refused, &key))
            .and_then(|()| store.delete(bucket, &key));
        match done {
            Ok(()) => deleted.push(DeletedObject {
                key: Some(key),
                version_id,
                ..DeletedObject::default()
            }),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                key: Some(key),
                message: error.message().map(ToOwned::to_owned),
                version_id,
            }),
        }
    }
    (deleted, errors)
}

/// The object that a copy is made of.
pub(super) fn source_of(store: &Store, source: &CopySource) -> S3Result<Arc<Object>> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => {
            only_version_null(version_id.as_deref())?;
            store.object(bucket, key)
        }
        _ => Err(s3_error!(NotImplemented)),
    }
}

pub(super) fn only_version_null(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(
            NoSuchVersion,
            "The specified version does not exist."
        )),
    }
}

pub(super) fn check_read(
    object: &Object,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    if if_match.is_some_and(|condition| !object.has_etag(condition)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_some_and(|condition| object.has_etag(condition)) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

/// The headers of an answer that gives the object: what its upload said, and the checksum if that is asked for.
pub(super) fn headers_of(object: &Object, wants_checksum: bool) -> HeaderMap {
    let mut headers = kept::given(&object.attributes.headers);
    if let Some((name, value)) = object
        .attributes
        .checksum
        .as_ref()
        .filter(|_| wants_checksum)
        && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse())
    {
        headers.insert(name, value);
        let whole = HeaderValue::from_static("FULL_OBJECT");
        headers.insert("x-amz-checksum-type", whole);
    }
    headers
}

pub(super) fn tag_count(tags: &[(String, String)]) -> Option<i32> {
    i32::try_from(tags.len()).ok().filter(|count| *count > 0)
}

/// Reads the header `x-amz-tagging`, which is written like a query.
pub(super) fn tags(header: Option<&str>) -> S3Result<Vec<(String, String)>> {
    checked_tags(form_pairs(header.unwrap_or_default()).collect())
}

/// Reads the tags of a `PutObjectTagging`; a name may not be there twice.
pub(super) fn tags_of(tags: TagSet) -> S3Result<Vec<(String, String)>> {
    let count = tags.len();
    let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    let pairs: BTreeMap<String, String> = tags.into_iter().map(pair).collect();
    if pairs.len() < count {
        return Err(s3_error!(
            InvalidTag,
            "Cannot provide multiple Tags with the same key"
        ));
    }
    checked_tags(pairs)
}

/// Writes the tags for a `GetObjectTagging`.
pub(super) fn tag_set(tags: &[(String, String)]) -> TagSet {
    let tag = |(key, value): &(String, String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    tags.iter().map(tag).collect()
}

fn checked_tags(pairs: BTreeMap<String, String>) -> S3Result<Vec<(String, String)>> {
    match pairs.len() {
        0..=10 => Ok(pairs.into_iter().collect()),
        _ => Err(s3_error!(
            InvalidTag,
            "Object tags cannot be greater than 10"
        )),
    }
}

pub(super) fn query(
    prefix: &Option<String>,
    delimiter: &Option<String>,
    after: Option<After>,
    max_keys: Option<i32>,
) -> S3Result<(Query, i32)> {
    let most = max_keys.unwrap_or(MOST_KEYS).min(MOST_KEYS);
    let Ok(count) = usize::try_from(most) else {
        return Err(s3_error!(InvalidArgument, "max-keys must not be negative"));
    };
    let query = Query {
        prefix: prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone().unwrap_or_default(),
        after,
        most: count,
    };
    Ok((query, most))
}

/// A text as the caller wants it in the XML of a list.
pub(super) fn encoded(text: String, encoding: Option<&EncodingType>) -> String {
    if encoding.is_none_or(|encoding| encoding.as_str() != EncodingType::URL) {
        return text;
    }
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
            char::from(byte).to_string()
        }
        b' ' => "+".to_owned(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

pub(super) fn shown(
    page: Page,
    encoding: Option<&EncodingType>,
) -> (Option<ObjectList>, Option<CommonPrefixList>) {
    let objects = page.objects.into_iter().map(|(key, object)| S3Object {
        e_tag: Some(object.e_tag()),
        key: Some(encoded(key, encoding)),
        last_modified: Some(object.modified.into()),
        size: i64::try_from(object.size).ok(),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..S3Object::default()
    });
    let prefixes = page.common_prefixes.into_iter().map(|prefix| CommonPrefix {
        prefix: Some(encoded(prefix, encoding)),
    });
    (Some(objects.collect()), Some(prefixes.collect()))
}

/// A body from a file, whole if it is small.
pub(super) async fn read(file: Arc<DataFile>, range: Range<u64>) -> io::Result<StreamingBlob> {
    let length = range.end - range.start;
    if length <= PIECE {
        let bytes = spawn_blocking(move || file.read(range))
            .await
            .map_err(io::Error::other)??;
        return Ok(StreamingBlob::from(s3s::Body::from(bytes)));
    }
    let opened = spawn_blocking(move || file.open_at(range.start)).await;
    let file = tokio::fs::File::from_std(opened.map_err(io::Error::other)??);
    let pieces = try_unfold(file.take(length), |mut file| async move {
        let mut piece = BytesMut::with_capacity(usize::try_from(PIECE).unwrap_or_default());
        match file.read_buf(&mut piece).await? {
            0 => Ok::<_, io::Error>(None),
            _ => Ok(Some((Bytes::from(piece), file))),
        }
    });
    Ok(StreamingBlob::wrap(pieces))
}
