//! Lists that neither end nor move on, and what a delete of a prefix makes of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    delete_prefix,
    server::{ID, Request, Wire, good, reply},
};
use crate::{
    job::{FailureClass::Unreadable, JobResult},
    storage::script::op,
};

const OLD: &str = "2026-03-20T09:00:00.000Z";

fn page(keys: impl IntoIterator<Item = String>, date: &str, rest: &str) -> String {
    let entries = keys.into_iter().map(|key| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>{date}</LastModified><Size>1</Size></Contents>"
        )
    });
    let entries: String = entries.collect();
    format!("<ListBucketResult>{rest}{entries}</ListBucketResult>")
}

fn truncated(token: &str) -> String {
    format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
}

async fn listing(list: impl Fn(&Request, usize) -> String + Send + Sync + 'static) -> Wire {
    let lists = AtomicUsize::new(0);
    Wire::new(
        move |request, _| match request.target.contains("list-type=2") {
            true => reply(
                200,
                &[ID],
                list(request, lists.fetch_add(1, Ordering::Relaxed)),
            ),
            false => good(request),
        },
    )
    .await
}

#[tokio::test]
async fn a_list_that_goes_on_and_does_not_say_where_is_no_end() {
    for rest in [
        "<IsTruncated>true</IsTruncated>",
        "<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken>",
        "",
    ] {
        let wire =
            listing(move |_, _| page((0..1000).map(|number| format!("p/{number}")), OLD, rest))
                .await;
        let failure = wire.failure(delete_prefix("p/")).await;
        assert_eq!(failure.class, Unreadable, "{failure}");
        let failure = wire.failure(op::list(2000)).await;
        assert_eq!(failure.class, Unreadable, "{failure}");
        assert_eq!(wire.failures_in_a_row(), 0);
    }
}

#[tokio::test]
async fn a_list_that_does_not_move_on_is_no_storm() {
    let stuck: [fn(&Request, usize) -> String; 4] = [
        |_, number| page([format!("p/{number}")], OLD, &truncated("same")),
        |_, number| {
            page(
                [format!("p/{number}")],
                OLD,
                &truncated(["x", "y"][number % 2]),
            )
        },
        |_, number| {
            page(
                ["p/a".to_owned(), "p/b".to_owned()],
                OLD,
                &truncated(&number.to_string()),
            )
        },
        |_, number| page([], OLD, &truncated(&number.to_string())),
    ];
    for (form, list) in stuck.into_iter().enumerate() {
        let wire = listing(list).await;
        let failure = wire.failure(op::list(10_000)).await;
        assert_eq!(failure.class, Unreadable, "{form}: {failure}");
        let failure = wire.failure(delete_prefix("p/")).await;
        assert_eq!(failure.class, Unreadable, "{form}: {failure}");
        assert!(wire.count("GET", "list-type") < 250, "{form}");
    }
}

#[tokio::test]
async fn enough_keys_are_enough_whatever_the_list_says_of_its_end() {
    let wire = listing(|_, _| {
        page(
            ["a".to_owned(), "b".to_owned()],
            OLD,
            "<IsTruncated>true</IsTruncated>",
        )
    })
    .await;
    let done = wire.run(op::list(2)).await.unwrap();
    assert_eq!(done.result.to_json()["truncated"], true);
}

#[tokio::test]
async fn a_prefix_says_how_many_it_spared_and_why() {
    let wire = listing(|_, _| {
        let entry =
            |key: &str, date: &str| format!("<Contents><Key>p/{key}</Key>{date}</Contents>");
        let dated = |date: &str| format!("<LastModified>{date}</LastModified>");
        let entries = [
            entry("old", &dated(OLD)),
            entry("new", &dated("2030-01-01T00:00:00.000Z")),
            entry("newer", &dated("2031-01-01T00:00:00.000Z")),
            entry("undated", ""),
            entry("odd", &dated("some day")),
        ];
        format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
            entries.concat()
        )
    })
    .await;
    let result = wire
        .run(delete_prefix("p/"))
        .await
        .unwrap()
        .result
        .to_json();
    let why = serde_json::json!({"newer": 2, "no_date": 2, "clock": 0});
    assert_eq!(
        result,
        serde_json::json!({"deleted": 1, "spared": 4, "spared_why": why})
    );
}

#[tokio::test]
async fn with_clocks_apart_an_object_is_deleted_only_if_it_is_old_by_both() {
    // The store is a day behind, or ahead; the job is of 2026-03-20T09:46:40, by our clock.
    let now = std::time::SystemTime::now();
    let date = |ahead: i64| {
        let secs = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64 + ahead;
        let date = aws_sdk_s3::primitives::DateTime::from_secs(secs);
        date.fmt(aws_sdk_s3::primitives::DateTimeFormat::HttpDate)
            .unwrap()
    };
    for (ahead, old, doubtful) in [
        (-86_400, "2026-03-18T00:00:00Z", "2026-03-20T00:00:00Z"),
        (86_400, "2026-03-20T00:00:00Z", "2026-03-21T00:00:00Z"),
    ] {
        let date: &'static str = format!("date: {}", date(ahead)).leak();
        let entry = |key: &str, date: &str| {
            format!("<Contents><Key>p/{key}</Key><LastModified>{date}</LastModified></Contents>")
        };
        let list = [entry("old", old), entry("doubtful", doubtful)].concat();
        let list =
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{list}</ListBucketResult>");
        let list = Arc::new(list);
        let wire = Wire::new(
            move |request, _| match request.target.contains("list-type=2") {
                true => reply(200, &[ID, date], list.as_str()),
                false => good(request),
            },
        )
        .await;
        let done = wire.run(delete_prefix("p/")).await.unwrap();
        let JobResult::DeletedPrefix {
            deleted,
            spared_why,
            ..
        } = done.result
        else {
            panic!()
        };
        assert_eq!((deleted, spared_why.unwrap().clock), (1, 1), "{ahead}");
    }
}
