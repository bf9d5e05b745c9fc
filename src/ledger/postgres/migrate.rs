//! Bringing the database's schema up to date, one worker at a time.

use sqlx::{ConnectOptions, Connection, PgConnection, Row};

use super::options;
use crate::ledger::{LedgerError, migrations, trouble::sentence};

/// Applies what is pending, under an advisory lock of the database. Many workers may start at once.
pub async fn migrate(url: &str) -> Result<(), LedgerError> {
    if pending(url).await?.is_empty() {
        return Ok(());
    }
    let mut connection = connect(url).await?;
    // The migrator takes the lock; a connection that is dropped on the way gives it back. Not `run`: the
    // compiler can't see that its future may move between threads.
    let applied = migrations::postgres()
        .run_direct(None, &mut connection, false)
        .await;
    applied.map_err(|error| LedgerError::Down(format!("the migration failed: {error}")))?;
    connection.close().await.map_err(down)
}

/// The names of the migrations that the database lacks, in order.
pub async fn pending(url: &str) -> Result<Vec<String>, LedgerError> {
    let mut connection = connect(url).await?;
    let applied = applied(&mut connection).await.map_err(down)?;
    connection.close().await.map_err(down)?;
    Ok(migrations::missing(&applied))
}

async fn connect(url: &str) -> Result<PgConnection, LedgerError> {
    options(url)?.connect().await.map_err(down)
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    let table = "select to_regclass('_sqlx_migrations') is not null";
    let found: bool = sqlx::query(table)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if !found {
        return Ok(Vec::new());
    }
    let versions = "select version from _sqlx_migrations where success";
    let rows = sqlx::query(versions).fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

fn down(error: sqlx::Error) -> LedgerError {
    LedgerError::Down(sentence(&error))
}
