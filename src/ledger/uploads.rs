//! Rows of uploads as they come from a database, read by position in the order of the column lists here.

use super::{SweptUpload, record::LedgerRow};
use crate::job::{BegunUpload, JobId};

/// What [`begun`] reads, in its order.
macro_rules! begun_columns {
    () => {
        "bucket, key, upload_id, source, size, part_size, largest_part"
    };
}
pub(super) use begun_columns;

pub(super) fn begun(row: &impl LedgerRow) -> Result<BegunUpload, sqlx::Error> {
    Ok(BegunUpload {
        bucket: row.text(0)?.to_owned(),
        key: row.text(1)?.to_owned(),
        upload_id: row.text(2)?.to_owned(),
        source: row.text_if_any(3)?.map(str::to_owned),
        size: row.number_if_any(4)?.map(unsigned),
        part_size: unsigned(row.number(5)?),
        largest_part: unsigned(row.number(6)?),
    })
}

/// Reads job, bucket, key and upload id.
pub(super) fn swept(row: &impl LedgerRow) -> Result<SweptUpload, sqlx::Error> {
    Ok(SweptUpload {
        job: JobId::parse(row.text(0)?).map_err(|why| sqlx::Error::Decode(why.into()))?,
        bucket: row.text(1)?.to_owned(),
        key: row.text(2)?.to_owned(),
        upload_id: row.text(3)?.to_owned(),
    })
}

fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}
