//! What proves that an operation succeeded: one rule for each answer that the SDK can give (ADR 0019).
//!
//! A 2xx alone proves nothing: a proxy, a login page and a half-built store send one too. A new operation does not
//! compile until its answer has a rule here. What only the caller can look for, such as the range that a GET
//! wanted, is looked for there.

use aws_sdk_s3::operation::{
    abort_multipart_upload::AbortMultipartUploadOutput,
    complete_multipart_upload::CompleteMultipartUploadOutput, copy_object::CopyObjectOutput,
    create_multipart_upload::CreateMultipartUploadOutput, delete_object::DeleteObjectOutput,
    delete_objects::DeleteObjectsOutput, get_object::GetObjectOutput,
    get_object_tagging::GetObjectTaggingOutput, head_object::HeadObjectOutput,
    list_objects_v2::ListObjectsV2Output, list_parts::ListPartsOutput, put_object::PutObjectOutput,
    put_object_tagging::PutObjectTaggingOutput, upload_part::UploadPartOutput,
    upload_part_copy::UploadPartCopyOutput,
};

use super::answer::Answered;

/// An answer of which can be said whether it proves its operation.
pub(super) trait Proof {
    /// What the answer lacks, for a sentence; `None` when it proves the success. `needs_etag` is false for stores
    /// that never give one (`s3.require_etag`).
    fn lack(&self, answered: &Answered, needs_etag: bool) -> Option<&'static str>;
}

const ETAG: &str = "ETag";
const TRAIT: &str = "header of S3";

fn unless(proven: bool, what: &'static str) -> Option<&'static str> {
    (!proven).then_some(what)
}

/// An empty answer says as much as S3 ever does, if S3 gave it; a 204 is nobody's page.
fn of_empty(answered: &Answered) -> Option<&'static str> {
    unless(answered.is_s3 || answered.status == 204, TRAIT)
}

/// For stores without `ETags`, anything but a page will do.
fn etag(etag: Option<&str>, answered: &Answered, needs_etag: bool) -> Option<&'static str> {
    let given = etag.is_some_and(|etag| !etag.is_empty());
    let waived = !needs_etag && (answered.is_s3 || !answered.is_page);
    unless(given || waived, ETAG)
}

impl Proof for PutObjectOutput {
    fn lack(&self, answered: &Answered, needs_etag: bool) -> Option<&'static str> {
        etag(self.e_tag(), answered, needs_etag)
    }
}

impl Proof for CopyObjectOutput {
    fn lack(&self, _: &Answered, needs_etag: bool) -> Option<&'static str> {
        let Some(result) = self.copy_object_result() else {
            return Some("CopyObjectResult");
        };
        let proven = result.e_tag().is_some() || (!needs_etag && result.last_modified().is_some());
        unless(proven, "ETag in its CopyObjectResult")
    }
}

impl Proof for HeadObjectOutput {
    fn lack(&self, answered: &Answered, _: bool) -> Option<&'static str> {
        unless(answered.is_s3, TRAIT)
            .or_else(|| unless(self.content_length().is_some(), "Content-Length"))
    }
}

impl Proof for GetObjectOutput {
    fn lack(&self, answered: &Answered, _: bool) -> Option<&'static str> {
        unless(answered.is_s3, TRAIT)
    }
}

impl Proof for ListObjectsV2Output {
    fn lack(&self, _: &Answered, _: bool) -> Option<&'static str> {
        unless(self.is_truncated().is_some(), "IsTruncated")
    }
}

impl Proof for ListPartsOutput {
    fn lack(&self, _: &Answered, _: bool) -> Option<&'static str> {
        unless(self.is_truncated().is_some(), "IsTruncated")
    }
}

impl Proof for CreateMultipartUploadOutput {
    fn lack(&self, _: &Answered, _: bool) -> Option<&'static str> {
        unless(
            self.upload_id().is_some_and(|id| !id.is_empty()),
            "upload id",
        )
    }
}

impl Proof for UploadPartOutput {
    // Whatever the store does elsewhere: without it the upload can't be completed.
    fn lack(&self, _: &Answered, _: bool) -> Option<&'static str> {
        unless(self.e_tag().is_some_and(|etag| !etag.is_empty()), ETAG)
    }
}

impl Proof for UploadPartCopyOutput {
    fn lack(&self, _: &Answered, _: bool) -> Option<&'static str> {
        let etag = self.copy_part_result().and_then(|result| result.e_tag());
        unless(etag.is_some(), "ETag in its CopyPartResult")
    }
}

impl Proof for CompleteMultipartUploadOutput {
    fn lack(&self, _: &Answered, needs_etag: bool) -> Option<&'static str> {
        let named = self.key().is_some() || self.location().is_some();
        let proven = self.e_tag().is_some() || (!needs_etag && named);
        unless(proven, "ETag in its CompleteMultipartUploadResult")
    }
}

impl Proof for AbortMultipartUploadOutput {
    fn lack(&self, answered: &Answered, _: bool) -> Option<&'static str> {
        of_empty(answered)
    }
}

impl Proof for PutObjectTaggingOutput {
    fn lack(&self, answered: &Answered, needs_etag: bool) -> Option<&'static str> {
        of_empty(answered).filter(|_| needs_etag || answered.is_page)
    }
}

impl Proof for GetObjectTaggingOutput {
    fn lack(&self, answered: &Answered, _: bool) -> Option<&'static str> {
        unless(answered.is_s3 || !self.tag_set().is_empty(), TRAIT)
    }
}

impl Proof for DeleteObjectOutput {
    fn lack(&self, answered: &Answered, _: bool) -> Option<&'static str> {
        of_empty(answered)
    }
}

impl Proof for DeleteObjectsOutput {
    fn lack(&self, _: &Answered, _: bool) -> Option<&'static str> {
        let named = !self.deleted().is_empty() || !self.errors().is_empty();
        unless(named, "word on any of the keys")
    }
}
