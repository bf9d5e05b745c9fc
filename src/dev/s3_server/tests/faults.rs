//! Every fault as the SDK sees it, and the journal.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

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
async fn a_waiting_call_that_is_given_up_on_has_no_effect() {
    let (server, _) = server().await;
    let timeout = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(2));
    let client = Client::from_conf(settings_of(&server).timeout_config(timeout.build()).build());
    let delay = Fault::Delay(Duration::from_secs(3_600));
    for fault in [delay, Fault::Hang] {
        let rule = server.faults().add(Rule::new(fault));
        // More than arrives with the head.
        let body = ByteStream::from(pattern(100_000));
        let error = client
            .put_object()
            .bucket("b")
            .key("k")
            .body(body)
            .send()
            .await
            .unwrap_err();
        assert!(matches!(error, SdkError::TimeoutError(_)), "{error:?}");
        assert_eq!(rule.fired(), 1);
        let given_up = async {
            while server.journal().in_flight(Class::Upload) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given_up)
            .await
            .expect("it is noticed");
        rule.remove();
    }
    assert_eq!(server.keys_of("b"), Vec::<String>::new());
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

#[tokio::test]
async fn refused_keys_fail_alone_in_their_batch() {
    let (server, client) = server().await;
    for key in ["a", "bad/1", "c"] {
        put(&client, key, b"x".to_vec()).await;
    }
    let fault = Fault::RefuseKeys {
        prefix: "bad/".to_owned(),
        code: "AccessDenied".to_owned(),
    };
    let rule = server
        .faults()
        .add(Rule::new(fault).operation(S3Operation::DeleteObjects));
    let keys = ["a", "bad/1", "c"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder()
        .set_objects(Some(keys.into()))
        .build()
        .unwrap();
    let answer = client
        .delete_objects()
        .bucket("b")
        .delete(delete)
        .send()
        .await
        .unwrap();
    let errors: Vec<_> = answer
        .errors()
        .iter()
        .map(|error| (error.key(), error.code()))
        .collect();
    assert_eq!(errors, [(Some("bad/1"), Some("AccessDenied"))]);
    assert_eq!(answer.deleted().len(), 2);
    assert_eq!(server.keys_of("b"), ["bad/1"]);
    assert_eq!(rule.fired(), 1);
}

#[tokio::test]
async fn a_connection_stays_good_after_an_answer_that_was_made_up() {
    let (server, _) = server().await;
    let _rule = server
        .faults()
        .add(Rule::new(Fault::status(503, "SlowDown")));
    let mut socket = TcpStream::connect(server.address()).await.unwrap();
    for round in 1..=2 {
        let head = format!(
            "PUT /b/k HTTP/1.1\r\nhost: s3\r\ncontent-length: {}\r\n\r\n",
            4 * MIB
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&pattern(4 * MIB)).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("</Error>") {
            let mut piece = [0; 1_024];
            let read = socket.read(&mut piece).await.unwrap();
            assert!(read > 0, "the connection ended in round {round}: {answer}");
            answer.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}
