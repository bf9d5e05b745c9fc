//! `brigade enqueue`: publishes jobs, confirmed and mandatory, and can wait for their results.

use std::{io::Read, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures_util::StreamExt;

use super::{
    CommandError, Exit, Outcome, Output, Shared, batch,
    option_flags::{ObjectFlags, RequestFlags},
    output::{print, print_bytes, print_json, unless_left},
    unanswered,
    upload::{self, LeftOut, Uploads},
};
use crate::{
    broker::{
        PublishError, Target,
        rabbitmq::{Producer, RequestError},
    },
    config::Settings,
    job::{
        Headers, JobId, Message, Operation, Timestamp,
        message::header,
        operation::{
            CopyObject, CopySource, DeleteObject, DeleteObjects, DeletePrefix, Destination,
            GetObject, HeadObject, ListObjects, PutObject, PutOptions,
        },
        outcome::DeadReason,
        wire,
    },
    terminal::{self, escaped},
    worker,
};

/// How long `--wait` waits when nothing else is said.
const WAIT: Duration = Duration::from_secs(60);

/// Arguments of `brigade enqueue`.
#[derive(Debug, Args)]
pub(super) struct EnqueueArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// The job's id; the same id takes effect once. A fresh UUIDv7 when absent
    #[arg(long, global = true)]
    id: Option<String>,
    /// Wait for the result and print it
    #[arg(long, global = true)]
    wait: bool,
    /// How long --wait waits for the result; 60s when absent
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait_timeout: Option<Duration>,
    #[command(flatten)]
    headers: RequestFlags,
}

impl How {
    /// Refuses what a command of several jobs would ignore. `what` begins the sentence.
    fn demand_nothing(&self, what: &str) -> Result<(), CommandError> {
        let flag = match self {
            Self { id: Some(_), .. } => "--id",
            Self { wait: true, .. } => "--wait",
            Self {
                wait_timeout: Some(_),
                ..
            } => "--wait-timeout",
            _ => return Ok(()),
        };
        Err(CommandError::usage(format!(
            "{what}: {flag} is for one job"
        )))
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Store an object whose bytes travel in the message
    Put(PutArgs),
    /// Upload a file, a folder's files or a URL by reference: the worker reads it
    Upload(upload::UploadArgs),
    /// Copy an object within S3, with its metadata and tags
    Copy(CopyArgs),
    /// Read an object; with --wait its bytes go to standard output, or the worker writes a file
    Get(GetArgs),
    /// Read an object's size, ETag and metadata
    Head(ObjectArg),
    /// List the keys that begin with a prefix
    List {
        /// s3://BUCKET or s3://BUCKET/PREFIX
        location: Location,
    },
    /// Delete objects of one bucket
    Delete {
        /// s3://BUCKET/KEY, one or more
        #[arg(required = true)]
        objects: Vec<Location>,
        /// Delete everything that begins with s3://BUCKET/PREFIX and is older than this command
        #[arg(long)]
        prefix: bool,
    },
    /// Publish a file of job messages, one JSON object a line
    Batch(batch::BatchArgs),
}

#[derive(Debug, Args)]
struct PutArgs {
    /// s3://BUCKET/KEY
    object: Location,
    /// The object's text
    #[arg(long, conflicts_with = "file", required_unless_present = "file")]
    text: Option<String>,
    /// The file with the object's bytes; - reads standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// Only when there is no such object
    #[arg(long)]
    if_none_match: bool,
    #[command(flatten)]
    headers: ObjectFlags,
}

#[derive(Debug, Args)]
struct CopyArgs {
    /// s3://BUCKET/KEY that is copied
    source: Location,
    /// s3://BUCKET/KEY of the copy
    target: Location,
    #[command(flatten)]
    headers: ObjectFlags,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// s3://BUCKET/KEY
    object: Location,
    /// The file that the worker writes, as it sees it, beneath its destinations.file_roots
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ObjectArg {
    /// s3://BUCKET/KEY
    object: Location,
}

/// `s3://BUCKET/KEY`; the key may be empty where a prefix is meant.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) bucket: String,
    pub(super) key: String,
}

impl std::str::FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("s3://")
            .ok_or("must look like s3://BUCKET/KEY")?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("must name a bucket, like s3://BUCKET/KEY".to_owned());
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

pub(super) async fn run(shared: &Shared, args: EnqueueArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let EnqueueArgs { what, how } = args;
    if let What::Batch(batch) = what {
        how.demand_nothing("a batch is one job a line, with an id in the line")?;
        return batch::run(shared, &settings, batch).await;
    }
    if how.wait_timeout.is_some() && !how.wait {
        let why = "--wait-timeout says how long --wait waits, and there is no --wait";
        return Err(CommandError::usage(why));
    }
    let operation = match what {
        What::Batch(batch) => return batch::run(shared, &settings, batch).await,
        What::Upload(upload) => {
            let mut uploads = upload::uploads(upload)?;
            let is_one = uploads.operations.len() == 1 && uploads.left_out.is_empty();
            match uploads.operations.pop() {
                Some(operation) if is_one => operation,
                last => {
                    uploads.operations.extend(last);
                    return publish_all(shared, &settings, &how, uploads).await;
                }
            }
        }
        What::Put(put) => Operation::PutObject(put_object(put, &settings)?),
        What::Copy(CopyArgs {
            source,
            target,
            headers: ObjectFlags(headers),
        }) => Operation::CopyObject(CopyObject {
            options: PutOptions {
                headers,
                ..PutOptions::default()
            },
            bucket: target.bucket,
            key: target.key,
            source: CopySource {
                bucket: source.bucket,
                key: source.key,
                version_id: None,
            },
        }),
        What::Get(GetArgs {
            object: Location { bucket, key },
            to,
        }) => Operation::GetObject(GetObject {
            bucket,
            key,
            range: None,
            version_id: None,
            destination: match to {
                Some(path) => Destination::File(upload::absolute(&path)?),
                None => Destination::Reply,
            },
        }),
        What::Head(ObjectArg {
            object: Location { bucket, key },
        }) => Operation::HeadObject(HeadObject {
            bucket,
            key,
            version_id: None,
        }),
        What::List {
            location: Location { bucket, key },
        } => Operation::ListObjects(ListObjects {
            bucket,
            prefix: (!key.is_empty()).then_some(key),
            delimiter: None,
            max_keys: 1_000,
            start_after: None,
        }),
        What::Delete {
            objects,
            prefix: false,
        } => delete(objects)?,
        What::Delete {
            objects,
            prefix: true,
        } => delete_prefix(objects)?,
    };
    let id = match how.id {
        Some(id) => JobId::parse(&id).map_err(CommandError::usage)?,
        None => JobId::fresh(),
    };
    let lane = operation.name().lane();
    let target = Target::Jobs(lane);
    let message = checked_message(&id, &operation, &how.headers.0, &settings)?;
    let producer = connect(shared, &settings).await?;
    if !how.wait {
        producer
            .publish(&target, &message)
            .await
            .map_err(publish_failed)?;
        print_id(shared.output, &id)?;
        return Ok(Exit::Done);
    }
    let patience = how.wait_timeout.unwrap_or(WAIT);
    let why = match producer.request(&target, &message, patience).await {
        Ok(answer) => return show(shared.output, &answer),
        Err(RequestError::Publish(error)) => return Err(publish_failed(error)),
        Err(RequestError::NoAnswer) => {
            let waited = humantime::format_duration(patience);
            format!("job {id} has no result after {waited}")
        }
        Err(RequestError::Lost) => {
            format!("the connection to RabbitMQ was lost before job {id} had a result")
        }
    };
    let known = unanswered::known(shared, &settings, &producer, &id, lane).await;
    let known = if known.is_empty() {
        String::new()
    } else {
        format!(": {known}")
    };
    Err(CommandError::unreachable(format!(
        "{why}{known}. The job goes on, see: brigade jobs show {id}"
    )))
}

/// One job a file: prints the ids, in order, as they are confirmed. All are published although the reader of the ids
/// leaves; after another failure of standard output no more ids could be known, so that ends it. A file that can't be a
/// job is named, and the others go out: exit 1.
async fn publish_all(shared: &Shared, settings: &Settings, how: &How, uploads: Uploads) -> Outcome {
    how.demand_nothing("a folder is one job a file")?;
    let Uploads {
        operations,
        mut left_out,
    } = uploads;
    let mut messages = Vec::with_capacity(operations.len());
    for operation in &operations {
        let id = JobId::fresh();
        let target = Target::Jobs(operation.name().lane());
        match accepted(&id, operation, &how.headers.0, settings) {
            Ok(message) => messages.push((target, message, id)),
            Err(why) => left_out.push(LeftOut::refused(operation, why)),
        }
    }
    left_out.sort();
    let exit = LeftOut::say(&left_out);
    let producer = connect(shared, settings).await?;
    let mut published = futures_util::stream::iter(messages)
        .map(|(target, message, id)| {
            let producer = &producer;
            async move { producer.publish(&target, &message).await.map(|()| id) }
        })
        .buffered(batch::IN_FLIGHT);
    let mut is_read = true;
    while let Some(id) = published.next().await {
        let id = id.map_err(publish_failed)?;
        if is_read {
            is_read = unless_left(print_id(shared.output, &id))?;
        }
    }
    Ok(exit)
}

fn print_id(output: Output, id: &JobId) -> Result<(), CommandError> {
    match output {
        Output::Text => print(id),
        Output::Json => print_json(&serde_json::json!({"id": id.as_str()})),
    }
}

fn put_object(args: PutArgs, settings: &Settings) -> Result<PutObject, CommandError> {
    let body = match (args.text, args.file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) => read_input(&path, settings.limits.max_message_bytes)?,
        (None, None) => return Err(CommandError::usage("put wants --text or --file")),
    };
    let options = PutOptions {
        headers: args.headers.0,
        if_none_match: args.if_none_match,
        ..PutOptions::default()
    };
    let Location { bucket, key } = args.object;
    Ok(PutObject {
        bucket,
        key,
        body: Bytes::from(body),
        options,
    })
}

/// Reads at most one byte more than a message may hold, so that a huge file is no huge memory.
fn read_input(path: &std::path::Path, limit: u64) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(limit + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| CommandError::new(Exit::Failed, format!("{}: {error}", path.display())))?;
    if bytes.len() as u64 > limit {
        return Err(CommandError::new(
            Exit::Failed,
            format!(
                "{} is larger than limits.max_message_bytes, {limit} bytes",
                path.display()
            ),
        ));
    }
    Ok(bytes)
}

fn delete(objects: Vec<Location>) -> Result<Operation, CommandError> {
    let bucket = objects
        .first()
        .map(|first| first.bucket.clone())
        .unwrap_or_default();
    if objects.iter().any(|object| object.bucket != bucket) {
        return Err(CommandError::usage(
            "all objects of one delete must be in one bucket",
        ));
    }
    let mut keys: Vec<String> = objects.into_iter().map(|object| object.key).collect();
    Ok(if keys.len() == 1 {
        let key = keys.swap_remove(0);
        Operation::DeleteObject(DeleteObject {
            bucket,
            key,
            version_id: None,
        })
    } else {
        Operation::DeleteObjects(DeleteObjects { bucket, keys })
    })
}

fn delete_prefix(prefixes: Vec<Location>) -> Result<Operation, CommandError> {
    let [Location { bucket, key }] = <[Location; 1]>::try_from(prefixes)
        .map_err(|_| CommandError::usage("--prefix takes one s3://BUCKET/PREFIX"))?;
    Ok(Operation::DeletePrefix(DeletePrefix {
        bucket,
        prefix: key,
    }))
}

/// A message that a worker with these settings would accept; else says why not, before it is sent.
fn checked_message(
    id: &JobId,
    operation: &Operation,
    headers: &Headers,
    settings: &Settings,
) -> Result<Message, CommandError> {
    accepted(id, operation, headers, settings).map_err(CommandError::usage)
}

fn accepted(
    id: &JobId,
    operation: &Operation,
    headers: &Headers,
    settings: &Settings,
) -> Result<Message, String> {
    let message = wire::encode(id, operation, headers, Timestamp::now());
    let rules = worker::message_rules(settings);
    let lane = operation.name().lane();
    match wire::decode(&message, lane, &rules, Timestamp::now()) {
        Ok(_) => Ok(message),
        // Files and URLs are the worker's: its settings decide, and they need not be these.
        Err(bad) if bad.reason == DeadReason::ForbiddenSource => Ok(message),
        Err(bad) => Err(bad.message),
    }
}

/// Connects to the broker, once.
pub(super) async fn connect(
    shared: &Shared,
    settings: &Settings,
) -> Result<Producer, CommandError> {
    Producer::connect(&settings.amqp.url, &settings.amqp.prefix, shared.timeout)
        .await
        .map_err(|why| CommandError::unreachable(why).at(&settings.amqp.url_named))
}

/// No queue to take it: exit 1; no broker: 69.
pub(super) fn publish_failed(error: PublishError) -> CommandError {
    match error {
        PublishError::Returned(_) => CommandError::new(
            Exit::Failed,
            format!("{error}; run `brigade topology apply`, or start a worker"),
        ),
        PublishError::Nacked => CommandError::new(Exit::Failed, error),
        PublishError::NotConnected(_) | PublishError::TimedOut | PublishError::Blocked(_) => {
            CommandError::unreachable(error)
        }
    }
}

/// Prints an answer: an object's bytes as they are, else the report. Exit 0 completed, else 1.
fn show(output: Output, answer: &Message) -> Outcome {
    let (report, bytes) = match answer.text(header::RESULT) {
        Some(report) => (report.as_bytes(), Some(&answer.body)),
        None => (&answer.body[..], None),
    };
    let report: serde_json::Value = serde_json::from_slice(report)
        .map_err(|error| CommandError::new(Exit::Bug, format!("the answer is no JSON: {error}")))?;
    let completed = report["outcome"] == "completed";
    match (output, bytes) {
        (Output::Text, Some(bytes)) => print_bytes(bytes)?,
        (Output::Json, _) => print_json(&report)?,
        (Output::Text, None) if completed => print_json(&report["result"])?,
        (Output::Text, None) => {
            let text = |name: &str| escaped(report["error"][name].as_str().unwrap_or("?"));
            let outcome = report["outcome"].as_str().unwrap_or("?");
            terminal::say(format_args!(
                "{outcome}: {}: {}",
                text("code"),
                text("message")
            ));
        }
    }
    Ok(if completed { Exit::Done } else { Exit::Failed })
}
