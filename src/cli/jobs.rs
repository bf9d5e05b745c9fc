//! `brigade jobs list|show|stats`: what the ledger knows of jobs.

use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    CommandError, Exit, Outcome, Output, Shared,
    output::{Rows, print, print_json},
};
use crate::{
    job::{FailedAttempt, JobId, Lane, OperationName, State, Timestamp},
    ledger::{self, Cursor, JobFilter, JobRecord, Ledger},
    worker::new_owner,
};

/// Rows a page when all are streamed.
const PAGE: u32 = 1_000;

/// Arguments of `brigade jobs`.
#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Jobs, newest first
    List(ListArgs),
    /// One job
    Show {
        /// The job's id
        id: String,
    },
    /// Counts by lane, state and error code
    Stats,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// running, retrying, requeued, interrupted, completed, dead_lettered or abandoned
    #[arg(long, value_parser = parse_state)]
    state: Option<State>,
    /// upload, read or cleanup
    #[arg(long, value_parser = parse_lane)]
    lane: Option<Lane>,
    /// Such as put_object
    #[arg(long, value_parser = parse_operation)]
    operation: Option<OperationName>,
    /// The bucket's name
    #[arg(long)]
    bucket: Option<String>,
    /// Keys that begin so
    #[arg(long, value_name = "PREFIX")]
    key_prefix: Option<String>,
    /// Error code, such as AccessDenied
    #[arg(long)]
    code: Option<String>,
    /// Enqueued at or after: RFC 3339, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Enqueued before: RFC 3339, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// At most this many; 0 streams all, one JSON object a line
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Where to go on: the cursor that the page before ended with
    #[arg(long, value_name = "CURSOR", value_parser = parse_cursor)]
    after: Option<Cursor>,
}

fn parse_state(name: &str) -> Result<State, String> {
    State::parse(name)
        .ok_or_else(|| format!("states are {}", State::ALL.map(State::as_str).join(", ")))
}

fn parse_lane(name: &str) -> Result<Lane, String> {
    Lane::parse(name).ok_or_else(|| "lanes are upload, read and cleanup".to_owned())
}

fn parse_operation(name: &str) -> Result<OperationName, String> {
    let names = OperationName::ALL.map(OperationName::as_str).join(", ");
    OperationName::parse(name).ok_or_else(|| format!("operations are {names}"))
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        return Ok(time);
    }
    let age: Duration = humantime::parse_duration(text).map_err(|_| {
        "must be RFC 3339, like 2026-11-24T10:00:00Z, or an age, like 2h".to_owned()
    })?;
    Ok(Timestamp::now().minus(age))
}

fn parse_cursor(text: &str) -> Result<Cursor, String> {
    let parts = text
        .split_once('/')
        .and_then(|(micros, id)| Some((micros.parse().ok()?, id)));
    let (micros, id) = parts.ok_or("must be the cursor that the page before ended with")?;
    Ok(Cursor {
        enqueued_at: Timestamp::from_micros(micros),
        id: JobId::parse(id)?,
    })
}

fn show_cursor(cursor: &Cursor) -> String {
    format!("{}/{}", cursor.enqueued_at.as_micros(), cursor.id)
}

pub(super) async fn run(shared: &Shared, args: JobsArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let url = settings.ledger.url.expose_secret();
    let opening = ledger::open_existing(url, new_owner(), settings.ledger.lease);
    let ledger = shared.answer("ledger", opening).await;
    let ledger = ledger.map_err(|error| error.at(&settings.ledger.url_named))?;
    match args.command {
        JobsCommand::List(list) => self::list(shared, &*ledger, list).await,
        JobsCommand::Show { id } => show(shared, &*ledger, &id).await,
        JobsCommand::Stats => stats(shared, &*ledger).await,
    }
}

async fn list(shared: &Shared, ledger: &dyn Ledger, args: ListArgs) -> Outcome {
    let stream = args.limit == 0;
    let mut filter = JobFilter {
        state: args.state,
        lane: args.lane,
        operation: args.operation,
        bucket: args.bucket,
        key_prefix: args.key_prefix,
        code: args.code,
        since: args.since,
        until: args.until,
        limit: if stream { PAGE } else { args.limit },
        after: args.after,
    };
    loop {
        let page = shared.answer("ledger", ledger.list(&filter)).await?;
        let next = page.next.as_ref().map(show_cursor);
        match shared.output {
            _ if stream => {
                for job in &page.jobs {
                    print_json(&job_json(job))?;
                }
            }
            Output::Json => {
                let jobs: Vec<Value> = page.jobs.iter().map(job_json).collect();
                print_json(&json!({"jobs": jobs, "next": next}))?;
            }
            Output::Text => {
                print(table_of(&page.jobs))?;
                if let Some(cursor) = &next {
                    print(format!("more: --after {cursor}"))?;
                }
            }
        }
        if !stream || page.next.is_none() {
            return Ok(Exit::Done);
        }
        filter.after = page.next;
    }
}

fn table_of(jobs: &[JobRecord]) -> Rows {
    let head = [
        "enqueued",
        "id",
        "operation",
        "object",
        "state",
        "attempts",
        "error",
        "next try",
    ];
    let mut rows = Rows::headed(head);
    let now = Timestamp::now();
    for job in jobs {
        let object = match &job.key {
            Some(key) => format!("{}/{key}", job.bucket),
            None => job.bucket.clone(),
        };
        let code = job.error.as_ref().map(|error| error.code.clone());
        rows.add([
            job.enqueued_at.to_string(),
            job.id.to_string(),
            job.operation.clone(),
            object,
            job.state.as_str().to_owned(),
            job.attempts.to_string(),
            code.unwrap_or_default(),
            job.next_try().map_or_else(String::new, |next| {
                format!("{} ({})", until(next.at, now), next.reason.as_str())
            }),
        ]);
    }
    rows
}

/// The contract's section 3, the state, and of a parked job its way back.
fn job_json(job: &JobRecord) -> Value {
    let mut value = serde_json::to_value(job.report()).unwrap_or(Value::Null);
    value["state"] = job.state.as_str().into();
    value["parks"] = job.parks.into();
    let next = job.next_try();
    value["next_try_at"] = json!(next.map(|next| next.at));
    value["retry_reason"] = json!(next.map(|next| next.reason.as_str()));
    value
}

/// A time to come in words. One that is past is a job that waits in its queue: behind others, or for its lane to
/// go on.
pub(super) fn until(time: Timestamp, now: Timestamp) -> String {
    if time > now {
        // Up to a second more is better than a second less.
        let wait = (time.since(now) + Duration::from_millis(999)).as_secs();
        format!(
            "in {}",
            humantime::format_duration(Duration::from_secs(wait))
        )
    } else {
        let past = Duration::from_secs(now.since(time).as_secs());
        let since = match past {
            Duration::ZERO => "now".to_owned(),
            past => format!("for {}", humantime::format_duration(past)),
        };
        format!("due {since}, waits in its queue")
    }
}

async fn show(shared: &Shared, ledger: &dyn Ledger, id: &str) -> Outcome {
    let id = JobId::parse(id).map_err(CommandError::usage)?;
    let Some(job) = shared.answer("ledger", ledger.get(&id)).await? else {
        let message = format!(
            "no job {id} in the ledger: not seen by a worker yet, a bad message, or past ledger.retention"
        );
        return Err(CommandError::new(Exit::Failed, message));
    };
    let mut value = job_json(&job);
    if shared.output == Output::Json {
        value["failed_attempts"] = job.failed.iter().map(attempt_json).collect();
        print_json(&value)?;
        return Ok(Exit::Done);
    }
    if let Some(next) = job.next_try() {
        let wait = until(next.at, Timestamp::now());
        value["next_try_at"] = format!("{} ({wait})", next.at).into();
    }
    let mut rows = Rows::new();
    let names = [
        "id",
        "lane",
        "operation",
        "bucket",
        "key",
        "state",
        "attempts",
        "parks",
        "next_try_at",
        "retry_reason",
        "result",
        "error",
        "enqueued_at",
        "started_at",
        "finished_at",
        "worker",
        "ignored",
    ];
    for name in names {
        rows.add_value(name, &value[name]);
    }
    print(rows)?;
    if !job.failed.is_empty() {
        print("failed attempts, the newest first:")?;
        print(attempts_table(&job.failed))?;
    }
    Ok(Exit::Done)
}

fn attempt_json(attempt: &FailedAttempt) -> Value {
    json!({
        "at": attempt.at,
        "call": attempt.call,
        "took_ms": attempt.took_ms,
        "class": attempt.class,
        "code": attempt.code,
        "request_id": attempt.request_id,
    })
}

fn attempts_table(attempts: &[FailedAttempt]) -> Rows {
    let head = ["at", "call", "took", "class", "code", "request id"];
    let mut rows = Rows::headed(head);
    for attempt in attempts {
        rows.add([
            attempt.at.to_string(),
            attempt.call.clone(),
            format!("{} ms", attempt.took_ms),
            attempt.class.clone(),
            attempt.code.clone(),
            attempt.request_id.clone().unwrap_or_default(),
        ]);
    }
    rows
}

async fn stats(shared: &Shared, ledger: &dyn Ledger) -> Outcome {
    let counted = shared.answer("ledger", ledger.stats()).await?;
    if shared.output == Output::Json {
        let counts: Vec<Value> = counted
            .iter()
            .map(|row| json!({"lane": row.lane.as_str(), "state": row.state.as_str(), "code": row.code, "count": row.count}))
            .collect();
        print_json(&json!({ "counts": counts }))?;
        return Ok(Exit::Done);
    }
    let mut rows = Rows::headed(["lane", "state", "error", "jobs"]);
    for row in counted {
        let code = row.code.clone().unwrap_or_default();
        let count = row.count.to_string();
        rows.add([row.lane.as_str(), row.state.as_str(), &code, &count]);
    }
    print(rows)?;
    Ok(Exit::Done)
}
