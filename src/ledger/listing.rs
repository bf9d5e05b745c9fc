//! `jobs list`: which index answers a filter, and the SQL for it. The same text for every database.
//!
//! Every filter is a range of one index that is in the list's order already, so a page costs what it
//! shows. With several filters the one that matches least leads, and the others are checked row by row;
//! which that is, a count that stops early tells. Two filters that each match more than [`MANY`] jobs, but
//! hardly one together, are the case that stays slow.

use async_trait::async_trait;

use super::{Cursor, JobFilter, JobRecord, LedgerError, Page};
use crate::job::{JobId, OperationName, State};

/// Counting the matches of a filter stops here: from then on it doesn't matter how many more there are.
const MANY: i64 = 30_000;

/// Jobs counted by lane, state and error code, in that order of columns.
pub(super) const STATS: &str = "\
    select lane, state, error_code, count(*) from jobs \
    group by lane, state, error_code order by lane, state, error_code";

/// A value of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

/// A statement and its values, `$1` being the first.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

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

/// The leads whose queries together hold what the filter matches: one, or for a lane one an operation.
async fn leads<R: Reader>(reader: &R, filter: &JobFilter) -> Result<Vec<Lead>, LedgerError> {
    let mut candidates = candidates(filter);
    let prefix_only = matches!(candidates.as_slice(), [one] if is_prefix(one));
    if candidates.len() <= 1 && !prefix_only {
        return Ok(candidates.pop().unwrap_or_else(|| vec![Lead::Time]));
    }
    let mut counted = Vec::new();
    for leads in candidates {
        let mut matches = 0;
        for lead in &leads {
            matches += reader.count(&few(filter, lead)).await?;
        }
        counted.push((matches.min(MANY), leads));
    }
    counted.sort_by_key(|(matches, _)| *matches);
    // Too many keys to sort: then the newest jobs are likely to have such keys.
    let usable = |(matches, leads): &(i64, Vec<Lead>)| *matches < MANY || !is_prefix(leads);
    let best = counted.into_iter().find(usable);
    Ok(best.map_or_else(|| vec![Lead::Time], |(_, leads)| leads))
}

fn is_prefix(leads: &[Lead]) -> bool {
    matches!(leads, [Lead::KeyPrefix(_)])
}

/// Each filter that is set, as leads; those that usually match least first.
fn candidates(filter: &JobFilter) -> Vec<Vec<Lead>> {
    let mut candidates = Vec::new();
    if let Some(code) = &filter.code {
        candidates.push(vec![Lead::Code(code.clone())]);
    }
    if let Some(prefix) = filter.key_prefix.as_ref().filter(|text| !text.is_empty()) {
        candidates.push(vec![Lead::KeyPrefix(prefix.clone())]);
    }
    if let Some(state) = filter.state {
        candidates.push(vec![Lead::State(state)]);
    }
    if let Some(bucket) = &filter.bucket {
        candidates.push(vec![Lead::Bucket(bucket.clone())]);
    }
    if filter.operation.is_some() || filter.lane.is_some() {
        let wanted = |name: &OperationName| {
            filter.operation.is_none_or(|wanted| wanted == *name)
                && filter.lane.is_none_or(|lane| lane == name.lane())
        };
        let names = OperationName::ALL.into_iter().filter(wanted);
        candidates.push(names.map(Lead::Operation).collect());
    }
    candidates
}

/// A page of what the lead matches, checked against the rest of the filter.
fn page(filter: &JobFilter, lead: &Lead, columns: &str) -> Query {
    let mut query = Query::default();
    query.push("select ");
    query.push(columns);
    query.push(" from jobs where ");
    query.lead(lead);
    query.times(filter, lead);
    let (time, id) = order(lead);
    if let Some(cursor) = &filter.after {
        query.push(&format!(" and ({time}, {id}) < ("));
        query.value(Value::Number(cursor.enqueued_at.as_micros()));
        query.push(", ");
        query.value(Value::Text(cursor.id.as_str().to_owned()));
        query.push(")");
    }
    // `|| ''` keeps a database from leading with this column's index instead.
    let mut also = |column: &str, value: &str| {
        query.push(&format!(" and {column} || '' = "));
        query.value(Value::Text(value.to_owned()));
    };
    if let Some(state) = filter.state.filter(|_| !matches!(lead, Lead::State(_))) {
        also("state", state.as_str());
    }
    if !matches!(lead, Lead::Operation(_)) {
        if let Some(operation) = filter.operation {
            also("operation", operation.as_str());
        }
        if let Some(lane) = filter.lane {
            also("lane", lane.as_str());
        }
    }
    if let Some(bucket) = filter
        .bucket
        .as_ref()
        .filter(|_| !matches!(lead, Lead::Bucket(_)))
    {
        also("bucket", bucket);
    }
    if let Some(code) = filter
        .code
        .as_ref()
        .filter(|_| !matches!(lead, Lead::Code(_)))
    {
        also("error_code", code);
    }
    let leads_keys = matches!(lead, Lead::KeyPrefix(_));
    if let Some(prefix) = filter
        .key_prefix
        .as_ref()
        .filter(|text| !text.is_empty() && !leads_keys)
    {
        query.push(" and ");
        query.prefix("key || ''", prefix);
    }
    query.push(&format!(" order by {time} desc, {id} desc limit "));
    query.value(Value::Number(i64::from(filter.limit.max(1)) + 1));
    query
}

/// The columns of the list's order, written so that a database takes the lead's index and no other.
fn order(lead: &Lead) -> (&'static str, &'static str) {
    match lead {
        Lead::KeyPrefix(_) => ("enqueued_at + 0", "id || ''"),
        _ => ("enqueued_at", "id"),
    }
}

/// How many jobs the lead matches, counted to [`MANY`] only.
fn few(filter: &JobFilter, lead: &Lead) -> Query {
    let mut query = Query::default();
    query.push("select count(*) from (select 1 from jobs where ");
    query.lead(lead);
    query.times(filter, lead);
    query.push(" limit ");
    query.value(Value::Number(MANY));
    query.push(") as few");
    query
}

impl Query {
    /// One job by its id.
    pub(super) fn one_job(columns: &str, id: &JobId) -> Self {
        let mut query = Self::default();
        query.push(&format!("select {columns} from jobs where id = "));
        query.value(Value::Text(id.as_str().to_owned()));
        query
    }

    fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    fn value(&mut self, value: Value) {
        self.values.push(value);
        self.sql.push_str(&format!("${}", self.values.len()));
    }

    fn lead(&mut self, lead: &Lead) {
        let (column, text) = match lead {
            Lead::Time => return self.push("true"),
            Lead::KeyPrefix(prefix) => return self.prefix("key", prefix),
            Lead::State(state) => ("state", state.as_str()),
            Lead::Operation(name) => ("operation", name.as_str()),
            Lead::Bucket(bucket) => ("bucket", bucket.as_str()),
            Lead::Code(code) => ("error_code", code.as_str()),
        };
        self.push(column);
        self.push(" = ");
        self.value(Value::Text(text.to_owned()));
    }

    fn times(&mut self, filter: &JobFilter, lead: &Lead) {
        let (time, _) = order(lead);
        if let Some(since) = filter.since {
            self.push(&format!(" and {time} >= "));
            self.value(Value::Number(since.as_micros()));
        }
        if let Some(until) = filter.until {
            self.push(&format!(" and {time} < "));
            self.value(Value::Number(until.as_micros()));
        }
    }

    /// Keys are compared byte by byte, which is the order of code points.
    fn prefix(&mut self, key: &str, prefix: &str) {
        self.push(&format!("{key} >= "));
        self.value(Value::Text(prefix.to_owned()));
        if let Some(end) = after_prefix(prefix) {
            self.push(&format!(" and {key} < "));
            self.value(Value::Text(end));
        }
    }
}

/// The first text after all that begin with the prefix; `None` when there is none.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let next = match last {
            // What lies between is no character.
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// A query that [`list`] may make, the index that is to lead it, and whether what it finds is sorted.
#[cfg(test)]
pub(super) struct Planned {
    pub(super) query: Query,
    pub(super) index: &'static str,
    pub(super) sorts: bool,
}

/// Every query there is: each combination of filters with each lead that it allows.
#[cfg(test)]
pub(super) fn every_query(columns: &str) -> Vec<Planned> {
    use crate::job::Timestamp;

    let time = Timestamp::from_micros(1);
    let mut all = Vec::new();
    for bits in 0..512_u32 {
        let set = |bit: u32| bits & (1 << bit) != 0;
        let text = |bit: u32| set(bit).then(|| "x".to_owned());
        let operation = OperationName::PutObject;
        let filter = JobFilter {
            state: set(0).then_some(State::Completed),
            lane: set(1).then_some(operation.lane()),
            operation: set(2).then_some(operation),
            bucket: text(3),
            key_prefix: text(4),
            code: text(5),
            since: set(6).then_some(time),
            until: set(7).then_some(time),
            limit: 50,
            after: set(8).then(|| Cursor {
                enqueued_at: time,
                id: JobId::parse("x").unwrap(),
            }),
        };
        for lead in candidates(&filter)
            .into_iter()
            .flatten()
            .chain([Lead::Time])
        {
            let (index, sorts) = match &lead {
                Lead::Time => ("jobs_by_time", false),
                Lead::State(_) => ("jobs_by_state", false),
                Lead::Operation(_) => ("jobs_by_operation", false),
                Lead::Bucket(_) => ("jobs_by_bucket", false),
                Lead::Code(_) => ("jobs_by_code", false),
                Lead::KeyPrefix(_) => ("jobs_by_key", true),
            };
            let query = page(&filter, &lead, columns);
            all.push(Planned {
                query,
                index,
                sorts,
            });
            if lead != Lead::Time {
                let query = few(&filter, &lead);
                all.push(Planned {
                    query,
                    index,
                    sorts: false,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_text() {
        let table = [
            ("a", Some("b")),
            ("a/", Some("a0")),
            ("é", Some("ê")),
            ("x\u{d7ff}", Some("x\u{e000}")),
            ("x\u{10ffff}", Some("y")),
            ("\u{10ffff}", None),
        ];
        for (prefix, end) in table {
            assert_eq!(after_prefix(prefix).as_deref(), end, "{prefix:?}");
        }
    }
}
