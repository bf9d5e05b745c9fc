//! The contract on SQLite, and what only a file can get wrong.

use std::sync::Arc;

use futures_util::future::join_all;
use sqlx::{Executor, Row, SqlSafeStr, Statement as _};
use tempfile::TempDir;

use super::*;
use crate::{
    job::State,
    ledger::{
        contract_tests::{self, LEASE, TestDatabase, ledger_contract, owner},
        listing::Planned,
        writer::{LedgerWriter, WriterSettings},
    },
    metrics::Metrics,
};

struct Database {
    directory: TempDir,
    url: String,
}

impl Database {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let url = format!("sqlite://{}", directory.path().join("ledger.db").display());
        Self { directory, url }
    }

    async fn open(&self, worker: &str) -> SqliteLedger {
        SqliteLedger::open(&self.url, owner(worker), LEASE)
            .await
            .unwrap()
    }
}

#[async_trait]
impl TestDatabase for Database {
    async fn ledger(&self, worker: &str) -> Arc<dyn Ledger> {
        Arc::new(self.open(worker).await)
    }

    async fn pass(&self, time: Duration) {
        let ledger = self.open("clock").await;
        let micros = i64::try_from(time.as_micros()).unwrap();
        for older in [
            "update jobs set leased_until = leased_until - $1, finished_at = finished_at - $1",
            "update uploads set swept_until = swept_until - $1",
        ] {
            let older = sqlx::query(older).bind(micros);
            older.execute(&ledger.writer).await.unwrap();
        }
    }

    async fn forget_requests(&self) {
        let ledger = self.open("older").await;
        let forget = sqlx::query("update jobs set request_digest = null, ignored = null");
        forget.execute(&ledger.writer).await.unwrap();
    }

    async fn end(self) {}
}

async fn migrated() -> Option<Database> {
    let database = Database::new();
    migrate(&database.url).await.unwrap();
    Some(database)
}

ledger_contract!(migrated);

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    let statements = [
        write::INSERT,
        write::LOOK,
        write::TAKE,
        write::COMMIT,
        write::RENEW,
        write::NOTE_BURIED,
        purge::FINISHED,
        purge::LOST,
        probe::FILL,
        probe::CLEAR,
        probe::NOTE,
        listing::STATS,
    ];
    let statements = statements.into_iter().chain(uploads::STATEMENTS);
    for sql in statements {
        let prepared = ledger.writer.prepare(sql.into_sql_str()).await;
        assert!(prepared.is_ok(), "{sql}: {:?}", prepared.err());
    }
    for Planned { query, .. } in listing::every_query(SqliteLedger::COLUMNS) {
        let sql = AssertSqlSafe(query.sql.clone());
        let prepared = ledger.readers.prepare(sql.into_sql_str()).await;
        let parameters = prepared
            .as_ref()
            .ok()
            .and_then(|statement| statement.parameters());
        assert!(prepared.is_ok(), "{}: {:?}", query.sql, prepared.err());
        assert_eq!(
            parameters.map(|known| known.unwrap_right()),
            Some(query.values.len()),
            "{}",
            query.sql
        );
    }
}

#[tokio::test]
async fn every_list_is_a_range_of_the_index_that_leads_it() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    for planned in listing::every_query(SqliteLedger::COLUMNS) {
        let explain = Query {
            sql: format!("explain query plan {}", planned.query.sql),
            ..planned.query
        };
        let rows = bound(&explain).fetch_all(&ledger.readers).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let plan = plan.join("; ");
        let how = if planned.all { "SCAN" } else { "SEARCH" };
        let index = format!("INDEX {}", planned.index);
        let covering = if planned.covers { "COVERING " } else { "" };
        assert!(
            plan.contains(&format!(
                "{how} jobs USING {covering}INDEX {}",
                planned.index
            )) || (!planned.covers && plan.contains(&index)),
            "{}\n{plan}",
            explain.sql
        );
        let sorts = plan.matches("TEMP B-TREE").count();
        assert_eq!(sorts, planned.sorts, "{}\n{plan}", explain.sql);
    }
}

/// The log of changes is copied while nothing but the purge writes, too.
#[tokio::test]
async fn a_purge_beside_which_nothing_is_written_fills_no_disk() {
    const ROWS: i64 = 20_000;
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    let fill = "\
        with recursive n(i) as (select 1 union all select i + 1 from n where i < $1) \
        insert into jobs (id, lane, operation, bucket, key, state, attempts, enqueued_at, started_at, finished_at, \
            worker, owner, fence, parks, panics, unfinished, replay, age_from) \
        select hex(randomblob(16)), 'upload', 'put_object', 'b', hex(randomblob(16)), 'completed', 1, i, i, i, \
            'a', 'a', 1, 0, 0, 0, 0, i from n";
    let fill = sqlx::query(fill).bind(ROWS);
    fill.execute(&ledger.writer).await.unwrap();
    let empty = sqlx::query("pragma wal_checkpoint(truncate)");
    empty.execute(&ledger.writer).await.unwrap();
    while ledger.purge(Duration::ZERO, 50).await.unwrap() > 0 {}
    let log = database.directory.path().join("ledger.db-wal");
    let size = std::fs::metadata(log).unwrap().len();
    assert!(size < 32 << 20, "{} MiB of log", size >> 20);
}

#[tokio::test]
async fn a_purge_reads_no_more_than_the_old_end_of_an_index() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    for (sql, expected) in [
        (
            purge::FINISHED,
            "SEARCH jobs USING COVERING INDEX jobs_by_finish (finished_at<?)",
        ),
        (
            purge::LOST,
            "SEARCH jobs USING INDEX jobs_by_state (state=? AND enqueued_at<?)",
        ),
    ] {
        let explain = AssertSqlSafe(format!("explain query plan {sql}"));
        let explain = sqlx::query(explain).bind(1).bind(1);
        let rows = explain.fetch_all(&ledger.writer).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let plan = plan.join("; ");
        assert!(
            plan.contains(expected) && !plan.contains("SCAN"),
            "{sql}\n{plan}"
        );
    }
}

#[tokio::test]
async fn a_fleet_may_migrate_at_once() {
    let database = Database::new();
    let all = ["0001_jobs", "0002_uploads", "0003_requests", "0004_said"];
    assert_eq!(pending(&database.url).await.unwrap(), all);
    let migrations = (0..8).map(|_| migrate(&database.url));
    for migrated in join_all(migrations).await {
        migrated.unwrap();
    }
    assert!(pending(&database.url).await.unwrap().is_empty());
    migrate(&database.url).await.unwrap();
    database.open("a").await.probe().await.unwrap();
}

#[tokio::test]
async fn opening_makes_no_file_and_says_what_to_do() {
    let database = Database::new();
    for error in [
        SqliteLedger::open(&database.url, owner("a"), LEASE)
            .await
            .unwrap_err(),
        SqliteLedger::open_existing(&database.url, owner("a"), LEASE)
            .await
            .unwrap_err(),
    ] {
        assert!(error.to_string().contains("brigade migrate"), "{error}");
    }
    let files = std::fs::read_dir(database.directory.path())
        .unwrap()
        .count();
    assert_eq!(files, 0);
}

#[tokio::test]
async fn what_can_be_no_ledger_is_refused_with_a_reason() {
    let directory = TempDir::new().unwrap();
    let nowhere = directory.path().join("missing/ledger.db");
    let no_database = directory.path().join("text");
    std::fs::write(
        &no_database,
        "this is no database, it is a text of some length".repeat(20),
    )
    .unwrap();
    for (url, reason) in [
        ("sqlite::memory:".to_owned(), "in memory"),
        ("sqlite://x.db?mode=memory".to_owned(), "in memory"),
        ("sqlite://x.db?colour=red".to_owned(), "no SQLite URL"),
        (
            format!("sqlite://{}", nowhere.display()),
            "there is no folder",
        ),
        (
            format!("sqlite://{}", no_database.display()),
            "not a database",
        ),
    ] {
        let error = migrate(&url).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_down_and_not_refused() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    sqlx::query("pragma query_only = on")
        .execute(&ledger.writer)
        .await
        .unwrap();
    let error = ledger.probe().await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
    sqlx::query("pragma query_only = off")
        .execute(&ledger.writer)
        .await
        .unwrap();
    ledger.probe().await.unwrap();
    // A schema that is gone says nothing about a job.
    sqlx::query("drop table ledger_probe")
        .execute(&ledger.writer)
        .await
        .unwrap();
    let error = ledger.probe().await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
}

#[tokio::test]
async fn a_commit_is_on_disk_before_it_is_answered() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    let pragma =
        async |sql: &'static str| sqlx::query(sql).fetch_one(&ledger.writer).await.unwrap();
    assert_eq!(
        pragma("pragma journal_mode").await.get::<String, _>(0),
        "wal"
    );
    assert_eq!(pragma("pragma synchronous").await.get::<i64, _>(0), 2);
}

#[tokio::test]
async fn many_jobs_at_once_are_all_in_the_file_when_the_writer_has_closed() {
    let database = migrated().await.unwrap();
    let metrics = Arc::new(Metrics::try_new(1).unwrap());
    let settings = WriterSettings {
        lease: LEASE,
        ..WriterSettings::default()
    };
    let ledger = database.ledger("a").await;
    let writer = LedgerWriter::start(ledger, settings, Arc::clone(&metrics));
    let run = async |number: u32| {
        let request = contract_tests::request(&format!("j{number}"));
        let id = request.id.clone();
        let Claim::Taken(taken) = writer.claim(request).await.unwrap() else {
            panic!("{id} is not new");
        };
        assert_eq!(writer.hold(&id, taken.fence).await, Ok(true));
        let done = contract_tests::ending(id.as_str(), taken, State::Completed);
        let committed = writer.commit(done).await.unwrap();
        assert!(matches!(committed, Committed::Recorded(_)), "{id}");
    };
    join_all((0..500).map(run)).await;
    writer.close().await;
    let stats = database.open("b").await.stats().await.unwrap();
    let counts: Vec<_> = stats.iter().map(|row| (row.state, row.count)).collect();
    assert_eq!(counts, [(State::Completed, 500)]);
    let transactions = metrics.ledger_commit.get_sample_count();
    assert!(
        transactions < 100,
        "{transactions} transactions for 1,000 writes"
    );
}

/// A disk that is full, as far as SQLite can tell: the file may grow no further. What a page more would need fails.
async fn fill_up(ledger: &SqliteLedger, url: &str) {
    let full = options(url).unwrap().pragma("max_page_count", "1");
    ledger.writer.set_connect_options(full);
    sqlx::query("pragma max_page_count = 1")
        .execute(&ledger.writer)
        .await
        .unwrap();
}

async fn make_room(ledger: &SqliteLedger, url: &str) {
    ledger.writer.set_connect_options(options(url).unwrap());
    sqlx::query("pragma max_page_count = 1000000")
        .execute(&ledger.writer)
        .await
        .unwrap();
}

fn batch(name: &str) -> Vec<ClaimRequest> {
    (0..256)
        .map(|number| contract_tests::request(&format!("{name}-{number:03}")))
        .collect()
}

#[tokio::test]
async fn on_a_full_disk_the_probe_fails_as_a_batch_does() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    fill_up(&ledger, &database.url).await;
    let mut batches = 0;
    let error = loop {
        if let Err(error) = ledger.claim(&batch(&format!("b{batches}"))).await {
            break error;
        }
        batches += 1;
    };
    assert!(error.to_string().contains("full"), "{error}");
    for _ in 0..3 {
        let error = ledger.probe().await.unwrap_err();
        assert!(matches!(error, LedgerError::Down(_)), "{error}");
    }
    make_room(&ledger, &database.url).await;
    ledger.probe().await.unwrap();
    // What the probe has written left room for the next batch.
    fill_up(&ledger, &database.url).await;
    ledger.claim(&batch("next")).await.unwrap();
}

#[tokio::test]
async fn a_claim_that_met_a_full_disk_goes_well_once_there_is_room() {
    let database = migrated().await.unwrap();
    let ledger = database.open("a").await;
    let batch = batch("j");
    ledger.claim(&batch).await.unwrap();
    // A worker with a name that needs more room than a probe has left, so that taking the rows over does.
    let mut other = database.open("b").await;
    other.owner = owner(&"w".repeat(20_000));
    database.pass(LEASE * 2).await;
    fill_up(&other, &database.url).await;
    let error = other.claim(&batch).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    make_room(&other, &database.url).await;
    for claim in other.claim(&batch).await.unwrap() {
        assert!(matches!(claim, Claim::Taken(_)), "{claim:?}");
    }
}

#[tokio::test]
async fn a_migration_of_another_process_is_waited_for_and_named_but_not_for_ever() {
    let database = Database::new();
    let file = options(&database.url).unwrap();
    let lock = format!("{}.lock", file.get_filename().display());
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(30), migrate(&database.url)).await;
    let error = waited.expect("it ends").unwrap_err().to_string();
    assert!(
        error.contains(&lock) && error.contains("another process"),
        "{error}"
    );
    drop(held);
    migrate(&database.url).await.unwrap();
}
