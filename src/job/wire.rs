//! The versioned job message: decodes what producers send, and says in a sentence why not.
//!
//! The order of checks is the contract's (section 2): id, size, JSON, version, operation, fields, the
//! lane it came by, what the settings allow. The first finding is the reason. Pure: the time and the
//! limits are arguments.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Carried, HeaderValue, Headers, Job, JobId, Lane, Message, Operation, OperationName,
    RequestDigest, Timestamp,
    fields::{Fields, Names, holds_nul, kind, shown, whole},
    message::header,
    operation::{Destination, SourceRef},
    options::{CONTENT_TYPE, Scope},
    outcome::DeadReason,
    place::{Origins, Refused, Roots},
    requests, text_form,
};

/// The one message version this build speaks.
pub const VERSION: i64 = 1;
/// Object metadata that is ours: the job id of a conditional put.
pub const OWN_METADATA: &str = "brigade-job";

/// What the operator allows a message to ask for.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Largest body in bytes.
    pub max_message_bytes: u64,
    /// Folders beneath which objects may be written to files.
    pub destination_roots: Roots,
    /// Folders whose files may be uploaded.
    pub source_roots: Roots,
    /// Origins whose URLs may be uploaded.
    pub source_origins: Origins,
}

/// A job that can't be run: its dead letter is all there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadJob {
    /// One of `malformed`, `unsupported`, `wrong_lane`, `forbidden_source`.
    pub reason: DeadReason,
    /// What is wrong and what would be right.
    pub message: String,
    /// What could be read all the same, for the reply.
    pub known: Known,
}

/// The parts of a bad job that could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The job's id.
    pub id: Option<JobId>,
    /// A name that the contract knows.
    pub operation: Option<OperationName>,
    /// The field as sent, if it is text.
    pub bucket: Option<String>,
    /// The field as sent, if it is text.
    pub key: Option<String>,
}

/// Reads a delivery's message that came by `lane`'s queue at `now`.
pub fn decode(message: &Message, lane: Lane, rules: &Rules, now: Timestamp) -> Result<Job, BadJob> {
    decode_with(&Names::default(), message, lane, rules, now)
}

/// The same for our own tools, which know every field there is: an unknown one is malformed, and the sentence names
/// the field that was meant.
pub fn decode_strictly(
    message: &Message,
    lane: Lane,
    rules: &Rules,
    now: Timestamp,
) -> Result<Job, BadJob> {
    decode_with(&Names::checked(), message, lane, rules, now)
}

fn decode_with(
    names: &Names,
    message: &Message,
    lane: Lane,
    rules: &Rules,
    now: Timestamp,
) -> Result<Job, BadJob> {
    let mut known = Known::default();
    match read(names, message, lane, rules, now, &mut known) {
        Ok(job) => Ok(job),
        Err((reason, message)) => Err(BadJob {
            reason,
            message,
            known,
        }),
    }
}

/// What can be read of a message, without judging it: for people who look at dead letters.
pub fn glance(message: &Message) -> Known {
    let mut known = Known {
        id: message
            .message_id
            .as_deref()
            .and_then(|id| JobId::parse(id).ok()),
        ..Known::default()
    };
    if let Ok(form) = Form::of(message)
        && let Ok(map) = form.json(message)
    {
        known.read(&map);
        if form == Form::Binary {
            known.operation.get_or_insert(OperationName::PutObject);
        }
    }
    known
}

impl Known {
    fn read(&mut self, map: &Map<String, Value>) {
        let text = |name| map.get(name).and_then(Value::as_str);
        self.bucket = text("bucket").map(str::to_owned);
        self.key = text("key").map(str::to_owned);
        self.operation = text("operation").and_then(OperationName::parse);
    }
}

type Step<T> = Result<T, (DeadReason, String)>;

fn malformed(message: impl Into<String>) -> (DeadReason, String) {
    (DeadReason::Malformed, message.into())
}

fn read(
    names: &Names,
    message: &Message,
    lane: Lane,
    rules: &Rules,
    now: Timestamp,
    known: &mut Known,
) -> Step<Job> {
    let id = message.message_id.as_deref().ok_or_else(|| {
        malformed("property message_id is missing: it is the job's id, a UUIDv7 for example")
    })?;
    let id = JobId::parse(id).map_err(malformed)?;
    known.id = Some(id.clone());

    let (size, limit) = (message.body.len() as u64, rules.max_message_bytes);
    if size > limit {
        return Err(malformed(format!(
            "the body has {size} bytes, but limits.max_message_bytes is {limit}"
        )));
    }

    let form = Form::of(message)?;
    let map = form.json(message)?;
    known.read(&map);

    let mut fields = Fields::new(map, names);
    check_version(&mut fields)?;
    let name = operation_name(&mut fields, form)?;
    known.operation = Some(name);
    let operation = requests::read(name, &mut fields, form, message).map_err(malformed)?;
    let headers = Headers::take(&mut fields, &[Scope::Request]).map_err(malformed)?;
    drop(fields);
    let ignored = names.unknown();
    if names.are_checked() && !ignored.is_empty() {
        return Err(malformed(not_known(names, &ignored)));
    }
    let operation = operation.ok_or_else(|| {
        let name = name.as_str();
        let message = format!("operation {name} is not supported by this version yet");
        (DeadReason::Unsupported, message)
    })?;

    if name.lane() != lane {
        let (name, right) = (name.as_str(), name.lane());
        return Err((
            DeadReason::WrongLane,
            format!("{name} belongs to lane {right}, but came by the queue of lane {lane}"),
        ));
    }
    check_places(&operation, rules)?;

    Ok(Job {
        id,
        digest: RequestDigest::of(&operation, &headers),
        operation,
        headers,
        ignored,
        reply_to: message.reply_to.clone().filter(|queue| !queue.is_empty()),
        correlation_id: message.correlation_id.clone(),
        published_at: believable(message.timestamp, now),
        carried: carried(message),
    })
}

fn not_known(names: &Names, unknown: &[String]) -> String {
    let each = unknown.iter().map(|name| match names.meant_by(name) {
        Some(meant) => format!("field {name} is not known; did you mean {meant}?"),
        None => format!("field {name} is not known"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// How the message carries the object's bytes, if it does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The AMQP body is the JSON.
    Json,
    /// The AMQP body is the object, the JSON is in header `brigade-job`.
    Binary,
}

impl Form {
    fn of(message: &Message) -> Step<Self> {
        if message.headers.contains_key(header::JOB) {
            return Ok(Self::Binary);
        }
        match message.content_type.as_deref() {
            None => Ok(Self::Json),
            Some(given) => {
                let essence = given.split(';').next().unwrap_or_default().trim();
                if essence.is_empty() || essence.eq_ignore_ascii_case("application/json") {
                    Ok(Self::Json)
                } else {
                    Err(malformed(format!(
                        "property content_type must be application/json, but is {given:?} \
                         (object bytes as the body need the job's JSON in header brigade-job)"
                    )))
                }
            }
        }
    }

    fn json(self, message: &Message) -> Step<Map<String, Value>> {
        let (place, text): (_, &[u8]) = match self {
            Self::Json => ("the body", &message.body),
            Self::Binary => match message.text(header::JOB) {
                Some(text) => ("header brigade-job", text.as_bytes()),
                None => return Err(malformed("header brigade-job must be text that holds JSON")),
            },
        };
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            let why = text_form::instead(text).map_or_else(|| error.to_string(), str::to_owned);
            malformed(format!("{place} is no valid JSON: {why}"))
        })?;
        // The escape is the only way to write it in JSON, so most messages skip the walk.
        if text.windows(6).any(|window| window == b"\\u0000") && holds_nul(&value) {
            return Err(malformed(format!("{place} holds the character U+0000")));
        }
        match value {
            Value::Object(map) => Ok(map),
            Value::String(text) if text.trim_start().starts_with('{') => Err(malformed(format!(
                "{place} must be a JSON object, but is a string that holds one: it is encoded twice"
            ))),
            other => Err(malformed(format!(
                "{place} must be a JSON object, but is {}",
                kind(&other)
            ))),
        }
    }
}

fn check_version(fields: &mut Fields<'_>) -> Step<()> {
    let value = fields
        .take("version")
        .ok_or_else(|| malformed(fields.missing("version")))?;
    match whole(&value) {
        Some(VERSION) => Ok(()),
        Some(other) => Err((
            DeadReason::Unsupported,
            format!("version {other} is not supported, this worker speaks version {VERSION}"),
        )),
        None => Err(malformed(fields.wrong(
            "version",
            "must be a whole number",
            &value,
        ))),
    }
}

fn operation_name(fields: &mut Fields<'_>, form: Form) -> Step<OperationName> {
    let text = fields.text("operation").map_err(malformed)?;
    let Some(text) = text else {
        return match form {
            Form::Binary => Ok(OperationName::PutObject),
            Form::Json => Err(malformed(fields.missing("operation"))),
        };
    };
    let name = OperationName::parse(&text).ok_or_else(|| {
        let names = OperationName::ALL.map(OperationName::as_str).join(", ");
        let given = shown(&Value::String(text));
        (
            DeadReason::Unsupported,
            format!("operation {given} is not known; known are {names}"),
        )
    })?;
    if form == Form::Binary && name != OperationName::PutObject {
        return Err(malformed(format!(
            "the binary form is always put_object, but operation is {}",
            name.as_str()
        )));
    }
    Ok(name)
}

/// What the message alone shows of a place that is not allowed. Links and redirects show themselves later.
fn check_places(operation: &Operation, rules: &Rules) -> Step<()> {
    let checked = match operation {
        Operation::GetObject(get) => match &get.destination {
            Destination::Reply => return Ok(()),
            Destination::File(file) => rules.destination_roots.covering(file).map(|_| ()),
        },
        Operation::UploadFileobj(upload) => match &upload.source {
            SourceRef::File(file) => rules.source_roots.covering(file).map(|_| ()),
            SourceRef::Url(url) => rules.source_origins.check(url).map(|_| ()),
        },
        _ => return Ok(()),
    };
    checked.map_err(|refused| match refused {
        Refused::Malformed(rule) => malformed(format!("field source.url {rule}")),
        Refused::Forbidden(why) => (DeadReason::ForbiddenSource, why),
    })
}

fn carried(message: &Message) -> Carried {
    let time = |name| message.text(name).and_then(Timestamp::parse_rfc3339);
    Carried {
        attempts: message.count(header::ATTEMPTS).unwrap_or(0),
        parks: message.count(header::PARKS).unwrap_or(0),
        first_seen: time(header::FIRST_SEEN),
        replay: message.count(header::REPLAY).unwrap_or(0),
        replayed_at: time(header::REPLAYED_AT),
        was_dead: message.headers.contains_key(header::DEAD_AT),
    }
}

/// Publish times before 2000 are a clock that was never set.
const EARLIEST: Timestamp = Timestamp::from_micros(946_684_800_000_000);
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// The producer's publish time, unless it is before 2000 or more than a day ahead of `now`.
fn believable(seconds: Option<u64>, now: Timestamp) -> Option<Timestamp> {
    let time = Timestamp::from_secs(i64::try_from(seconds?).ok()?)?;
    (time >= EARLIEST && time <= now.plus(A_DAY)).then_some(time)
}

/// The message of a job, published at `now`; what our own tools send. Binary form for a put, else JSON. `headers` are
/// what all requests of the job say.
pub fn encode(id: &JobId, operation: &Operation, headers: &Headers, now: Timestamp) -> Message {
    let json = requests::write(operation, headers).to_string();
    let message = Message {
        message_id: Some(id.to_string()),
        timestamp: u64::try_from(now.as_micros() / 1_000_000).ok(),
        ..Message::default()
    };
    match operation {
        Operation::PutObject(put) => {
            let mut message = Message {
                body: put.body.clone(),
                content_type: put.options.headers.get(CONTENT_TYPE).map(str::to_owned),
                ..message
            };
            // Not `with_text`: JSON that is cut is no JSON.
            message
                .headers
                .insert(header::JOB.to_owned(), HeaderValue::Text(json));
            message
        }
        _ => Message {
            body: json.into(),
            content_type: Some("application/json".to_owned()),
            ..message
        },
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
