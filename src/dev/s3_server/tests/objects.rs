//! Objects, lists and deletes, as the SDK sees them.

use super::*;

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
        Some("\"3065ee006c667d1aa68e5f54fc96e292\"")
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
    server.create_bucket("source");
    let put = client
        .put_object()
        .bucket("source")
        .key("a b")
        .body(pattern(MIB).into());
    put.content_type("text/x")
        .metadata("m", "1")
        .send()
        .await
        .unwrap();
    let copy = |bucket: &str, key: &str| {
        client
            .copy_object()
            .bucket(bucket)
            .key(key)
            .copy_source("source/a%20b")
    };
    copy("b", "same").send().await.unwrap();
    let replaced = copy("b", "new").metadata_directive(MetadataDirective::Replace);
    replaced.metadata("m", "2").send().await.unwrap();
    copy("source", "a b").send().await.unwrap();
    for (bucket, key, metadata) in [
        ("b", "same", "1"),
        ("b", "new", "2"),
        ("source", "a b", "1"),
    ] {
        assert!(server.object(bucket, key).unwrap() == pattern(MIB), "{key}");
        let head = client
            .head_object()
            .bucket(bucket)
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
        .copy_source("source/none")
        .send()
        .await;
    assert_eq!(refusal(&missing.unwrap_err()), refused(404, "NoSuchKey"));
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
