//! Forgetting old jobs. Every worker purges, on a connection of its own beside the batches; each takes rows that no
//! other is at.

use std::{sync::atomic::Ordering, time::Duration};

use sqlx::Row;

use super::{
    PostgresLedger,
    write::{micros, now},
};
use crate::ledger::batch::signed;

/// The oldest endings first, from a mark on: what was deleted stays in the index until a vacuum, and to step over all
/// of it costs more than to delete. Returns how many went, and the newest ending among them.
pub(super) const FINISHED: &str = concat!(
    "with gone as (delete from jobs where id in (select id from jobs where finished_at >= $3 and finished_at < ",
    now!(),
    " - $1 order by finished_at limit $2 for update skip locked) returning finished_at) \
    select count(*), max(finished_at) from gone"
);

/// A `delete_prefix` keeps its row: its message need not say when it was enqueued, and were it to come after all, it
/// would delete what was written meanwhile.
pub(super) const LOST: &str = concat!(
    "delete from jobs where id in (select id from jobs \
        where state in ('running', 'retrying', 'requeued', 'interrupted') and enqueued_at < ",
    now!(),
    " - $1 and leased_until < ",
    now!(),
    " - $1 and operation || '' <> 'delete_prefix' limit $2 for update skip locked)"
);

/// Nothing is finished before it.
const START: i64 = 0;

pub(super) async fn finished(
    ledger: &PostgresLedger,
    retention: Duration,
    limit: u32,
) -> Result<u64, sqlx::Error> {
    let from = ledger.purged_to.load(Ordering::Relaxed);
    let mut session = ledger.purger.session().await?;
    let purge = session
        .query(FINISHED)
        .bind(micros(retention))
        .bind(i64::from(limit))
        .bind(from);
    let row = purge.fetch_one(session.on()).await?;
    session.finish().await?;
    let count: i64 = row.try_get(0)?;
    let newest: Option<i64> = row.try_get(1)?;
    ledger
        .purged_to
        .store(newest.unwrap_or(from), Ordering::Relaxed);
    Ok(u64::try_from(count).unwrap_or_default())
}

/// And what others were at when it was passed over comes again with the next purge.
pub(super) async fn lost(
    ledger: &PostgresLedger,
    retention: Duration,
    limit: u32,
) -> Result<u64, sqlx::Error> {
    let mut session = ledger.purger.session().await?;
    let purge = session
        .query(LOST)
        .bind(micros(retention))
        .bind(signed(u64::from(limit)));
    let purged = purge.execute(session.on()).await?.rows_affected();
    session.finish().await?;
    ledger.purged_to.store(START, Ordering::Relaxed);
    Ok(purged)
}
