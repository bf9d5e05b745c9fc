//! What an upload says of its object in headers, and reads give back as it came.
//!
//! By name, and not by s3s's types: what is kept is what was sent. Nothing of it has an effect here: there is no
//! encryption, no website, and a lock locks nothing.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::{S3Result, s3_error};

/// What a copy has from its source, unless it is told otherwise.
const CONTENT: [&str; 6] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];
/// What each upload and each copy says anew.
const OF_OBJECT: [&str; 8] = [
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
    LOCKS[0],
    LOCKS[1],
    LOCKS[2],
];
/// How the headers of metadata begin; a copy has it from its source, too.
const METADATA: &str = "x-amz-meta-";
const LOCKS: [&str; 3] = [
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
];
/// What S3 calls an object without a content type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Headers of an object by name.
pub(super) type Kept = BTreeMap<String, String>;

/// All that a request says of its object.
pub(super) fn said(headers: &HeaderMap) -> Kept {
    let metadata = headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| name.starts_with(METADATA));
    let metadata = metadata.collect::<Vec<_>>();
    named(headers, &CONTENT)
        .chain(named(headers, &OF_OBJECT))
        .chain(named(headers, &metadata))
        .collect()
}

/// What a copy has that replaces nothing: what describes content from its source, and all else from its request.
pub(super) fn said_of_copy(headers: &HeaderMap, source: &Kept) -> Kept {
    let is_copied = |name: &str| CONTENT.contains(&name) || name.starts_with(METADATA);
    let from_source = source.iter().filter(|(name, _)| is_copied(name));
    let from_source = from_source.map(|(name, value)| (name.clone(), value.clone()));
    from_source.chain(named(headers, &OF_OBJECT)).collect()
}

fn named<'h>(
    headers: &'h HeaderMap,
    names: &'h [&str],
) -> impl Iterator<Item = (String, String)> + 'h {
    names.iter().filter_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        let says = !value.is_empty() || name.starts_with(METADATA);
        says.then(|| ((*name).to_owned(), value.to_owned()))
    })
}

/// The headers of an answer that gives the object.
pub(super) fn given(kept: &Kept) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let default = HeaderValue::from_static(DEFAULT_CONTENT_TYPE);
    headers.insert(http::header::CONTENT_TYPE, default);
    for (name, value) in kept {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Refuses what is to be locked without a checksum, as S3 does.
pub(super) fn check_lock(headers: &HeaderMap) -> S3Result<()> {
    let locks = LOCKS.iter().any(|name| headers.contains_key(*name));
    let is_checksum = |name: &HeaderName| {
        let name = name.as_str();
        name == "content-md5" || name == "x-amz-trailer" || name.starts_with("x-amz-checksum-")
    };
    if locks && !headers.keys().any(is_checksum) {
        return Err(s3_error!(
            InvalidRequest,
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
        ));
    }
    Ok(())
}
