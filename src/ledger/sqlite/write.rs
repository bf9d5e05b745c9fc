//! What a worker writes into its ledger file: each batch is one statement, its rows one JSON array.
//!
//! Measured (`json_each`, 17 columns): a sixth to a tenth of the CPU of a statement a row.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use sqlx::{Row, sqlite::SqliteRow};

use super::{SqliteLedger, transaction::Transaction};
use crate::{
    job::{JobId, Timestamp, attempts::MAX_BYTES},
    ledger::{
        Claim, ClaimRequest, Committed, Ending, Fence,
        batch::{self, Claims, clean, clean_code, ignored_text},
        decision::{self, Taking},
        record::{self, claim_columns, record_columns},
    },
};

/// Inserts the jobs that have no row, which is nearly all of them.
pub(super) const INSERT: &str = "\
    insert into jobs (id, lane, operation, bucket, key, state, attempts, enqueued_at, started_at, \
        worker, owner, fence, leased_until, parks, panics, unfinished, replay, age_from, \
        request_digest, ignored) \
    select value->>0, value->>1, value->>2, value->>3, value->>4, 'running', value->>5, value->>6, $2, \
        $3, $4, value->>7, $5, value->>8, 0, 0, value->>9, value->>10, unhex(value->>11), value->>12 \
    from json_each($1) where true \
    on conflict (id) do nothing returning id";

/// Reads the rows of the jobs that have one.
pub(super) const LOOK: &str = concat!(
    "select ",
    record_columns!("result"),
    ", ",
    claim_columns!(),
    " from jobs where id in (select value from json_each($1))"
);

/// Takes rows that are there. The request is that of the row, but for a row that has none or another's.
pub(super) const TAKE: &str = "\
    update jobs set state = 'running', worker = $2, owner = $3, leased_until = $4, finished_at = null, \
        buried_at = null, fence = e.value->>1, parks = e.value->>2, panics = e.value->>3, \
        unfinished = e.value->>4, replay = e.value->>5, age_from = e.value->>6, \
        lane = coalesce(e.value->>7, lane), operation = coalesce(e.value->>8, operation), \
        bucket = coalesce(e.value->>9, bucket), \
        key = case when e.value->>11 is null then jobs.key else e.value->>10 end, \
        request_digest = coalesce(unhex(e.value->>11), request_digest), \
        ignored = case when e.value->>11 is null then ignored else e.value->>12 end \
    from json_each($1) as e where jobs.id = e.value->>0";

/// Records endings. Of an error that a job met before, nothing is forgotten until it ends otherwise.
/// Failed attempts are put before those of earlier runs, once, however often the ending is given.
pub(super) const COMMIT: &str = concat!(
    "update jobs set state = e.value->>2, attempts = e.value->>3, parks = e.value->>4, \
        panics = e.value->>5, leased_until = case when not e.value->>6 then $2 end, \
        finished_at = case when e.value->>6 then $2 end, \
        error_class = case when e.value->>7 then error_class else e.value->>8 end, \
        error_code = case when e.value->>7 then error_code else e.value->>9 end, \
        error_message = case when e.value->>7 then error_message else e.value->>10 end, \
        request_id = case when e.value->>7 then request_id else e.value->>11 end, \
        result = e.value->>12, \
        failed_attempts = case \
            when e.value->>13 is null or instr(failed_attempts, e.value->>13) = 1 then failed_attempts \
            else substr(e.value->>13 || char(10) || coalesce(failed_attempts, ''), 1, e.value->>14) end \
    from json_each($1) as e \
    where jobs.id = e.value->>0 and fence = e.value->>1 and state in ('running', e.value->>2) \
    returning ",
    record_columns!("result")
);

pub(super) const RENEW: &str = "\
    update jobs set leased_until = $2 from json_each($1) as e \
    where jobs.id = e.value->>0 and fence = e.value->>1 and state = 'running' returning jobs.id";

pub(super) const NOTE_BURIED: &str = "\
    update jobs set buried_at = $2 from json_each($1) as e \
    where jobs.id = e.value->>0 and fence = e.value->>1 and state = 'dead_lettered'";

pub(super) async fn claim(
    ledger: &SqliteLedger,
    requests: &[ClaimRequest],
) -> Result<Vec<Claim>, sqlx::Error> {
    let now = Timestamp::now();
    let mut claims = Claims::with_capacity(requests.len());
    // Once around, but for a row that is purged between its two statements.
    let mut open: Vec<&ClaimRequest> = requests.iter().collect();
    while !open.is_empty() {
        insert(ledger, &open, now, &mut claims).await?;
        open.retain(|request| !claims.contains_key(request.id.as_str()));
        if open.is_empty() {
            break;
        }
        resume(ledger, &open, now, &mut claims).await?;
        open.retain(|request| !claims.contains_key(request.id.as_str()));
    }
    batch::claimed(requests, claims)
}

async fn insert<'a>(
    ledger: &SqliteLedger,
    requests: &[&'a ClaimRequest],
    now: Timestamp,
    claims: &mut Claims<'a>,
) -> Result<(), sqlx::Error> {
    let row = |request: &&'a ClaimRequest| {
        let Taking { taken, replay, .. } = decision::first(request, now);
        (
            request.id.as_str(),
            request.lane.as_str(),
            request.operation.as_str(),
            request.bucket.as_str(),
            request.key.as_deref(),
            taken.attempts,
            taken.enqueued_at.as_micros(),
            taken.fence.0,
            taken.parks,
            replay,
            taken.age_from.as_micros(),
            request.digest.to_string(),
            ignored_text(request),
        )
    };
    let inserted = sqlx::query(INSERT)
        .bind(json_array(requests.iter().map(row))?)
        .bind(now.as_micros())
        .bind(&*ledger.owner.worker)
        .bind(&*ledger.owner.unique)
        .bind(now.plus(ledger.lease).as_micros())
        .fetch_all(&ledger.writer)
        .await?;
    let new = ids(&inserted)?;
    for request in requests
        .iter()
        .filter(|request| new.contains(request.id.as_str()))
    {
        let claim = Claim::Taken(decision::first(request, now).taken);
        claims.insert(request.id.as_str(), claim);
    }
    Ok(())
}

/// Claims the jobs that have a row. Nobody writes between the look and what follows from it.
async fn resume<'a>(
    ledger: &SqliteLedger,
    requests: &[&'a ClaimRequest],
    now: Timestamp,
    claims: &mut Claims<'a>,
) -> Result<(), sqlx::Error> {
    let mut transaction = Transaction::begin(&ledger.writer).await?;
    let found = sqlx::query(LOOK)
        .bind(json_array(
            requests.iter().map(|request| request.id.as_str()),
        )?)
        .fetch_all(transaction.on()?)
        .await?;
    let by_id: HashMap<&str, &&'a ClaimRequest> = requests
        .iter()
        .map(|request| (request.id.as_str(), request))
        .collect();
    let mut takings = Vec::new();
    for row in &found {
        let Some(request) = by_id.get(row.try_get::<&str, _>(0)?) else {
            continue;
        };
        let (claim, taking) = record::claim(row, request, &ledger.owner.unique, now)?;
        takings.extend(taking.map(|taking| {
            let Taking { taken, replay, .. } = taking;
            let described = taking.describes.then_some(request);
            (
                request.id.as_str(),
                taken.fence.0,
                taken.parks,
                taken.panics,
                taken.unfinished,
                replay,
                taken.age_from.as_micros(),
                described.map(|request| request.lane.as_str()),
                described.map(|request| request.operation.as_str()),
                described.map(|request| request.bucket.as_str()),
                described.and_then(|request| request.key.as_deref()),
                described.map(|request| request.digest.to_string()),
                described.and_then(|request| ignored_text(request)),
            )
        }));
        claims.insert(request.id.as_str(), claim);
    }
    if !takings.is_empty() {
        sqlx::query(TAKE)
            .bind(json_array(takings)?)
            .bind(&*ledger.owner.worker)
            .bind(&*ledger.owner.unique)
            .bind(now.plus(ledger.lease).as_micros())
            .execute(transaction.on()?)
            .await?;
    }
    transaction.commit().await
}

pub(super) async fn commit(
    ledger: &SqliteLedger,
    endings: &[Ending],
) -> Result<Vec<Committed>, sqlx::Error> {
    let rows = endings.iter().map(|ending| {
        let failure = ending.failure.as_ref();
        (
            ending.id.as_str(),
            ending.fence.0,
            ending.state.as_str(),
            ending.attempts,
            ending.parks,
            ending.panics,
            ending.state.is_final(),
            ending.keeps_error(),
            failure.map(|failure| failure.class.as_str()),
            failure.map(|failure| clean_code(&failure.code)),
            failure.map(|failure| clean(&failure.message)),
            failure.and_then(|failure| failure.request_id.as_deref().map(clean)),
            ending.result.as_ref().map(serde_json::Value::to_string),
            ending.failed.to_text(),
            MAX_BYTES,
        )
    });
    let recorded = sqlx::query(COMMIT)
        .bind(json_array(rows)?)
        .bind(Timestamp::now().as_micros())
        .fetch_all(&ledger.writer)
        .await?;
    batch::committed(endings, recorded.iter().map(record::record))
}

pub(super) async fn renew(
    ledger: &SqliteLedger,
    held: &[(JobId, Fence)],
) -> Result<Vec<bool>, sqlx::Error> {
    let renewed = sqlx::query(RENEW)
        .bind(fences(held)?)
        .bind(Timestamp::now().plus(ledger.lease).as_micros())
        .fetch_all(&ledger.writer)
        .await?;
    let renewed = ids(&renewed)?;
    Ok(held
        .iter()
        .map(|(id, _)| renewed.contains(id.as_str()))
        .collect())
}

pub(super) async fn note_buried(
    ledger: &SqliteLedger,
    held: &[(JobId, Fence)],
) -> Result<(), sqlx::Error> {
    let note = sqlx::query(NOTE_BURIED)
        .bind(fences(held)?)
        .bind(Timestamp::now().as_micros());
    note.execute(&ledger.writer).await.map(drop)
}

fn fences(held: &[(JobId, Fence)]) -> Result<String, sqlx::Error> {
    json_array(held.iter().map(|(id, fence)| (id.as_str(), fence.0)))
}

pub(super) fn json_array<T: Serialize>(
    rows: impl IntoIterator<Item = T>,
) -> Result<String, sqlx::Error> {
    let rows: Vec<T> = rows.into_iter().collect();
    serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The job ids that a statement returned.
fn ids(rows: &[SqliteRow]) -> Result<HashSet<&str>, sqlx::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}
