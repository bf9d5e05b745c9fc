//! Forgetting old jobs, between two batches: a file has one writer at a time. It is the batches' own connection:
//! SQLite empties a connection's page cache when another one has written.

use std::time::Duration;

use super::SqliteLedger;
use crate::job::Timestamp;

pub(super) const FINISHED: &str = "\
    delete from jobs where rowid in \
        (select rowid from jobs where finished_at < $1 order by finished_at limit $2)";

/// A `delete_prefix` keeps its row: its message need not say when it was enqueued, and were it to come after all, it
/// would delete what was written meanwhile.
pub(super) const LOST: &str = "\
    delete from jobs where rowid in \
        (select rowid from jobs where state in ('running', 'retrying', 'requeued', 'interrupted') \
            and enqueued_at < $1 and leased_until < $1 and operation <> 'delete_prefix' limit $2)";

/// Deletes at most `limit` rows by one of the statements; says how many went.
pub(super) async fn purge(
    ledger: &SqliteLedger,
    sql: &'static str,
    retention: Duration,
    limit: u32,
) -> Result<u64, sqlx::Error> {
    let purge = sqlx::query(sql)
        .bind(Timestamp::now().minus(retention).as_micros())
        .bind(i64::from(limit));
    let purged = purge.execute(&ledger.writer).await?;
    Ok(purged.rows_affected())
}
