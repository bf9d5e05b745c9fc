//! The contract on a PostgreSQL server, and what only a server can get wrong.
//!
//! The server is named by `BRIGADE_TEST_POSTGRES_URL` (`scripts/postgres run -- CMD` starts one); without
//! it nothing of this is tested. Every test has a schema of its own.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures_util::future::join_all;
use sqlx::{Connection, Executor, SqlSafeStr, Statement as _};
use tokio::time::{Instant, timeout};

mod behind_a_pooler;

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
    server: String,
    schema: String,
    url: String,
}

impl Database {
    async fn new() -> Option<Self> {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        #[expect(
            clippy::disallowed_methods,
            reason = "the server of these tests is no setting"
        )]
        let server = std::env::var("BRIGADE_TEST_POSTGRES_URL").ok()?;
        let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
        let schema = format!("brigade_test_{}_{number}", std::process::id());
        let mark = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{mark}options[search_path]={schema}");
        let database = Self {
            server,
            schema,
            url,
        };
        database
            .run(&format!("create schema {}", database.schema))
            .await;
        Some(database)
    }

    async fn run(&self, sql: &str) {
        let mut connection = options(&self.server).unwrap().connect().await.unwrap();
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn open(&self, worker: &str) -> PostgresLedger {
        PostgresLedger::open(&self.url, owner(worker), LEASE)
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
        let Self { schema, .. } = self;
        let micros = time.as_micros();
        let older = format!(
            "update {schema}.jobs set leased_until = leased_until - {micros}, \
            finished_at = finished_at - {micros}"
        );
        self.run(&older).await;
        let older = format!("update {schema}.uploads set swept_until = swept_until - {micros}");
        self.run(&older).await;
    }

    async fn forget_requests(&self) {
        let Self { schema, .. } = self;
        let forget = format!("update {schema}.jobs set request_digest = null, ignored = null");
        self.run(&forget).await;
    }

    async fn end(self) {
        self.run(&format!("drop schema {} cascade", self.schema))
            .await;
    }
}

async fn migrated() -> Option<Database> {
    let database = Database::new().await?;
    migrate(&database.url).await.unwrap();
    Some(database)
}

ledger_contract!(migrated);

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let Some(database) = migrated().await else {
        return;
    };
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
    let mut session = ledger.writer.session().await.unwrap();
    for sql in statements {
        let prepared = session.on().prepare(sql.into_sql_str()).await;
        assert!(prepared.is_ok(), "{sql}: {:?}", prepared.err());
    }
    let mut session = ledger.readers.session().await.unwrap();
    for Planned { query, .. } in listing::every_query(PostgresLedger::COLUMNS) {
        let sql = AssertSqlSafe(query.sql.clone());
        let prepared = session.on().prepare(sql.into_sql_str()).await;
        assert!(prepared.is_ok(), "{}: {:?}", query.sql, prepared.err());
        let parameters = prepared
            .unwrap()
            .parameters()
            .map(|known| known.left().map(<[_]>::len));
        assert_eq!(parameters, Some(Some(query.values.len())), "{}", query.sql);
    }
    database.end().await;
}

/// An empty table has no statistics, and would be read from end to end for ever after by a plan that was
/// made for it.
#[tokio::test]
async fn rows_are_found_by_their_id_from_the_first_one_on() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    let no_columns = ["null"; 16];
    for (name, sql, parameters) in [
        ("look", write::LOOK, 1),
        ("take", write::TAKE, 16),
        ("commit", write::COMMIT, 15),
        ("renew", write::RENEW, 3),
        ("note_buried", write::NOTE_BURIED, 2),
    ] {
        let mut session = ledger.writer.session().await.unwrap();
        let connection = session.on();
        let prepare = format!("prepare {name} as {sql}");
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(prepare)))
            .await
            .unwrap();
        let values = no_columns[..parameters].join(", ");
        let explain = format!("explain execute {name}({values})");
        let plan = sqlx::raw_sql(AssertSqlSafe(explain))
            .fetch_all(connection)
            .await
            .unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("Index Cond: (id = "), "{name}:\n{plan}");
    }
    database.end().await;
}

/// With and without statistics, of a table that is mostly finished jobs.
#[tokio::test]
async fn a_purge_reads_no_more_than_the_old_end_of_an_index() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    for fill in [
        "select 1",
        "insert into jobs (id, lane, operation, bucket, key, state, attempts, enqueued_at, started_at, finished_at, \
            worker, owner, fence, leased_until, parks, panics, unfinished, replay, age_from) \
        select n, 'upload', 'put_object', 'b', n, case when n % 1000 = 0 then 'retrying' else 'completed' end, 1, n, n, \
            case when n % 1000 = 0 then null else n end, 'w', 'w', 1, \
            case when n % 1000 = 0 then n end, 0, 0, 0, 0, n from generate_series(1, 20000) as n; analyze jobs",
    ] {
        let mut session = ledger.writer.session().await.unwrap();
        let connection = session.on();
        connection.execute(sqlx::raw_sql(fill)).await.unwrap();
        for (name, sql, values, expected) in [
            (
                "finished",
                purge::FINISHED,
                "1000, 1000, 0",
                "jobs_by_finish",
            ),
            ("lost", purge::LOST, "1000, 1000", "jobs_by_state"),
        ] {
            let prepare = format!("deallocate all; prepare {name} as {sql}");
            let prepared = connection.execute(sqlx::raw_sql(AssertSqlSafe(prepare)));
            prepared.await.unwrap();
            let explain = AssertSqlSafe(format!("explain execute {name}({values})"));
            let plan = sqlx::raw_sql(explain).fetch_all(&mut *connection);
            let plan = plan.await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(
                plan.contains(&format!("using {expected} on jobs")),
                "{plan}"
            );
            assert!(!plan.contains("Seq Scan on jobs"), "{plan}");
        }
    }
    database.end().await;
}

#[tokio::test]
async fn a_fleet_may_migrate_at_once() {
    let Some(database) = Database::new().await else {
        return;
    };
    let all = ["0001_jobs", "0002_uploads", "0003_requests", "0004_said"];
    assert_eq!(pending(&database.url).await.unwrap(), all);
    let error = PostgresLedger::open(&database.url, owner("a"), LEASE)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("brigade migrate"), "{error}");
    for migrated in join_all((0..8).map(|_| migrate(&database.url))).await {
        migrated.unwrap();
    }
    assert!(pending(&database.url).await.unwrap().is_empty());
    migrate(&database.url).await.unwrap();
    database.open("a").await.probe().await.unwrap();
    database.end().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_down_and_its_password_is_not_shown() {
    // Nothing listens on the discard port.
    let url = "postgres://me:secret@127.0.0.1:9/db";
    let error = pending(url).await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = pending("postgres://me:secret@[/db").await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused(_)), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_connection_that_broke_is_down_and_the_next_one_is_well() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    let mut session = ledger.writer.session().await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(session.on())
        .await
        .unwrap();
    session.finish().await.unwrap();
    // Waits until it has ended.
    database
        .run(&format!("select pg_terminate_backend({pid}, 10000)"))
        .await;
    let error = ledger.probe().await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
    ledger.probe().await.unwrap();
    database.end().await;
}

#[tokio::test]
async fn a_server_that_refuses_writes_is_down_and_the_next_connection_may_find_another() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    let read_only = "set default_transaction_read_only = on";
    behind_its_back(&ledger, read_only).await;
    let error = ledger.probe().await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
    // As when the name now leads to the new primary.
    ledger.probe().await.unwrap();
    // A schema that is gone says nothing about a job.
    database
        .run(&format!("drop table {}.ledger_probe", database.schema))
        .await;
    let error = ledger.probe().await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
    database.end().await;
}

/// Runs a statement on the connection that writes.
async fn behind_its_back(ledger: &PostgresLedger, sql: &'static str) {
    let mut session = ledger.writer.session().await.unwrap();
    assert!(session.is_owned());
    session.on().execute(sql).await.unwrap();
    session.finish().await.unwrap();
}

#[tokio::test]
async fn a_prepared_statement_that_is_gone_is_done_without() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    let claim = async |name: &str| ledger.claim(&[contract_tests::request(name)]).await;
    claim("first").await.unwrap();
    behind_its_back(&ledger, "deallocate all").await;
    claim("second").await.unwrap();
    claim("third").await.unwrap();
    // As behind a pooler from here on.
    assert!(!ledger.writer.session().await.unwrap().is_owned());
    database.end().await;
}

#[tokio::test]
async fn a_migration_of_another_process_is_waited_for_and_named_but_not_for_ever() {
    let Some(database) = Database::new().await else {
        return;
    };
    let mut other = options(&database.url).unwrap().connect().await.unwrap();
    other.execute("begin").await.unwrap();
    other.execute(sqlx::raw_sql(migrate::TURN)).await.unwrap();
    let began = Instant::now();
    let waited = timeout(Duration::from_secs(30), migrate(&database.url)).await;
    let error = waited.expect("it ends").unwrap_err().to_string();
    assert!(
        error.contains("another process migrates the ledger"),
        "{error}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    other.execute("rollback").await.unwrap();
    other.close().await.unwrap();
    migrate(&database.url).await.unwrap();
    database.end().await;
}

#[tokio::test]
async fn a_table_that_somebody_holds_keeps_the_probe_waiting_as_it_does_the_batches() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    let mut other = options(&database.url).unwrap().connect().await.unwrap();
    other
        .execute("begin; lock table jobs in exclusive mode")
        .await
        .unwrap();
    let error = ledger.probe().await.unwrap_err();
    assert!(matches!(error, LedgerError::Down(_)), "{error}");
    other.execute("rollback").await.unwrap();
    other.close().await.unwrap();
    ledger.probe().await.unwrap();
    database.end().await;
}

#[tokio::test]
async fn workers_that_lock_rows_in_different_orders_both_get_through() {
    let Some(database) = migrated().await else {
        return;
    };
    let (a, b) = (database.open("a").await, database.open("b").await);
    let requests: Vec<_> = (0..40)
        .map(|number| contract_tests::request(&format!("j{number:02}")))
        .collect();
    let mut held = Vec::new();
    for (request, claim) in requests.iter().zip(a.claim(&requests).await.unwrap()) {
        let Claim::Taken(taken) = claim else {
            panic!("{claim:?}")
        };
        held.push((request.id.clone(), taken.fence));
    }
    let reversed: Vec<_> = held.iter().rev().cloned().collect();
    for _ in 0..50 {
        let (one, other) = tokio::join!(a.renew(&held), b.renew(&reversed));
        assert_eq!(one.unwrap(), [true; 40]);
        assert_eq!(other.unwrap(), [true; 40]);
    }
    database.end().await;
}

#[tokio::test]
async fn a_fleet_of_writers_finishes_every_job_once() {
    if let Some(database) = migrated().await {
        finish_every_job_once(&database).await;
        database.end().await;
    }
}

async fn finish_every_job_once(database: &impl TestDatabase) {
    let metrics = Arc::new(Metrics::try_new(1).unwrap());
    let mut writers = Vec::new();
    for worker in ["a", "b", "c"] {
        let ledger = database.ledger(worker).await;
        let settings = WriterSettings {
            lease: LEASE,
            ..WriterSettings::default()
        };
        writers.push(LedgerWriter::start(ledger, settings, Arc::clone(&metrics)));
    }
    // Every job is delivered to every worker.
    let run = async |writer: &LedgerWriter, number: u32| {
        let request = contract_tests::request(&format!("j{number}"));
        let id = request.id.clone();
        let Claim::Taken(taken) = writer.claim(request).await.unwrap() else {
            return 0;
        };
        let done = contract_tests::ending(id.as_str(), taken, State::Completed);
        let committed = writer.commit(done).await.unwrap();
        assert!(matches!(committed, Committed::Recorded(_)), "{id}");
        1
    };
    let jobs = writers
        .iter()
        .flat_map(|writer| (0..300).map(|number| run(writer, number)));
    let ran: u32 = join_all(jobs).await.into_iter().sum();
    assert_eq!(ran, 300);
    for writer in writers {
        writer.close().await;
    }
    let stats = database.ledger("d").await.stats().await.unwrap();
    let counts: Vec<_> = stats.iter().map(|row| (row.state, row.count)).collect();
    assert_eq!(counts, [(State::Completed, 300)]);
}

#[tokio::test]
async fn the_servers_clock_can_be_read() {
    let Some(database) = Database::new().await else {
        return;
    };
    let before = Timestamp::now();
    let clock = clock(&database.url).await.unwrap();
    // Server and test share a machine, and so a clock.
    assert!(before <= clock && clock <= Timestamp::now(), "{clock}");
    let gone = self::clock("postgres://me:hush@127.0.0.1:1/db").await;
    assert!(!gone.unwrap_err().to_string().contains("hush"));
}
