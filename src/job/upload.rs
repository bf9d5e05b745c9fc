//! What must be known of a multipart upload to go on with it, or to abort it, after its worker is gone.
//!
//! `storage` says it, `ledger` keeps it; neither knows the other.

use super::Headers;

/// A multipart upload that has begun. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BegunUpload {
    /// Where the object will be.
    pub bucket: String,
    /// As above.
    pub key: String,
    /// S3's id of the upload.
    pub upload_id: String,
    /// Which bytes are sent: the source's identity. `None`: it can't be told, so nobody goes on with it.
    pub source: Option<String>,
    /// The object's size, if it was known.
    pub size: Option<u64>,
    /// Size of the first part.
    pub part_size: u64,
    /// What parts may grow to.
    pub largest_part: u64,
    /// What was said of the object. `None`: a version before this was kept has begun it.
    pub said: Option<SaidDigests>,
    /// What all requests of its job say, the abort too.
    pub headers: Headers,
}

/// What was said of an object when its upload began, in digests: nothing that is sent later changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaidDigests {
    /// By the job alone.
    pub by_job: SaidDigest,
    /// By the request that began the upload: what the job's source and the settings of the worker add is in it.
    pub in_all: SaidDigest,
}

/// The first half of a SHA-256.
pub type SaidDigest = [u8; DIGEST];

/// Size of a digest in bytes.
const DIGEST: usize = 16;

impl SaidDigests {
    /// As a ledger keeps them: one after the other.
    pub fn to_bytes(&self) -> [u8; 2 * DIGEST] {
        let mut both = [0; 2 * DIGEST];
        both[..DIGEST].copy_from_slice(&self.by_job);
        both[DIGEST..].copy_from_slice(&self.in_all);
        both
    }

    /// As a ledger has kept them; `None` when that is of another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (by_job, in_all) = bytes.split_at_checked(DIGEST)?;
        Some(Self {
            by_job: by_job.try_into().ok()?,
            in_all: in_all.try_into().ok()?,
        })
    }
}

/// What is to be noted of a job's uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadNote {
    /// It has an id, and no part yet.
    Begun(BegunUpload),
    /// It became the object.
    Completed(String),
    /// Nobody will go on with it: to be aborted.
    Doomed(String),
    /// S3 knows nothing of it any more.
    Gone(String),
}
