//! Learning whether the ledger file takes what a batch would write. On a full disk a row more still finds room long
//! after a batch does not, and a probe that writes less than a batch takes turns with it: up, down, up.

use super::{SqliteLedger, Statement, transaction::Transaction, write::json_array};
use crate::job::Timestamp;

/// Rows, as in the largest batch.
const ROWS: usize = 256;
/// Characters of a long key and of a long result.
const KEY: usize = 200;
const RESULT: usize = 500;

/// Rows of the probe's own, at random places of the indexes as those of jobs are.
pub(super) const FILL: &str = "\
    insert into jobs (id, lane, operation, bucket, key, state, attempts, result, enqueued_at, started_at, \
        worker, owner, fence, leased_until, parks, panics, unfinished, replay, age_from) \
    select value, 'upload', 'put_object', 'probe', $2, 'running', 0, $3, $4, $4, $5, $5, 0, $4, 0, 0, 0, 0, $4 \
    from json_each($1)";

/// In the same transaction: nobody ever sees them, and their pages stay for the next batch.
pub(super) const CLEAR: &str = "delete from jobs where id in (select value from json_each($1))";

pub(super) const NOTE: &str = "\
    insert into ledger_probe (id, probed_at) values (1, $1) \
    on conflict (id) do update set probed_at = excluded.probed_at";

pub(super) async fn probe(ledger: &SqliteLedger) -> Result<(), sqlx::Error> {
    let now = Timestamp::now().as_micros();
    let ids = json_array((0..ROWS).map(|_| format!("{:032x}", fastrand::u128(..))))?;
    let mut transaction = Transaction::begin(&ledger.writer).await?;
    let fill: Statement<'_> = sqlx::query(FILL)
        .bind(&ids)
        .bind("k".repeat(KEY))
        .bind("r".repeat(RESULT))
        .bind(now)
        .bind(&*ledger.owner.unique);
    fill.execute(transaction.on()?).await?;
    let clear: Statement<'_> = sqlx::query(CLEAR).bind(&ids);
    clear.execute(transaction.on()?).await?;
    let note: Statement<'_> = sqlx::query(NOTE).bind(now);
    note.execute(transaction.on()?).await?;
    transaction.commit().await
}
