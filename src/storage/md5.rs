//! Whether S3 has the bytes that were sent, by an `ETag` that is their MD5.
//!
//! Where checksums are off, nothing else would notice bytes that were changed on the way, or in the store. An `ETag`
//! of 32 hex digits is the MD5 of an object that was put in one piece, with the encryption that AWS has by
//! default; some stores have another thing of that form. So one that does not fit is judged by reading the object back.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use md5::{Digest, Md5};

use super::{
    answer::called, attempt::Attempt, file_threads::off_thread, guard::Caller, quirks::Etags,
    service::StorageService,
};
use crate::job::{
    Failure, FailureClass, Headers, OperationName,
    operation::{PutObject, PutOptions},
    options::{ENCRYPTION, LEGAL_HOLD, LOCK_MODE},
};

/// Larger bodies are hashed off the async threads.
const LARGE: usize = 1 << 20;

impl Caller<'_> {
    /// `Content-MD5` of bytes that are to be locked, as S3 takes those with a checksum only; `None` where the SDK sends
    /// one of its own, or nothing is locked.
    pub(super) async fn lock_md5(
        &self,
        options: &PutOptions,
        bytes: &Bytes,
    ) -> Result<Option<String>, Failure> {
        let said = |header| options.headers.get(header).is_some();
        if self.storage.clients.checksums_supported || !(said(LOCK_MODE) || said(LEGAL_HOLD)) {
            return Ok(None);
        }
        Ok(Some(STANDARD.encode(md5_of(bytes.clone()).await?)))
    }
}

impl StorageService<'_> {
    /// Fails `unavailable` as `checksum_mismatch` when S3 has other bytes than the put's. `etag` is that of the
    /// object as the last answer gave it.
    pub(super) async fn check_md5(
        &self,
        attempt: &Attempt<'_>,
        put: &PutObject,
        etag: Option<&str>,
    ) -> Result<(), Failure> {
        let quirks = &self.0.storage.quirks;
        let Some(etag) = etag.filter(|etag| is_md5(etag)) else {
            return Ok(());
        };
        let encryption = attempt.heard().last().encryption;
        let defaults = &self.0.storage.clients.put_defaults;
        let said = |headers: &Headers| headers.get(ENCRYPTION).map(str::to_owned);
        let encryption = encryption
            .or_else(|| said(&put.options.headers))
            .or_else(|| said(defaults));
        let is_plain = encryption.is_none_or(|kind| kind == "AES256");
        let seen = quirks.etags(&put.bucket);
        if self.0.storage.clients.checksums_supported || !is_plain || seen == Etags::Other {
            return Ok(());
        }
        let ours = md5_of(put.body.clone()).await?;
        let ours: String = ours.iter().map(|byte| format!("{byte:02x}")).collect();
        if unquoted(etag).eq_ignore_ascii_case(&ours) {
            quirks.note_etags(&put.bucket, Etags::Md5);
            return Ok(());
        }
        let is_damaged = match Box::pin(self.is_stored(attempt, put, etag)).await {
            Ok(Some(true)) => {
                let bucket = &put.bucket;
                tracing::info!(bucket, "the ETags here are no MD5 and are not compared");
                quirks.note_etags(bucket, Etags::Other);
                false
            }
            Ok(Some(false)) => true,
            // It can't be looked at: what the bucket's `ETags` were before must do.
            Ok(None) => seen == Etags::Md5,
            Err(failure) => return Err(failure),
        };
        if !is_damaged {
            return Ok(());
        }
        let message = format!(
            "S3 has other bytes than were sent: their MD5 is {ours}, and the ETag is {etag}"
        );
        Err(called(
            FailureClass::Unavailable,
            "checksum_mismatch",
            message,
        ))
    }

    /// Reads the object back. `None`: it is another one by now, or may not be read.
    async fn is_stored(
        &self,
        attempt: &Attempt<'_>,
        put: &PutObject,
        etag: &str,
    ) -> Result<Option<bool>, Failure> {
        let get = self.0.client.get_object();
        let get = get.bucket(&put.bucket).key(&put.key);
        let read = async {
            let mut found = attempt.proven(get.send(), super::error::failure).await?;
            if found.e_tag() != Some(etag) {
                return Ok(None);
            }
            let mut body = std::mem::take(&mut found.body);
            let mut rest = &put.body[..];
            while let Some(chunk) = self.next_chunk(&mut body).await? {
                let Some(after) = rest.strip_prefix(&chunk[..]) else {
                    return Ok(Some(false));
                };
                rest = after;
            }
            Ok(Some(rest.is_empty()))
        };
        match attempt.call(OperationName::GetObject, read).await {
            Err(look) if look.class == FailureClass::Permanent => Ok(None),
            end => end,
        }
    }
}

async fn md5_of(bytes: Bytes) -> Result<[u8; 16], Failure> {
    let is_large = bytes.len() > LARGE;
    let hash = move || Ok(Md5::digest(&bytes).into());
    if is_large {
        off_thread(hash).await
    } else {
        hash()
    }
}

fn unquoted(etag: &str) -> &str {
    etag.trim_matches('"')
}

fn is_md5(etag: &str) -> bool {
    let plain = unquoted(etag);
    plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
}
