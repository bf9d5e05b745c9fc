//! Takes in an upload's bytes and checks them against the digests that came with them.
//!
//! Owns the checksum headers and trailers. Bytes that do not match are refused before they are visible.

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use http::HeaderMap;
use s3s::{
    S3Error, S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    crypto::{Checksum, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256},
    dto::StreamingBlob,
    s3_error,
};

use super::store::Draft;

const CRC32: &str = "x-amz-checksum-crc32";
const CRC32C: &str = "x-amz-checksum-crc32c";
const CRC64NVME: &str = "x-amz-checksum-crc64nvme";
const SHA1: &str = "x-amz-checksum-sha1";
const SHA256: &str = "x-amz-checksum-sha256";

/// The digests of one body: what was promised, and the hashers to check it with.
pub(super) struct Digest {
    headers: HeaderMap,
    trailers: Option<TrailingHeaders>,
    checksums: ChecksumHasher,
    md5: Option<(Vec<u8>, Md5)>,
}

/// Reads which digests a request promises, in its head or behind its body.
pub(super) fn digest_of(
    headers: &HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Digest> {
    let announced = headers.get_all("x-amz-trailer").iter();
    let announced: Vec<&str> = announced.filter_map(|names| names.to_str().ok()).collect();
    let promised = |name: &str| {
        let trailer = |names: &&str| {
            names
                .split(',')
                .any(|n| n.trim().eq_ignore_ascii_case(name))
        };
        headers.contains_key(name) || announced.iter().any(trailer)
    };
    let md5 = match headers.get("content-md5") {
        None => None,
        Some(value) => {
            let expected = STANDARD
                .decode(value)
                .ok()
                .filter(|bytes| bytes.len() == 16);
            let expected = expected.ok_or_else(|| s3_error!(InvalidDigest))?;
            Some((expected, Md5::new()))
        }
    };
    Ok(Digest {
        checksums: ChecksumHasher {
            crc32: promised(CRC32).then(Crc32::new),
            crc32c: promised(CRC32C).then(Crc32c::new),
            crc64nvme: promised(CRC64NVME).then(Crc64Nvme::new),
            sha1: promised(SHA1).then(Sha1::new),
            sha256: promised(SHA256).then(Sha256::new),
        },
        headers: headers.clone(),
        trailers,
        md5,
    })
}

/// A checksum of all bytes: the header's name, and its value.
pub(super) type Whole = Option<(String, String)>;

/// Receives a body to its end, and says which checksum it had. No body is an empty one.
pub(super) async fn receive(
    mut draft: Draft,
    body: Option<StreamingBlob>,
    mut digest: Digest,
) -> S3Result<(Draft, Whole)> {
    if let Some(mut body) = body {
        while let Some(bytes) = body.next().await {
            let bytes = bytes
                .map_err(|error| S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error))?;
            digest.update(&bytes);
            draft.push(&bytes).await.map_err(S3Error::internal_error)?;
        }
    }
    let checksum = digest.check()?;
    Ok((draft, checksum))
}

/// The checksum of the whole object that completes an upload; the worker's word for it is taken, as its parts are checked.
pub(super) fn whole_checksum(headers: &HeaderMap) -> Whole {
    let value = |name: &str| {
        Some((
            name.to_owned(),
            headers.get(name)?.to_str().ok()?.to_owned(),
        ))
    };
    [CRC32, CRC32C, CRC64NVME].into_iter().find_map(value)
}

impl Digest {
    fn update(&mut self, bytes: &[u8]) {
        self.checksums.update(bytes);
        if let Some((_, md5)) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    fn check(self) -> S3Result<Whole> {
        if let Some((expected, md5)) = self.md5
            && expected != md5.finalize()
        {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        let trailers = self
            .trailers
            .and_then(|trailers| trailers.take())
            .unwrap_or_default();
        let found = self.checksums.finalize();
        let mut whole = None;
        let rows = [
            (CRC32, found.checksum_crc32),
            (CRC32C, found.checksum_crc32c),
            (CRC64NVME, found.checksum_crc64nvme),
            (SHA1, found.checksum_sha1),
            (SHA256, found.checksum_sha256),
        ];
        for (name, found) in rows {
            let Some(found) = found else { continue };
            let expected = self.headers.get(name).or_else(|| trailers.get(name));
            if expected.is_none_or(|expected| expected.as_bytes() != found.as_bytes()) {
                return Err(s3_error!(
                    BadDigest,
                    "The {name} you specified did not match what we received."
                ));
            }
            whole.get_or_insert((name.to_owned(), found));
        }
        Ok(whole)
    }
}
