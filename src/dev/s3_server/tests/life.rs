//! The server's own life: keys, buckets, stop, begin again, what is kept on disk.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

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
    let mut server = S3Server::start().await.unwrap();
    let rule = server.faults().add(Rule::new(Fault::Hang));
    // A bare socket: the SDK has tasks of its own.
    let mut idle = TcpStream::connect(server.address()).await.unwrap();
    let mut busy = TcpStream::connect(server.address()).await.unwrap();
    busy.write_all(b"HEAD /b/k HTTP/1.1\r\nhost: s3\r\n\r\n")
        .await
        .unwrap();
    rule.until_fired(1).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(
        metrics.num_alive_tasks(),
        3,
        "one that accepts, one for each connection"
    );
    server.stop().await;
    assert_eq!(metrics.num_alive_tasks(), 0);
    assert_eq!(server.journal().in_flight(Class::Read), 0);
    for socket in [&mut idle, &mut busy] {
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"", "the connection ended without an answer");
    }
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
