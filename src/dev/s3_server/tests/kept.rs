//! What an upload says of its object comes back, whichever way it was made.

use aws_sdk_s3::{
    operation::head_object::HeadObjectOutput,
    primitives::DateTime,
    types::{
        ChecksumMode, ObjectLockLegalHoldStatus, ObjectLockMode, ServerSideEncryption, StorageClass,
    },
};

use super::*;

/// CRC-32 of "hello", as S3 writes it.
const OF_HELLO: &str = "NhCmhg==";

/// For `Expires` and for a lock.
fn time() -> DateTime {
    DateTime::from_secs(1_900_000_000)
}

/// Requests that create an object have these words, but no type in common.
macro_rules! said {
    ($request:expr) => {
        $request
            .bucket("b")
            .content_type("x/y")
            .cache_control("no-store")
            .content_disposition("inline")
            .content_encoding("gzip")
            .content_language("de")
            .expires(time())
            .storage_class(StorageClass::StandardIa)
            .website_redirect_location("/there")
            .server_side_encryption(ServerSideEncryption::AwsKms)
            .ssekms_key_id("key")
            .bucket_key_enabled(true)
            .object_lock_mode(ObjectLockMode::Governance)
            .object_lock_retain_until_date(time())
            .object_lock_legal_hold_status(ObjectLockLegalHoldStatus::On)
    };
}

async fn head(client: &Client, key: &str) -> HeadObjectOutput {
    let head = client.head_object().bucket("b").key(key).send();
    head.await.unwrap()
}

fn assert_content(found: &HeadObjectOutput) {
    assert_eq!(found.content_type(), Some("x/y"));
    assert_eq!(found.cache_control(), Some("no-store"));
    assert_eq!(found.content_disposition(), Some("inline"));
    assert_eq!(found.content_encoding(), Some("gzip"));
    assert_eq!(found.content_language(), Some("de"));
    assert_eq!(
        found.expires_string(),
        Some("Sun, 17 Mar 2030 17:46:40 GMT")
    );
}

fn assert_all(found: &HeadObjectOutput) {
    assert_content(found);
    assert_eq!(found.storage_class(), Some(&StorageClass::StandardIa));
    assert_eq!(found.website_redirect_location(), Some("/there"));
    assert_eq!(
        found.server_side_encryption(),
        Some(&ServerSideEncryption::AwsKms)
    );
    assert_eq!(found.ssekms_key_id(), Some("key"));
    assert_eq!(found.bucket_key_enabled(), Some(true));
    assert_eq!(found.object_lock_mode(), Some(&ObjectLockMode::Governance));
    assert_eq!(found.object_lock_retain_until_date(), Some(&time()));
    let hold = found.object_lock_legal_hold_status();
    assert_eq!(hold, Some(&ObjectLockLegalHoldStatus::On));
}

#[tokio::test]
async fn a_put_an_upload_in_parts_and_a_copy_keep_what_is_said_of_them() {
    let (server, client) = server().await;
    let put = said!(client.put_object().key("put"));
    let put = put.checksum_crc32(OF_HELLO);
    put.body(ByteStream::from_static(b"hello"))
        .send()
        .await
        .unwrap();
    assert_all(&head(&client, "put").await);
    let get = client
        .get_object()
        .bucket("b")
        .key("put")
        .send()
        .await
        .unwrap();
    assert_eq!(get.content_encoding(), Some("gzip"));
    assert_eq!(get.ssekms_key_id(), Some("key"));

    let create = said!(client.create_multipart_upload().key("big"));
    let id = create.send().await.unwrap().upload_id.unwrap();
    let part = upload_part(&client, &id, 1, vec![0; 10]).await;
    complete(&client, &id, vec![part]).send().await.unwrap();
    assert_all(&head(&client, "big").await);

    // A copy has the content's headers from its source, and nothing else.
    server.create_bucket("bucket");
    let put = client.put_object().bucket("bucket").key("k");
    put.body(ByteStream::from_static(b"x"))
        .content_type("a/b")
        .send()
        .await
        .unwrap();
    let copy = client
        .copy_object()
        .bucket("b")
        .key("plain")
        .copy_source("bucket/k");
    copy.storage_class(StorageClass::Glacier)
        .send()
        .await
        .unwrap();
    let found = head(&client, "plain").await;
    assert_eq!(found.content_type(), Some("a/b"));
    assert_eq!(found.storage_class(), Some(&StorageClass::Glacier));
    let copy = said!(client.copy_object().key("said")).copy_source("bucket/k");
    copy.metadata_directive(MetadataDirective::Replace)
        .send()
        .await
        .unwrap();
    assert_all(&head(&client, "said").await);
}

#[tokio::test]
async fn what_is_to_be_locked_needs_a_checksum_and_another_account_owns_no_bucket() {
    let (server, client) = server().await;
    let put = || {
        let body = ByteStream::from_static(b"hello");
        client.put_object().bucket("b").key("k").body(body)
    };
    let locked = put().object_lock_legal_hold_status(ObjectLockLegalHoldStatus::On);
    let error = locked.send().await.unwrap_err();
    assert_eq!(refusal(&error), refused(400, "InvalidRequest"));
    let error = put()
        .expected_bucket_owner("111111111111")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&error), refused(403, "AccessDenied"));
    put()
        .expected_bucket_owner(server.account())
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_checksum_that_came_with_the_bytes_is_given_to_whoever_asks_for_it() {
    let (_server, client) = server().await;
    let put = client.put_object().bucket("b").key("k");
    let put = put.body(ByteStream::from_static(b"hello"));
    put.checksum_crc32(OF_HELLO).send().await.unwrap();
    let get = || client.get_object().bucket("b").key("k");
    let asked = get()
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(asked.checksum_crc32(), Some(OF_HELLO));
    let range = get()
        .checksum_mode(ChecksumMode::Enabled)
        .range("bytes=0-1");
    assert_eq!(range.send().await.unwrap().checksum_crc32(), None);
}
