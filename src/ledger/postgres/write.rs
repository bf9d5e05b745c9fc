//! What a worker writes into the database: each batch is one statement, its columns arrays.
//!
//! Measured (`unnest`): a tenth of the server's CPU of a statement a row. Rows are locked in the order of
//! the batch, which the writer sorts, so that two workers seldom meet head-on; where they do, one of
//! them is told to do it again.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::Row;

use super::PostgresLedger;
use crate::{
    job::{JobId, Timestamp, attempts::MAX_BYTES},
    ledger::{
        Claim, ClaimRequest, Committed, Ending, Fence,
        batch::{self, Claims, clean, clean_code, ignored_text},
        decision::{self, Taking},
        record::{self, LedgerRow, claim_columns, record_columns},
    },
};

// `state || ''` keeps the planner from reading all jobs of a state to find a few of them by id.

/// The server's time in microseconds, the same throughout a statement.
macro_rules! now {
    () => {
        "(extract(epoch from statement_timestamp()) * 1000000)::bigint"
    };
}
pub(super) use now;

/// Inserts the jobs that have no row, which is nearly all of them.
pub(super) const INSERT: &str = concat!(
    "insert into jobs (id, lane, operation, bucket, key, state, attempts, enqueued_at, started_at, \
        worker, owner, fence, leased_until, parks, panics, unfinished, replay, age_from, \
        request_digest, ignored) \
    select e.id, e.lane, e.operation, e.bucket, e.key, 'running', e.attempts, \
        least(e.enqueued_at, ",
    now!(),
    "), ",
    now!(),
    ", $14, $15, e.fence, $16 + ",
    now!(),
    ", e.parks, 0, 0, e.replay, least(e.age_from, ",
    now!(),
    "), e.digest, e.ignored \
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], \
        $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[], \
        $13::text[]) \
    as e(id, lane, operation, bucket, key, attempts, enqueued_at, fence, parks, replay, age_from, \
        digest, ignored) \
    on conflict (id) do nothing returning id, started_at"
);

/// Reads and locks the rows of the jobs that have one; the last column is the server's time.
pub(super) const LOOK: &str = concat!(
    "select ",
    record_columns!("result::text"),
    ", ",
    claim_columns!(),
    ", ",
    now!(),
    " from jobs where id = any($1::text[]) order by id for update"
);

/// Takes rows that are there. The request is that of the row, but for a row that has none or another's.
pub(super) const TAKE: &str = concat!(
    "update jobs set state = 'running', worker = $14, owner = $15, leased_until = $16 + ",
    now!(),
    ", finished_at = null, buried_at = null, fence = e.fence, parks = e.parks, panics = e.panics, \
        unfinished = e.unfinished, replay = e.replay, age_from = e.age_from, \
        lane = coalesce(e.lane, jobs.lane), operation = coalesce(e.operation, jobs.operation), \
        bucket = coalesce(e.bucket, jobs.bucket), \
        key = case when e.digest is null then jobs.key else e.key end, \
        request_digest = coalesce(e.digest, jobs.request_digest), \
        ignored = case when e.digest is null then jobs.ignored else e.ignored end \
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
        $7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::text[]) \
    as e(id, fence, parks, panics, unfinished, replay, age_from, lane, operation, bucket, key, \
        digest, ignored) \
    where jobs.id = e.id"
);

/// Records endings. Of an error that a job met before, nothing is forgotten until it ends otherwise.
/// Failed attempts are put before those of earlier runs, once, however often the ending is given.
pub(super) const COMMIT: &str = concat!(
    "update jobs set state = e.new_state, attempts = e.calls, parks = e.new_parks, \
        panics = e.new_panics, leased_until = case when not e.is_final then ",
    now!(),
    " end, finished_at = case when e.is_final then ",
    now!(),
    " end, \
        error_class = case when e.keeps_error then error_class else e.class end, \
        error_code = case when e.keeps_error then error_code else e.code end, \
        error_message = case when e.keeps_error then error_message else e.message end, \
        request_id = case when e.keeps_error then request_id else e.request end, \
        result = e.new_result::jsonb, \
        failed_attempts = case \
            when e.failed is null or starts_with(failed_attempts, e.failed) then failed_attempts \
            else left(e.failed || E'\\n' || coalesce(failed_attempts, ''), $15) end \
    from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], \
        $7::bool[], $8::bool[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], \
        $14::text[]) \
    as e(job, held, new_state, calls, new_parks, new_panics, is_final, keeps_error, class, code, \
        message, request, new_result, failed) \
    where id = e.job and fence = e.held and state || '' in ('running', e.new_state) returning ",
    record_columns!("result::text")
);

pub(super) const RENEW: &str = concat!(
    "update jobs set leased_until = $3 + ",
    now!(),
    " from unnest($1::text[], $2::bigint[]) as e(job, held) \
    where id = e.job and fence = e.held and state || '' = 'running' returning id"
);

pub(super) const NOTE_BURIED: &str = concat!(
    "update jobs set buried_at = ",
    now!(),
    " from unnest($1::text[], $2::bigint[]) as e(job, held) \
    where id = e.job and fence = e.held and state || '' = 'dead_lettered'"
);

pub(super) async fn claim(
    ledger: &PostgresLedger,
    requests: &[ClaimRequest],
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut claims = Claims::with_capacity(requests.len());
    let mut open: Vec<&ClaimRequest> = requests.iter().collect();
    // Once around, but for a row that is purged between its two statements.
    while !open.is_empty() {
        insert(ledger, &open, &mut claims).await?;
        open.retain(|request| !claims.contains_key(request.id.as_str()));
        if open.is_empty() {
            break;
        }
        resume(ledger, &open, &mut claims).await?;
        open.retain(|request| !claims.contains_key(request.id.as_str()));
    }
    batch::claimed(requests, claims)
}

async fn insert<'a>(
    ledger: &PostgresLedger,
    requests: &[&'a ClaimRequest],
    claims: &mut Claims<'a>,
) -> Result<(), sqlx::Error> {
    // The server's time comes back with the row. Until then the statement's `least` does what `first` does with it.
    let unknown = Timestamp::from_micros(i64::MAX);
    let firsts: Vec<Taking> = requests
        .iter()
        .map(|request| decision::first(request, unknown))
        .collect();
    let mut session = ledger.writer.session().await?;
    let inserted = session
        .query(INSERT)
        .bind(column(requests, |request| request.id.as_str()))
        .bind(column(requests, |request| request.lane.as_str()))
        .bind(column(requests, |request| request.operation.as_str()))
        .bind(column(requests, |request| request.bucket.as_str()))
        .bind(column(requests, |request| request.key.as_deref()))
        .bind(column(&firsts, |first| i64::from(first.taken.attempts)))
        .bind(column(&firsts, |first| first.taken.enqueued_at.as_micros()))
        .bind(column(&firsts, |first| first.taken.fence.0))
        .bind(column(&firsts, |first| i64::from(first.taken.parks)))
        .bind(column(&firsts, |first| i64::from(first.replay)))
        .bind(column(&firsts, |first| first.taken.age_from.as_micros()))
        .bind(column(requests, |request| request.digest.as_bytes()))
        .bind(column(requests, |request| ignored_text(request)))
        .bind(&*ledger.owner.worker)
        .bind(&*ledger.owner.unique)
        .bind(micros(ledger.lease))
        .fetch_all(session.on())
        .await?;
    session.finish().await?;
    let started = inserted.iter().map(|row| Ok((row.text(0)?, row.time(1)?)));
    let started: HashMap<&str, Timestamp> = started.collect::<Result<_, sqlx::Error>>()?;
    for request in requests {
        if let Some(started_at) = started.get(request.id.as_str()) {
            let first = decision::first(request, *started_at);
            claims.insert(request.id.as_str(), Claim::Taken(first.taken));
        }
    }
    Ok(())
}

/// Claims the jobs that have a row. Their rows are locked from the look until what follows from it is written.
async fn resume<'a>(
    ledger: &PostgresLedger,
    requests: &[&'a ClaimRequest],
    claims: &mut Claims<'a>,
) -> Result<(), sqlx::Error> {
    let mut session = ledger.writer.transaction().await?;
    let found = session
        .query(LOOK)
        .bind(column(requests, |request| request.id.as_str()))
        .fetch_all(session.on())
        .await?;
    let by_id: HashMap<&str, &&'a ClaimRequest> = requests
        .iter()
        .map(|request| (request.id.as_str(), request))
        .collect();
    let mut takings: Vec<(&ClaimRequest, Taking)> = Vec::new();
    for row in &found {
        let Some(request) = by_id.get(row.text(0)?) else {
            continue;
        };
        let now = row.time(row.len() - 1)?;
        let (claim, taking) = record::claim(row, request, &ledger.owner.unique, now)?;
        takings.extend(taking.map(|taking| (**request, taking)));
        claims.insert(request.id.as_str(), claim);
    }
    if !takings.is_empty() {
        let described = column(&takings, |(request, to)| to.describes.then_some(*request));
        session
            .query(TAKE)
            .bind(column(&takings, |(request, _)| request.id.as_str()))
            .bind(column(&takings, |(_, to)| to.taken.fence.0))
            .bind(column(&takings, |(_, to)| i64::from(to.taken.parks)))
            .bind(column(&takings, |(_, to)| i64::from(to.taken.panics)))
            .bind(column(&takings, |(_, to)| i64::from(to.taken.unfinished)))
            .bind(column(&takings, |(_, to)| i64::from(to.replay)))
            .bind(column(&takings, |(_, to)| to.taken.age_from.as_micros()))
            .bind(column(&described, |it| it.map(|it| it.lane.as_str())))
            .bind(column(&described, |it| it.map(|it| it.operation.as_str())))
            .bind(column(&described, |it| it.map(|it| it.bucket.as_str())))
            .bind(column(&described, |it| it.and_then(|it| it.key.as_deref())))
            .bind(column(&described, |it| it.map(|it| it.digest.as_bytes())))
            .bind(column(&described, |it| it.and_then(ignored_text)))
            .bind(&*ledger.owner.worker)
            .bind(&*ledger.owner.unique)
            .bind(micros(ledger.lease))
            .execute(session.on())
            .await?;
    }
    session.finish().await
}

pub(super) async fn commit(
    ledger: &PostgresLedger,
    endings: &[Ending],
) -> Result<Vec<Committed>, sqlx::Error> {
    let failures: Vec<_> = endings
        .iter()
        .map(|ending| ending.failure.as_ref())
        .collect();
    let results = column(endings, |ending| {
        ending.result.as_ref().map(|json| json.to_string())
    });
    let mut session = ledger.writer.session().await?;
    let recorded = session
        .query(COMMIT)
        .bind(column(endings, |ending| ending.id.as_str()))
        .bind(column(endings, |ending| ending.fence.0))
        .bind(column(endings, |ending| ending.state.as_str()))
        .bind(column(endings, |ending| i64::from(ending.attempts)))
        .bind(column(endings, |ending| i64::from(ending.parks)))
        .bind(column(endings, |ending| i64::from(ending.panics)))
        .bind(column(endings, |ending| ending.state.is_final()))
        .bind(column(endings, Ending::keeps_error))
        .bind(column(&failures, |failure| {
            failure.map(|failure| failure.class.as_str())
        }))
        .bind(column(&failures, |failure| {
            failure.map(|failure| clean_code(&failure.code))
        }))
        .bind(column(&failures, |failure| {
            failure.map(|failure| clean(&failure.message))
        }))
        .bind(column(&failures, |failure| {
            failure.and_then(|failure| failure.request_id.as_deref().map(clean))
        }))
        .bind(results)
        .bind(column(endings, |ending| ending.failed.to_text()))
        .bind(i32::try_from(MAX_BYTES).unwrap_or(i32::MAX))
        .fetch_all(session.on())
        .await?;
    session.finish().await?;
    batch::committed(endings, recorded.iter().map(record::record))
}

pub(super) async fn renew(
    ledger: &PostgresLedger,
    held: &[(JobId, Fence)],
) -> Result<Vec<bool>, sqlx::Error> {
    let mut session = ledger.writer.session().await?;
    let renewed = session
        .query(RENEW)
        .bind(column(held, |(id, _)| id.as_str()))
        .bind(column(held, |(_, fence)| fence.0))
        .bind(micros(ledger.lease))
        .fetch_all(session.on())
        .await?;
    session.finish().await?;
    let renewed: HashSet<&str> = renewed
        .iter()
        .map(|row| row.text(0))
        .collect::<Result<_, _>>()?;
    Ok(held
        .iter()
        .map(|(id, _)| renewed.contains(id.as_str()))
        .collect())
}

pub(super) async fn note_buried(
    ledger: &PostgresLedger,
    held: &[(JobId, Fence)],
) -> Result<(), sqlx::Error> {
    let mut session = ledger.writer.session().await?;
    let note = session
        .query(NOTE_BURIED)
        .bind(column(held, |(id, _)| id.as_str()))
        .bind(column(held, |(_, fence)| fence.0));
    note.execute(session.on()).await?;
    session.finish().await
}

/// One column of a batch.
fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
