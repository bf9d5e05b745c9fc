//! `brigade enqueue batch`: one job message a line. A second run repeats the same ids, so it resumes.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, IsTerminal},
    path::PathBuf,
};

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    CommandError, Exit, Outcome, Output, Shared,
    enqueue::{connect, publish_failed},
    output::{print, print_json},
};
use crate::{
    broker::{PublishError, Target, rabbitmq::Producer},
    config::Settings,
    job::{Message, OperationName, Timestamp, outcome::DeadReason, text_form, wire},
    terminal, worker,
};

/// Messages on their way at a time, each on a channel of its own.
pub(super) const IN_FLIGHT: usize = 16;

/// Arguments of `brigade enqueue batch`.
#[derive(Debug, Args)]
pub(super) struct BatchArgs {
    /// The file; one JSON object a line, with an optional "id"
    file: PathBuf,
}

/// A line that was not published.
#[derive(Debug)]
struct Rejected {
    line: u64,
    why: String,
}

pub(super) async fn run(shared: &Shared, settings: &Settings, args: BatchArgs) -> Outcome {
    let failed = |error: std::io::Error| {
        CommandError::new(Exit::Failed, format!("{}: {error}", args.file.display()))
    };
    let file = std::fs::File::open(&args.file).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let name = args
        .file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let producer = connect(shared, settings).await?;
    let bar = progress(size);

    let mut published = 0u64;
    let mut rejected = VecDeque::new();
    let mut sending = FuturesUnordered::new();
    let mut lines = BufReader::new(file).split(b'\n');
    let mut number = 0u64;
    loop {
        while sending.len() < IN_FLIGHT {
            let Some(line) = lines.next().transpose().map_err(failed)? else {
                break;
            };
            number += 1;
            bar.inc(line.len() as u64 + 1);
            if line.trim_ascii().is_empty() {
                continue;
            }
            let message = text_of(&line).and_then(|line| message_of(&name, number, line, settings));
            match message {
                Ok((target, message)) => sending.push(send(&producer, number, target, message)),
                Err(why) => rejected.push_back(Rejected { line: number, why }),
            }
        }
        match sending.next().await {
            None => break,
            Some((_, Ok(()))) => published += 1,
            Some((line, Err(error @ (PublishError::Returned(_) | PublishError::Nacked)))) => {
                rejected.push_back(Rejected {
                    line,
                    why: error.to_string(),
                });
            }
            Some((line, Err(error))) => {
                bar.abandon();
                terminal::say(format_args!(
                    "stopped at line {line} after {published} jobs; run it again to go on"
                ));
                return Err(publish_failed(error));
            }
        }
    }
    bar.finish_and_clear();
    report(shared.output, published, &rejected)?;
    Ok(if rejected.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

async fn send(
    producer: &Producer,
    line: u64,
    target: Target,
    message: Message,
) -> (u64, Result<(), PublishError>) {
    (line, producer.publish(&target, &message).await)
}

fn progress(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {percent}% {elapsed} left {eta}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The text of a line without its end. A line that is no text is wrong alone.
fn text_of(line: &[u8]) -> Result<&str, String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    std::str::from_utf8(line).map_err(|error| match text_form::instead(line) {
        Some(what) => format!("no JSON object: {what}"),
        None => {
            let at = error.valid_up_to() + 1;
            format!("a line must be UTF-8, and is not from byte {at} on")
        }
    })
}

/// The message of one line, checked as a worker would check it.
fn message_of(
    file: &str,
    number: u64,
    line: &str,
    settings: &Settings,
) -> Result<(Target, Message), String> {
    let mut fields: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        let what = text_form::instead(line.as_bytes());
        let why = what.map_or_else(|| error.to_string(), str::to_owned);
        format!("no JSON object: {why}")
    })?;
    let id = match fields.remove("id") {
        None | Some(Value::Null) => line_id(file, number, line),
        Some(Value::String(id)) => id,
        Some(other) => return Err(format!("field id must be a string, but is {other}")),
    };
    let operation = fields
        .get("operation")
        .and_then(Value::as_str)
        .and_then(OperationName::parse);
    let seconds = Timestamp::now().as_micros() / 1_000_000;
    let message = Message {
        message_id: Some(id),
        content_type: Some("application/json".to_owned()),
        timestamp: u64::try_from(seconds).ok(),
        body: Bytes::from(Value::Object(fields).to_string()),
        ..Message::default()
    };
    // Without a known operation any lane will do: the decoder says what is wrong.
    let lane = operation.map_or(crate::job::Lane::Upload, OperationName::lane);
    let rules = worker::message_rules(settings);
    match wire::decode_strictly(&message, lane, &rules, Timestamp::now()) {
        // Files and URLs are the worker's: its settings decide, and they need not be these.
        Err(bad) if bad.reason != DeadReason::ForbiddenSource => Err(bad.message),
        _ => Ok((Target::Jobs(lane), message)),
    }
}

/// The same line of the same file is the same job.
fn line_id(file: &str, number: u64, line: &str) -> String {
    let digest = Sha256::digest(format!("{file}\n{number}\n{line}"));
    let hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("batch-{hex}")
}

fn report(
    output: Output,
    published: u64,
    rejected: &VecDeque<Rejected>,
) -> Result<(), CommandError> {
    if output == Output::Json {
        let rejected: Vec<Value> = rejected
            .iter()
            .map(|it| json!({"line": it.line, "error": it.why}))
            .collect();
        return print_json(&json!({"published": published, "rejected": rejected}));
    }
    for Rejected { line, why } in rejected {
        terminal::say(format_args!("line {line}: {}", terminal::escaped(why)));
    }
    print(format!(
        "{published} jobs published, {} lines rejected",
        rejected.len()
    ))
}
