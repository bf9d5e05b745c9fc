//! The ledger in PostgreSQL, for a fleet.
//!
//! Every worker writes over one connection, in group commits; times are the server's. A commit is
//! durable before it is answered, unless the operator of the server has arranged for less. What a row
//! means is decided in `decision.rs`.

mod migrate;
#[cfg(test)]
mod tests;
mod uploads;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool, Row,
    error::DatabaseError,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, Postgres},
    query::Query as SqlxQuery,
};

pub use migrate::{migrate, pending};

use super::{
    Claim, ClaimRequest, Committed, Ending, Fence, JobFilter, JobRecord, Ledger, LedgerError,
    Owner, Page, StatRow, SweptUpload,
    listing::{self, Query, Reader, Value},
    record::{self, record_columns},
    trouble::{self, Trouble},
};
use crate::job::{BegunUpload, JobId, Timestamp, UploadNote};

/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is asked whether it still stands.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);
/// Connections that read.
const READERS: u32 = 2;

/// For the connection that writes. All its statements find a few rows by their id, and the planner is not to
/// think otherwise while a table that was empty a moment ago has no statistics. A worker that vanishes in
/// a transaction holds its rows for no longer than a while. A server that commits asynchronously would
/// break the promise of "ledger before ack"; a stricter one is left as it is.
const WRITER_SESSION: &str = "\
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; \
    set plan_cache_mode = force_generic_plan; set jit = off; \
    set idle_in_transaction_session_timeout = '30s'; \
    select set_config('synchronous_commit', 'on', false) \
        where current_setting('synchronous_commit') = 'off'";

/// For the connections that read. A list is a walk along one index that holds what its filters ask for (`listing.rs`);
/// the planner can't know how few of its entries pass, and would rather read the whole table.
const READER_SESSION: &str = "\
    set enable_seqscan = off; set enable_bitmapscan = off; set max_parallel_workers_per_gather = 0; \
    set jit = off; set default_transaction_read_only = on";

/// A ledger in a PostgreSQL database. Closes when it is dropped.
#[derive(Debug)]
pub struct PostgresLedger {
    owner: Owner,
    lease: Duration,
    writer: PgPool,
    readers: PgPool,
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
            writer: pool(1, WRITER_SESSION).connect_lazy_with(options.clone()),
            readers: pool(READERS, READER_SESSION).connect_lazy_with(options),
        })
    }
}

/// The server's time, from a connection of its own.
pub async fn clock(url: &str) -> Result<Timestamp, LedgerError> {
    let down = |error: sqlx::Error| LedgerError::Down(trouble::sentence(&error));
    let mut connection = options(url)?.connect().await.map_err(down)?;
    let query = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    let row = sqlx::query(query).fetch_one(&mut connection).await;
    let micros = row.and_then(|row| row.try_get(0)).map_err(down)?;
    connection.close().await.map_err(down)?;
    Ok(Timestamp::from_micros(micros))
}

/// Reads the URL, of which nothing may be shown: it holds a password.
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
    Ok(options.disable_statement_logging())
}

fn pool(connections: u32, session: &'static str) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(None)
        .idle_timeout(Duration::from_secs(600))
        // A question before each batch would cost as much as the batch.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(
                async move { Ok(meta.idle_for < TRUSTED_IDLE || connection.ping().await.is_ok()) },
            )
        })
        .after_connect(move |connection, _| Box::pin(prepare_session(connection, session)))
}

async fn prepare_session(
    connection: &mut PgConnection,
    session: &'static str,
) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(session)).await.map(drop)
}

fn read_trouble(error: &dyn DatabaseError) -> Trouble {
    let code = error.code().unwrap_or_default();
    // https://www.postgresql.org/docs/current/errcodes-appendix.html
    match (&*code, code.get(..2)) {
        // Serialisation failure, deadlock, lock not available.
        ("40001" | "40P01" | "55P03", _) => Trouble::Again,
        // Data exception, constraint, check option, program limit, an exception that a trigger raises.
        (_, Some("22" | "23" | "44" | "54" | "P0")) => Trouble::Refused,
        // Connection, resources, shutdown, read-only. Also a missing table or privilege: buried jobs would be the
        // wrong answer to that, and no value of ours can cause it.
        _ => Trouble::Down,
    }
}

type Statement<'q> = SqlxQuery<'q, Postgres, PgArguments>;

/// Retries at once while another worker is in the way.
async fn retrying<T, F>(work: impl FnMut() -> F) -> Result<T, LedgerError>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    trouble::retrying(read_trouble, work).await
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, LedgerError> {
        retrying(|| write::claim(self, requests)).await
    }

    async fn commit(&self, endings: &[Ending]) -> Result<Vec<Committed>, LedgerError> {
        retrying(|| write::commit(self, endings)).await
    }

    async fn renew(&self, held: &[(JobId, Fence)]) -> Result<Vec<bool>, LedgerError> {
        retrying(|| write::renew(self, held)).await
    }

    async fn note_buried(&self, held: &[(JobId, Fence)]) -> Result<(), LedgerError> {
        retrying(|| write::note_buried(self, held)).await
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        let query = Query::one_job(Self::COLUMNS, id);
        Ok(self.jobs(&query).await?.pop())
    }

    async fn list(&self, filter: &JobFilter) -> Result<Page, LedgerError> {
        listing::list(self, filter).await
    }

    async fn stats(&self) -> Result<Vec<StatRow>, LedgerError> {
        retrying(|| async {
            let rows = sqlx::query(listing::STATS).fetch_all(&self.readers).await?;
            rows.iter().map(record::stat).collect()
        })
        .await
    }

    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError> {
        retrying(|| write::purge(self, retention, limit)).await
    }

    async fn note_upload(
        &self,
        id: &JobId,
        fence: Fence,
        note: &UploadNote,
    ) -> Result<bool, LedgerError> {
        retrying(|| uploads::note(self, id, fence, note)).await
    }

    async fn recall_upload(&self, id: &JobId) -> Result<Option<BegunUpload>, LedgerError> {
        retrying(|| uploads::recall(self, id)).await
    }

    async fn sweep_uploads(
        &self,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<SweptUpload>, LedgerError> {
        retrying(|| uploads::sweep(self, lease, limit)).await
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        retrying(|| write::probe(self)).await
    }
}

#[async_trait]
impl Reader for PostgresLedger {
    const COLUMNS: &'static str = record_columns!("result::text");

    async fn count(&self, query: &Query) -> Result<i64, LedgerError> {
        retrying(|| async {
            let row = bound(query).fetch_one(&self.readers).await?;
            record::LedgerRow::number(&row, 0)
        })
        .await
    }

    async fn jobs(&self, query: &Query) -> Result<Vec<JobRecord>, LedgerError> {
        retrying(|| async {
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
