//! Rows of uploads as they come from a database, read by position in the order of the column lists here.

use serde_json::{Map, Value};

use super::{SweptUpload, record::LedgerRow};
use crate::job::{BegunUpload, Headers, JobId, SaidDigests};

/// What [`begun`] reads, in its order.
macro_rules! begun_columns {
    () => {
        "bucket, key, upload_id, source, size, part_size, largest_part, said, headers"
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
        said: row.bytes_if_any(7)?.and_then(SaidDigests::from_bytes),
        headers: headers(row, 8)?,
    })
}

/// Reads job, bucket, key, upload id and headers.
pub(super) fn swept(row: &impl LedgerRow) -> Result<SweptUpload, sqlx::Error> {
    Ok(SweptUpload {
        job: JobId::parse(row.text(0)?).map_err(|why| sqlx::Error::Decode(why.into()))?,
        bucket: row.text(1)?.to_owned(),
        key: row.text(2)?.to_owned(),
        upload_id: row.text(3)?.to_owned(),
        headers: headers(row, 4)?,
    })
}

/// What all requests of a job say, as a column holds it: a JSON object, if they say anything.
pub(super) fn headers_text(headers: &Headers) -> Option<String> {
    let fields: Map<_, _> = headers
        .iter()
        .map(|(row, value)| (row.header.to_owned(), value.into()))
        .collect();
    (!fields.is_empty()).then(|| Value::Object(fields).to_string())
}

fn headers(row: &impl LedgerRow, column: usize) -> Result<Headers, sqlx::Error> {
    let mut headers = Headers::default();
    if let Some(text) = row.text_if_any(column)? {
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|why| sqlx::Error::Decode(why.into()))?;
        for (name, value) in &fields {
            // One that a later version knows is nothing to this one.
            drop(headers.set(name, value));
        }
    }
    Ok(headers)
}

fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}
