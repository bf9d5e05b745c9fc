//! Several statements that are written together or not at all.
//!
//! Not sqlx's transaction: SQLite may end one by itself when the disk is full or fails
//! (<https://www.sqlite.org/lang_transaction.html>, section 3), and sqlx would go on counting it as begun and begin no
//! other on that connection. Here a transaction that is not committed takes its connection with it; closing it rolls back.

use sqlx::{Executor, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection};

pub(super) struct Transaction(Option<PoolConnection<Sqlite>>);

impl Transaction {
    /// Begins, and keeps all others from writing.
    pub(super) async fn begin(pool: &SqlitePool) -> Result<Self, sqlx::Error> {
        let mut transaction = Self(Some(pool.acquire().await?));
        transaction.on()?.execute("begin immediate").await?;
        Ok(transaction)
    }

    /// What runs a statement.
    pub(super) fn on(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        // There until the commit, which uses it up.
        self.0.as_deref_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.on()?.execute("commit").await?;
        // Back to the pool.
        drop(self.0.take());
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
