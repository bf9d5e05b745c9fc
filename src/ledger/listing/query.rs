//! The text of a query, piece by piece, and its values.

use super::{Lead, operations};
use crate::{
    job::{JobId, OperationName, Timestamp},
    ledger::{Cursor, JobFilter},
};

/// A value of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) enum Value {
    Text(String),
    Number(i64),
}

/// A statement and its values, `$1` being the first.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Query {
    pub(in crate::ledger) sql: String,
    pub(in crate::ledger) values: Vec<Value>,
}

impl Query {
    /// One job by its id.
    pub(in crate::ledger) fn one_job(columns: &str, id: &JobId) -> Self {
        let mut query = Self::default();
        query.push(&format!("select {columns} from jobs where id = "));
        query.value(Value::Text(id.as_str().to_owned()));
        query
    }

    pub(super) fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    fn value(&mut self, value: Value) {
        self.values.push(value);
        self.sql.push_str(&format!("${}", self.values.len()));
    }

    /// Written out, not bound: a plan made for a limit that it doesn't know is one for many rows.
    pub(super) fn limit(&mut self, limit: i64) {
        self.push(&limit.to_string());
    }

    /// In the list's order, by the lead's index.
    pub(super) fn newest(&mut self, lead: &Lead, most: i64) {
        self.push(match lead {
            Lead::Time => " order by enqueued_at desc, id desc limit ",
            Lead::State(_) => " order by state desc, enqueued_at desc, id desc limit ",
            Lead::Operation(_) => " order by operation desc, enqueued_at desc, id desc limit ",
            Lead::Bucket(_) => " order by bucket desc, enqueued_at desc, id desc limit ",
            Lead::Code(_) => " order by error_code desc, enqueued_at desc, id desc limit ",
            Lead::KeyPrefix(_) => " order by enqueued_at + 0 desc, id || '' desc limit ",
        });
        self.limit(most);
    }

    /// The rest of the filter. Within a `case` a condition leads to no index, and a planner takes it for one that every
    /// other job meets. Of the conditions alone it would believe that hardly a job meets them all, and sort
    /// what it finds rather than walk an index that is in the list's order.
    pub(super) fn rest(&mut self, lead: &Lead, filter: &JobFilter) {
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
    pub(super) fn range(&mut self, lead: &Lead, filter: &JobFilter) {
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
pub(super) fn after_prefix(prefix: &str) -> Option<String> {
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
