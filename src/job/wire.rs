//! The versioned job message: decodes what producers send, and says in a sentence why not.
//!
//! The order of checks is the contract's (section 2): id, size, JSON, version, operation, fields, the
//! lane it came by, what the settings allow. The first finding is the reason. Pure: the time and the
//! limits are arguments.

use std::{collections::BTreeMap, path::Path, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Carried, Job, JobId, Lane, Message, Operation, OperationName, Timestamp,
    fields::{Fields, holds_nul, shown, whole},
    message::header,
    operation::{
        DeleteObject, DeleteObjects, GetObject, HeadObject, ListObjects, PutObject, PutOptions,
    },
    outcome::DeadReason,
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
    pub destination_roots: Vec<PathBuf>,
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
    let mut known = Known::default();
    match read(message, lane, rules, now, &mut known) {
        Ok(job) => Ok(job),
        Err((reason, message)) => Err(BadJob {
            reason,
            message,
            known,
        }),
    }
}

type Step<T> = Result<T, (DeadReason, String)>;

fn malformed(message: impl Into<String>) -> (DeadReason, String) {
    (DeadReason::Malformed, message.into())
}

fn read(
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
    let mut map = form.json(message)?;
    let as_text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    (known.bucket, known.key) = (as_text(map.get("bucket")), as_text(map.get("key")));
    known.operation = map
        .get("operation")
        .and_then(Value::as_str)
        .and_then(OperationName::parse);

    let mut fields = Fields::new(&mut map, "");
    check_version(&mut fields)?;
    let name = operation_name(&mut fields, form)?;
    known.operation = Some(name);
    let operation = read_operation(name, &mut fields, form, message)?;

    if name.lane() != lane {
        let (name, right) = (name.as_str(), name.lane());
        return Err((
            DeadReason::WrongLane,
            format!("{name} belongs to lane {right}, but came by the queue of lane {lane}"),
        ));
    }
    check_destination(&mut fields, rules)?;

    Ok(Job {
        id,
        operation,
        reply_to: message.reply_to.clone().filter(|queue| !queue.is_empty()),
        correlation_id: message.correlation_id.clone(),
        published_at: believable(message.timestamp, now),
        carried: carried(message),
    })
}

/// How the message carries the object's bytes, if it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
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
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| malformed(format!("{place} is no valid JSON: {error}")))?;
        // The escape is the only way to write it in JSON, so most messages skip the walk.
        if text.windows(6).any(|window| window == b"\\u0000") && holds_nul(&value) {
            return Err(malformed(format!("{place} holds the character U+0000")));
        }
        match value {
            Value::Object(map) => Ok(map),
            other => Err(malformed(format!(
                "{place} must be a JSON object, but is {}",
                shown(&other)
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

fn read_operation(
    name: OperationName,
    fields: &mut Fields<'_>,
    form: Form,
    message: &Message,
) -> Step<Operation> {
    let read = match name {
        OperationName::PutObject => put_object(fields, form, message).map(Operation::PutObject),
        OperationName::GetObject => get_object(fields).map(Operation::GetObject),
        OperationName::HeadObject => head_object(fields).map(Operation::HeadObject),
        OperationName::ListObjects => list_objects(fields).map(Operation::ListObjects),
        OperationName::DeleteObject => delete_object(fields).map(Operation::DeleteObject),
        OperationName::DeleteObjects => delete_objects(fields).map(Operation::DeleteObjects),
        OperationName::UploadFileobj | OperationName::CopyObject | OperationName::DeletePrefix => {
            return Err((
                DeadReason::Unsupported,
                format!(
                    "operation {} is not supported by this version yet",
                    name.as_str()
                ),
            ));
        }
    };
    read.map_err(malformed)
}

fn put_object(fields: &mut Fields<'_>, form: Form, message: &Message) -> Result<PutObject, String> {
    let (bucket, key) = (fields.bucket()?, fields.key()?);
    let body = match (form, fields.object("body")?) {
        (Form::Binary, None) => message.body.clone(),
        (Form::Binary, Some(_)) => {
            return Err("field body must be absent when header brigade-job is used".to_owned());
        }
        (Form::Json, None) => return Err(fields.missing("body")),
        (Form::Json, Some(mut body)) => inline_body(&mut Fields::new(&mut body, "body."))?,
    };
    let mut options = put_options(fields)?;
    if form == Form::Binary && message.content_type.is_some() {
        options.content_type.clone_from(&message.content_type);
        if options
            .content_type
            .as_ref()
            .is_some_and(|text| text.contains(['\r', '\n', '\0']))
        {
            return Err("property content_type may hold no line break".to_owned());
        }
    }
    Ok(PutObject {
        bucket,
        key,
        body,
        options,
    })
}

fn inline_body(body: &mut Fields<'_>) -> Result<Bytes, String> {
    match (body.text("text")?, body.text("base64")?) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(Bytes::from)
            .map_err(|error| format!("field body.base64 is no standard base64: {error}")),
        (Some(_), Some(_)) => Err("field body must hold text or base64, but holds both".to_owned()),
        (None, None) => Err("field body must hold text or base64, but holds neither".to_owned()),
    }
}

fn put_options(fields: &mut Fields<'_>) -> Result<PutOptions, String> {
    let metadata = fields.strings("metadata")?;
    if metadata
        .keys()
        .any(|name| name.eq_ignore_ascii_case(OWN_METADATA))
    {
        return Err(format!(
            "field metadata may not hold {OWN_METADATA}, which is the worker's"
        ));
    }
    let if_none_match = match fields.text("if_none_match")?.as_deref() {
        None => false,
        Some("*") => true,
        Some(other) => {
            let given = Value::String(other.to_owned());
            return Err(fields.wrong("if_none_match", "must be \"*\"", &given));
        }
    };
    let sha256 = match fields.text("sha256")? {
        None => None,
        Some(text) => Some(hex_digest(&text).ok_or_else(|| {
            fields.wrong(
                "sha256",
                "must be 64 hex digits",
                &Value::String(text.clone()),
            )
        })?),
    };
    Ok(PutOptions {
        content_type: fields.header_text("content_type")?,
        metadata,
        tags: fields.strings("tags")?,
        storage_class: fields.header_text("storage_class")?,
        cache_control: fields.header_text("cache_control")?,
        if_none_match,
        sha256,
    })
}

fn hex_digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

fn get_object(fields: &mut Fields<'_>) -> Result<GetObject, String> {
    let (bucket, key) = (fields.bucket()?, fields.key()?);
    let range = fields.header_text("range")?;
    if let Some(range) = range.as_deref().filter(|range| !is_one_range(range)) {
        let rule = "must be one byte range such as bytes=0-99, bytes=100- or bytes=-5";
        return Err(fields.wrong("range", rule, &Value::String(range.to_owned())));
    }
    let version_id = fields.nonempty("version_id")?;
    check_destination_form(fields)?;
    Ok(GetObject {
        bucket,
        key,
        range,
        version_id,
    })
}

fn is_one_range(range: &str) -> bool {
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())
            .flatten()
    };
    match (first, last) {
        ("", last) => number(last).is_some(),
        (first, "") => number(first).is_some(),
        (first, last) => matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b),
    }
}

/// Checks the form of `destination` and leaves it in place: whether it is allowed is asked last.
fn check_destination_form(fields: &mut Fields<'_>) -> Result<(), String> {
    let Some(mut destination) = fields.object("destination")? else {
        return Ok(());
    };
    let whole = destination.clone();
    let mut inner = Fields::new(&mut destination, "destination.");
    let file = match (inner.object("reply")?, inner.text("file")?) {
        (Some(_), None) => None,
        (None, Some(file)) => Some(file),
        (Some(_), Some(_)) => {
            return Err("field destination must hold reply or file, but holds both".to_owned());
        }
        (None, None) => {
            return Err("field destination must hold reply or file, but holds neither".to_owned());
        }
    };
    if let Some(file) = file {
        if !Path::new(&file).is_absolute() {
            let rule = "must be an absolute path";
            return Err(inner.wrong("file", rule, &Value::String(file)));
        }
        fields.put_back("destination", Value::Object(whole));
    }
    Ok(())
}

fn check_destination(fields: &mut Fields<'_>, rules: &Rules) -> Step<()> {
    let Some(destination) = fields.take("destination") else {
        return Ok(());
    };
    let Some(file) = destination.get("file").and_then(Value::as_str) else {
        return Ok(());
    };
    let plain = !Path::new(file)
        .components()
        .any(|part| part.as_os_str() == "..");
    if plain
        && rules
            .destination_roots
            .iter()
            .any(|root| Path::new(file).starts_with(root))
    {
        let message = "writing objects to files is not supported by this version yet";
        return Err((DeadReason::Unsupported, message.to_owned()));
    }
    Err((
        DeadReason::ForbiddenSource,
        format!("file {file:?} is not beneath any folder of destinations.file_roots"),
    ))
}

fn head_object(fields: &mut Fields<'_>) -> Result<HeadObject, String> {
    Ok(HeadObject {
        bucket: fields.bucket()?,
        key: fields.key()?,
        version_id: fields.nonempty("version_id")?,
    })
}

fn list_objects(fields: &mut Fields<'_>) -> Result<ListObjects, String> {
    Ok(ListObjects {
        bucket: fields.bucket()?,
        prefix: fields.text("prefix")?,
        delimiter: fields.text("delimiter")?.filter(|text| !text.is_empty()),
        max_keys: fields.number("max_keys", 1, 10_000)?.unwrap_or(1_000),
        start_after: fields.text("start_after")?.filter(|text| !text.is_empty()),
    })
}

fn delete_object(fields: &mut Fields<'_>) -> Result<DeleteObject, String> {
    Ok(DeleteObject {
        bucket: fields.bucket()?,
        key: fields.key()?,
        version_id: fields.nonempty("version_id")?,
    })
}

fn delete_objects(fields: &mut Fields<'_>) -> Result<DeleteObjects, String> {
    Ok(DeleteObjects {
        bucket: fields.bucket()?,
        keys: fields.keys()?,
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

/// The JSON of an operation as producers send it; what our own tools publish.
///
/// A put is encoded without its body: send its bytes in the binary form.
pub fn encode(operation: &Operation) -> Value {
    let mut fields = vec![
        ("version", Value::from(VERSION)),
        ("operation", operation.name().as_str().into()),
        ("bucket", operation.bucket().into()),
    ];
    let mut add = |name: &'static str, value: Option<Value>| {
        fields.extend(value.map(|value| (name, value)));
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let strings = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map_value(map));
    add("key", operation.key().map(Value::from));
    match operation {
        Operation::PutObject(put) => {
            let options = &put.options;
            add("content_type", text(&options.content_type));
            add("metadata", strings(&options.metadata));
            add("tags", strings(&options.tags));
            add("storage_class", text(&options.storage_class));
            add("cache_control", text(&options.cache_control));
            add("if_none_match", options.if_none_match.then(|| "*".into()));
            let hex = |digest: [u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
            add(
                "sha256",
                options.sha256.map(|digest| Value::String(hex(digest))),
            );
        }
        Operation::GetObject(get) => {
            add("range", text(&get.range));
            add("version_id", text(&get.version_id));
        }
        Operation::HeadObject(head) => add("version_id", text(&head.version_id)),
        Operation::ListObjects(list) => {
            add("prefix", text(&list.prefix));
            add("delimiter", text(&list.delimiter));
            add("max_keys", Some(list.max_keys.into()));
            add("start_after", text(&list.start_after));
        }
        Operation::DeleteObject(delete) => add("version_id", text(&delete.version_id)),
        Operation::DeleteObjects(delete) => add("keys", Some(delete.keys.clone().into())),
    }
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn map_value(map: &BTreeMap<String, String>) -> Value {
    map.iter()
        .map(|(name, value)| (name.clone(), Value::from(value.clone())))
        .collect()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
