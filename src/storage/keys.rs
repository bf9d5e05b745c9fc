//! `list_objects`: names of keys for whoever asked, page after page.
//!
//! How a list ends or fails to is `listing.rs`'s.

use aws_sdk_s3::types::EncodingType;

use super::{
    Done, Stop, error,
    listing::{Pages, Turn, decoded, nameless},
    service::{StorageService, quoted, timestamp, too_large, unsigned},
};
use crate::job::{Failure, JobResult, OperationName, operation::ListObjects, result::ListedObject};

/// Keys and common prefixes in one page; S3 gives no more.
const PAGE: u32 = 1000;
/// What one key takes in memory, in bytes, with the JSON that is made of it: some four times the JSON of a key of 60
/// bytes.
const LISTED: u64 = 1024;

impl StorageService<'_> {
    /// Names at most `max_keys` keys and common prefixes, in key order, page after page. Each page is a
    /// guarded operation; all of them count once. A list whose JSON is too large for the reply that
    /// somebody waits for fails `permanent`.
    pub(super) async fn list_objects(&self, list: &ListObjects) -> Result<Done, Stop> {
        self.0
            .counted(OperationName::ListObjects, &list.bucket, self.list(list))
            .await
    }

    async fn list(&self, list: &ListObjects) -> Result<Done, Stop> {
        let need = u64::from(list.max_keys) * LISTED;
        let held = self.0.storage.budget.reserve(need).await;
        let mut keys: Vec<ListedObject> = Vec::new();
        let mut common_prefixes: Vec<String> = Vec::new();
        let mut pages = Pages::default();
        let truncated = loop {
            let token = pages.token();
            let count = u32::try_from(keys.len() + common_prefixes.len()).unwrap_or(u32::MAX);
            let page_size = list.max_keys.saturating_sub(count).min(PAGE);
            let name = OperationName::ListObjects;
            let page = self.0.client.list_objects_v2().bucket(&list.bucket);
            let page = page
                .set_prefix(list.prefix.clone())
                .encoding_type(EncodingType::Url)
                .set_delimiter(list.delimiter.clone())
                .set_start_after(list.start_after.clone().filter(|_| token.is_none()))
                .set_continuation_token(token)
                .max_keys(i32::try_from(page_size).unwrap_or(i32::MAX));
            let here = &pages;
            let page = self.0.guarded(name, |attempt| {
                let page = page.clone();
                async move {
                    let read = async {
                        let page = attempt.proven(page.send(), error::failure).await?;
                        let page = decoded(page);
                        let found = page.contents().len() + page.common_prefixes().len();
                        let is_enough = found + count as usize >= list.max_keys as usize;
                        let turn = if is_enough {
                            Turn::End
                        } else {
                            here.turn(&page)?
                        };
                        Ok((page, turn))
                    };
                    attempt.call(name, read).await
                }
            });
            let (page, turn) = page.await?;
            for object in page.contents.unwrap_or_default() {
                keys.push(listed(object).map_err(Stop::Failed)?);
            }
            for prefix in page.common_prefixes.unwrap_or_default() {
                let prefix = prefix.prefix.filter(|prefix| !prefix.is_empty());
                common_prefixes.push(prefix.ok_or_else(nameless).map_err(Stop::Failed)?);
            }
            match turn {
                Turn::More(next) => pages.go(next),
                Turn::End => break page.is_truncated == Some(true),
            }
        };
        let result = JobResult::Listed {
            keys,
            common_prefixes,
            truncated,
        };
        let most = self.0.context.max_reply_bytes;
        if self.0.answers {
            let size = serde_json::to_vec(&result).map_or(0, |json| json.len() as u64);
            if size > most {
                let what = format!("the list has {size} bytes");
                return Err(Stop::Failed(too_large(&what, most)));
            }
        }
        Ok(Done {
            held: Some(Box::new(held)),
            ..result.into()
        })
    }
}

fn listed(object: aws_sdk_s3::types::Object) -> Result<ListedObject, Failure> {
    Ok(ListedObject {
        key: object
            .key
            .filter(|key| !key.is_empty())
            .ok_or_else(nameless)?,
        size: unsigned(object.size),
        etag: quoted(object.e_tag),
        last_modified: object.last_modified.map(timestamp),
    })
}
