//! The names under which S3 calls are counted: an operation's own, or that of a step inside it.

use super::OperationName;

/// What a metric calls an S3 call. A job of several calls counts each under the step's name beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the steps are S3's own names")]
pub enum CallName {
    /// The one call of an operation, or all of them as one.
    Operation(OperationName),
    CreateMultipartUpload,
    UploadPart,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
}

impl CallName {
    /// As in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operation(name) => name.as_str(),
            Self::CreateMultipartUpload => "create_multipart_upload",
            Self::UploadPart => "upload_part",
            Self::ListParts => "list_parts",
            Self::CompleteMultipartUpload => "complete_multipart_upload",
            Self::AbortMultipartUpload => "abort_multipart_upload",
        }
    }

    /// Whether it is a step of a job that is counted under its operation's name, too.
    pub const fn is_step(self) -> bool {
        !matches!(self, Self::Operation(_))
    }
}

impl From<OperationName> for CallName {
    fn from(name: OperationName) -> Self {
        Self::Operation(name)
    }
}
