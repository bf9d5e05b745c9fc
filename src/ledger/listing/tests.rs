//! Which index leads a list, and where a prefix ends. What a list finds is the contract's, how it is planned the databases'.

use super::{query::after_prefix, *};

/// Says how many jobs each lead alone matches, and how many of the newest match all.
struct Counts {
    of_lead: i64,
    of_newest: i64,
}

#[async_trait]
impl Reader for Counts {
    const COLUMNS: &'static str = "id";

    async fn count(&self, query: &Query) -> Result<i64, LedgerError> {
        let among_newest = query.sql.contains(") as newest ");
        Ok(if among_newest {
            self.of_newest
        } else {
            self.of_lead
        })
    }

    async fn jobs(&self, _: &Query) -> Result<Vec<JobRecord>, LedgerError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn many_keys_of_a_prefix_are_walked_if_the_newest_jobs_make_a_page_of_them_and_else_sorted() {
    let prefix = || Some("2026/".to_owned());
    let bucket = || Some("b".to_owned());
    let operation = Some(OperationName::PutObject);
    let lane = Some(crate::job::Lane::Upload);
    let filter = |bucket, operation, lane| JobFilter {
        key_prefix: prefix(),
        bucket,
        operation,
        lane,
        ..JobFilter::default()
    };
    let sorted = [Lead::KeyPrefix("2026/".to_owned())];
    let in_bucket = Lead::Bucket("b".to_owned());
    for (filter, walk) in [
        (filter(None, None, None), Lead::Time),
        (filter(bucket(), None, None), in_bucket.clone()),
        (filter(bucket(), operation, None), in_bucket),
        (
            filter(None, operation, None),
            Lead::Operation(OperationName::PutObject),
        ),
        (filter(None, None, lane), Lead::Time),
    ] {
        let led = async |of_lead, of_newest| {
            let counts = Counts { of_lead, of_newest };
            leads(&counts, &filter).await.unwrap()
        };
        let page = page_size(&filter);
        assert_eq!(led(MANY, page).await, [walk], "{filter:?}");
        assert_eq!(led(MANY, page - 1).await, sorted, "{filter:?}");
        assert_eq!(led(1, page).await, sorted, "{filter:?}");
    }
    // What is in the list's order already leads as before.
    let filter = JobFilter {
        state: Some(State::Completed),
        ..filter(bucket(), None, None)
    };
    let counts = Counts {
        of_lead: MANY,
        of_newest: MANY,
    };
    let led = leads(&counts, &filter).await.unwrap();
    assert_eq!(led, [Lead::State(State::Completed)]);
}

#[test]
fn a_prefix_ends_before_the_next_text() {
    let table = [
        ("a", Some("b")),
        ("a/", Some("a0")),
        ("é", Some("ê")),
        ("x\u{d7ff}", Some("x\u{e000}")),
        ("x\u{10ffff}", Some("y")),
        ("\u{10ffff}", None),
    ];
    for (prefix, end) in table {
        assert_eq!(after_prefix(prefix).as_deref(), end, "{prefix:?}");
    }
}
