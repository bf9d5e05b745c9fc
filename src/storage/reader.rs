//! Reads each answer before the SDK does, and mends what would make it give up on an answer that is good.
//!
//! The SDK fails a whole answer for one header that it can't parse: a name in Latin-1, an odd date. That says
//! nothing of S3's health, and the object's bytes are there all the same (RESILIENCE.md, class `unreadable`). So
//! odd values are decoded, or left out where a result does without them. What the SDK drops is noted in
//! [`Heard`]: who answered, and in which region the bucket is.

use std::sync::Arc;

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        endpoint::Params,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
        },
    },
    error::BoxError,
    primitives::{ByteStream, DateTime, DateTimeFormat, SdkBody},
};
use aws_smithy_runtime_api::{
    client::{endpoint::EndpointResolverParams, orchestrator::Metadata},
    http::Headers,
};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::{answer::Heard, metadata::from_latin_1, region::Regions, xml};

/// Operations whose answers are XML with texts that others chose, or dates.
const XML: [&str; 6] = [
    "CompleteMultipartUpload",
    "ListObjectsV2",
    "DeleteObjects",
    "CopyObject",
    "UploadPartCopy",
    "ListParts",
];

/// See the module. One for all clients.
#[derive(Debug)]
pub(super) struct AnswerReader {
    regions: Arc<Regions>,
}

impl AnswerReader {
    pub(super) const fn new(regions: Arc<Regions>) -> Self {
        Self { regions }
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for AnswerReader {
    fn name(&self) -> &'static str {
        "AnswerReader"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        mend_headers(response.headers_mut());
        let operation = cfg.load::<Metadata>().map(Metadata::name);
        if response.status().as_u16() == 200 && operation.is_some_and(|name| XML.contains(&name)) {
            let body = std::mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = mended(body);
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let raw = context.response();
        if raw.status().is_success() {
            Heard::note(raw, None, false);
            return Ok(());
        }
        let params = cfg.load::<EndpointResolverParams>();
        let params = params.and_then(|params| params.get::<Params>());
        let bucket = params.and_then(Params::bucket);
        let region = params.and_then(Params::region);
        let moved = bucket.is_some_and(|bucket| self.regions.learn(bucket, region, raw));
        Heard::note(raw, bucket, moved);
        Ok(())
    }
}

/// The same body, mended once all of it has come.
fn mended(body: SdkBody) -> SdkBody {
    let whole = async {
        let whole = ByteStream::new(body).collect().await?;
        Ok::<_, BoxError>(Frame::data(xml::mended(whole.into_bytes())))
    };
    SdkBody::from_body_1_x(StreamBody::new(stream::once(whole)))
}

/// Makes every header one that the SDK can read, where that can be done without a lie.
fn mend_headers(headers: &mut Headers) {
    let mut odd: Vec<(String, Option<String>)> = Vec::new();
    let mut before = None;
    for (name, value) in headers.iter_bytes() {
        let repeated = before == Some(name);
        before = Some(name);
        let text = std::str::from_utf8(value);
        let mended = match text {
            Err(_) => Some(from_latin_1(value)),
            Ok(text) if repeated => Some(text.to_owned()),
            Ok(text) => {
                let Some(mended) = mend(name, text) else {
                    continue;
                };
                odd.push((name.to_owned(), mended));
                continue;
            }
        };
        match odd.last_mut() {
            // Several values are one list in HTTP; of what can be only one, the first counts.
            Some((last, Some(so_far))) if repeated && last == name => {
                if let (Some(more), true) = (mended, name.starts_with("x-amz-meta-")) {
                    so_far.push_str(&format!(", {more}"));
                }
            }
            _ if repeated => {
                let first = headers.get_bytes(name).map(from_utf8_or_latin_1);
                let joined = match (first, mended) {
                    (Some(first), Some(more)) if name.starts_with("x-amz-meta-") => {
                        Some(format!("{first}, {more}"))
                    }
                    (first, _) => first,
                };
                odd.push((name.to_owned(), joined));
            }
            _ => odd.push((name.to_owned(), mended)),
        }
    }
    for (name, value) in odd {
        tracing::debug!(
            header = name,
            ?value,
            "an odd header of an answer was mended"
        );
        headers.remove(&name);
        if let Some(value) = value
            && let Err(error) = headers.try_insert(name, value)
        {
            tracing::debug!(%error, "an odd header of an answer was left out");
        }
    }
}

fn from_utf8_or_latin_1(value: &[u8]) -> String {
    std::str::from_utf8(value).map_or_else(|_| from_latin_1(value), str::to_owned)
}

/// `None` for a good value; else a better one, or none where a result does without it.
fn mend(name: &str, text: &str) -> Option<Option<String>> {
    let text = text.trim();
    let good = match name {
        "last-modified" => {
            return match DateTime::from_str(text, DateTimeFormat::HttpDate) {
                Ok(_) => None,
                Err(_) => {
                    Some(lenient(text).and_then(|date| date.fmt(DateTimeFormat::HttpDate).ok()))
                }
            };
        }
        "x-amz-object-lock-retain-until-date" => {
            DateTime::from_str(text, DateTimeFormat::DateTimeWithOffset).is_ok()
        }
        "x-amz-missing-meta" | "x-amz-mp-parts-count" => text.parse::<i32>().is_ok(),
        "x-amz-object-size" => text.parse::<i64>().is_ok(),
        "x-amz-delete-marker" | "x-amz-server-side-encryption-bucket-key-enabled" => {
            matches!(text, "true" | "false")
        }
        _ => true,
    };
    (!good).then_some(None)
}

/// A date in one of the forms that stores write instead of the one that they should.
pub(super) fn lenient(text: &str) -> Option<DateTime> {
    let zoned = text.replace(" UTC", " GMT").replace(" +0000", " GMT");
    let spaced = text.replacen(' ', "T", 1);
    let utc = format!("{spaced}Z");
    [
        (text, DateTimeFormat::DateTimeWithOffset),
        (zoned.as_str(), DateTimeFormat::HttpDate),
        (spaced.as_str(), DateTimeFormat::DateTimeWithOffset),
        (utc.as_str(), DateTimeFormat::DateTimeWithOffset),
    ]
    .into_iter()
    .find_map(|(text, format)| DateTime::from_str(text, format).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(headers: &[(&'static str, &'static str)]) -> Headers {
        let mut mended = Headers::new();
        for (name, value) in headers {
            mended.append(*name, *value);
        }
        mend_headers(&mut mended);
        mended
    }

    #[test]
    fn odd_dates_are_read_as_they_are_meant_and_junk_is_left_out() {
        let rows = [
            (
                "Tue, 24 Nov 2026 10:00:00 GMT",
                Some("Tue, 24 Nov 2026 10:00:00 GMT"),
            ),
            (
                "Tue, 24 Nov 2026 10:00:00 UTC",
                Some("Tue, 24 Nov 2026 10:00:00 GMT"),
            ),
            (
                "2026-11-24T10:00:00Z",
                Some("Tue, 24 Nov 2026 10:00:00 GMT"),
            ),
            ("2026-11-24 10:00:00", Some("Tue, 24 Nov 2026 10:00:00 GMT")),
            ("yesterday", None),
            ("", None),
        ];
        for (given, read) in rows {
            assert_eq!(
                after(&[("last-modified", given)]).get("last-modified"),
                read,
                "{given}"
            );
        }
        let odd = after(&[
            ("x-amz-missing-meta", "many"),
            ("x-amz-delete-marker", "True"),
        ]);
        assert_eq!(odd.len(), 0);
    }

    #[test]
    fn of_a_header_that_comes_twice_the_first_counts_and_metadata_is_joined() {
        let twice = after(&[
            ("etag", "\"a\""),
            ("etag", "\"b\""),
            ("x-amz-meta-a", "1"),
            ("x-amz-meta-a", "2"),
            ("x-amz-meta-a", "3"),
        ]);
        assert_eq!(twice.get("etag"), Some("\"a\""));
        assert_eq!(twice.get("x-amz-meta-a"), Some("1, 2, 3"));
        assert_eq!(twice.len(), 2);
    }
}
