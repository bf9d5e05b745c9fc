//! Making the ledger file and bringing its schema up to date, one process at a time.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::options;
use crate::ledger::{LedgerError, migrations, trouble::sentence};

/// How often a lock that another process holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Makes the file if it is missing and applies what is pending. SQLite's own locks don't cover a migration
/// as a whole, so a file lock of ours does: `<file>.lock`, which stays. Many processes may start at once.
pub async fn migrate(url: &str) -> Result<(), LedgerError> {
    if pending(url).await?.is_empty() {
        return Ok(());
    }
    let options = options(url)?.create_if_missing(true);
    let lock = lock(options.get_filename()).await?;
    let migrated = async {
        let mut connection = options.connect().await.map_err(down)?;
        // Not `run`: the compiler can't see that its future may move between threads.
        let applied = migrations::sqlite()
            .run_direct(None, &mut connection, false)
            .await;
        applied.map_err(|error| LedgerError::Down(format!("the migration failed: {error}")))?;
        connection.close().await.map_err(down)
    }
    .await;
    drop(lock);
    migrated
}

/// The names of the migrations that the file lacks, in order: all of them while there is no file.
pub async fn pending(url: &str) -> Result<Vec<String>, LedgerError> {
    let options = options(url)?;
    let file = options.get_filename();
    if !file.try_exists().map_err(|error| unusable(file, &error))? {
        return Ok(migrations::missing(&[]));
    }
    let mut connection = options.connect().await.map_err(down)?;
    let applied = applied(&mut connection).await.map_err(down);
    connection.close().await.map_err(down)?;
    Ok(migrations::missing(&applied?))
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<i64>, sqlx::Error> {
    let table = "select 1 from sqlite_schema where type = 'table' and name = '_sqlx_migrations'";
    if sqlx::query(table)
        .fetch_optional(&mut *connection)
        .await?
        .is_none()
    {
        return Ok(Vec::new());
    }
    let versions = "select version from _sqlx_migrations where success";
    let rows = sqlx::query(versions).fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Waits for the lock. It is polled, not waited for in a thread, so that whoever waits can give up.
async fn lock(file: &Path) -> Result<File, LedgerError> {
    let path = PathBuf::from(format!("{}.lock", file.display()));
    let lock = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| unusable(&path, &error))?;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            Err(TryLockError::Error(error)) => return Err(unusable(&path, &error)),
        }
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> LedgerError {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let why = match folder {
        Some(folder) if !folder.is_dir() => format!("there is no folder {}", folder.display()),
        _ => format!("{}: {error}", path.display()),
    };
    LedgerError::Down(why)
}

fn down(error: sqlx::Error) -> LedgerError {
    LedgerError::Down(sentence(&error))
}
