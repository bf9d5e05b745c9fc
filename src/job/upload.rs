//! What must be known of a multipart upload to go on with it, or to abort it, after its worker is gone.
//!
//! `storage` says it, `ledger` keeps it; neither knows the other.

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
