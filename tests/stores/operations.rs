//! Every operation of the contract, and what depends on it.

use std::fs;

use bucket_brigade::job::{JobId, JobResult};
use serde_json::json;

use crate::{
    cases::{Attempt, Case, attempt, case, has_size, job, judged},
    store::{End, PLAIN, Store},
};

/// Every operation of the contract.
pub(crate) fn operations() -> Vec<Case> {
    let puts = vec![(
        "one call",
        attempt!(|store| {
            let end = store.result(
                "put_object",
                json!({"key": "put", "body": {"text": "hello"}}),
            );
            judged(end.await, |result| has_size(result, 5))
        }),
    )];
    let uploads = vec![
        ("one call", upload("small", 5)),
        ("parts", upload("large", 6 << 20)),
    ];
    let copies = vec![
        ("one call", copy("source", 6)),
        ("parts", copy("large-source", 6 << 20)),
    ];
    vec![
        Case {
            name: "`put_object`".to_owned(),
            ways: puts,
        },
        case(
            "… `if_none_match`: another's object is refused, its own recognised",
            attempt!(|store| conditional(store).await),
        ),
        Case {
            name: "`upload_fileobj`".to_owned(),
            ways: uploads,
        },
        Case {
            name: "`copy_object`, with type, metadata and tags".to_owned(),
            ways: copies,
        },
        case(
            "… with one field changed, the others kept",
            attempt!(|store| changed(store).await),
        ),
        case(
            "`put_object_tagging`",
            attempt!(|store| {
                let end = store
                    .result(
                        "put_object_tagging",
                        json!({"key": "put", "tags": {"a": "ü"}}),
                    )
                    .await;
                match store.tags("put").await == ["a=ü"] {
                    true => judged(end, |_| true),
                    false => judged(end, |_| false),
                }
            }),
        ),
        case(
            "`get_object`",
            attempt!(|store| {
                let done = store
                    .run(&job("get_object", &json!({"key": "source"})))
                    .await;
                match done {
                    Ok(done)
                        if done
                            .body
                            .as_ref()
                            .is_some_and(|body| body.bytes == "source") =>
                    {
                        End::Yes
                    }
                    Ok(_) => End::Odd("other bytes".to_owned()),
                    Err(code) => End::Refused(code),
                }
            }),
        ),
        case(
            "… a range of it",
            attempt!(|store| {
                let end = store
                    .result("get_object", json!({"key": "source", "range": "bytes=1-2"}))
                    .await;
                judged(end, |result| has_size(result, 2))
            }),
        ),
        case(
            "… into a file",
            attempt!(|store| {
                let file = store.file("fetched");
                let fields = json!({"key": "large-source", "destination": {"file": file}});
                let end = store.result("get_object", fields).await;
                let written = fs::metadata(&file).is_ok_and(|file| file.len() == 6 << 20);
                judged(end, |_| written)
            }),
        ),
        case(
            "… its checksum of the whole object, for GETs to compare",
            attempt!(|store| has_checksum(store).await),
        ),
        case(
            "`head_object`",
            attempt!(|store| {
                let end = store.result("head_object", json!({"key": "source"})).await;
                judged(end, |result| has_size(result, 6))
            }),
        ),
        case("`list_objects`", attempt!(|store| listed(store).await)),
        case(
            "`delete_object`",
            attempt!(|store| {
                let end = store.result("delete_object", json!({"key": "put"})).await;
                judged(end, |result| matches!(result, JobResult::Deleted { .. }))
            }),
        ),
        case(
            "`delete_objects`, odd keys and missing ones among them",
            attempt!(|store| deleted(store).await),
        ),
        case(
            "`delete_prefix`",
            attempt!(|store| {
                for n in 0..3 {
                    let fields = json!({"key": format!("p/{n}"), "body": {"text": "x"}});
                    store.result("put_object", fields).await.unwrap();
                }
                let end = store.result("delete_prefix", json!({"prefix": "p/"})).await;
                judged(end, |result| {
                    matches!(result, JobResult::DeletedPrefix { deleted: 3, .. })
                })
            }),
        ),
    ]
}

fn upload(file: &'static str, size: u64) -> Attempt {
    attempt!(|store| {
        let fields = json!({"key": "upload", "source": {"file": store.file(file)}});
        judged(store.result("upload_fileobj", fields).await, |result| {
            has_size(result, size)
        })
    })
}

fn copy(source: &'static str, size: u64) -> Attempt {
    attempt!(|store| {
        let key = format!("copy-of-{source}");
        let fields = json!({"key": key, "source": {"bucket": PLAIN, "key": source}});
        let end = store.result("copy_object", fields).await;
        let kept = store.has((PLAIN, &key), "cache-control", "max-age=1").await;
        let tags = store.tags(&key).await == ["t=1"];
        match end {
            Ok(_) if !kept => End::Odd("loses headers".to_owned()),
            Ok(_) if !tags => End::Odd("loses tags".to_owned()),
            end => judged(end, |result| has_size(result, size)),
        }
    })
}

async fn changed(store: &Store) -> End {
    let fields = json!({"key": "changed", "source": {"bucket": PLAIN, "key": "source"}, "content_type": "x/y"});
    if let Err(code) = store.result("copy_object", fields).await {
        return End::Refused(code);
    }
    let at = (PLAIN, "changed");
    let head = store
        .client
        .head_object()
        .bucket(PLAIN)
        .key("changed")
        .send()
        .await
        .unwrap();
    let metadata = head
        .metadata()
        .and_then(|all| all.get("who"))
        .is_some_and(|who| who == "me");
    let kept = [
        store.has(at, "content-type", "x/y").await,
        store.has(at, "cache-control", "max-age=1").await,
        metadata,
        store.tags("changed").await == ["t=1"],
    ];
    match kept {
        [true, true, true, true] => End::Yes,
        [false, ..] => End::Ignored,
        [true, true, true, false] => End::Odd("loses tags".to_owned()),
        _ => End::Odd("loses others".to_owned()),
    }
}

async fn conditional(store: &Store) -> End {
    let fields = json!({"key": "once", "body": {"text": "hello"}, "if_none_match": "*"});
    let (ours, others) = (JobId::fresh(), JobId::fresh());
    let job = job("put_object", &fields);
    if let Err(code) = store.run_as(&ours, &job).await {
        return End::Refused(code);
    }
    let again = store.run_as(&ours, &job).await;
    match (again, store.run_as(&others, &job).await) {
        (Ok(_), Err(code)) if code == "PreconditionFailed" => End::Yes,
        (_, Ok(_)) => End::Ignored,
        (Err(_), _) => End::Odd("its own is not recognised".to_owned()),
        (_, Err(code)) => End::Refused(code),
    }
}

/// Whether the store keeps a checksum that came with a put, and gives it to a GET.
async fn has_checksum(store: &Store) -> End {
    use aws_sdk_s3::{primitives::ByteStream, types::ChecksumMode};
    let put = store.client.put_object().bucket(PLAIN).key("sum");
    let put = put
        .checksum_crc32("NhCmhg==")
        .body(ByteStream::from_static(b"hello"));
    if let Err(error) = put.send().await {
        return End::Refused(crate::store::code_of(&error));
    }
    let get = store.client.get_object().bucket(PLAIN).key("sum");
    let get = get
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    match get.checksum_crc32() {
        Some("NhCmhg==") => End::Yes,
        Some(other) => End::Odd(format!("another one, {other}")),
        None => End::Ignored,
    }
}

async fn listed(store: &Store) -> End {
    for n in 0..5 {
        let fields = json!({"key": format!("l/{n}"), "body": {"text": "x"}});
        store.result("put_object", fields).await.unwrap();
    }
    let end = store
        .result(
            "list_objects",
            json!({"prefix": "l/", "max_keys": 3, "start_after": "l/0"}),
        )
        .await;
    judged(end, |result| match result {
        JobResult::Listed {
            keys, truncated, ..
        } => {
            let keys: Vec<_> = keys.iter().map(|key| key.key.as_str()).collect();
            keys == ["l/1", "l/2", "l/3"] && *truncated
        }
        _ => false,
    })
}

async fn deleted(store: &Store) -> End {
    let keys = ["a b", "a+b", "ä%41", "<&>"];
    for key in keys {
        let fields = json!({"key": key, "body": {"text": "x"}});
        if let Err(code) = store.result("put_object", fields).await {
            return End::Refused(code);
        }
    }
    let mut all = keys.to_vec();
    all.push("missing");
    let end = store.result("delete_objects", json!({"keys": all})).await;
    let left = store
        .client
        .list_objects_v2()
        .bucket(PLAIN)
        .prefix("a")
        .send()
        .await;
    let left = left.map_or(0, |left| left.contents().len());
    match end {
        Ok(JobResult::DeletedMany { deleted: 5, .. }) if left == 0 => End::Yes,
        Ok(_) => End::Odd("not all".to_owned()),
        Err(code) => End::Refused(code),
    }
}
