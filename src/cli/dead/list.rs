//! Looking at dead letters, which changes nothing: what is held goes back with the channel.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Selection, connect};
use crate::{
    broker::rabbitmq::DeadLetter,
    cli::{
        CommandError, Exit, Outcome, Output, Shared,
        output::{Rows, print, print_json},
    },
    config::Settings,
    job::{HeaderValue, Lane, Message, message::header, wire},
};

/// Letters shown to people who set no limit.
const SHOWN: usize = 50;
/// The headers of a dead letter; the job of the binary form is the message, not its death.
const HEADERS: [&str; 9] = [
    header::REASON,
    header::ERROR_CODE,
    header::ERROR,
    header::ATTEMPTS,
    header::PARKS,
    header::FIRST_SEEN,
    header::DEAD_AT,
    header::REPLAY,
    header::REPLAYED_AT,
];

/// Letters counted by lane, reason and code.
type Groups = BTreeMap<(Lane, String, Option<String>), u64>;

/// Groups count every letter that is meant; the limit is for the letters shown one by one.
pub(super) async fn list(shared: &Shared, settings: &Settings, selection: &Selection) -> Outcome {
    let limit = selection.limit.map_or_else(
        || match shared.output {
            Output::Text => SHOWN,
            Output::Json => usize::MAX,
        },
        |limit| usize::try_from(limit).unwrap_or(usize::MAX),
    );
    let queues = connect(shared, settings).await?;
    let (mut groups, mut letters) = (Groups::new(), Vec::new());
    for lane in selection.lanes() {
        let mut walk = queues.walk(lane).await?;
        while let Some(letter) = walk.next().await? {
            if !selection.takes(&letter) {
                continue;
            }
            let code = letter.code().map(str::to_owned);
            *groups
                .entry((lane, letter.reason().to_owned(), code))
                .or_default() += 1;
            if letters.len() < limit {
                letters.push(letter_json(&letter));
            }
        }
        walk.end().await?;
    }
    queues.close().await;
    match shared.output {
        Output::Json => {
            let groups: Vec<Value> = groups
                .iter()
                .map(|((lane, reason, code), count)| {
                    json!({"lane": lane.as_str(), "reason": reason, "code": code, "count": count})
                })
                .collect();
            print_json(&json!({"groups": groups, "letters": letters}))?;
        }
        Output::Text if groups.is_empty() => print("no dead letters")?,
        Output::Text => print_text(&groups, &letters)?,
    }
    Ok(Exit::Done)
}

fn print_text(groups: &Groups, letters: &[Value]) -> Result<(), CommandError> {
    let mut rows = Rows::headed(["lane", "reason", "code", "letters"]);
    for ((lane, reason, code), count) in groups {
        let code = code.as_deref().unwrap_or_default();
        rows.add([lane.as_str(), reason, code, &count.to_string()]);
    }
    print(rows)?;
    let mut rows = Rows::headed(["dead at", "id", "lane", "code", "error"]);
    for letter in letters {
        let text = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
        rows.add(["dead-at", "id", "lane", "error-code", "error"].map(text));
    }
    print(format!("\n{rows}"))?;
    let total: u64 = groups.values().sum();
    let more = total.saturating_sub(letters.len() as u64);
    if more > 0 {
        print(format!("… and {more} more; --limit N shows more of them"))?;
    }
    Ok(())
}

/// Id, lane, and the headers of the death without `brigade-`.
fn letter_json(letter: &DeadLetter) -> Value {
    let mut shown = Map::new();
    shown.insert("id".to_owned(), letter.message.message_id.clone().into());
    shown.insert("lane".to_owned(), letter.lane.as_str().into());
    for name in HEADERS {
        if let Some(value) = letter.message.headers.get(name).and_then(header_json) {
            let name = name.trim_start_matches("brigade-");
            shown.insert(name.to_owned(), value);
        }
    }
    // What the broker dead-lettered has no header of ours to say so.
    shown.insert("reason".to_owned(), letter.reason().into());
    Value::Object(shown)
}

fn header_json(value: &HeaderValue) -> Option<Value> {
    match value {
        HeaderValue::Text(text) => Some(text.as_str().into()),
        HeaderValue::Integer(number) => Some((*number).into()),
        HeaderValue::Other => None,
    }
}

/// The newest letter of that id: its death, its properties, and its job.
pub(super) async fn show(shared: &Shared, settings: &Settings, id: &str) -> Outcome {
    let queues = connect(shared, settings).await?;
    let mut found = None;
    for lane in Lane::ALL {
        let mut walk = queues.walk(lane).await?;
        while let Some(letter) = walk.next().await? {
            if letter.message.message_id.as_deref() == Some(id) {
                found = Some(whole_json(&letter));
            }
        }
        walk.end().await?;
    }
    queues.close().await;
    let Some(found) = found else {
        return Err(CommandError::new(
            Exit::Failed,
            format!("no dead letter {id}"),
        ));
    };
    match shared.output {
        Output::Json => print_json(&found)?,
        Output::Text => {
            let mut rows = Rows::new();
            for (name, value) in found.as_object().into_iter().flatten() {
                rows.add_value(name, value);
            }
            print(rows)?;
        }
    }
    Ok(Exit::Done)
}

fn whole_json(letter: &DeadLetter) -> Value {
    let mut shown = letter_json(letter);
    let Message {
        body,
        content_type,
        correlation_id,
        reply_to,
        ..
    } = &letter.message;
    let known = wire::glance(&letter.message);
    shown["operation"] = known.operation.map(|name| name.as_str()).into();
    shown["bucket"] = known.bucket.into();
    shown["key"] = known.key.into();
    shown["content_type"] = content_type.clone().into();
    shown["correlation_id"] = correlation_id.clone().into();
    shown["reply_to"] = reply_to.clone().into();
    shown["body_bytes"] = body.len().into();
    let text = letter.message.text(header::JOB);
    let job = text.map_or(&body[..], str::as_bytes);
    // As text when it is no JSON: that may be why it is dead.
    shown["job"] = serde_json::from_slice(job)
        .unwrap_or_else(|_| String::from_utf8_lossy(job).into_owned().into());
    shown
}
