//! The real SDK against the server: every operation, every fault, and the server's own life.

use std::time::Duration;

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, get_object::GetObjectOutput},
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectIdentifier},
};
use aws_smithy_runtime_api::http::Response;

use super::*;

const MIB: usize = 1024 * 1024;

async fn server() -> (S3Server, Client) {
    let server = S3Server::start().await.unwrap();
    server.create_bucket("b");
    let client = client_of(&server);
    (server, client)
}

fn settings_of(server: &S3Server) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .credentials_provider(server.credentials())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .retry_config(RetryConfig::disabled())
}

fn client_of(server: &S3Server) -> Client {
    Client::from_conf(settings_of(server).build())
}

async fn put(client: &Client, key: &str, bytes: impl Into<ByteStream>) {
    client
        .put_object()
        .bucket("b")
        .key(key)
        .body(bytes.into())
        .send()
        .await
        .unwrap();
}

async fn bytes_of(output: GetObjectOutput) -> Vec<u8> {
    output.body.collect().await.unwrap().to_vec()
}

/// Status and code of an answer that is an error.
fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E, Response>) -> (u16, String) {
    let status = error.raw_response().expect("an answer").status().as_u16();
    (status, error.code().unwrap_or("none").to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Bytes that differ along the way, so that a shifted copy is not equal.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn an_object_keeps_its_bytes_and_everything_said_about_it() {
    let (server, client) = server().await;
    let put = client
        .put_object()
        .bucket("b")
        .key("2026/11/a b+c.md")
        .body(ByteStream::from_static(b"# hello"))
        .content_type("text/markdown")
        .cache_control("max-age=60")
        .metadata("brigade-job", "job-1")
        .tagging("team=a%20b&stage=x");
    let etag = put.send().await.unwrap().e_tag;
    assert_eq!(
        etag.as_deref(),
        Some("\"63b85b14a7e3de2ddda5c3f67dffeb4a\"")
    );

    let head = client
        .head_object()
        .bucket("b")
        .key("2026/11/a b+c.md")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_length, Some(7));
    assert_eq!(head.content_type.as_deref(), Some("text/markdown"));
    assert_eq!(head.cache_control.as_deref(), Some("max-age=60"));
    assert_eq!(head.metadata.as_ref().unwrap()["brigade-job"], "job-1");
    assert_eq!(head.e_tag, etag);
    assert!(head.last_modified.is_some());

    let get = client
        .get_object()
        .bucket("b")
        .key("2026/11/a b+c.md")
        .send()
        .await
        .unwrap();
    assert_eq!(get.content_type.as_deref(), Some("text/markdown"));
    assert_eq!(get.metadata.as_ref().unwrap()["brigade-job"], "job-1");
    assert_eq!(get.tag_count, Some(2));
    assert_eq!(bytes_of(get).await, b"# hello");
    assert_eq!(server.object("b", "2026/11/a b+c.md").unwrap(), b"# hello");

    let tags = client
        .get_object_tagging()
        .bucket("b")
        .key("2026/11/a b+c.md")
        .send()
        .await;
    let tags = tags
        .unwrap()
        .tag_set
        .into_iter()
        .map(|tag| (tag.key, tag.value));
    let expected = [("stage", "x"), ("team", "a b")];
    assert!(tags.eq(expected.map(|(key, value)| (key.to_owned(), value.to_owned()))));
}

#[tokio::test]
async fn a_range_gives_its_bytes_and_one_outside_is_416() {
    let (_server, client) = server().await;
    let bytes = pattern(MIB);
    put(&client, "k", bytes.clone()).await;
    let get = |range: &str| client.get_object().bucket("b").key("k").range(range).send();
    let rows = [
        ("bytes=0-0", 0..1),
        ("bytes=10-19", 10..20),
        ("bytes=1048570-2000000", 1_048_570..MIB),
        ("bytes=-5", MIB - 5..MIB),
        ("bytes=1000-", 1_000..MIB),
    ];
    for (range, expected) in rows {
        let found = get(range).await.unwrap();
        let shown = format!("bytes {}-{}/{MIB}", expected.start, expected.end - 1);
        assert_eq!(found.content_range.as_deref(), Some(shown.as_str()));
        assert!(bytes_of(found).await == bytes[expected], "{range}");
    }
    let error = get("bytes=1048576-").await.unwrap_err();
    assert_eq!(refusal(&error), refused(416, "InvalidRange"));
}

#[tokio::test]
async fn a_body_of_any_size_arrives_byte_for_byte() {
    let (server, client) = server().await;
    for length in [
        0,
        1,
        256 * 1024 - 1,
        256 * 1024,
        256 * 1024 + 1,
        3 * MIB + 7,
    ] {
        let bytes = pattern(length);
        put(&client, "k", bytes.clone()).await;
        assert!(server.object("b", "k").unwrap() == bytes, "{length} stored");
        let get = client
            .get_object()
            .bucket("b")
            .key("k")
            .send()
            .await
            .unwrap();
        assert_eq!(get.content_length, Some(length as i64));
        assert!(bytes_of(get).await == bytes, "{length} read");
    }
}

#[tokio::test]
async fn what_is_not_there_is_named_right() {
    let (_server, client) = server().await;
    let get = |bucket, key| client.get_object().bucket(bucket).key(key).send();
    assert_eq!(
        refusal(&get("b", "no").await.unwrap_err()),
        refused(404, "NoSuchKey")
    );
    assert_eq!(
        refusal(&get("none", "no").await.unwrap_err()),
        refused(404, "NoSuchBucket")
    );
    let head = client
        .head_object()
        .bucket("b")
        .key("no")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&head), refused(404, "NotFound"));
    let put = client
        .put_object()
        .bucket("none")
        .key("k")
        .body(pattern(MIB).into())
        .send()
        .await;
    assert_eq!(refusal(&put.unwrap_err()), refused(404, "NoSuchBucket"));
    let list = client
        .list_objects_v2()
        .bucket("none")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&list), refused(404, "NoSuchBucket"));
    let delete = client
        .delete_object()
        .bucket("none")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&delete), refused(404, "NoSuchBucket"));
    assert!(client.head_bucket().bucket("b").send().await.is_ok());
    assert!(client.head_bucket().bucket("none").send().await.is_err());
}

#[tokio::test]
async fn if_none_match_lets_one_of_many_writers_through() {
    let (server, client) = server().await;
    let writers = (0..16_u8).map(|writer| {
        let body = ByteStream::from(vec![writer]);
        client
            .put_object()
            .bucket("b")
            .key("k")
            .if_none_match("*")
            .body(body)
            .send()
    });
    let results = futures_util::future::join_all(writers).await;
    let winners: Vec<usize> = (0..16).filter(|writer| results[*writer].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(server.object("b", "k").unwrap(), [winners[0] as u8]);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(refusal(error), refused(412, "PreconditionFailed"));
    }
}

#[tokio::test]
async fn a_conditional_read_compares_etags() {
    let (_server, client) = server().await;
    put(&client, "k", b"x".to_vec()).await;
    let etag = client
        .head_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap()
        .e_tag
        .unwrap();
    let get = || client.get_object().bucket("b").key("k");
    assert!(get().if_match(&etag).send().await.is_ok());
    let error = get().if_match("\"other\"").send().await.unwrap_err();
    assert_eq!(refusal(&error), refused(412, "PreconditionFailed"));
    let error = get().if_none_match(&etag).send().await.unwrap_err();
    assert_eq!(refusal(&error).0, 304);
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_and_the_old_object_stays() {
    let (server, client) = server().await;
    put(&client, "k", b"old".to_vec()).await;
    let put = || {
        client
            .put_object()
            .bucket("b")
            .key("k")
            .body(ByteStream::from_static(b"new"))
    };
    let error = put().checksum_crc32("AAAAAA==").send().await.unwrap_err();
    assert_eq!(refusal(&error), refused(400, "BadDigest"));
    let error = put()
        .content_md5("1B2M2Y8AsgTpgAmY7PhCfg==")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&error), refused(400, "BadDigest"));
    assert_eq!(server.object("b", "k").unwrap(), b"old");
    put()
        .content_md5("IrMa7bO2cTPUhr22nvoCqA==")
        .send()
        .await
        .unwrap_err();
}

#[tokio::test]
async fn the_sdk_s_own_checksums_are_understood_in_header_and_trailer() {
    let (server, _) = server().await;
    let settings = settings_of(&server)
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
    let client = Client::from_conf(settings.build());
    put(&client, "header", pattern(1_000)).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, pattern(2 * MIB)).unwrap();
    put(
        &client,
        "trailer",
        ByteStream::from_path(&path).await.unwrap(),
    )
    .await;
    assert!(server.object("b", "header").unwrap() == pattern(1_000));
    assert!(server.object("b", "trailer").unwrap() == pattern(2 * MIB));
}

#[tokio::test]
async fn keys_that_a_file_system_could_not_hold_side_by_side_are_all_kept() {
    let (server, client) = server().await;
    let long = "x".repeat(1_000);
    let keys = ["a", "a/", "a/b", "a//b", "ä/ö", "x y?z#%41", long.as_str()];
    for key in keys {
        put(&client, key, key.as_bytes().to_vec()).await;
    }
    let mut sorted = keys.map(str::to_owned);
    sorted.sort();
    assert_eq!(server.keys_of("b"), sorted);
    for key in keys {
        let get = client
            .get_object()
            .bucket("b")
            .key(key)
            .send()
            .await
            .unwrap();
        assert_eq!(bytes_of(get).await, key.as_bytes());
    }
}

#[tokio::test]
async fn listing_follows_pages_prefix_delimiter_and_start_after() {
    let (_server, client) = server().await;
    for key in ["a/1", "a/2", "a/3", "b", "c/1", "d"] {
        put(&client, key, key.as_bytes().to_vec()).await;
    }
    let (mut keys, mut prefixes, mut token, mut pages) = (Vec::new(), Vec::new(), None, 0);
    loop {
        let list = client
            .list_objects_v2()
            .bucket("b")
            .delimiter("/")
            .max_keys(2);
        let page = list.set_continuation_token(token).send().await.unwrap();
        assert_eq!(page.key_count, Some(2));
        let all = page.contents.unwrap_or_default().into_iter();
        keys.extend(all.map(|object| object.key.unwrap()));
        let all = page.common_prefixes.unwrap_or_default().into_iter();
        prefixes.extend(all.map(|prefix| prefix.prefix.unwrap()));
        pages += 1;
        token = page.next_continuation_token;
        assert_eq!(page.is_truncated, Some(token.is_some()));
        if token.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["b", "d"]);
    assert_eq!(prefixes, ["a/", "c/"]);
    assert_eq!(pages, 2);
    let list = client
        .list_objects_v2()
        .bucket("b")
        .prefix("a/")
        .start_after("a/1");
    let found = list.send().await.unwrap().contents.unwrap();
    assert_eq!(found[0].key.as_deref(), Some("a/2"));
    assert_eq!(found[0].size, Some(3));
    assert_eq!(found[0].e_tag.as_ref().map(String::len), Some(34));
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn deletes_count_missing_keys_and_quiet_reports_errors_only() {
    let (server, client) = server().await;
    put(&client, "a", b"1".to_vec()).await;
    put(&client, "b", b"2".to_vec()).await;
    client
        .delete_object()
        .bucket("b")
        .key("a")
        .send()
        .await
        .unwrap();
    client
        .delete_object()
        .bucket("b")
        .key("a")
        .send()
        .await
        .unwrap();
    let id = |key: &str, version: Option<&str>| {
        let id = ObjectIdentifier::builder().key(key);
        id.set_version_id(version.map(str::to_owned))
            .build()
            .unwrap()
    };
    let delete = |quiet, ids: Vec<ObjectIdentifier>| {
        let delete = Delete::builder()
            .set_objects(Some(ids))
            .quiet(quiet)
            .build()
            .unwrap();
        client.delete_objects().bucket("b").delete(delete).send()
    };
    let ids = vec![
        id("b", None),
        id("missing", None),
        id("versioned", Some("v1")),
    ];
    let answer = delete(false, ids).await.unwrap();
    let deleted = answer
        .deleted()
        .iter()
        .map(|deleted| deleted.key().unwrap());
    assert_eq!(deleted.collect::<Vec<_>>(), ["b", "missing"]);
    assert_eq!(answer.errors()[0].code(), Some("NoSuchVersion"));
    assert!(
        delete(true, vec![id("x", None)])
            .await
            .unwrap()
            .deleted()
            .is_empty()
    );
    assert_eq!(server.keys_of("b"), Vec::<String>::new());
    assert!(
        delete(
            true,
            (0..=1_000).map(|n| id(&n.to_string(), None)).collect()
        )
        .await
        .is_err()
    );
}

#[tokio::test]
async fn a_copy_takes_bytes_and_metadata_or_what_replaces_them() {
    let (server, client) = server().await;
    let put = client
        .put_object()
        .bucket("b")
        .key("a b")
        .body(pattern(MIB).into());
    put.content_type("text/x")
        .metadata("m", "1")
        .send()
        .await
        .unwrap();
    let copy = |key: &str| {
        client
            .copy_object()
            .bucket("b")
            .key(key)
            .copy_source("b/a%20b")
    };
    copy("same").send().await.unwrap();
    copy("new")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("m", "2")
        .send()
        .await
        .unwrap();
    copy("a b").send().await.unwrap();
    for (key, metadata) in [("same", "1"), ("new", "2"), ("a b", "1")] {
        assert!(server.object("b", key).unwrap() == pattern(MIB), "{key}");
        let head = client
            .head_object()
            .bucket("b")
            .key(key)
            .send()
            .await
            .unwrap();
        assert_eq!(head.metadata.unwrap()["m"], metadata, "{key}");
    }
    let missing = client
        .copy_object()
        .bucket("b")
        .key("k")
        .copy_source("b/none")
        .send()
        .await;
    assert_eq!(refusal(&missing.unwrap_err()), refused(404, "NoSuchKey"));
}

async fn begin_upload(client: &Client) -> String {
    let create = client
        .create_multipart_upload()
        .bucket("b")
        .key("big")
        .metadata("m", "1");
    create.send().await.unwrap().upload_id.unwrap()
}

async fn upload_part(client: &Client, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
    let part = client
        .upload_part()
        .bucket("b")
        .key("big")
        .upload_id(id)
        .part_number(number);
    let etag = part.body(bytes.into()).send().await.unwrap().e_tag.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .e_tag(etag)
        .build()
}

fn complete(
    client: &Client,
    id: &str,
    parts: Vec<CompletedPart>,
) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder
{
    let upload = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let complete = client.complete_multipart_upload().bucket("b").key("big");
    complete.upload_id(id).multipart_upload(upload)
}

#[tokio::test]
async fn a_multipart_upload_is_resumed_from_its_listed_parts() {
    let (server, client) = server().await;
    let id = begin_upload(&client).await;
    upload_part(&client, &id, 3, pattern(10)).await;
    upload_part(&client, &id, 1, pattern(5 * MIB)).await;
    upload_part(&client, &id, 2, pattern(1)).await;
    upload_part(&client, &id, 2, pattern(5 * MIB + 1)).await;
    assert_eq!(server.uploads_of("b"), ["big"]);
    assert_eq!(server.keys_of("b"), Vec::<String>::new());

    let (mut parts, mut marker) = (Vec::new(), None);
    loop {
        let list = client
            .list_parts()
            .bucket("b")
            .key("big")
            .upload_id(&id)
            .max_parts(2);
        let page = list.set_part_number_marker(marker).send().await.unwrap();
        parts.extend(page.parts.unwrap_or_default());
        marker = page.next_part_number_marker;
        if page.is_truncated != Some(true) {
            break;
        }
    }
    let sizes: Vec<i64> = parts.iter().map(|part| part.size.unwrap()).collect();
    assert_eq!(sizes, [5 * MIB as i64, 5 * MIB as i64 + 1, 10]);
    let parts: Vec<CompletedPart> = parts
        .into_iter()
        .map(|part| {
            let completed = CompletedPart::builder().set_part_number(part.part_number);
            completed.set_e_tag(part.e_tag).build()
        })
        .collect();
    let done = complete(&client, &id, parts.clone()).send().await.unwrap();
    assert!(done.e_tag.unwrap().ends_with("-3\""));
    let expected = [pattern(5 * MIB), pattern(5 * MIB + 1), pattern(10)].concat();
    assert!(server.object("b", "big").unwrap() == expected);
    let head = client
        .head_object()
        .bucket("b")
        .key("big")
        .send()
        .await
        .unwrap();
    assert_eq!(head.metadata.unwrap()["m"], "1");
    assert_eq!(server.uploads_of("b"), Vec::<String>::new());
    let again = complete(&client, &id, parts).send().await.unwrap_err();
    assert_eq!(refusal(&again), refused(404, "NoSuchUpload"));
}

#[tokio::test]
async fn a_completion_that_s3_would_refuse_is_refused_and_leaves_the_upload() {
    let (server, client) = server().await;
    put(&client, "big", b"there".to_vec()).await;
    let id = begin_upload(&client).await;
    let small = upload_part(&client, &id, 1, pattern(100)).await;
    let last = upload_part(&client, &id, 2, pattern(100)).await;
    let wrong = CompletedPart::builder()
        .part_number(1)
        .e_tag("\"wrong\"")
        .build();
    let rows = [
        (vec![small.clone(), last.clone()], 400, "EntityTooSmall"),
        (vec![last.clone(), small.clone()], 400, "InvalidPartOrder"),
        (vec![wrong], 400, "InvalidPart"),
        (vec![], 400, "MalformedXML"),
    ];
    for (parts, status, code) in rows {
        let error = complete(&client, &id, parts).send().await.unwrap_err();
        assert_eq!(refusal(&error), refused(status, code));
    }
    let conditional = complete(&client, &id, vec![small.clone()]).if_none_match("*");
    let error = conditional.send().await.unwrap_err();
    assert_eq!(refusal(&error), refused(412, "PreconditionFailed"));
    assert_eq!(server.object("b", "big").unwrap(), b"there");
    complete(&client, &id, vec![small]).send().await.unwrap();
    assert_eq!(server.object("b", "big").unwrap(), pattern(100));
}

#[tokio::test]
async fn an_aborted_upload_is_gone_and_so_are_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let server = S3Server::start_in(directory.path(), None).await.unwrap();
    server.create_bucket("b");
    let client = client_of(&server);
    let id = begin_upload(&client).await;
    upload_part(&client, &id, 1, pattern(MIB)).await;
    let files = || {
        std::fs::read_dir(directory.path().join("files"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 2);
    client
        .abort_multipart_upload()
        .bucket("b")
        .key("big")
        .upload_id(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(files(), 0);
    let part = client
        .upload_part()
        .bucket("b")
        .key("big")
        .upload_id(&id)
        .part_number(2);
    let error = part.body(pattern(10).into()).send().await.unwrap_err();
    assert_eq!(refusal(&error), refused(404, "NoSuchUpload"));
    let abort = client
        .abort_multipart_upload()
        .bucket("b")
        .key("big")
        .upload_id(&id);
    assert_eq!(
        refusal(&abort.send().await.unwrap_err()),
        refused(404, "NoSuchUpload")
    );
    let list = client
        .list_parts()
        .bucket("b")
        .key("big")
        .upload_id(&id)
        .send()
        .await;
    assert_eq!(refusal(&list.unwrap_err()), refused(404, "NoSuchUpload"));
}

#[tokio::test]
async fn a_part_may_be_copied_from_an_object() {
    let (server, client) = server().await;
    put(&client, "source", pattern(6 * MIB)).await;
    let id = begin_upload(&client).await;
    let copy = client
        .upload_part_copy()
        .bucket("b")
        .key("big")
        .upload_id(&id)
        .part_number(1);
    let copy = copy
        .copy_source("b/source")
        .copy_source_range("bytes=10-5242889")
        .send()
        .await;
    let etag = copy.unwrap().copy_part_result.unwrap().e_tag.unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
    complete(&client, &id, vec![part]).send().await.unwrap();
    assert!(server.object("b", "big").unwrap() == pattern(6 * MIB)[10..5 * MIB + 10]);
}

#[tokio::test]
async fn replacing_and_deleting_objects_leaves_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let server = S3Server::start_in(directory.path(), None).await.unwrap();
    server.create_bucket("b");
    let client = client_of(&server);
    for _ in 0..3 {
        put(&client, "k", pattern(MIB)).await;
        put(&client, "l", pattern(10)).await;
    }
    client
        .put_object()
        .bucket("b")
        .key("k")
        .if_none_match("*")
        .send()
        .await
        .unwrap_err();
    let files = || {
        std::fs::read_dir(directory.path().join("files"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 2);
    client
        .delete_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(files(), 1);
}

#[tokio::test]
async fn a_read_that_has_begun_ends_with_the_object_it_began_with() {
    let (_server, client) = server().await;
    let old = pattern(8 * MIB);
    put(&client, "k", old.clone()).await;
    let begun = client
        .get_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap();
    put(&client, "k", b"new".to_vec()).await;
    assert!(bytes_of(begun).await == old);
}

#[tokio::test]
async fn wrong_keys_are_refused() {
    let (server, _) = server().await;
    let wrong = |access: &str, secret: &str| {
        let keys = Credentials::new(access, secret, None, None, "test");
        Client::from_conf(settings_of(&server).credentials_provider(keys).build())
    };
    let (access, _) = server.keys();
    let list = wrong(access, "wrong")
        .list_objects_v2()
        .bucket("b")
        .send()
        .await;
    assert_eq!(
        refusal(&list.unwrap_err()),
        refused(403, "SignatureDoesNotMatch")
    );
    let list = wrong("unknown", "wrong")
        .list_objects_v2()
        .bucket("b")
        .send()
        .await;
    assert_eq!(
        refusal(&list.unwrap_err()),
        refused(403, "InvalidAccessKeyId")
    );
}

#[tokio::test]
async fn buckets_are_made_listed_and_removed_when_empty() {
    let (server, client) = server().await;
    client
        .create_bucket()
        .bucket("second")
        .send()
        .await
        .unwrap();
    let again = client
        .create_bucket()
        .bucket("second")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&again), refused(409, "BucketAlreadyOwnedByYou"));
    put(&client, "k", b"x".to_vec()).await;
    let full = client.delete_bucket().bucket("b").send().await.unwrap_err();
    assert_eq!(refusal(&full), refused(409, "BucketNotEmpty"));
    client
        .delete_bucket()
        .bucket("second")
        .send()
        .await
        .unwrap();
    let buckets = client.list_buckets().send().await.unwrap();
    assert_eq!(
        buckets
            .buckets()
            .iter()
            .filter_map(|bucket| bucket.name())
            .collect::<Vec<_>>(),
        ["b"]
    );
    server.create_bucket("..");
    assert_eq!(server.store.buckets().len(), 1);
}

// Faults, as the SDK sees them.

#[tokio::test]
async fn a_status_fault_is_an_s3_error_with_code_and_retry_after() {
    let (server, client) = server().await;
    let rule = Rule::new(Fault::status(503, "SlowDown")).retry_after(Duration::from_secs(7));
    let rule = server.faults().add(rule.class(Class::Upload).first(2));
    for _ in 0..2 {
        // Large, so that an unread body would break the connection before the answer is read.
        let body = ByteStream::from(pattern(4 * MIB));
        let error = client
            .put_object()
            .bucket("b")
            .key("k")
            .body(body)
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&error), refused(503, "SlowDown"));
        assert_eq!(
            error.raw_response().unwrap().headers().get("retry-after"),
            Some("7")
        );
        assert!(
            error
                .into_service_error()
                .request_id()
                .unwrap()
                .starts_with("EMBEDDED")
        );
    }
    assert_eq!(server.keys_of("b"), Vec::<String>::new());
    put(&client, "k", b"x".to_vec()).await;
    assert_eq!(rule.fired(), 2);
}

#[tokio::test]
async fn an_error_to_a_head_has_no_code() {
    let (server, client) = server().await;
    let _rule = server
        .faults()
        .add(Rule::new(Fault::status(403, "AccessDenied")));
    let error = client
        .head_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&error), refused(403, "none"));
    server.faults().clear();
    let _rule = server.faults().add(Rule::new(Fault::BareStatus(429)));
    let error = client
        .get_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&error), refused(429, "none"));
}

#[tokio::test]
async fn an_error_inside_a_200_is_an_error_to_the_sdk() {
    let (server, client) = server().await;
    put(&client, "k", b"x".to_vec()).await;
    let fault = Fault::ErrorIn200("InternalError".to_owned());
    let _rule = server
        .faults()
        .add(Rule::new(fault).operation(S3Operation::CopyObject));
    let copy = client
        .copy_object()
        .bucket("b")
        .key("copy")
        .copy_source("b/k")
        .send()
        .await;
    assert_eq!(copy.unwrap_err().code(), Some("InternalError"));
    assert_eq!(server.keys_of("b"), ["k"]);
}

#[tokio::test]
async fn a_reset_is_a_failed_dispatch_without_effect_and_the_next_call_works() {
    let (server, client) = server().await;
    let _rule = server.faults().add(Rule::new(Fault::Reset).first(1));
    let error = client
        .put_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SdkError::DispatchFailure(failure) if failure.is_io()),
        "{error:?}"
    );
    assert_eq!(server.keys_of("b"), Vec::<String>::new());
    put(&client, "k", b"x".to_vec()).await;
}

#[tokio::test]
async fn a_lost_answer_leaves_the_effect() {
    let (server, client) = server().await;
    let _rule = server.faults().add(Rule::new(Fault::LoseAnswer).first(1));
    let body = ByteStream::from_static(b"x");
    let error = client
        .put_object()
        .bucket("b")
        .key("k")
        .body(body)
        .send()
        .await
        .unwrap_err();
    assert!(matches!(&error, SdkError::DispatchFailure(_)), "{error:?}");
    assert_eq!(server.object("b", "k").unwrap(), b"x");
    assert_eq!(server.journal().entries()[0].status, None);
}

#[tokio::test]
async fn a_cut_body_gives_the_head_and_that_many_bytes() {
    let (server, client) = server().await;
    let bytes = pattern(4 * MIB);
    put(&client, "k", bytes.clone()).await;
    for cut in [0, 1, 1_000, 3 * MIB] {
        let rule = server
            .faults()
            .add(Rule::new(Fault::CutBody(cut as u64)).class(Class::Read));
        let mut get = client
            .get_object()
            .bucket("b")
            .key("k")
            .send()
            .await
            .unwrap();
        assert_eq!(get.content_length, Some(4 * MIB as i64));
        let mut read = Vec::new();
        let error = loop {
            match get
                .body
                .next()
                .await
                .expect("an error comes before the end")
            {
                Ok(piece) => read.extend_from_slice(&piece),
                Err(error) => break error,
            }
        };
        assert!(read == bytes[..cut], "{cut}: {} bytes, {error}", read.len());
        rule.remove();
    }
    let get = client
        .get_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap();
    assert!(bytes_of(get).await == bytes);
}

#[tokio::test]
async fn a_hanging_call_waits_for_its_release() {
    let (server, client) = server().await;
    let rule = server
        .faults()
        .add(Rule::new(Fault::Hang).key_prefix("slow"));
    let mut calls = JoinSet::new();
    for key in ["slow/1", "slow/2"] {
        let put = client.put_object().bucket("b").key(key).send();
        calls.spawn(async move { put.await.is_ok() });
    }
    rule.until_fired(2).await;
    put(&client, "quick", b"x".to_vec()).await;
    assert_eq!(server.keys_of("b"), ["quick"]);
    assert_eq!(server.journal().in_flight(Class::Upload), 2);
    assert_eq!(server.journal().max_in_flight(Class::Upload), 3);
    rule.release();
    assert_eq!(calls.join_all().await, [true, true]);
    assert_eq!(server.keys_of("b"), ["quick", "slow/1", "slow/2"]);
    put(&client, "slow/3", b"x".to_vec()).await;
}

#[tokio::test]
async fn a_delayed_call_that_is_given_up_on_has_no_effect() {
    let (server, _) = server().await;
    let timeout = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(50));
    let client = Client::from_conf(settings_of(&server).timeout_config(timeout.build()).build());
    let delay = Fault::Delay(Duration::from_secs(3_600));
    let rule = server.faults().add(Rule::new(delay).first(1));
    let error = client
        .put_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert!(matches!(error, SdkError::TimeoutError(_)), "{error:?}");
    assert_eq!(rule.fired(), 1);
    put(&client, "k", b"later".to_vec()).await;
    assert_eq!(server.object("b", "k").unwrap(), b"later");
}

#[tokio::test]
async fn the_journal_tells_operations_keys_answers_and_faults() {
    let (server, client) = server().await;
    let missing = Rule::new(Fault::status(500, "InternalError")).operation(S3Operation::HeadObject);
    let _rule = server.faults().add(missing);
    put(&client, "a/b", b"x".to_vec()).await;
    client
        .head_object()
        .bucket("b")
        .key("a/b")
        .send()
        .await
        .unwrap_err();
    client
        .get_object()
        .bucket("b")
        .key("no")
        .send()
        .await
        .unwrap_err();
    client
        .list_objects_v2()
        .bucket("b")
        .prefix("a")
        .send()
        .await
        .unwrap();
    let entries = server.journal().take();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry.call.operation.as_str(),
                entry.call.key.as_str(),
                entry.status,
                entry.faulted,
            )
        })
        .collect();
    let expected = [
        ("PutObject", "a/b", Some(200), false),
        ("HeadObject", "a/b", Some(500), true),
        ("GetObject", "no", Some(404), false),
        ("ListObjectsV2", "", Some(200), false),
    ];
    assert_eq!(told, expected);
    assert!(entries.is_sorted_by_key(|entry| entry.at));
    assert_eq!(server.journal().count(S3Operation::GetObject), 1);
    assert_eq!(server.journal().count_class(Class::Read), 3);
    assert_eq!(server.journal().entries(), []);
}

// The server's own life.

#[tokio::test]
async fn a_stopped_server_refuses_connections_and_begins_again_where_it_was() {
    let (mut server, client) = server().await;
    put(&client, "k", b"x".to_vec()).await;
    let endpoint = server.endpoint();
    server.stop().await;
    server.stop().await;
    let refused = TcpStream::connect(server.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let error = client
        .head_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert!(matches!(&error, SdkError::DispatchFailure(_)), "{error:?}");
    assert_eq!(server.object("b", "k").unwrap(), b"x");
    server.begin().await.unwrap();
    server.begin().await.unwrap();
    assert_eq!(server.endpoint(), endpoint);
    let get = client
        .get_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(bytes_of(get).await, b"x");
}

#[tokio::test]
async fn a_reserved_server_refuses_until_it_begins() {
    let mut server = S3Server::reserve().unwrap();
    server.create_bucket("b");
    let client = client_of(&server);
    let refused = TcpStream::connect(server.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    server.begin().await.unwrap();
    put(&client, "k", b"x".to_vec()).await;
}

#[tokio::test]
async fn stop_ends_calls_under_way_and_leaves_no_task() {
    let (mut server, client) = server().await;
    let rule = server.faults().add(Rule::new(Fault::Hang));
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let mut calls = JoinSet::new();
    let put = client.put_object().bucket("b").key("k").send();
    calls.spawn(async move { put.await.is_ok() });
    rule.until_fired(1).await;
    server.stop().await;
    assert_eq!(calls.join_all().await, [false]);
    drop(client);
    assert_eq!(server.journal().in_flight(Class::Upload), 0);
    assert_eq!(
        Arc::strong_count(&server.front),
        1,
        "only the server holds it"
    );
    assert_eq!(before, 1, "the accepting task, and none yet of the client");
}

#[tokio::test]
async fn a_server_in_a_directory_finds_what_an_earlier_one_left() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = S3Server::start_in(directory.path(), None).await.unwrap();
    first.create_bucket("b");
    first.create_bucket("empty");
    let client = client_of(&first);
    for text in ["old", "new"] {
        let put = client
            .put_object()
            .bucket("b")
            .key("k")
            .content_type("text/x");
        put.body(text.as_bytes().to_vec().into())
            .send()
            .await
            .unwrap();
    }
    put(&client, "gone", b"x".to_vec()).await;
    client
        .delete_object()
        .bucket("b")
        .key("gone")
        .send()
        .await
        .unwrap();
    let id = begin_upload(&client).await;
    let part = upload_part(&client, &id, 1, pattern(100)).await;
    std::fs::write(
        directory.path().join("files/half"),
        "a file that was not finished",
    )
    .unwrap();
    first.stop().await;
    let port = first.address().port();
    drop(first);

    let server = S3Server::start_in(directory.path(), Some(port))
        .await
        .unwrap();
    assert_eq!(server.address().port(), port);
    assert_eq!(server.keys_of("b"), ["k"]);
    assert_eq!(server.object("b", "k").unwrap(), b"new");
    let head = client
        .head_object()
        .bucket("b")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_type.as_deref(), Some("text/x"));
    assert!(client.head_bucket().bucket("empty").send().await.is_ok());
    complete(&client, &id, vec![part]).send().await.unwrap();
    assert_eq!(server.object("b", "big").unwrap(), pattern(100));
    assert!(!directory.path().join("files/half").exists());
}

#[tokio::test]
async fn a_list_of_three_thousand_keys_takes_no_walk_over_files() {
    let (server, client) = server().await;
    let bucket = (0..3_000).map(|number| format!("k/{number:05}"));
    for key in bucket {
        let (draft, rest) = (server.store.draft(), store::Conditions::default());
        server
            .store
            .put(("b", &key), draft, store::Attributes::default(), &rest)
            .await
            .unwrap();
    }
    let started = tokio::time::Instant::now();
    let page = client
        .list_objects_v2()
        .bucket("b")
        .start_after("k/02000")
        .send()
        .await
        .unwrap();
    let took = started.elapsed();
    assert_eq!(page.key_count, Some(999));
    println!("{took:?}");
}
