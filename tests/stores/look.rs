//! What a store kept of an option, as a plain client sees it.

use aws_sdk_s3::{
    operation::head_object::HeadObjectOutput,
    primitives::{DateTime, DateTimeFormat},
    types::{Permission, Type},
};

use crate::store::Store;

impl Store {
    /// Whether the object has the option's header with this value.
    pub(crate) async fn has(&self, (bucket, key): (&str, &str), header: &str, value: &str) -> bool {
        if header == "x-amz-acl" {
            return self.is_public(bucket, key).await;
        }
        let head = self.client.head_object().bucket(bucket).key(key);
        let Ok(head) = head.send().await else {
            return false;
        };
        let Some(kept) = kept(&head, header) else {
            return false;
        };
        match (header, date(&kept), date(value)) {
            (_, Some(kept), Some(given)) => kept.secs() == given.secs(),
            // A store may name the key that it was given by an alias.
            ("x-amz-server-side-encryption-aws-kms-key-id", ..) => kept.ends_with(value),
            _ => kept.eq_ignore_ascii_case(value),
        }
    }

    async fn is_public(&self, bucket: &str, key: &str) -> bool {
        let acl = self.client.get_object_acl().bucket(bucket).key(key);
        let Ok(acl) = acl.send().await else {
            return false;
        };
        acl.grants().iter().any(|grant| {
            let to_all = grant.grantee().is_some_and(|grantee| {
                grantee.r#type() == &Type::Group
                    && grantee.uri().is_some_and(|uri| uri.ends_with("AllUsers"))
            });
            to_all && grant.permission() == Some(&Permission::Read)
        })
    }

    /// The object's tags as `name=value`.
    pub(crate) async fn tags(&self, key: &str) -> Vec<String> {
        let get = self.client.get_object_tagging().bucket(crate::store::PLAIN);
        let Ok(tags) = get.key(key).send().await else {
            return Vec::new();
        };
        let tags = tags.tag_set().iter();
        tags.map(|tag| format!("{}={}", tag.key(), tag.value()))
            .collect()
    }
}

fn date(text: &str) -> Option<DateTime> {
    [DateTimeFormat::HttpDate, DateTimeFormat::DateTimeWithOffset]
        .into_iter()
        .find_map(|format| DateTime::from_str(text, format).ok())
}

fn kept(head: &HeadObjectOutput, header: &str) -> Option<String> {
    let text = |text: Option<&str>| text.map(str::to_owned);
    match header {
        "content-type" => text(head.content_type()),
        "cache-control" => text(head.cache_control()),
        "content-disposition" => text(head.content_disposition()),
        "content-encoding" => text(head.content_encoding()),
        "content-language" => text(head.content_language()),
        "expires" => text(head.expires_string()),
        "x-amz-storage-class" => text(head.storage_class().map(|class| class.as_str())),
        "x-amz-website-redirect-location" => text(head.website_redirect_location()),
        "x-amz-server-side-encryption" => {
            text(head.server_side_encryption().map(|kind| kind.as_str()))
        }
        "x-amz-server-side-encryption-aws-kms-key-id" => text(head.ssekms_key_id()),
        "x-amz-server-side-encryption-bucket-key-enabled" => {
            head.bucket_key_enabled().map(|on| on.to_string())
        }
        "x-amz-object-lock-mode" => text(head.object_lock_mode().map(|mode| mode.as_str())),
        "x-amz-object-lock-retain-until-date" => head
            .object_lock_retain_until_date()
            .and_then(|until| until.fmt(DateTimeFormat::DateTime).ok()),
        "x-amz-object-lock-legal-hold" => text(
            head.object_lock_legal_hold_status()
                .map(|hold| hold.as_str()),
        ),
        other => panic!("{other}: say here where a HEAD shows it"),
    }
}
