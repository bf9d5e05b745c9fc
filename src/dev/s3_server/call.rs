//! Which S3 operation an HTTP request is, told from its method, path, query and headers alone.
//!
//! Owns the names and classes that faults are aimed at and the journal counts by. It refuses to know
//! whether the request is signed, valid or answered: a fault comes before all of that.

use std::fmt;

use http::{HeaderMap, Method, Uri, request::Parts};

/// A class of operations, as a worker's lanes and circuits see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Puts, copies, new tags and every step of a multipart upload, its list of parts and its abort too.
    Upload,
    /// Gets, heads and lists, of objects and buckets.
    Read,
    /// `DeleteObject` and `DeleteObjects`.
    Delete,
    /// Making and removing buckets, and what the server does not know.
    Other,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 4] = [Self::Upload, Self::Read, Self::Delete, Self::Other];
}

macro_rules! operations {
    ($($(#[$doc:meta])* $class:ident: $($name:ident)+;)+) => {
        /// An operation by its name in the S3 API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the names are those of the S3 API reference")]
        pub enum S3Operation { $($($name,)+)+ }

        impl S3Operation {
            /// The name in the S3 API, e.g. `PutObject`.
            pub const fn as_str(self) -> &'static str {
                match self { $($(Self::$name => stringify!($name),)+)+ }
            }

            /// The class it belongs to.
            pub const fn class(self) -> Class {
                match self { $($(Self::$name => Class::$class,)+)+ }
            }
        }
    };
}

operations! {
    Upload: PutObject CopyObject PutObjectTagging CreateMultipartUpload UploadPart UploadPartCopy
        CompleteMultipartUpload AbortMultipartUpload ListParts ListMultipartUploads;
    Read: GetObject HeadObject ListObjectsV2 ListObjects GetObjectTagging HeadBucket ListBuckets
        GetBucketLocation;
    Delete: DeleteObject DeleteObjects;
    Other: CreateBucket DeleteBucket Unknown;
}

impl fmt::Display for S3Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request, as far as its head tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The operation.
    pub operation: S3Operation,
    /// The bucket; empty for `ListBuckets`.
    pub bucket: String,
    /// The key as sent, percent-decoded; empty for calls on a bucket.
    pub key: String,
    /// The part's number, for `UploadPart` and `UploadPartCopy`.
    pub part_number: Option<u32>,
}

impl Call {
    /// Reads a path-style request's head.
    pub(super) fn read(head: &Parts) -> Self {
        Self::from_parts(&head.method, &head.uri, &head.headers)
    }

    fn from_parts(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, key) = (percent_decoded(bucket), percent_decoded(key));
        let query = uri.query().unwrap_or_default();
        let operation = if bucket.is_empty() {
            on_service(method)
        } else if key.is_empty() {
            on_bucket(method, query)
        } else {
            on_object(method, query, headers)
        };
        let part_number = parameter(query, "partNumber").and_then(|number| number.parse().ok());
        Self {
            operation,
            bucket,
            key,
            part_number,
        }
    }
}

fn on_service(method: &Method) -> S3Operation {
    match *method {
        Method::GET => S3Operation::ListBuckets,
        _ => S3Operation::Unknown,
    }
}

fn on_bucket(method: &Method, query: &str) -> S3Operation {
    let has = |name| parameter(query, name).is_some();
    match *method {
        Method::GET if parameter(query, "list-type") == Some("2") => S3Operation::ListObjectsV2,
        Method::GET if has("uploads") => S3Operation::ListMultipartUploads,
        Method::GET if has("location") => S3Operation::GetBucketLocation,
        Method::GET if is_subresource(query) => S3Operation::Unknown,
        Method::GET => S3Operation::ListObjects,
        Method::HEAD => S3Operation::HeadBucket,
        Method::PUT if !is_subresource(query) => S3Operation::CreateBucket,
        Method::DELETE if !is_subresource(query) => S3Operation::DeleteBucket,
        Method::POST if has("delete") => S3Operation::DeleteObjects,
        _ => S3Operation::Unknown,
    }
}

fn on_object(method: &Method, query: &str, headers: &HeaderMap) -> S3Operation {
    let has = |name| parameter(query, name).is_some();
    let copies = headers.contains_key("x-amz-copy-source");
    match *method {
        Method::GET if has("uploadId") => S3Operation::ListParts,
        Method::GET if has("tagging") => S3Operation::GetObjectTagging,
        Method::GET if is_subresource(query) => S3Operation::Unknown,
        Method::GET => S3Operation::GetObject,
        Method::HEAD => S3Operation::HeadObject,
        Method::PUT if has("uploadId") && copies => S3Operation::UploadPartCopy,
        Method::PUT if has("uploadId") => S3Operation::UploadPart,
        Method::PUT if has("tagging") => S3Operation::PutObjectTagging,
        Method::PUT if is_subresource(query) => S3Operation::Unknown,
        Method::PUT if copies => S3Operation::CopyObject,
        Method::PUT => S3Operation::PutObject,
        Method::POST if has("uploads") => S3Operation::CreateMultipartUpload,
        Method::POST if has("uploadId") => S3Operation::CompleteMultipartUpload,
        Method::DELETE if has("uploadId") => S3Operation::AbortMultipartUpload,
        Method::DELETE if !is_subresource(query) => S3Operation::DeleteObject,
        _ => S3Operation::Unknown,
    }
}

/// Whether the query names a part of S3 that this server has nothing for.
fn is_subresource(query: &str) -> bool {
    const NAMES: [&str; 16] = [
        "accelerate",
        "acl",
        "attributes",
        "cors",
        "encryption",
        "legal-hold",
        "lifecycle",
        "logging",
        "notification",
        "object-lock",
        "policy",
        "replication",
        "retention",
        "tagging",
        "versioning",
        "versions",
    ];
    NAMES.iter().any(|name| parameter(query, name).is_some())
}

/// A query parameter's raw value; empty for `?delete`.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// The pairs of a form or query, decoded.
pub(super) fn form_pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |part: &str| percent_decoded(&part.replace('+', " "));
        (decoded(name), decoded(value))
    })
}

/// Undoes percent-encoding; what is no valid escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn call(method: Method, uri: &str, headers: Headers) -> Call {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Call::from_parts(&method, &uri.parse().unwrap(), &map)
    }

    #[test]
    fn every_request_the_worker_sends_has_its_name_and_class() {
        use Class::{Delete, Other, Read, Upload};
        let copy: Headers = &[("x-amz-copy-source", "b/source")];
        let rows: &[(Method, &str, Headers, &str, Class)] = &[
            (Method::GET, "/", &[], "ListBuckets", Read),
            (
                Method::GET,
                "/b?list-type=2&prefix=x",
                &[],
                "ListObjectsV2",
                Read,
            ),
            (Method::GET, "/b/?list-type=2", &[], "ListObjectsV2", Read),
            (Method::GET, "/b?prefix=x", &[], "ListObjects", Read),
            (
                Method::GET,
                "/b?uploads",
                &[],
                "ListMultipartUploads",
                Upload,
            ),
            (Method::GET, "/b?location", &[], "GetBucketLocation", Read),
            (Method::GET, "/b?versioning", &[], "Unknown", Other),
            (Method::HEAD, "/b", &[], "HeadBucket", Read),
            (Method::PUT, "/b", &[], "CreateBucket", Other),
            (Method::DELETE, "/b", &[], "DeleteBucket", Other),
            (Method::POST, "/b?delete", &[], "DeleteObjects", Delete),
            (Method::POST, "/b/?delete=", &[], "DeleteObjects", Delete),
            (Method::GET, "/b/k?x-id=GetObject", &[], "GetObject", Read),
            (Method::GET, "/b/k?uploadId=u", &[], "ListParts", Upload),
            (Method::GET, "/b/k?tagging", &[], "GetObjectTagging", Read),
            (Method::GET, "/b/k?acl", &[], "Unknown", Other),
            (Method::HEAD, "/b/k", &[], "HeadObject", Read),
            (Method::PUT, "/b/k?x-id=PutObject", &[], "PutObject", Upload),
            (Method::PUT, "/b/k", copy, "CopyObject", Upload),
            (
                Method::PUT,
                "/b/k?partNumber=7&uploadId=u",
                &[],
                "UploadPart",
                Upload,
            ),
            (
                Method::PUT,
                "/b/k?partNumber=7&uploadId=u",
                copy,
                "UploadPartCopy",
                Upload,
            ),
            (
                Method::PUT,
                "/b/k?tagging&versionId=v",
                &[],
                "PutObjectTagging",
                Upload,
            ),
            (Method::PUT, "/b/k?acl", &[], "Unknown", Other),
            (
                Method::POST,
                "/b/k?uploads",
                &[],
                "CreateMultipartUpload",
                Upload,
            ),
            (
                Method::POST,
                "/b/k?uploadId=u",
                &[],
                "CompleteMultipartUpload",
                Upload,
            ),
            (
                Method::DELETE,
                "/b/k?uploadId=u",
                &[],
                "AbortMultipartUpload",
                Upload,
            ),
            (
                Method::DELETE,
                "/b/k?versionId=null",
                &[],
                "DeleteObject",
                Delete,
            ),
            (Method::PATCH, "/b/k", &[], "Unknown", Other),
        ];
        for (method, uri, headers, name, class) in rows {
            let operation = call(method.clone(), uri, headers).operation;
            assert_eq!(operation.as_str(), *name, "{method} {uri}");
            assert_eq!(operation.class(), *class, "{method} {uri}");
        }
    }

    #[test]
    fn a_key_is_decoded_and_keeps_its_slashes() {
        let read = call(
            Method::PUT,
            "/b/a/b%20c%2Bd/%E2%82%AC%zz?partNumber=7&uploadId=u",
            &[],
        );
        assert_eq!(read.bucket, "b");
        assert_eq!(read.key, "a/b c+d/€%zz");
        assert_eq!(read.part_number, Some(7));
    }
}
