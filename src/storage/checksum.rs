//! Whether the bytes of a GET are those that S3 vouches for, where the store has a checksum of the whole object.
//!
//! The SDK's own check is off: it takes any checksum for that of the bytes at hand, also one of parts, or of the whole
//! beside a range. S3 gives one only to a request that asks for it.

use aws_sdk_s3::{
    client::customize::CustomizableOperation, operation::get_object::GetObjectOutput,
    types::ChecksumType,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use crc_fast::CrcAlgorithm;
use sha2::{Digest, Sha256};

use super::service::StorageService;

impl StorageService<'_> {
    /// A GET that asks for the object's checksum, if that is to be checked; `asks` is false for a range.
    pub(super) fn asking<T, E, B>(
        &self,
        asks: bool,
        request: CustomizableOperation<T, E, B>,
    ) -> CustomizableOperation<T, E, B> {
        if !asks || !self.0.storage.clients.checks_answers {
            return request;
        }
        request.mutate_request(|request| {
            let headers = request.headers_mut();
            headers.insert("x-amz-checksum-mode", "ENABLED");
        })
    }
}

/// A checksum of the whole object, as S3 gave it, and that of the bytes so far.
#[derive(Debug)]
pub(super) struct Checksum {
    kind: &'static str,
    wanted: Vec<u8>,
    got: Sum,
}

#[derive(Debug)]
enum Sum {
    Sha256(Box<Sha256>),
    /// Bytes of the sum, and the sum.
    Crc(usize, Box<crc_fast::Digest>),
}

impl Checksum {
    /// The one that costs least; those of parts (`…-3`) say nothing of the whole.
    pub(super) fn of(answer: &GetObjectOutput) -> Option<Self> {
        let crc = |width, algorithm| Sum::Crc(width, Box::new(crc_fast::Digest::new(algorithm)));
        let kinds = [
            ("CRC64NVME", &answer.checksum_crc64_nvme, 8),
            ("CRC32C", &answer.checksum_crc32_c, 4),
            ("CRC32", &answer.checksum_crc32, 4),
            ("SHA256", &answer.checksum_sha256, 32),
        ];
        let (kind, wanted) = kinds.into_iter().find_map(|(kind, text, width)| {
            let wanted = STANDARD.decode(text.as_deref()?).ok()?;
            (wanted.len() == width).then_some((kind, wanted))
        })?;
        if answer.checksum_type == Some(ChecksumType::Composite) {
            return None;
        }
        let got = match kind {
            "CRC64NVME" => crc(8, CrcAlgorithm::Crc64Nvme),
            "CRC32C" => crc(4, CrcAlgorithm::Crc32Iscsi),
            "CRC32" => crc(4, CrcAlgorithm::Crc32IsoHdlc),
            _ => Sum::Sha256(Box::default()),
        };
        Some(Self { kind, wanted, got })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.got {
            Sum::Sha256(sum) => sum.update(bytes),
            Sum::Crc(_, sum) => sum.update(bytes),
        }
    }

    /// What is wrong, if anything is.
    pub(super) fn wrong(self) -> Option<String> {
        let got = match self.got {
            Sum::Sha256(sum) => sum.finalize().to_vec(),
            Sum::Crc(width, sum) => sum.finalize().to_be_bytes()[8 - width..].to_vec(),
        };
        (got != self.wanted).then(|| {
            let (got, wanted) = (STANDARD.encode(got), STANDARD.encode(self.wanted));
            format!("their {} is {got}, and S3 says {wanted}", self.kind)
        })
    }
}
