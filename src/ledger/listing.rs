//! `jobs list`: which index answers a filter, and the SQL for it. The same text for every database.
//!
//! Every filter but one is a range of one index that is in the list's order already, so a page costs what
//! it shows. Keys of a prefix are sorted, unless more than [`SORTABLE`] match: then the newest jobs are
//! looked through for them, those of the bucket or of the operation if there is one. With several filters the
//! one that matches least leads, and the others are checked entry by entry; which that is, a count that stops
//! early tells. When all match many jobs, one leads whose index holds what the others ask for, so that jobs
//! which don't match cost no look at their rows (`benches/ledger_lists.rs`).

use async_trait::async_trait;

use super::{Cursor, JobFilter, JobRecord, LedgerError, Page};
use crate::job::{JobId, OperationName, State, Timestamp};

/// Counting the matches of a filter stops here: from then on it doesn't matter how many more there are.
const MANY: i64 = 20_000;
/// That many keys of a prefix are sorted by time; more are rather looked for among the newest jobs, of which so
/// many match that they are soon found.
const SORTABLE: i64 = 50_000;

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
    let mut fewest = (MANY, None);
    if candidates.len() > 1 {
        for leads in &candidates {
            let mut matches = 0;
            for lead in leads {
                matches += reader.count(&few(filter, lead, MANY)).await?;
            }
            if matches < fewest.0 {
                fewest = (matches, Some(leads));
            }
        }
    }
    if let Some(fewest) = fewest.1 {
        return Ok(fewest.clone());
    }
    // The candidates are in such an order that the first one's index holds the others' columns.
    let [keys @ Lead::KeyPrefix(_)] = first.as_slice() else {
        return Ok(first.clone());
    };
    match reader.count(&few_of_all(filter, keys, SORTABLE)).await? {
        0 => Ok(Vec::new()),
        SORTABLE => {
            // One walk that finds all. Of a lane's operations some might have no such keys, and be read to their end.
            let walk = candidates.get(1).filter(|leads| leads.len() == 1);
            Ok(walk.cloned().unwrap_or_else(|| vec![Lead::Time]))
        }
        _ => Ok(first.clone()),
    }
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
    query.push(match lead {
        Lead::Time => " order by enqueued_at desc, id desc limit ",
        Lead::State(_) => " order by state desc, enqueued_at desc, id desc limit ",
        Lead::Operation(_) => " order by operation desc, enqueued_at desc, id desc limit ",
        Lead::Bucket(_) => " order by bucket desc, enqueued_at desc, id desc limit ",
        Lead::Code(_) => " order by error_code desc, enqueued_at desc, id desc limit ",
        Lead::KeyPrefix(_) => " order by enqueued_at + 0 desc, id || '' desc limit ",
    });
    query.limit(i64::from(filter.limit.max(1)) + 1);
    query.push(") order by enqueued_at desc, id desc");
    query
}

/// How many jobs the lead matches, counted to `most` only.
fn few(filter: &JobFilter, lead: &Lead, most: i64) -> Query {
    let mut query = Query::default();
    query.push("select count(*) from (select 1 from jobs where ");
    query.range(lead, filter);
    query.push(" limit ");
    query.limit(most);
    query.push(") as few");
    query
}

/// How many jobs match the lead and the rest of the filter, counted to `most` only.
fn few_of_all(filter: &JobFilter, lead: &Lead, most: i64) -> Query {
    let mut query = Query::default();
    query.push("select count(*) from (select 1 from jobs where ");
    query.range(lead, filter);
    query.rest(lead, filter);
    query.push(" limit ");
    query.limit(most);
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

    /// Written out, not bound: a plan made for a limit that it doesn't know is one for many rows.
    fn limit(&mut self, limit: i64) {
        self.push(&limit.to_string());
    }

    /// The rest of the filter. Within a `case` a condition leads to no index, and a planner takes it for one that every
    /// other job meets. Of the conditions alone it would believe that hardly a job meets them all, and sort
    /// what it finds rather than walk an index that is in the list's order.
    fn rest(&mut self, lead: &Lead, filter: &JobFilter) {
        let mut checks = 0;
        let mut check = |query: &mut Self| {
            query.push([" and case when ", " and "][checks.min(1)]);
            checks += 1;
        };
        let state = filter.state.map(|state| state.as_str());
        let (bucket, code) = (filter.bucket.as_deref(), filter.code.as_deref());
        let equal = [
            ("state", state.filter(|_| !matches!(lead, Lead::State(_)))),
            (
                "bucket",
                bucket.filter(|_| !matches!(lead, Lead::Bucket(_))),
            ),
            (
                "error_code",
                code.filter(|_| !matches!(lead, Lead::Code(_))),
            ),
        ];
        for (column, value) in equal {
            if let Some(value) = value {
                check(self);
                self.push(&format!("{column} = "));
                self.value(Value::Text(value.to_owned()));
            }
        }
        if let Some(names) = operations(filter).filter(|_| !matches!(lead, Lead::Operation(_))) {
            check(self);
            self.one_of(&names);
        }
        let prefix = filter.key_prefix.as_ref().filter(|text| !text.is_empty());
        if let Some(prefix) = prefix.filter(|_| !matches!(lead, Lead::KeyPrefix(_))) {
            check(self);
            self.prefix(prefix);
        }
        if checks > 0 {
            self.push(" then true else false end");
        }
    }

    /// There is at least one name.
    fn one_of(&mut self, names: &[OperationName]) {
        self.push("operation in (");
        for (position, name) in names.iter().enumerate() {
            if position > 0 {
                self.push(", ");
            }
            self.value(Value::Text(name.as_str().to_owned()));
        }
        self.push(")");
    }

    /// The lead's jobs in the filter's time, after its cursor.
    fn range(&mut self, lead: &Lead, filter: &JobFilter) {
        let (column, value) = match lead {
            Lead::KeyPrefix(prefix) => return self.keys(prefix, filter),
            Lead::Time => return self.slice(None, filter),
            Lead::State(state) => ("state", state.as_str()),
            Lead::Operation(name) => ("operation", name.as_str()),
            Lead::Bucket(bucket) => ("bucket", bucket.as_str()),
            Lead::Code(code) => ("error_code", code.as_str()),
        };
        self.slice(Some((column, value)), filter);
        if let Lead::Code(_) = lead {
            // What its index is made of.
            self.push(" and error_code is not null");
        }
    }

    /// One slice of an index whose columns are the lead's, the time and the id. It is written as a range of
    /// those columns together, never as `column = value`: then no other index has the same order, and
    /// no planner takes the one by time because it believes the value to be frequent.
    fn slice(&mut self, lead: Option<(&str, &str)>, filter: &JobFilter) {
        let time = |time: Timestamp| Value::Number(time.as_micros());
        let since = filter.since.map(time);
        self.bound(
            lead,
            ">=",
            &["enqueued_at"][..usize::from(since.is_some())],
            since,
        );
        self.push(" and ");
        // Of two ends the earlier holds; a planner might begin at the later one.
        let cursor = |cursor: &&Cursor| filter.until.is_none_or(|until| cursor.enqueued_at < until);
        if let Some(cursor) = filter.after.as_ref().filter(cursor) {
            let id = Value::Text(cursor.id.as_str().to_owned());
            let last = [time(cursor.enqueued_at), id];
            self.bound(lead, "<", &["enqueued_at", "id"], last);
        } else if let Some(until) = filter.until {
            self.bound(lead, "<", &["enqueued_at"], [time(until)]);
        } else {
            self.bound(lead, "<=", &[], []);
        }
    }

    /// One end of a slice.
    fn bound(
        &mut self,
        lead: Option<(&str, &str)>,
        comparison: &str,
        columns: &[&str],
        values: impl IntoIterator<Item = Value>,
    ) {
        let names: Vec<&str> = lead
            .iter()
            .map(|(column, _)| *column)
            .chain(columns.iter().copied())
            .collect();
        if names.is_empty() {
            return self.push("true");
        }
        self.push(&format!("({}) {comparison} (", names.join(", ")));
        let lead = lead.map(|(_, value)| Value::Text(value.to_owned()));
        for (position, value) in lead.into_iter().chain(values).enumerate() {
            if position > 0 {
                self.push(", ");
            }
            self.value(value);
        }
        self.push(")");
    }

    /// The keys of a prefix. Their index is not in the order of time, so time is checked key by key.
    fn keys(&mut self, prefix: &str, filter: &JobFilter) {
        self.prefix(prefix);
        for (comparison, time) in [(">=", filter.since), ("<", filter.until)] {
            if let Some(time) = time {
                self.push(&format!(" and enqueued_at + 0 {comparison} "));
                self.value(Value::Number(time.as_micros()));
            }
        }
        if let Some(cursor) = &filter.after {
            self.push(" and (enqueued_at + 0, id || '') < (");
            self.value(Value::Number(cursor.enqueued_at.as_micros()));
            self.push(", ");
            self.value(Value::Text(cursor.id.as_str().to_owned()));
            self.push(")");
        }
    }

    /// Keys are compared byte by byte, which is the order of code points.
    fn prefix(&mut self, prefix: &str) {
        self.push("key >= ");
        self.value(Value::Text(prefix.to_owned()));
        if let Some(end) = after_prefix(prefix) {
            self.push(" and key < ");
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

/// A query that [`list`] may make, the index that is to lead it, whether all of that index is its range,
/// whether it reads nothing else before the filter is met, and how often something is sorted.
#[cfg(test)]
pub(super) struct Planned {
    pub(super) query: Query,
    pub(super) index: &'static str,
    pub(super) all: bool,
    pub(super) covers: bool,
    pub(super) sorts: usize,
}

/// Every query there is: each combination of filters with each lead that it allows.
#[cfg(test)]
pub(super) fn every_query(columns: &str) -> Vec<Planned> {
    let time = Timestamp::from_micros(1);
    let mut planned = Vec::new();
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
        let candidates = candidates(&filter);
        let alone = candidates.is_empty();
        let with_time = candidates.into_iter().chain([vec![Lead::Time]]);
        for (position, lead) in with_time
            .enumerate()
            .flat_map(|(position, leads)| leads.into_iter().map(move |lead| (position, lead)))
        {
            let (index, sorts) = match &lead {
                Lead::Time => ("jobs_by_time", 0),
                Lead::State(_) => ("jobs_by_state", 0),
                Lead::Operation(_) => ("jobs_by_operation", 0),
                Lead::Bucket(_) => ("jobs_by_bucket", 0),
                Lead::Code(_) => ("jobs_by_code", 0),
                Lead::KeyPrefix(_) => ("jobs_by_key", 1),
            };
            let bounded =
                filter.since.is_some() || filter.until.is_some() || filter.after.is_some();
            planned.push(Planned {
                query: page(&filter, &lead, columns),
                index,
                all: lead == Lead::Time && !bounded,
                covers: position == 0 && (lead != Lead::Time || alone),
                // The page itself, of a few rows, and the keys of a prefix.
                sorts: 1 + sorts,
            });
            if position == 0 && matches!(lead, Lead::KeyPrefix(_)) {
                planned.push(Planned {
                    query: few_of_all(&filter, &lead, SORTABLE),
                    index,
                    all: false,
                    covers: true,
                    sorts: 0,
                });
            }
            if lead != Lead::Time {
                planned.push(Planned {
                    query: few(&filter, &lead, MANY),
                    index,
                    all: false,
                    covers: true,
                    sorts: 0,
                });
            }
        }
    }
    planned
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
