//! What a job asks for, in 16 bytes: whether a repeat of its id asks for the same.
//!
//! Taken of the decoded operation, so every form of one request has one digest: the order of keys, white space,
//! `null` or absent, text, base64 or binary form. Unknown fields, headers and `reply_to` are no part of an
//! operation. Rows keep it for weeks, so a request must have the same one in every version: a field that is
//! absent adds nothing, and a test holds the value.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Headers, Operation, requests};

/// The first half of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestDigest([u8; Self::LEN]);

impl RequestDigest {
    /// Its size in bytes.
    pub const LEN: usize = 16;

    /// Of the operation, its fields, the object's bytes, and what all of its requests say.
    pub fn of(operation: &Operation, headers: &Headers) -> Self {
        // Its keys are sorted: a JSON object is a `BTreeMap`.
        let mut whole = Sha256::new_with_prefix(requests::write(operation, headers).to_string());
        if let Operation::PutObject(put) = operation {
            // A zero, which no JSON holds, parts the two.
            whole.update([0]);
            whole.update(&put.body);
        }
        let mut digest = [0; Self::LEN];
        digest.copy_from_slice(&whole.finalize()[..Self::LEN]);
        Self(digest)
    }

    /// As a ledger has kept it; `None` when that is of another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As a ledger keeps it.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for RequestDigest {
    /// In hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
