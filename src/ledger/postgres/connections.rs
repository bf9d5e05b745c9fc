//! Connections to the server, of which each belongs to one user at a time.
//!
//! Not sqlx's pool: that one asks a connection that comes back whether it still stands, without a limit, so one
//! that fell silent blocks the pool until the kernel gives up on it, a quarter of an hour later. Here a connection
//! is dropped on the first error and whenever its user stops waiting. So it is when the server has become a standby
//! that refuses writes: the next connection looks the name up again and finds the new primary.
//!
//! A pooler like PgBouncer may give each transaction to another session of the server. Then neither settings nor
//! prepared statements outlive a transaction, and every use is one. Whether the session is ours is proved, not
//! configured: a mark is sent with the start of the connection and read back. Only PostgreSQL itself gives it back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqlSafeStr, postgres::PgConnectOptions,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::Statement;

/// How long name, TCP, TLS and login may take together.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is asked whether it still stands.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const PING: Duration = Duration::from_secs(2);
/// The setting that carries the mark. A name with a dot is nobody's but ours.
const MARK: &str = "brigade.session";

/// What a connection is for: its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Finds a few rows by their id, and the planner is not to think otherwise while a table that was empty
    /// a moment ago has no statistics.
    Writer,
    /// A list is a walk along one index that holds what its filters ask for (`listing.rs`). The planner
    /// can't know how few of its entries pass, and would rather read the whole table.
    Reader,
    /// Looks at the schema and changes it, for as long as that takes.
    Migrator,
}

impl Role {
    /// For every transaction. A statement ends before its user stops waiting, so that none is left behind
    /// which nobody waits for. A user that vanishes in a transaction holds its rows for no longer than a while.
    const fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Writer => &[
                ("statement_timeout", "8s"),
                ("idle_in_transaction_session_timeout", "5s"),
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("plan_cache_mode", "force_generic_plan"),
                ("jit", "off"),
            ],
            Self::Reader => &[
                ("statement_timeout", "29s"),
                ("idle_in_transaction_session_timeout", "5s"),
                ("enable_seqscan", "off"),
                ("enable_bitmapscan", "off"),
                ("max_parallel_workers_per_gather", "0"),
                ("jit", "off"),
            ],
            // Whoever waits for a lock on the table keeps all others from it.
            Self::Migrator => &[
                ("statement_timeout", "0"),
                ("lock_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "5s"),
            ],
        }
    }

    /// Begins a transaction with these settings.
    fn begin(self) -> String {
        let mut sql = match self {
            Self::Writer | Self::Migrator => "begin".to_owned(),
            Self::Reader => "begin read only".to_owned(),
        };
        for (name, value) in self.settings() {
            sql.push_str(&format!("; set local {name} = '{value}'"));
        }
        if self == Self::Writer {
            sql.push_str(&format!(
                "; select set_config('synchronous_commit', 'on', true) where {ASYNCHRONOUS}"
            ));
        }
        sql
    }

    /// Makes the settings those of the session, if it is ours: one row for each, none if it is not.
    fn settle(self, mark: &str) -> String {
        let mut settings = self.settings().to_vec();
        // The server finds a client that fell silent as we find a server.
        settings.extend([
            ("tcp_user_timeout", "15s"),
            ("tcp_keepalives_idle", "10s"),
            ("tcp_keepalives_interval", "3s"),
            ("tcp_keepalives_count", "3"),
        ]);
        match self {
            Self::Writer => settings.push(("synchronous_commit", "on")),
            Self::Reader => settings.push(("default_transaction_read_only", "on")),
            Self::Migrator => {}
        }
        let rows = settings
            .iter()
            .map(|(name, value)| format!("('{name}', '{value}')"));
        let rows = rows.collect::<Vec<_>>().join(", ");
        // An older server lacks one or the other.
        format!(
            "select set_config(name, value, false) from (values {rows}) as wanted (name, value) \
             where current_setting('{MARK}', true) = '{mark}' \
             and name in (select name from pg_settings) \
             and (name <> 'synchronous_commit' or {ASYNCHRONOUS})"
        )
    }
}

/// A server that commits asynchronously would break the promise of "ledger before ack"; a stricter one is left as
/// it is.
const ASYNCHRONOUS: &str = "current_setting('synchronous_commit') = 'off'";

/// At most so many connections for one purpose. They are made when they are needed.
pub(super) struct Connections {
    options: PgConnectOptions,
    role: Role,
    begin: Arc<str>,
    permits: Semaphore,
    /// Nothing awaits under it.
    free: Mutex<Vec<Live>>,
    /// Whether sessions may be other clients' too; known from the first connection on.
    shared: Arc<AtomicBool>,
}

struct Live {
    connection: PgConnection,
    /// The session is this connection's, and has the role's settings.
    owned: bool,
    used: Instant,
}

impl Connections {
    pub(super) fn new(options: &PgConnectOptions, role: Role, most: usize) -> Self {
        Self {
            options: options.clone(),
            role,
            begin: role.begin().into(),
            permits: Semaphore::new(most),
            free: Mutex::default(),
            shared: Arc::default(),
        }
    }

    /// A connection for one statement, which is a transaction by itself.
    pub(super) async fn session(&self) -> Result<Session<'_>, sqlx::Error> {
        let mut session = self.acquire().await?;
        if !session.owned {
            session.begin().await?;
        }
        Ok(session)
    }

    /// A connection for several statements in one transaction.
    pub(super) async fn transaction(&self) -> Result<Session<'_>, sqlx::Error> {
        let mut session = self.acquire().await?;
        session.begin().await?;
        Ok(session)
    }

    /// A session turned out to be another's: from now on none is relied upon.
    pub(super) fn distrust(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    async fn acquire(&self) -> Result<Session<'_>, sqlx::Error> {
        let permit = self.permits.acquire().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let live = match self.standing().await {
            Some(live) => live,
            None => timeout(CONNECT, self.connect())
                .await
                .unwrap_or_else(|_| Err(late("no connection", CONNECT)))?,
        };
        let owned = live.owned && !self.shared.load(Ordering::Relaxed);
        Ok(Session {
            connections: self,
            live,
            owned,
            begun: false,
            _permit: permit,
        })
    }

    /// A free connection that still stands.
    async fn standing(&self) -> Option<Live> {
        loop {
            let mut live = self.free().pop()?;
            if live.used.elapsed() < TRUSTED_IDLE {
                return Some(live);
            }
            if let Ok(Ok(())) = timeout(PING, live.connection.ping()).await {
                return Some(live);
            }
            // Not closed politely: nobody is there.
            tracing::debug!("a connection to PostgreSQL that was idle no longer stands");
        }
    }

    async fn connect(&self) -> Result<Live, sqlx::Error> {
        if !self.shared.load(Ordering::Relaxed) {
            let mark = format!("{:016x}", fastrand::u64(..));
            let marked = self.options.clone().options([(MARK, &mark)]);
            match marked.connect().await {
                Ok(mut connection) => {
                    let settle = AssertSqlSafe(self.role.settle(&mark));
                    let settled = sqlx::raw_sql(settle).fetch_all(&mut connection).await?;
                    let owned = !settled.is_empty();
                    self.shared.store(!owned, Ordering::Relaxed);
                    return Ok(Live::new(connection, owned));
                }
                // A pooler that knows no such option. Whatever else it may be shows without the mark.
                Err(sqlx::Error::Database(error)) if is_about_options(error.code().as_deref()) => {}
                Err(error) => return Err(error),
            }
        }
        let connection = self.options.connect().await?;
        self.distrust();
        Ok(Live::new(connection, false))
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Live>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    /// Without the options, which hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Live {
    fn new(connection: PgConnection, owned: bool) -> Self {
        Self {
            connection,
            owned,
            used: Instant::now(),
        }
    }
}

/// A connection in use. Dropped without [`Session::finish`], be it by an error or because nobody waits any more, it
/// is closed, and the server rolls back.
pub(super) struct Session<'a> {
    connections: &'a Connections,
    live: Live,
    owned: bool,
    begun: bool,
    _permit: SemaphorePermit<'a>,
}

impl Session<'_> {
    /// A statement for this session; prepared for good only where it will be found again.
    pub(super) fn query<'q>(&self, sql: impl SqlSafeStr) -> Statement<'q> {
        sqlx::query(sql).persistent(self.owned)
    }

    /// What runs a statement.
    pub(super) fn on(&mut self) -> &mut PgConnection {
        &mut self.live.connection
    }

    /// Whether the session is ours alone.
    #[cfg(test)]
    pub(super) fn is_owned(&self) -> bool {
        self.owned
    }

    /// Commits what was begun and gives the connection back.
    pub(super) async fn finish(mut self) -> Result<(), sqlx::Error> {
        if self.begun {
            sqlx::raw_sql("commit").execute(self.on()).await?;
        }
        self.live.used = Instant::now();
        self.connections.free().push(self.live);
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let begin = AssertSqlSafe(self.connections.begin.to_string());
        sqlx::raw_sql(begin).execute(self.on()).await?;
        self.begun = true;
        Ok(())
    }
}

/// What a server or a pooler says of a start-up option that it does not know: protocol violation, not supported,
/// no such object, invalid value.
fn is_about_options(code: Option<&str>) -> bool {
    code.is_some_and(|code| {
        ["08", "0A", "42", "22"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}

fn late(what: &str, limit: Duration) -> sqlx::Error {
    let text = format!("{what} within {limit:?}");
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}
