//! Does `jobs list` answer within 100 ms from a ledger of 1,000,000 jobs, whatever the filter?
//!
//! Fills a SQLite ledger, and a PostgreSQL one when `BRIGADE_TEST_POSTGRES_URL` names a server, with jobs
//! whose buckets, operations, states and keys hang together as they do not in a benign world: each value is
//! frequent, and many pairs never meet. Then asks for the first page of every combination of filters,
//! twice each, and prints the slowest by their best time.
//!
//! ```sh
//! scripts/postgres run -- cargo bench --bench ledger_lists -- [ROWS]
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bucket_brigade::{
    job::{
        AttemptLog, Failure, FailureClass, JobId, Lane, OperationName, RequestDigest, State,
        Timestamp,
    },
    ledger::{self, Claim, ClaimRequest, Cursor, Ending, JobFilter, Ledger},
    worker::new_owner,
};
use sqlx::{Connection, Executor};
use tokio::time::Instant;

const BATCH: u64 = 1_000;
const ASKED: u32 = 2;
/// Between one job and the next; a million make twelve days.
const STEP: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let rows = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next();
    let rows = rows.unwrap_or(1_000_000);
    let folder = tempfile::tempdir()?;
    let sqlite = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let mut within = bench("SQLite", &sqlite, rows).await?;
    let postgres = std::env::vars().find(|(name, _)| name == "BRIGADE_TEST_POSTGRES_URL");
    match postgres {
        Some((_, url)) => within &= bench("PostgreSQL", &url, rows).await?,
        None => println!("PostgreSQL: not asked, BRIGADE_TEST_POSTGRES_URL is not set"),
    }
    anyhow::ensure!(within, "a list took longer than {MOST:?}");
    Ok(())
}

async fn bench(name: &str, url: &str, rows: u64) -> anyhow::Result<bool> {
    ledger::migrate(url).await?;
    let ledger = ledger::open(url, new_owner(), Duration::from_secs(600)).await?;
    let start = Timestamp::now().minus(STEP * u32::try_from(rows)?);
    let began = Instant::now();
    fill(&ledger, start, rows).await?;
    println!(
        "{name}: {rows} jobs written in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    if url.starts_with("postgres") {
        // What autovacuum does after a while.
        let mut connection = sqlx::PgConnection::connect(url).await?;
        connection.execute("vacuum analyze jobs").await?;
    }
    let filters = filters(start, rows);
    let mut timed = Vec::with_capacity(filters.len());
    for filter in &filters {
        let mut best = Duration::MAX;
        let mut found = 0;
        for _ in 0..ASKED {
            let began = Instant::now();
            found = ledger.list(filter).await?.jobs.len();
            best = best.min(began.elapsed());
        }
        timed.push((best, found, filter));
    }
    timed.sort_by_key(|(best, ..)| *best);
    let at = |share: f64| timed[((timed.len() - 1) as f64 * share) as usize].0;
    println!(
        "{name}: {} combinations of filters; half within {:?}, 99 % within {:?}; the slowest:",
        timed.len(),
        at(0.5),
        at(0.99)
    );
    for (best, found, filter) in timed.iter().rev().take(8) {
        println!(
            "  {:7.1} ms, {found:2} found: {}",
            best.as_secs_f64() * 1e3,
            show(filter)
        );
    }
    Ok(timed.last().is_none_or(|(best, ..)| *best <= MOST))
}

/// Values hang together by the job's kind, and kinds come in runs of thousands.
struct Kind {
    bucket: &'static str,
    operation: OperationName,
    prefix: &'static str,
    state: State,
    code: Option<&'static str>,
}

const KINDS: [Kind; 5] = [
    kind(
        "reports",
        OperationName::PutObject,
        "a/reports",
        State::Completed,
        None,
    ),
    kind(
        "images",
        OperationName::GetObject,
        "b/images",
        State::DeadLettered,
        Some("AccessDenied"),
    ),
    kind(
        "logs",
        OperationName::DeleteObject,
        "c/logs",
        State::Retrying,
        Some("SlowDown"),
    ),
    kind(
        "logs",
        OperationName::PutObject,
        "c/old",
        State::Completed,
        None,
    ),
    kind(
        "media",
        OperationName::CopyObject,
        "b/copies",
        State::Abandoned,
        Some("SlowDown"),
    ),
];

const fn kind(
    bucket: &'static str,
    operation: OperationName,
    prefix: &'static str,
    state: State,
    code: Option<&'static str>,
) -> Kind {
    Kind {
        bucket,
        operation,
        prefix,
        state,
        code,
    }
}

async fn fill(ledger: &Arc<dyn Ledger>, start: Timestamp, rows: u64) -> anyhow::Result<()> {
    for first in (0..rows).step_by(BATCH as usize) {
        let numbers = first..(first + BATCH).min(rows);
        let kind_of = |number: u64| &KINDS[(number / 7_919) as usize % KINDS.len()];
        let requests: Vec<_> = numbers
            .clone()
            .map(|number| {
                let kind = kind_of(number);
                Ok(ClaimRequest {
                    id: JobId::parse(&format!("job-{number:09}")).map_err(anyhow::Error::msg)?,
                    lane: kind.operation.lane(),
                    operation: kind.operation,
                    bucket: kind.bucket.to_owned(),
                    key: Some(key(number, rows, kind)),
                    digest: RequestDigest::from_bytes(&u128::from(number).to_le_bytes())
                        .context("16 bytes")?,
                    ignored: Vec::new(),
                    enqueued_at: start.plus(STEP * u32::try_from(number)?),
                    replay: 0,
                    replayed_at: None,
                    attempts: 0,
                    parks: 0,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let claims = ledger.claim(&requests).await?;
        let endings: Vec<_> = (numbers.zip(requests).zip(claims))
            .map(|((number, request), claim)| {
                let Claim::Taken(taken) = claim else {
                    anyhow::bail!("{claim:?}")
                };
                let kind = kind_of(number);
                let failure = kind
                    .code
                    .map(|code| Failure::ours(FailureClass::Permanent, code, "refused"));
                Ok(Ending {
                    id: request.id,
                    fence: taken.fence,
                    state: kind.state,
                    attempts: 1,
                    parks: 0,
                    panics: 0,
                    failure,
                    result: None,
                    failed: AttemptLog::default(),
                })
            })
            .collect::<anyhow::Result<_>>()
            .context("a ledger that is not empty")?;
        ledger.commit(&endings).await?;
    }
    Ok(())
}

/// The oldest fifth has keys that no later job has, as dates in keys do.
fn key(number: u64, rows: u64, kind: &Kind) -> String {
    let name = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let month = if number < rows / 5 {
        "2026/10"
    } else {
        kind.prefix
    };
    format!("{month}/{name:016x}")
}

/// Every combination: of each filter each value of interest, or none.
fn filters(start: Timestamp, rows: u64) -> Vec<JobFilter> {
    fn each<T: Clone>(filters: &mut Vec<JobFilter>, values: &[T], set: impl Fn(&mut JobFilter, T)) {
        for filter in filters.clone() {
            for value in values {
                let mut filter = filter.clone();
                set(&mut filter, value.clone());
                filters.push(filter);
            }
        }
    }
    let mut all = vec![JobFilter {
        limit: 50,
        ..JobFilter::default()
    }];
    each(
        &mut all,
        &[State::Completed, State::DeadLettered],
        |f, v| f.state = Some(v),
    );
    let work = [
        (Some(Lane::Upload), None),
        (None, Some(OperationName::GetObject)),
    ];
    each(&mut all, &work, |f, (lane, operation)| {
        f.lane = lane;
        f.operation = operation;
    });
    each(&mut all, &["reports", "logs"], |f, v| {
        f.bucket = Some(v.to_owned())
    });
    each(&mut all, &["a/", "b", "2026/10/"], |f, v| {
        f.key_prefix = Some(v.to_owned())
    });
    each(&mut all, &["AccessDenied", "SlowDown"], |f, v| {
        f.code = Some(v.to_owned())
    });
    let middle = start.plus(STEP * (rows / 2) as u32);
    let after = JobId::parse("job-x").ok().map(|id| Cursor {
        enqueued_at: middle,
        id,
    });
    let times = [(Some(middle), None), (None, after)];
    each(&mut all, &times, |f, (until, after)| {
        f.until = until;
        f.after = after;
    });
    all
}

fn show(filter: &JobFilter) -> String {
    let mut parts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        parts.extend(value.map(|value| format!("{name}={value}")))
    };
    add("state", filter.state.map(|state| state.as_str().to_owned()));
    add("lane", filter.lane.map(|lane| lane.to_string()));
    add(
        "operation",
        filter.operation.map(|name| name.as_str().to_owned()),
    );
    add("bucket", filter.bucket.clone());
    add("key-prefix", filter.key_prefix.clone());
    add("code", filter.code.clone());
    add("until", filter.until.map(|time| time.to_string()));
    add(
        "after",
        filter
            .after
            .as_ref()
            .map(|cursor| cursor.enqueued_at.to_string()),
    );
    if parts.is_empty() {
        "no filter".to_owned()
    } else {
        parts.join(" ")
    }
}
