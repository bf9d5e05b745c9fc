//! Multipart uploads, as the SDK sees them.

use super::*;

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
    server.create_bucket("source");
    let put = client
        .put_object()
        .bucket("source")
        .key("k")
        .body(pattern(6 * MIB).into());
    put.send().await.unwrap();
    let id = begin_upload(&client).await;
    let copy = client
        .upload_part_copy()
        .bucket("b")
        .key("big")
        .upload_id(&id)
        .part_number(1);
    let copy = copy
        .copy_source("source/k")
        .copy_source_range("bytes=10-5242889")
        .send()
        .await;
    let etag = copy.unwrap().copy_part_result.unwrap().e_tag.unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
    complete(&client, &id, vec![part]).send().await.unwrap();
    assert!(server.object("b", "big").unwrap() == pattern(6 * MIB)[10..5 * MIB + 10]);
}
