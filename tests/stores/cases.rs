//! What a row of the table is, and how one way of it is judged.

use std::pin::Pin;

use bucket_brigade::job::JobResult;
use serde_json::{Value, json};

use crate::store::{End, PLAIN, Store};

/// A row of the table.
pub(crate) struct Case {
    pub(crate) name: String,
    /// By name, at least one.
    pub(crate) ways: Vec<(&'static str, Attempt)>,
}

pub(crate) type Run = dyn for<'s> Fn(&'s Store) -> Pin<Box<dyn Future<Output = End> + 's>>;

/// One way of a case.
pub(crate) struct Attempt {
    /// Whether it needs a bucket with object lock.
    pub(crate) locked: bool,
    pub(crate) run: Box<Run>,
}

macro_rules! attempt {
    (|$store:ident| $body:expr) => {
        Attempt {
            locked: false,
            run: Box::new(move |$store: &Store| Box::pin(async move { $body })),
        }
    };
}

pub(crate) fn case(name: &str, attempt: Attempt) -> Case {
    Case {
        name: name.to_owned(),
        ways: vec![("", attempt)],
    }
}

pub(crate) use attempt;

/// A message of the operation with these fields.
pub(crate) fn job(operation: &str, fields: &Value) -> Value {
    let mut job = json!({"version": 1, "operation": operation, "bucket": PLAIN});
    for (name, value) in fields.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

/// Yes when the job completes and `good` holds of its result.
pub(crate) fn judged(end: Result<JobResult, String>, good: impl FnOnce(&JobResult) -> bool) -> End {
    match end {
        Ok(result) if good(&result) => End::Yes,
        Ok(result) => {
            eprintln!("{result:?}");
            End::Odd("otherwise".to_owned())
        }
        Err(code) => End::Refused(code),
    }
}

impl Store {
    pub(crate) async fn result(&self, operation: &str, fields: Value) -> Result<JobResult, String> {
        self.run(&job(operation, &fields))
            .await
            .map(|done| done.result)
    }
}

pub(crate) fn has_size(result: &JobResult, wanted: u64) -> bool {
    matches!(result, JobResult::Stored { size, .. } | JobResult::Object { size, .. } if *size == wanted)
}
