//! What a worker writes of the uploads that its jobs have begun. Rare: a few statements a large object.

use std::time::Duration;

use super::{SqliteLedger, transaction::Transaction};
use crate::{
    job::{BegunUpload, JobId, Timestamp, UploadNote},
    ledger::{
        Fence, SweptUpload,
        batch::signed,
        uploads::{self, begun_columns},
    },
};

/// Only for a job that is held.
const BEGIN: &str = "\
    insert into uploads (job_id, upload_id, bucket, key, source, size, part_size, largest_part, said, headers, started_at) \
    select id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 from jobs where id = $1 and fence = $2 and state = 'running'";
const COMPLETE: &str = "update uploads set completed_at = $3 where job_id = $1 and upload_id = $2";
const DOOM: &str = "update uploads set doomed_at = $3 where job_id = $1 and upload_id = $2";
const FORGET: &str = "delete from uploads where job_id = $1 and upload_id = $2";
const RECALL: &str = concat!(
    "select ",
    begun_columns!(),
    " from uploads where job_id = $1 and doomed_at is null order by started_at desc, upload_id desc limit 1"
);
/// A job that has ended, or that nobody remembers.
macro_rules! job_is_over {
    () => {
        "not exists (select 1 from jobs where jobs.id = job_id and finished_at is null)"
    };
}
/// Some at a time: a batch waits for it.
const FORGET_COMPLETED: &str = concat!(
    "delete from uploads where rowid in \
        (select rowid from uploads where completed_at is not null and ",
    job_is_over!(),
    " limit 500)"
);
const SWEEP: &str = concat!(
    "update uploads set swept_until = $2, doomed_at = coalesce(doomed_at, $1) where rowid in \
        (select rowid from uploads where (swept_until is null or swept_until <= $1) \
            and (doomed_at is not null or ",
    job_is_over!(),
    ") order by started_at limit $3) returning job_id, bucket, key, upload_id, headers"
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
    ledger: &SqliteLedger,
    id: &JobId,
    fence: Fence,
    note: &UploadNote,
) -> Result<bool, sqlx::Error> {
    let now = Timestamp::now().as_micros();
    let (sql, upload_id) = match note {
        UploadNote::Begun(begun) => return begin(ledger, id, fence, begun, now).await,
        UploadNote::Completed(upload_id) => (COMPLETE, upload_id),
        UploadNote::Doomed(upload_id) => (DOOM, upload_id),
        UploadNote::Gone(upload_id) => {
            let gone = sqlx::query(FORGET).bind(id.as_str()).bind(upload_id);
            return gone.execute(&ledger.writer).await.map(|_| true);
        }
    };
    let noted = sqlx::query(sql).bind(id.as_str()).bind(upload_id).bind(now);
    noted.execute(&ledger.writer).await.map(|_| true)
}

async fn begin(
    ledger: &SqliteLedger,
    id: &JobId,
    fence: Fence,
    begun: &BegunUpload,
    now: i64,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(BEGIN)
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
        .bind(now)
        .execute(&ledger.writer)
        .await?;
    Ok(written.rows_affected() == 1)
}

pub(super) async fn recall(
    ledger: &SqliteLedger,
    id: &JobId,
) -> Result<Option<BegunUpload>, sqlx::Error> {
    let found = sqlx::query(RECALL).bind(id.as_str());
    let found = found.fetch_optional(&ledger.readers).await?;
    found.as_ref().map(uploads::begun).transpose()
}

pub(super) async fn sweep(
    ledger: &SqliteLedger,
    lease: Duration,
    limit: u32,
) -> Result<Vec<SweptUpload>, sqlx::Error> {
    let now = Timestamp::now();
    loop {
        let forgotten = sqlx::query(FORGET_COMPLETED)
            .execute(&ledger.writer)
            .await?;
        if forgotten.rows_affected() == 0 {
            break;
        }
    }
    let mut transaction = Transaction::begin(&ledger.writer).await?;
    let swept = sqlx::query(SWEEP)
        .bind(now.as_micros())
        .bind(now.plus(lease).as_micros())
        .bind(limit)
        .fetch_all(transaction.on()?)
        .await?;
    transaction.commit().await?;
    swept.iter().map(uploads::swept).collect()
}
