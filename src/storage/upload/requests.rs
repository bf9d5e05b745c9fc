//! The requests of a multipart upload. Nothing is decided here but how S3 is asked.

use std::collections::BTreeMap;

use aws_sdk_s3::{
    config,
    error::SdkError,
    operation::{
        abort_multipart_upload::{AbortMultipartUploadError, AbortMultipartUploadOutput},
        complete_multipart_upload::{CompleteMultipartUploadError, CompleteMultipartUploadOutput},
        create_multipart_upload::{CreateMultipartUploadError, CreateMultipartUploadOutput},
        list_parts::{ListPartsError, ListPartsOutput},
        upload_part::{UploadPartError, UploadPartOutput},
    },
    primitives::ByteStream,
    types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum_combine};

use super::{UploadService, parts::Sent};
use crate::{
    job::{BegunUpload, operation::UploadFileobj},
    storage::said::Said,
};

type Answer<T, E> = Result<T, SdkError<E>>;

impl UploadService<'_> {
    /// The object always says whose it is: an upload that is gone may have been completed by this very job.
    pub(super) fn create_request(
        &self,
        upload: &UploadFileobj,
    ) -> impl Future<Output = Answer<CreateMultipartUploadOutput, CreateMultipartUploadError>>
    + Send
    + use<> {
        let request = self.0.client.create_multipart_upload();
        let mut request = request.bucket(&upload.bucket).key(&upload.key);
        if self.0.storage.clients.checksums_supported {
            request = request
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                .checksum_type(ChecksumType::FullObject);
        }
        let said = self.said(upload).by(self.0.job);
        said.on(request.customize()).send()
    }

    /// Of the object.
    pub(super) fn said(&self, upload: &UploadFileobj) -> Said {
        Said::of(&upload.options, &self.0.storage.clients.put_defaults)
    }

    pub(super) fn part_request(
        &self,
        begun: &BegunUpload,
        number: u32,
        bytes: Bytes,
        (crc32, md5): (Option<u32>, Option<String>),
    ) -> impl Future<Output = Answer<UploadPartOutput, UploadPartError>> + Send + use<> {
        let clients = &self.0.storage.clients;
        let request = self
            .0
            .client
            .upload_part()
            .bucket(&begun.bucket)
            .key(&begun.key)
            .upload_id(&begun.upload_id)
            .part_number(signed(number))
            .set_checksum_crc32(crc32.map(base64))
            .set_content_md5(md5)
            .body(ByteStream::from(bytes))
            .customize();
        if clients.over_tls {
            // TLS keeps the bytes whole; hashing them once more is most of a part's CPU (facts: s3.md, 4).
            request.disable_payload_signing().send()
        } else {
            request.send()
        }
    }

    /// Parts after number `after`; a page.
    pub(super) fn list_request(
        &self,
        begun: &BegunUpload,
        after: Option<String>,
    ) -> impl Future<Output = Answer<ListPartsOutput, ListPartsError>> + Send + use<> {
        self.0
            .client
            .list_parts()
            .bucket(&begun.bucket)
            .key(&begun.key)
            .upload_id(&begun.upload_id)
            .set_part_number_marker(after)
            .send()
    }

    pub(super) fn complete_request(
        &self,
        begun: &BegunUpload,
        sent: &BTreeMap<u32, Sent>,
        size: u64,
        crc32: Option<u32>,
        conditional: bool,
    ) -> impl Future<Output = Answer<CompleteMultipartUploadOutput, CompleteMultipartUploadError>>
    + Send
    + use<> {
        let part = |(number, sent): (&u32, &Sent)| {
            CompletedPart::builder()
                .part_number(signed(*number))
                .e_tag(&sent.etag)
                .set_checksum_crc32(crc32.and(sent.crc32).map(base64))
                .build()
        };
        let parts = sent.iter().map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let mut request = self
            .0
            .client
            .complete_multipart_upload()
            .bucket(&begun.bucket)
            .key(&begun.key)
            .upload_id(&begun.upload_id)
            .multipart_upload(parts.build());
        if let Some(crc32) = crc32 {
            request = request
                .checksum_type(ChecksumType::FullObject)
                .checksum_crc32(base64(crc32))
                .mpu_object_size(i64::try_from(size).unwrap_or(i64::MAX));
        }
        if conditional {
            request = request.if_none_match("*");
        }
        let timeouts = self.0.storage.clients.timeouts_for(size);
        request
            .customize()
            .config_override(config::Builder::new().timeout_config(timeouts))
            .send()
    }

    pub(super) fn abort_request(
        &self,
        begun: &BegunUpload,
    ) -> impl Future<Output = Answer<AbortMultipartUploadOutput, AbortMultipartUploadError>> + Send + use<>
    {
        self.0
            .client
            .abort_multipart_upload()
            .bucket(&begun.bucket)
            .key(&begun.key)
            .upload_id(&begun.upload_id)
            .send()
    }
}

/// CRC-32 as S3 means it.
const CRC32: CrcAlgorithm = CrcAlgorithm::Crc32IsoHdlc;

/// CRC-32 of some bytes.
pub(super) fn crc32_of(bytes: &[u8]) -> u32 {
    narrow(crc_fast::checksum(CRC32, bytes))
}

/// The crate holds checksums of all widths in 64 bits.
fn narrow(checksum: u64) -> u32 {
    u32::try_from(checksum).unwrap_or(u32::MAX)
}

/// CRC-32 of the whole object from those of its parts; `None` when S3 does not have one of them.
pub(super) fn full_crc32(sent: &BTreeMap<u32, Sent>) -> Option<u32> {
    let mut whole = crc32_of(&[]);
    for part in sent.values() {
        let (before, part, size) = (u64::from(whole), u64::from(part.crc32?), part.size);
        whole = narrow(checksum_combine(CRC32, before, part, size));
    }
    Some(whole)
}

/// A checksum as S3 writes it: big-endian, base64.
fn base64(crc32: u32) -> String {
    STANDARD.encode(crc32.to_be_bytes())
}

/// The other way round.
pub(super) fn from_base64(text: &str) -> Option<u32> {
    let bytes = STANDARD.decode(text).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Part numbers end at 10,000.
fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_checksum_of_the_object_follows_from_those_of_its_parts(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
        ) {
            let sent = (1..).zip(&parts).map(|(number, bytes)| {
                let crc32 = from_base64(&base64(crc32_of(bytes)));
                (number, Sent { etag: String::new(), size: bytes.len() as u64, crc32 })
            });
            let sent: BTreeMap<u32, Sent> = sent.collect();
            prop_assert_eq!(full_crc32(&sent), Some(crc32_of(&parts.concat())));
        }
    }

    #[test]
    fn one_part_without_a_checksum_leaves_the_object_without_one() {
        let part = |crc32| Sent {
            etag: String::new(),
            size: 3,
            crc32,
        };
        assert_eq!(
            full_crc32(&[(1, part(Some(7))), (2, part(None))].into()),
            None
        );
        assert_eq!(from_base64("AAAA"), None);
    }
}
