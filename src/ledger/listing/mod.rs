//! `jobs list`: which index answers a filter, and the SQL for it. The same text for every database.
//!
//! Every filter but one is a range of one index that is in the list's order already, so a page costs what
//! it shows. With several filters the one that matches least leads, and the others are checked entry by entry;
//! which that is, a count that stops early tells. When all match many jobs, one leads whose index holds what the
//! others ask for, so that jobs which don't match cost no look at their rows.
//!
//! Keys of a prefix are sorted by time. Many are first looked for among the newest jobs, those of the bucket or of
//! the operation if there is one: mostly these make a page. What has no page there is old, its prefix a date, say.
//! `benches/ledger_lists.rs` measures all of it.

mod query;

use async_trait::async_trait;

pub(super) use query::{Query, Value};

use super::{Cursor, JobFilter, JobRecord, LedgerError, Page};
use crate::job::{OperationName, State};

/// Counting the matches of a filter stops here: from then on it doesn't matter how many more there are.
const MANY: i64 = 20_000;
/// So many jobs are the newest.
const NEWEST: i64 = 30_000;

/// Jobs counted by lane, state and error code, in that order of columns.
pub(super) const STATS: &str = "\
    select lane, state, error_code, count(*) from jobs \
    group by lane, state, error_code order by lane, state, error_code";

/// How a database answers the queries made here.
#[async_trait]
pub(super) trait Reader: Sync {
    /// The columns that `record` reads.
    const COLUMNS: &'static str;

    /// One number.
    async fn count(&self, query: &Query) -> Result<i64, LedgerError>;

    /// Rows of [`Reader::COLUMNS`].
    async fn jobs(&self, query: &Query) -> Result<Vec<JobRecord>, LedgerError>;
}

/// What leads a query: one range of one index.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lead {
    Time,
    State(State),
    Operation(OperationName),
    Bucket(String),
    Code(String),
    /// Its index is in the order of keys, so what it finds is sorted.
    KeyPrefix(String),
}

/// The jobs that match, newest first.
pub(super) async fn list<R: Reader>(reader: &R, filter: &JobFilter) -> Result<Page, LedgerError> {
    let limit = usize::try_from(filter.limit.max(1)).unwrap_or(usize::MAX);
    let mut jobs = Vec::new();
    for lead in leads(reader, filter).await? {
        jobs.extend(reader.jobs(&page(filter, &lead, R::COLUMNS)).await?);
    }
    jobs.sort_unstable_by(|a, b| (b.enqueued_at, &b.id).cmp(&(a.enqueued_at, &a.id)));
    // One more than asked for was looked for, to know whether there are more.
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let cursor = |last: &JobRecord| Cursor {
        enqueued_at: last.enqueued_at,
        id: last.id.clone(),
    };
    let next = jobs.last().filter(|_| more).map(cursor);
    Ok(Page { jobs, next })
}

/// The leads whose queries together hold what the filter matches: one, for a lane one an operation, and none when it is
/// known to match nothing.
async fn leads<R: Reader>(reader: &R, filter: &JobFilter) -> Result<Vec<Lead>, LedgerError> {
    if operations(filter).is_some_and(|names| names.is_empty()) {
        return Ok(Vec::new());
    }
    let candidates = candidates(filter);
    let Some(first) = candidates.first() else {
        return Ok(vec![Lead::Time]);
    };
    let is_prefix = matches!(first.as_slice(), [Lead::KeyPrefix(_)]);
    let mut fewest = (MANY, None);
    if candidates.len() > 1 || is_prefix {
        for leads in &candidates {
            let mut matches = 0;
            for lead in leads {
                matches += reader.count(&few(filter, lead)).await?;
            }
            if matches < fewest.0 {
                fewest = (matches, Some(leads));
            }
        }
    }
    if let Some(fewest) = fewest.1 {
        return Ok(fewest.clone());
    }
    if is_prefix {
        // One walk that finds all. Of a lane's operations some might have no such keys, and be read to their end.
        let walk = match candidates.get(1).map(Vec::as_slice) {
            Some([lead]) => lead.clone(),
            _ => Lead::Time,
        };
        if reader.count(&few_of_newest(filter, &walk)).await? == page_size(filter) {
            return Ok(vec![walk]);
        }
    }
    // The candidates are in such an order that the first one's index holds the others' columns.
    Ok(first.clone())
}

/// Each filter that is set, as leads. The index of each holds the columns of all that come after it
/// (`migrations`), the time apart.
fn candidates(filter: &JobFilter) -> Vec<Vec<Lead>> {
    let mut candidates = Vec::new();
    if let Some(state) = filter.state {
        candidates.push(vec![Lead::State(state)]);
    }
    if let Some(code) = &filter.code {
        candidates.push(vec![Lead::Code(code.clone())]);
    }
    if let Some(prefix) = filter.key_prefix.as_ref().filter(|text| !text.is_empty()) {
        candidates.push(vec![Lead::KeyPrefix(prefix.clone())]);
    }
    if let Some(bucket) = &filter.bucket {
        candidates.push(vec![Lead::Bucket(bucket.clone())]);
    }
    if let Some(names) = operations(filter) {
        candidates.push(names.into_iter().map(Lead::Operation).collect());
    }
    candidates
}

/// The operations that the filter names, a lane being its operations; `None` when it names neither.
fn operations(filter: &JobFilter) -> Option<Vec<OperationName>> {
    if filter.operation.is_none() && filter.lane.is_none() {
        return None;
    }
    let wanted = |name: &OperationName| {
        filter.operation.is_none_or(|wanted| wanted == *name)
            && filter.lane.is_none_or(|lane| lane == name.lane())
    };
    Some(OperationName::ALL.into_iter().filter(wanted).collect())
}

/// A page of what the lead matches, checked against the rest of the filter in its index before any row is read.
fn page(filter: &JobFilter, lead: &Lead, columns: &str) -> Query {
    let mut query = Query::default();
    query.push("select ");
    query.push(columns);
    query.push(" from jobs where id in (select id from jobs where ");
    query.range(lead, filter);
    query.rest(lead, filter);
    query.newest(lead, page_size(filter));
    query.push(") order by enqueued_at desc, id desc");
    query
}

/// One more than asked for, to know whether there are more.
fn page_size(filter: &JobFilter) -> i64 {
    i64::from(filter.limit.max(1)) + 1
}

/// How many jobs the lead matches, counted to [`MANY`] only.
fn few(filter: &JobFilter, lead: &Lead) -> Query {
    let mut query = Query::default();
    query.push("select count(*) from (select 1 from jobs where ");
    query.range(lead, filter);
    query.push(" limit ");
    query.limit(MANY);
    query.push(") as few");
    query
}

/// How many of the newest jobs that the lead matches meet the rest of the filter, counted to a page only.
fn few_of_newest(filter: &JobFilter, lead: &Lead) -> Query {
    let mut query = Query::default();
    query.push("select count(*) from (select 1 from (select state, operation, bucket, error_code, key from jobs where ");
    query.range(lead, filter);
    query.newest(lead, NEWEST);
    query.push(") as newest where true");
    query.rest(lead, filter);
    query.push(" limit ");
    query.limit(page_size(filter));
    query.push(") as few");
    query
}

#[cfg(test)]
mod plans;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use plans::{Planned, every_query};
