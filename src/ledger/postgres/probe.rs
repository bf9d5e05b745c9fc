//! Learning whether the database takes what a batch would write: rows of `jobs`, with their entries in every index.
//! A probe that writes less takes turns with the batches on a full disk or a locked table: up, down, up.

use super::{PostgresLedger, write::now};

/// Fewer than a batch has: their space is free only after a vacuum. What little room a disk may have for them
/// is used up by the first batches.
const ROWS: usize = 16;
/// Characters of a long key and of a long result.
const KEY: usize = 200;
const RESULT: usize = 500;

/// Rows of the probe's own, at random places of the indexes as those of jobs are.
pub(super) const FILL: &str = concat!(
    "insert into jobs (id, lane, operation, bucket, key, state, attempts, result, enqueued_at, started_at, \
        worker, owner, fence, leased_until, parks, panics, unfinished, replay, age_from) \
    select id, 'upload', 'put_object', 'probe', $2, 'running', 0, to_jsonb($3::text), at, at, $4, $4, 0, at, \
        0, 0, 0, 0, at \
    from unnest($1::text[]) as e(id), (select ",
    now!(),
    " as at) as t"
);

/// In the same transaction: nobody ever sees them.
pub(super) const CLEAR: &str = "delete from jobs where id = any($1::text[])";

pub(super) const NOTE: &str = concat!(
    "insert into ledger_probe (id, probed_at) values (1, ",
    now!(),
    ") on conflict (id) do update set probed_at = excluded.probed_at"
);

pub(super) async fn probe(ledger: &PostgresLedger) -> Result<(), sqlx::Error> {
    let ids: Vec<String> = (0..ROWS)
        .map(|_| format!("{:032x}", fastrand::u128(..)))
        .collect();
    let mut session = ledger.writer.transaction().await?;
    let fill = session
        .query(FILL)
        .bind(&ids)
        .bind("k".repeat(KEY))
        .bind("r".repeat(RESULT))
        .bind(&*ledger.owner.unique);
    fill.execute(session.on()).await?;
    let clear = session.query(CLEAR).bind(&ids);
    clear.execute(session.on()).await?;
    let note = session.query(NOTE);
    note.execute(session.on()).await?;
    session.finish().await
}
