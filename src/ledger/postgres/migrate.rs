//! Bringing the database's schema up to date, one worker at a time.
//!
//! All pending steps are one transaction under an advisory lock that ends with it: a lock of the session would be
//! lost behind a pooler. Not sqlx's migrator, which takes such a lock, and waits for it without a limit. Its table of
//! versions is kept as it is.

use std::time::Duration;

use sqlx::{Row, migrate::Migration};
use tokio::time::{sleep, timeout};

use super::{
    connections::{Connections, Role, Session},
    options, place, read_trouble,
};
use crate::ledger::{
    LedgerError,
    limits::{self, within},
    migrations,
    trouble::{self, sentence},
};

/// One migration at a time for each schema of a database. The number is ours, and means nothing.
pub(super) const TURN: &str = "\
    select pg_advisory_xact_lock(hashtextextended(coalesce(current_schema(), ''), 7090987221))";
/// How often a migration under way is looked at, and how long the look may take.
const WATCH: Duration = Duration::from_secs(3);
/// Looks in a row without an answer, after which the server is taken to be gone.
const MISSED: u32 = 2;

const VERSIONS: &str = "\
    create table if not exists _sqlx_migrations (\
        version bigint primary key, \
        description text not null, \
        installed_on timestamptz not null default now(), \
        success boolean not null, \
        checksum bytea not null, \
        execution_time bigint not null)";

/// Applies what is pending. Many workers may start at once. Fails with [`LedgerError::Down`] when another process
/// migrates for longer than [`limits::MIGRATION_TURN`]; a migration itself may take as long as it takes.
pub async fn migrate(url: &str) -> Result<(), LedgerError> {
    if pending(url).await?.is_empty() {
        return Ok(());
    }
    let options = options(url)?;
    let place = &place(&options);
    let connections = Connections::new(&options, Role::Migrator, 1);
    let turn = async {
        let mut session = connections.transaction().await.map_err(down)?;
        let backend = turn(&mut session).await.map_err(|error| {
            let locked = error.as_database_error().and_then(|error| error.code());
            match locked.as_deref() {
                Some("55P03") => {
                    LedgerError::Down("another process migrates the ledger".to_owned())
                }
                _ => down(error),
            }
        })?;
        Ok((session, backend))
    };
    let (session, backend) = within(limits::MIGRATION_TURN, place, turn).await?;
    let lookers = Connections::new(&options, Role::Reader, 1);
    tokio::select! {
        migrated = apply(session) => {
            migrated.map_err(|why| LedgerError::Down(format!("{place}: the migration failed: {why}")))
        }
        why = lost(&lookers, backend) => {
            Err(LedgerError::Down(format!("{place}: the migration was cut off: {why}")))
        }
    }
}

/// Waits for the lock, and names the server's process that has it.
async fn turn(session: &mut Session<'_>) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql(TURN).execute(session.on()).await?;
    let backend = session.query("select pg_backend_pid()");
    backend.fetch_one(session.on()).await?.try_get(0)
}

/// Applies what is still pending now that nobody else does.
async fn apply(mut session: Session<'_>) -> Result<(), String> {
    let why = |error: sqlx::Error| sentence(&error);
    sqlx::raw_sql(VERSIONS)
        .execute(session.on())
        .await
        .map_err(why)?;
    let applied = applied(&mut session).await.map_err(why)?;
    for step in migrations::postgres().iter() {
        match applied.iter().find(|(version, _)| *version == step.version) {
            Some((_, checksum)) if **checksum != *step.checksum => {
                return Err(format!(
                    "{} was another one when it was applied",
                    step.description
                ));
            }
            Some(_) => {}
            None => apply_step(&mut session, step)
                .await
                .map_err(|error| format!("{}: {}", step.description, sentence(&error)))?,
        }
    }
    session.finish().await.map_err(why)
}

async fn apply_step(session: &mut Session<'_>, step: &Migration) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(step.sql.clone())
        .execute(session.on())
        .await?;
    let note = session
        .query(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
            values ($1, $2, true, $3, -1)",
        )
        .bind(step.version)
        .bind(&*step.description)
        .bind(&*step.checksum);
    note.execute(session.on()).await.map(drop)
}

/// Waits until the server's process that migrates is gone, or the server is; says which. A statement that takes long
/// and a server that fell silent look the same from the statement's own connection.
async fn lost(connections: &Connections, backend: i32) -> &'static str {
    let mut missed = 0;
    loop {
        sleep(WATCH).await;
        match timeout(WATCH, is_alive(connections, backend)).await {
            Ok(Ok(true)) => missed = 0,
            Ok(Ok(false)) => return "the server knows nothing of it any more",
            Ok(Err(_)) | Err(_) => missed += 1,
        }
        if missed == MISSED {
            return "the server does not answer";
        }
    }
}

async fn is_alive(connections: &Connections, backend: i32) -> Result<bool, sqlx::Error> {
    let mut session = connections.session().await?;
    let look = session
        .query("select exists (select 1 from pg_stat_activity where pid = $1)")
        .bind(backend);
    let alive = look.fetch_one(session.on()).await?.try_get(0)?;
    session.finish().await?;
    Ok(alive)
}

/// The names of the migrations that the database lacks, in order.
pub async fn pending(url: &str) -> Result<Vec<String>, LedgerError> {
    let options = options(url)?;
    let connections = Connections::new(&options, Role::Reader, 1);
    let look = || async {
        let mut session = connections.session().await?;
        let table = session.query("select to_regclass('_sqlx_migrations') is not null");
        let found: bool = table.fetch_one(session.on()).await?.try_get(0)?;
        let applied = if found {
            applied(&mut session).await?
        } else {
            Vec::new()
        };
        session.finish().await?;
        Ok(applied)
    };
    let look = trouble::retrying(read_trouble, look);
    let applied = within(limits::LOOK, &place(&options), look).await?;
    let versions: Vec<i64> = applied.iter().map(|(version, _)| *version).collect();
    Ok(migrations::missing(&versions))
}

/// Versions and checksums of the steps that were applied.
async fn applied(session: &mut Session<'_>) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
    let versions = session.query("select version, checksum from _sqlx_migrations where success");
    let rows = versions.fetch_all(session.on()).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

fn down(error: sqlx::Error) -> LedgerError {
    LedgerError::Down(sentence(&error))
}
