//! `put_object_tagging`: one call that replaces an object's tags.
//!
//! Repeating it does no harm: the same tags end up on the object. How many there may be is checked where the
//! message is read; what S3 thinks of a name or a value is S3's to say.

use aws_sdk_s3::{
    error::BuildError,
    types::{Tag, Tagging},
};

use super::{Done, Stop, service::StorageService};
use crate::job::{Failure, FailureClass, JobResult, OperationName, operation::PutObjectTagging};

impl StorageService<'_> {
    /// Replaces the tags of an object, or of the version that is named.
    ///
    /// Fails `permanent` for a missing key or version, and for tags that S3 does not take.
    pub(super) async fn put_object_tagging(
        &self,
        tagging: &PutObjectTagging,
    ) -> Result<Done, Stop> {
        let name = OperationName::PutObjectTagging;
        let tags = tag_set(tagging).map_err(Stop::Failed)?;
        let request = self.0.client.put_object_tagging();
        let request = request
            .bucket(&tagging.bucket)
            .key(&tagging.key)
            .set_version_id(tagging.version_id.clone())
            .tagging(tags);
        let work = self.0.guarded(name, |attempt| {
            let request = request.clone();
            async move { attempt.request(name, request.send()).await }
        });
        let tagged = self.0.counted(name, &tagging.bucket, work).await?;
        let version_id = tagged.version_id;
        Ok(JobResult::Tagged { version_id }.into())
    }
}

fn tag_set(tagging: &PutObjectTagging) -> Result<Tagging, Failure> {
    let mut set = Tagging::builder();
    for (name, value) in &tagging.tags {
        let tag = Tag::builder().key(name).value(value).build();
        set = set.tag_set(tag.map_err(unbuilt)?);
    }
    set.build().map_err(unbuilt)
}

fn unbuilt(error: BuildError) -> Failure {
    Failure::ours(FailureClass::JobLocal, "invalid_request", error.to_string())
}

#[cfg(test)]
mod tests {
    use crate::{
        job::{FailureClass, JobResult, Operation, operation::PutObjectTagging},
        storage::script::{Answer, Stage},
    };

    fn tagging(version_id: Option<&str>) -> Operation {
        let tags = [("team", "a & b"), ("empty", "")];
        let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Operation::PutObjectTagging(PutObjectTagging {
            bucket: "b".into(),
            key: "a b".into(),
            tags: tags.into(),
            version_id: version_id.map(str::to_owned),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn all_tags_go_in_one_call_to_the_version_that_is_named() {
        let stage = Stage::new([Answer::status(200).header("x-amz-version-id", "v1")]);
        let done = stage.run(tagging(Some("v1"))).await.unwrap();
        let version_id = Some("v1".to_owned());
        assert_eq!(done.result, JobResult::Tagged { version_id });
        let [put] = stage.seen().try_into().unwrap();
        assert_eq!(put.method, "PUT");
        assert!(put.uri.contains("/b/a%20b?tagging"), "{}", put.uri);
        assert!(put.uri.contains("versionId=v1"), "{}", put.uri);
        for tag in [
            "<Tag><Key>empty</Key><Value></Value></Tag>",
            "<Tag><Key>team</Key><Value>a &amp; b</Value></Tag>",
        ] {
            assert!(put.body.contains(tag), "{}", put.body);
        }
        assert_eq!(stage.operations("put_object_tagging", "success"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_object_and_a_tag_that_s3_refuses_fail_for_good() {
        for (status, code) in [(404, "NoSuchKey"), (400, "InvalidTag")] {
            let stage = Stage::new([Answer::error(status, code)]);
            let failure = stage.failure(tagging(None)).await;
            assert_eq!(failure.class, FailureClass::Permanent, "{code}");
            assert_eq!((failure.code.as_str(), stage.requests()), (code, 1));
        }
    }
}
