//! The ledger in PostgreSQL, for a fleet.
//!
//! Every worker writes over one connection, in group commits; times are the server's. A commit is
//! durable before it is answered, unless the operator of the server has arranged for less. Every wait has a limit
//! (`limits.rs`). What a row means is decided in `decision.rs`.

mod connections;
mod migrate;
mod probe;
mod purge;
#[cfg(test)]
mod tests;
mod uploads;
mod write;

use std::{sync::atomic::AtomicI64, time::Duration};

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Row,
    error::DatabaseError,
    postgres::{PgArguments, PgConnectOptions, Postgres},
    query::Query as SqlxQuery,
};

use connections::{Connections, Role, Session};
pub use migrate::{migrate, pending};

use super::{
    Claim, ClaimRequest, Committed, Ending, Fence, JobFilter, JobRecord, Ledger, LedgerError,
    Owner, Page, StatRow, SweptUpload,
    limits::{self, within},
    listing::{self, Query, Reader, Value},
    record::{self, record_columns},
    trouble::{self, Trouble},
};
use crate::job::{BegunUpload, JobId, Timestamp, UploadNote};

/// Connections that read.
const READERS: usize = 2;

/// A ledger in a PostgreSQL database. Closes when it is dropped.
#[derive(Debug)]
pub struct PostgresLedger {
    owner: Owner,
    lease: Duration,
    /// Host and port, for people.
    place: String,
    writer: Connections,
    readers: Connections,
    /// Apart from the writer, so that no batch waits for it.
    purger: Connections,
    /// All that ended before has been purged, but for rows that others held.
    purged_to: AtomicI64,
}

impl PostgresLedger {
    /// Opens a migrated ledger to claim jobs for `owner`, `lease` at a time.
    pub async fn open(url: &str, owner: Owner, lease: Duration) -> Result<Self, LedgerError> {
        let ledger = Self::open_existing(url, owner, lease).await?;
        // A ledger that can't be written is to be known now.
        ledger.probe().await?;
        Ok(ledger)
    }

    /// Opens a migrated ledger for a look; writes nothing. Fails with [`LedgerError::Down`] when the server
    /// can't be reached or its schema is behind.
    pub async fn open_existing(
        url: &str,
        owner: Owner,
        lease: Duration,
    ) -> Result<Self, LedgerError> {
        let missing = pending(url).await?;
        if !missing.is_empty() {
            let names = missing.join(", ");
            return Err(LedgerError::Down(format!(
                "the ledger's schema is behind ({names}): run `brigade migrate`"
            )));
        }
        let options = options(url)?;
        Ok(Self {
            owner,
            lease,
            place: place(&options),
            writer: Connections::new(&options, Role::Writer, 1),
            readers: Connections::new(&options, Role::Reader, READERS),
            purger: Connections::new(&options, Role::Writer, 1),
            purged_to: AtomicI64::default(),
        })
    }

    /// Answers within a limit, and again at once while another worker is in the way.
    async fn answer<T, F>(
        &self,
        limit: Duration,
        mut work: impl FnMut() -> F,
    ) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let watched = || {
            let work = work();
            async {
                let answer = work.await;
                if answer.as_ref().is_err_and(is_of_another_session) {
                    self.writer.distrust();
                    self.readers.distrust();
                    self.purger.distrust();
                }
                answer
            }
        };
        within(limit, &self.place, trouble::retrying(read_trouble, watched)).await
    }
}

/// The server's time, from a connection of its own.
pub async fn clock(url: &str) -> Result<Timestamp, LedgerError> {
    let options = options(url)?;
    let connections = Connections::new(&options, Role::Reader, 1);
    let look = || async {
        let mut session = connections.session().await?;
        let query = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
        let row = session.query(query).fetch_one(session.on()).await?;
        session.finish().await?;
        Ok(Timestamp::from_micros(row.try_get(0)?))
    };
    let look = trouble::retrying(read_trouble, look);
    within(limits::LOOK, &place(&options), look).await
}

/// The server as people know it.
fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("PostgreSQL at {}", socket.display()),
        None => format!(
            "PostgreSQL at {}:{}",
            options.get_host(),
            options.get_port()
        ),
    }
}

/// Reads the URL, of which nothing may be shown: it holds a password.
/// Whether it is a URL at all.
pub(super) fn check_place(url: &str) -> Result<(), LedgerError> {
    options(url).map(drop)
}

fn options(url: &str) -> Result<PgConnectOptions, LedgerError> {
    let options: PgConnectOptions = url.parse().map_err(|_| {
        LedgerError::Refused(
            "ledger.url: this is no PostgreSQL URL; postgres://user:password@host/database is one"
                .to_owned(),
        )
    })?;
    let named = options.get_application_name().is_some();
    let options = if named {
        options
    } else {
        options.application_name("brigade")
    };
    // A pooler may refuse what it does not know. The ledger has no floats.
    Ok(options.extra_float_digits(None).disable_statement_logging())
}

fn read_trouble(error: &dyn DatabaseError) -> Trouble {
    let code = error.code().unwrap_or_default();
    // https://www.postgresql.org/docs/current/errcodes-appendix.html
    match (&*code, code.get(..2)) {
        // Serialisation failure, deadlock, lock not available.
        ("40001" | "40P01" | "55P03", _) => Trouble::Again,
        (LOST_STATEMENT | TAKEN_STATEMENT, _) => Trouble::Again,
        // Data exception, constraint, check option, program limit, an exception that a trigger raises.
        (_, Some("22" | "23" | "44" | "54" | "P0")) => Trouble::Refused,
        // Connection, resources, shutdown, read-only. Also a missing table or privilege: buried jobs would be the
        // wrong answer to that, and no value of ours can cause it.
        _ => Trouble::Down,
    }
}

/// A prepared statement is not where it was left, or is there already: the session is shared by a pooler.
const LOST_STATEMENT: &str = "26000";
const TAKEN_STATEMENT: &str = "42P05";

fn is_of_another_session(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    matches!(code.as_deref(), Some(LOST_STATEMENT | TAKEN_STATEMENT))
}

type Statement<'q> = SqlxQuery<'q, Postgres, PgArguments>;

#[async_trait]
impl Ledger for PostgresLedger {
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
            let mut session = self.readers.session().await?;
            let rows = session
                .query(listing::STATS)
                .fetch_all(session.on())
                .await?;
            session.finish().await?;
            rows.iter().map(record::stat).collect()
        })
        .await
    }

    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError> {
        self.answer(limits::WRITE, || purge::finished(self, retention, limit))
            .await
    }

    async fn purge_lost(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError> {
        self.answer(limits::WRITE, || purge::lost(self, retention, limit))
            .await
    }

    fn purges_apart(&self) -> bool {
        true
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

    async fn keep_alive(&self) -> Result<(), LedgerError> {
        let look = || async { self.writer.session().await?.finish().await };
        self.answer(limits::LOOK, look).await
    }
}

#[async_trait]
impl Reader for PostgresLedger {
    const COLUMNS: &'static str = record_columns!("result::text");

    async fn count(&self, query: &Query) -> Result<i64, LedgerError> {
        self.answer(limits::READ, || async {
            let mut session = self.readers.session().await?;
            let row = bound(&session, query).fetch_one(session.on()).await?;
            session.finish().await?;
            record::LedgerRow::number(&row, 0)
        })
        .await
    }

    async fn jobs(&self, query: &Query) -> Result<Vec<JobRecord>, LedgerError> {
        self.answer(limits::READ, || async {
            let mut session = self.readers.session().await?;
            let rows = bound(&session, query).fetch_all(session.on()).await?;
            session.finish().await?;
            rows.iter().map(record::record).collect()
        })
        .await
    }
}

/// The SQL comes from `listing.rs`, which puts every value of a user into `values`.
fn bound<'q>(session: &Session<'_>, query: &'q Query) -> Statement<'q> {
    let statement = session.query(AssertSqlSafe(query.sql.as_str()));
    query
        .values
        .iter()
        .fold(statement, |statement, value| match value {
            Value::Text(text) => statement.bind(text.as_str()),
            Value::Number(number) => statement.bind(number),
        })
}
