//! Rows as they come from a database, read the same way for all of them: by position, in the order of
//! the column lists here.

use sqlx::{ColumnIndex, Database, Decode, Row as SqlRow, Type};

use super::{
    Claim, ClaimRequest, Fence, JobRecord, StatRow,
    decision::{self, Decision, Row, Taking},
};
use crate::job::{AttemptLog, JobId, Lane, RequestDigest, State, Timestamp, report::ReportedError};

/// What people see of a row, in the order that [`record`] reads. Its argument is how the database gives
/// `result` as text.
macro_rules! record_columns {
    ($result:literal) => {
        concat!(
            "id, lane, operation, bucket, key, state, attempts, parks, replay, \
             error_class, error_code, error_message, request_id, ",
            $result,
            ", enqueued_at, started_at, finished_at, worker, failed_attempts, request_digest, ignored, leased_until"
        )
    };
}
/// What a claim needs besides, in the order that [`row`] reads; it follows the columns above.
macro_rules! claim_columns {
    () => {
        "owner, leased_until, fence, panics, unfinished, age_from, buried_at"
    };
}
pub(super) use {claim_columns, record_columns};

/// How many columns `record_columns` names.
const RECORD_COLUMNS: usize = 22;

/// A row of a database of ours: text, 64-bit integers and bytes, any of them absent.
pub(super) trait LedgerRow {
    fn text(&self, column: usize) -> Result<&str, sqlx::Error>;
    fn text_if_any(&self, column: usize) -> Result<Option<&str>, sqlx::Error>;
    fn number(&self, column: usize) -> Result<i64, sqlx::Error>;
    fn number_if_any(&self, column: usize) -> Result<Option<i64>, sqlx::Error>;
    fn bytes_if_any(&self, column: usize) -> Result<Option<&[u8]>, sqlx::Error>;

    fn count(&self, column: usize) -> Result<u32, sqlx::Error> {
        // Counts are never negative; one past `u32` would be as good as infinite.
        Ok(u32::try_from(self.number(column)?.max(0)).unwrap_or(u32::MAX))
    }

    fn time(&self, column: usize) -> Result<Timestamp, sqlx::Error> {
        self.number(column).map(Timestamp::from_micros)
    }

    fn time_if_any(&self, column: usize) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(self.number_if_any(column)?.map(Timestamp::from_micros))
    }
}

impl<R> LedgerRow for R
where
    R: SqlRow,
    usize: ColumnIndex<R>,
    for<'r> &'r str: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: Decode<'r, R::Database> + Type<<R as SqlRow>::Database>,
    for<'r> &'r [u8]: Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    fn text(&self, column: usize) -> Result<&str, sqlx::Error> {
        self.try_get(column)
    }

    fn text_if_any(&self, column: usize) -> Result<Option<&str>, sqlx::Error> {
        self.try_get(column)
    }

    fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
        self.try_get(column)
    }

    fn number_if_any(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn bytes_if_any(&self, column: usize) -> Result<Option<&[u8]>, sqlx::Error> {
        self.try_get(column)
    }
}

/// Reads the `record_columns`. Fails for a row that this version cannot know, such as a newer one's state.
pub(super) fn record(row: &impl LedgerRow) -> Result<JobRecord, sqlx::Error> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let error = match (row.text_if_any(9)?, row.text_if_any(10)?) {
        (Some(class), Some(code)) => Some(ReportedError {
            class: class.to_owned(),
            code: code.to_owned(),
            message: row.text_if_any(11)?.unwrap_or_default().to_owned(),
            request_id: owned(row.text_if_any(12)?),
        }),
        _ => None,
    };
    let result = match row.text_if_any(13)? {
        Some(json) => Some(serde_json::from_str(json).map_err(unreadable)?),
        None => None,
    };
    Ok(JobRecord {
        id: JobId::parse(row.text(0)?).map_err(unreadable)?,
        lane: lane(row.text(1)?)?,
        operation: row.text(2)?.to_owned(),
        bucket: row.text(3)?.to_owned(),
        key: owned(row.text_if_any(4)?),
        state: state(row.text(5)?)?,
        attempts: row.count(6)?,
        parks: row.count(7)?,
        replay: row.count(8)?,
        error,
        result,
        enqueued_at: row.time(14)?,
        started_at: row.time_if_any(15)?,
        finished_at: row.time_if_any(16)?,
        leased_until: row.time_if_any(21)?,
        worker: owned(row.text_if_any(17)?),
        failed: row
            .text_if_any(18)?
            .map(AttemptLog::read)
            .unwrap_or_default(),
        digest: digest(row)?,
        ignored: ignored(row)?,
    })
}

/// Answers a claim from the `record_columns` and the `claim_columns` after them. With a taking, the row is
/// still to be taken.
pub(super) fn claim(
    found: &impl LedgerRow,
    request: &ClaimRequest,
    owner: &str,
    now: Timestamp,
) -> Result<(Claim, Option<Taking>), sqlx::Error> {
    let claim = match decision::decide(&row(found)?, request, owner, now) {
        Decision::Take(taking) => return Ok((Claim::Taken(taking.taken), Some(taking))),
        Decision::Finished => Claim::Finished(Box::new(record(found)?)),
        Decision::Dead { buried, fence } => Claim::Dead {
            record: Box::new(record(found)?),
            buried,
            fence,
        },
        Decision::LeasedElsewhere => Claim::LeasedElsewhere,
        Decision::OtherRequest => Claim::OtherRequest,
    };
    Ok((claim, None))
}

fn row(row: &impl LedgerRow) -> Result<Row, sqlx::Error> {
    let column = |offset: usize| RECORD_COLUMNS + offset;
    Ok(Row {
        state: state(row.text(5)?)?,
        owner: row.text(column(0))?.to_owned(),
        leased_until: row.time_if_any(column(1))?,
        fence: Fence(row.number(column(2))?),
        attempts: row.count(6)?,
        parks: row.count(7)?,
        panics: row.count(column(3))?,
        unfinished: row.count(column(4))?,
        replay: row.count(8)?,
        enqueued_at: row.time(14)?,
        started_at: row.time(15)?,
        age_from: row.time(column(5))?,
        buried: row.time_if_any(column(6))?.is_some(),
        digest: digest(row)?,
        ignored: ignored(row)?,
    })
}

fn digest(row: &impl LedgerRow) -> Result<Option<RequestDigest>, sqlx::Error> {
    Ok(row.bytes_if_any(19)?.and_then(RequestDigest::from_bytes))
}

fn ignored(row: &impl LedgerRow) -> Result<Vec<String>, sqlx::Error> {
    let names = row.text_if_any(20)?.map(serde_json::from_str);
    names
        .transpose()
        .map_err(unreadable)
        .map(Option::unwrap_or_default)
}

/// Reads lane, state, error code and their count.
pub(super) fn stat(row: &impl LedgerRow) -> Result<StatRow, sqlx::Error> {
    Ok(StatRow {
        lane: lane(row.text(0)?)?,
        state: state(row.text(1)?)?,
        code: row.text_if_any(2)?.map(str::to_owned),
        count: u64::try_from(row.number(3)?).unwrap_or_default(),
    })
}

fn lane(name: &str) -> Result<Lane, sqlx::Error> {
    Lane::parse(name).ok_or_else(|| unreadable(format!("this version knows no lane {name:?}")))
}

fn state(name: &str) -> Result<State, sqlx::Error> {
    State::parse(name).ok_or_else(|| unreadable(format!("this version knows no state {name:?}")))
}

fn unreadable(why: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> sqlx::Error {
    sqlx::Error::Decode(why.into())
}
