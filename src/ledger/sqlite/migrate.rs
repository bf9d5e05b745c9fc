//! Making the ledger file and bringing its schema up to date, one process at a time.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, Row, error::DatabaseError, sqlite::SqliteConnectOptions};

use tokio::time::Instant;

use super::{options, read_trouble};
use crate::ledger::{
    LedgerError, limits, migrations,
    trouble::{Trouble, sentence},
};

/// How often a lock that another process holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How long a file that is busy is tried in all.
const BUSY: Duration = Duration::from_secs(5);

/// Makes the file if it is missing and applies what is pending. SQLite's own locks don't cover a migration
/// as a whole, so a file lock of ours does: `<file>.lock`, which stays. Many processes may start at once.
pub async fn migrate(url: &str) -> Result<(), LedgerError> {
    if pending(url).await?.is_empty() {
        return Ok(());
    }
    let options = options(url)?.create_if_missing(true);
    let lock = lock(options.get_filename()).await?;
    let migrated = patiently(|| apply(&options)).await;
    drop(lock);
    migrated
}

async fn apply(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    // The mode stays with the file. Set while it is made, and by nobody else: to change it takes the file
    // for itself, and SQLite doesn't wait for that.
    sqlx::query("pragma journal_mode = wal")
        .execute(&mut connection)
        .await?;
    // Not `run`: the compiler can't see that its future may move between threads.
    migrations::sqlite()
        .run_direct(None, &mut connection, false)
        .await?;
    connection.close().await
}

/// The names of the migrations that the file lacks, in order: all of them while there is no file.
pub async fn pending(url: &str) -> Result<Vec<String>, LedgerError> {
    let options = options(url)?;
    let file = options.get_filename();
    if !file.try_exists().map_err(|error| unusable(file, &error))? {
        return Ok(migrations::missing(&[]));
    }
    let place = format!("the ledger {}", file.display());
    let applied = limits::within(limits::LOOK, &place, patiently(|| applied(&options)));
    Ok(migrations::missing(&applied.await?))
}

/// The versions that the file has.
async fn applied(options: &SqliteConnectOptions) -> Result<Vec<i64>, sqlx::Error> {
    let mut connection = options.connect().await?;
    let table = "select 1 from sqlite_schema where type = 'table' and name = '_sqlx_migrations'";
    let mut versions = Vec::new();
    if sqlx::query(table)
        .fetch_optional(&mut connection)
        .await?
        .is_some()
    {
        let applied = "select version from _sqlx_migrations where success";
        for row in sqlx::query(applied).fetch_all(&mut connection).await? {
            versions.push(row.try_get(0)?);
        }
    }
    connection.close().await?;
    Ok(versions)
}

/// Does the work, again after a while when another process has the file for itself, as while it is made.
async fn patiently<T, F>(mut work: impl FnMut() -> F) -> Result<T, LedgerError>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let began = Instant::now();
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let in_the_way = |error: &dyn DatabaseError| read_trouble(error) == Trouble::Again;
        if began.elapsed() > BUSY || !error.as_database_error().is_some_and(in_the_way) {
            return Err(LedgerError::Down(sentence(&error)));
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
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
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if began.elapsed() > limits::MIGRATION_TURN => {
                let why = format!(
                    "another process migrates the ledger and holds {}",
                    path.display()
                );
                return Err(LedgerError::Down(why));
            }
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
