//! The ledger in one SQLite file, for a worker that has the machine to itself.
//!
//! One connection writes, a few read; the write-ahead log keeps them out of each other's way. A commit
//! is on disk before it is answered (`synchronous=FULL`). SQLite has no clock of its own but this
//! machine's, so that clock is the database's time. What a row means is decided in `decision.rs`.

mod migrate;
mod probe;
mod purge;
#[cfg(test)]
mod tests;
mod transaction;
mod uploads;
mod write;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use rustix::fs::Access;
use sqlx::{
    AssertSqlSafe, ConnectOptions, SqlitePool,
    error::DatabaseError,
    query::Query as SqlxQuery,
    sqlite::{Sqlite, SqliteArguments, SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

pub use migrate::{migrate, pending};

use super::{
    Claim, ClaimRequest, Committed, Ending, Fence, JobFilter, JobRecord, Ledger, LedgerError,
    Owner, Page, StatRow, SweptUpload,
    limits::{self, within},
    listing::{self, Query, Reader, Value},
    record::{self, record_columns},
    trouble::{self, Trouble},
};
use crate::job::{BegunUpload, JobId, UploadNote};

/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that read.
const READERS: u32 = 2;

/// A ledger file that is open. Closes when it is dropped.
#[derive(Debug)]
pub struct SqliteLedger {
    owner: Owner,
    lease: Duration,
    /// The file, for people.
    place: String,
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteLedger {
    /// Opens a migrated ledger to claim jobs for `owner`, `lease` at a time. Makes no file: [`migrate`] does.
    pub async fn open(url: &str, owner: Owner, lease: Duration) -> Result<Self, LedgerError> {
        let ledger = Self::open_existing(url, owner, lease).await?;
        // A ledger that can't be written is to be known now.
        ledger.probe().await?;
        Ok(ledger)
    }

    /// Opens a migrated ledger for a look; writes nothing. Fails with [`LedgerError::Down`] when the file is
    /// not there or its schema is behind.
    pub async fn open_existing(
        url: &str,
        owner: Owner,
        lease: Duration,
    ) -> Result<Self, LedgerError> {
        let missing = pending(url).await?;
        let file = options(url)?;
        if !file.get_filename().exists() {
            let file = file.get_filename().display();
            return Err(LedgerError::Down(format!(
                "there is no ledger {file}: start a worker or run `brigade migrate`"
            )));
        }
        if !missing.is_empty() {
            let names = missing.join(", ");
            return Err(LedgerError::Down(format!(
                "the ledger's schema is behind ({names}): run `brigade migrate`"
            )));
        }
        let options = options(url)?;
        let pool = || {
            SqlitePoolOptions::new()
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
        };
        // Without a lifetime: the one connection keeps its statements and its cache.
        let writer = pool()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None);
        let readers = pool()
            .max_connections(READERS)
            .idle_timeout(Duration::from_secs(60));
        Ok(Self {
            owner,
            lease,
            place: format!("the ledger {}", options.get_filename().display()),
            writer: writer.connect_lazy_with(options.clone()),
            readers: readers.connect_lazy_with(options.pragma("query_only", "on")),
        })
    }
}

/// Whether a ledger's file is there or could be made: SQLite makes files beside it, and no folder.
pub(super) fn check_place(url: &str) -> Result<(), LedgerError> {
    let options = options(url)?;
    let file = options.get_filename();
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let why = |what: &str| {
        let (file, folder) = (file.display(), folder.display());
        Err(LedgerError::Down(format!(
            "the ledger {file} can't be: the folder {folder} {what}"
        )))
    };
    if !folder.exists() {
        return why("is not there, make it");
    }
    if !folder.is_dir() {
        return why("is no folder");
    }
    let writable = Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = rustix::fs::access(folder, writable) {
        return why(&format!("can't be written to by this user ({error})"));
    }
    if file.is_dir() {
        let file = file.display();
        return Err(LedgerError::Down(format!(
            "the ledger can't be {file}, which is a folder: name a file in it"
        )));
    }
    Ok(())
}

/// Reads the URL. A ledger in memory would forget on exit what it promised to know.
fn options(url: &str) -> Result<SqliteConnectOptions, LedgerError> {
    let refused = |why: &str| LedgerError::Refused(format!("ledger.url: {why}"));
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(refused("a ledger in memory keeps no promise; name a file"));
    }
    let options: SqliteConnectOptions = url.parse().map_err(|_| {
        refused("this is no SQLite URL; sqlite:///var/lib/brigade/ledger.db is one")
    })?;
    Ok(options
        .create_if_missing(false)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        // KiB of pages, so that the newest ends of the indexes stay in memory. Chosen, not measured.
        .pragma("cache_size", "-8000")
        // Pages, 16 MiB. Random ids and keys change pages all over the file, and a longer log copies each less often. But a
        // batch waits while it is copied: on a disk with 3,000 writes a second for more than a second.
        .pragma("wal_autocheckpoint", "4000")
        .disable_statement_logging())
}

fn read_trouble(error: &dyn DatabaseError) -> Trouble {
    let code = error.code().and_then(|code| code.parse::<i32>().ok());
    // The low byte is the primary code (https://www.sqlite.org/rescode.html).
    match code.map(|code| code & 0xff) {
        // BUSY, LOCKED.
        Some(5 | 6) => Trouble::Again,
        // TOOBIG, CONSTRAINT, MISMATCH, RANGE: about the values.
        Some(18 | 19 | 20 | 25) => Trouble::Refused,
        // Disk, permission, corruption, memory. Also ERROR, which is what a missing table is: buried jobs would
        // be the wrong answer to that, and no value of ours can cause it.
        _ => Trouble::Down,
    }
}

type Statement<'q> = SqlxQuery<'q, Sqlite, SqliteArguments>;

impl SqliteLedger {
    /// Answers within a limit, and again at once while another process is in the way.
    async fn answer<T, F>(&self, limit: Duration, work: impl FnMut() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        within(limit, &self.place, trouble::retrying(read_trouble, work)).await
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, LedgerError> {
        self.answer(limits::WRITE, || write::claim(self, requests))
            .await
    }

    async fn commit(&self, endings: &[Ending]) -> Result<Vec<Committed>, LedgerError> {
        self.answer(limits::WRITE, || write::commit(self, endings))
            .await
    }

    async fn renew(&self, held: &[(JobId, Fence)]) -> Result<Vec<bool>, LedgerError> {
        self.answer(limits::WRITE, || write::renew(self, held))
            .await
    }

    async fn note_buried(&self, held: &[(JobId, Fence)]) -> Result<(), LedgerError> {
        self.answer(limits::WRITE, || write::note_buried(self, held))
            .await
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        let query = Query::one_job(Self::COLUMNS, id);
        Ok(self.jobs(&query).await?.pop())
    }

    async fn list(&self, filter: &JobFilter) -> Result<Page, LedgerError> {
        listing::list(self, filter).await
    }

    async fn stats(&self) -> Result<Vec<StatRow>, LedgerError> {
        self.answer(limits::READ, || async {
            let rows = sqlx::query(listing::STATS).fetch_all(&self.readers).await?;
            rows.iter().map(record::stat).collect()
        })
        .await
    }

    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError> {
        self.answer(limits::WRITE, || {
            purge::purge(self, purge::FINISHED, retention, limit)
        })
        .await
    }

    async fn purge_lost(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError> {
        self.answer(limits::WRITE, || {
            purge::purge(self, purge::LOST, retention, limit)
        })
        .await
    }

    async fn note_upload(
        &self,
        id: &JobId,
        fence: Fence,
        note: &UploadNote,
    ) -> Result<bool, LedgerError> {
        self.answer(limits::WRITE, || uploads::note(self, id, fence, note))
            .await
    }

    async fn recall_upload(&self, id: &JobId) -> Result<Option<BegunUpload>, LedgerError> {
        self.answer(limits::WRITE, || uploads::recall(self, id))
            .await
    }

    async fn sweep_uploads(
        &self,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<SweptUpload>, LedgerError> {
        self.answer(limits::WRITE, || uploads::sweep(self, lease, limit))
            .await
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.answer(limits::PROBE, || probe::probe(self)).await
    }
}

#[async_trait]
impl Reader for SqliteLedger {
    const COLUMNS: &'static str = record_columns!("result");

    async fn count(&self, query: &Query) -> Result<i64, LedgerError> {
        self.answer(limits::READ, || async {
            let row = bound(query).fetch_one(&self.readers).await?;
            record::LedgerRow::number(&row, 0)
        })
        .await
    }

    async fn jobs(&self, query: &Query) -> Result<Vec<JobRecord>, LedgerError> {
        self.answer(limits::READ, || async {
            let rows = bound(query).fetch_all(&self.readers).await?;
            rows.iter().map(record::record).collect()
        })
        .await
    }
}

/// The SQL comes from `listing.rs`, which puts every value of a user into `values`.
fn bound(query: &Query) -> Statement<'_> {
    let statement = sqlx::query(AssertSqlSafe(query.sql.as_str()));
    query
        .values
        .iter()
        .fold(statement, |statement, value| match value {
            Value::Text(text) => statement.bind(text.as_str()),
            Value::Number(number) => statement.bind(number),
        })
}
