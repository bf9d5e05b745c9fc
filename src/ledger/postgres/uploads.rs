//! What a worker writes of the uploads that its jobs have begun. Rare: a few statements a large object.

use std::time::Duration;

use super::{PostgresLedger, write::micros, write::now};
use crate::{
    job::{BegunUpload, JobId, UploadNote},
    ledger::{
        Fence, SweptUpload,
        batch::signed,
        uploads::{self, begun_columns},
    },
};

/// Only for a job that is held.
const BEGIN: &str = concat!(
    "insert into uploads (job_id, upload_id, bucket, key, source, size, part_size, largest_part, said, headers, started_at) \
    select id, $3, $4, $5, $6, $7, $8, $9, $10, $11, ",
    now!(),
    " from jobs where id = $1 and fence = $2 and state || '' = 'running'"
);
const COMPLETE: &str = concat!(
    "update uploads set completed_at = ",
    now!(),
    " where job_id = $1 and upload_id = $2"
);
const DOOM: &str = concat!(
    "update uploads set doomed_at = ",
    now!(),
    " where job_id = $1 and upload_id = $2"
);
const FORGET: &str = "delete from uploads where job_id = $1 and upload_id = $2";
const RECALL: &str = concat!(
    "select ",
    begun_columns!(),
    " from uploads where job_id = $1 and doomed_at is null order by started_at desc, upload_id desc limit 1"
);
/// A job that has ended, or that nobody remembers.
macro_rules! job_is_over {
    () => {
        "not exists (select 1 from jobs where jobs.id = uploads.job_id and finished_at is null)"
    };
}
/// Some at a time: a statement has its limit, and batches wait for it.
const FORGET_COMPLETED: &str = concat!(
    "delete from uploads where (job_id, upload_id) in (select job_id, upload_id from uploads \
        where completed_at is not null and ",
    job_is_over!(),
    " limit 500 for update skip locked)"
);
/// Every worker sweeps; each takes what no other is at.
const SWEEP: &str = concat!(
    "update uploads set swept_until = $1 + ",
    now!(),
    ", doomed_at = coalesce(doomed_at, ",
    now!(),
    ") where (job_id, upload_id) in (select job_id, upload_id from uploads \
        where (swept_until is null or swept_until <= ",
    now!(),
    ") and (doomed_at is not null or ",
    job_is_over!(),
    ") order by started_at limit $2 for update skip locked) \
    returning job_id, bucket, key, upload_id, headers"
);

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 7] = [
    BEGIN,
    COMPLETE,
    DOOM,
    FORGET,
    RECALL,
    FORGET_COMPLETED,
    SWEEP,
];

pub(super) async fn note(
    ledger: &PostgresLedger,
    id: &JobId,
    fence: Fence,
    note: &UploadNote,
) -> Result<bool, sqlx::Error> {
    let (sql, upload_id) = match note {
        UploadNote::Begun(begun) => return begin(ledger, id, fence, begun).await,
        UploadNote::Completed(upload_id) => (COMPLETE, upload_id),
        UploadNote::Doomed(upload_id) => (DOOM, upload_id),
        UploadNote::Gone(upload_id) => (FORGET, upload_id),
    };
    let mut session = ledger.writer.session().await?;
    let noted = session.query(sql).bind(id.as_str()).bind(upload_id);
    noted.execute(session.on()).await?;
    session.finish().await?;
    Ok(true)
}

async fn begin(
    ledger: &PostgresLedger,
    id: &JobId,
    fence: Fence,
    begun: &BegunUpload,
) -> Result<bool, sqlx::Error> {
    let mut session = ledger.writer.session().await?;
    let written = session
        .query(BEGIN)
        .bind(id.as_str())
        .bind(fence.0)
        .bind(&begun.upload_id)
        .bind(&begun.bucket)
        .bind(&begun.key)
        .bind(begun.source.as_deref())
        .bind(begun.size.map(signed))
        .bind(signed(begun.part_size))
        .bind(signed(begun.largest_part))
        .bind(begun.said.map(|said| said.to_bytes().to_vec()))
        .bind(uploads::headers_text(&begun.headers))
        .execute(session.on())
        .await?;
    session.finish().await?;
    Ok(written.rows_affected() == 1)
}

pub(super) async fn recall(
    ledger: &PostgresLedger,
    id: &JobId,
) -> Result<Option<BegunUpload>, sqlx::Error> {
    let mut session = ledger.readers.session().await?;
    let found = session.query(RECALL).bind(id.as_str());
    let found = found.fetch_optional(session.on()).await?;
    session.finish().await?;
    found.as_ref().map(uploads::begun).transpose()
}

pub(super) async fn sweep(
    ledger: &PostgresLedger,
    lease: Duration,
    limit: u32,
) -> Result<Vec<SweptUpload>, sqlx::Error> {
    loop {
        let mut session = ledger.writer.session().await?;
        let forget = session.query(FORGET_COMPLETED);
        let forgotten = forget.execute(session.on()).await?;
        session.finish().await?;
        if forgotten.rows_affected() == 0 {
            break;
        }
    }
    let mut session = ledger.writer.session().await?;
    let swept = session
        .query(SWEEP)
        .bind(micros(lease))
        .bind(i64::from(limit))
        .fetch_all(session.on())
        .await?;
    session.finish().await?;
    swept.iter().map(uploads::swept).collect()
}
