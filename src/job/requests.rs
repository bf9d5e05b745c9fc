//! The JSON of each operation's request: read field by field, and written the same way.
//!
//! Adding an operation adds one reader here and one arm of [`write`]; the round trip is a property
//! test. Knows fields, not messages: envelope, lane and the operator's rules are `wire.rs`'s.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    Message, Operation, OperationName,
    fields::Fields,
    operation::{
        CopyObject, CopySource, DeleteObject, DeleteObjects, DeletePrefix, Destination, GetObject,
        HeadObject, ListObjects, PutObject, PutObjectTagging, PutOptions, SourceRef, UploadFileobj,
    },
    options::{CONTENT_TYPE, Headers, Scope},
    place::{Refused, SourceUrl},
    wire::{Form, OWN_METADATA, VERSION},
};

/// Tags that S3 lets an object have.
const MOST_TAGS: usize = 10;

/// Reads the operation's fields; `None` for one that this version does not run yet. The error is a
/// sentence that names field, rule and value.
pub(super) fn read(
    name: OperationName,
    fields: &mut Fields<'_>,
    form: Form,
    message: &Message,
) -> Result<Option<Operation>, String> {
    Ok(Some(match name {
        OperationName::PutObject => Operation::PutObject(put_object(fields, form, message)?),
        OperationName::GetObject => Operation::GetObject(get_object(fields)?),
        OperationName::HeadObject => Operation::HeadObject(head_object(fields)?),
        OperationName::ListObjects => Operation::ListObjects(list_objects(fields)?),
        OperationName::DeleteObject => Operation::DeleteObject(delete_object(fields)?),
        OperationName::DeleteObjects => Operation::DeleteObjects(delete_objects(fields)?),
        OperationName::CopyObject => Operation::CopyObject(copy_object(fields)?),
        OperationName::DeletePrefix => Operation::DeletePrefix(delete_prefix(fields)?),
        OperationName::PutObjectTagging => Operation::PutObjectTagging(put_object_tagging(fields)?),
        OperationName::UploadFileobj => Operation::UploadFileobj(upload_fileobj(fields)?),
    }))
}

fn put_object(fields: &mut Fields<'_>, form: Form, message: &Message) -> Result<PutObject, String> {
    let (bucket, key) = (fields.bucket()?, fields.key()?);
    let body = match (form, fields.object("body")?) {
        (Form::Binary, None) => message.body.clone(),
        (Form::Binary, Some(_)) => {
            return Err("field body must be absent when header brigade-job is used".to_owned());
        }
        (Form::Json, None) => return Err(fields.missing("body")),
        (Form::Json, Some(mut body)) => inline_body(&mut body)?,
    };
    let mut options = put_options(fields)?;
    if let (Form::Binary, Some(given)) = (form, &message.content_type) {
        let set = options.headers.set(CONTENT_TYPE, &given.as_str().into());
        set.map_err(|why| format!("property content_type {why}"))?;
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

fn copy_object(fields: &mut Fields<'_>) -> Result<CopyObject, String> {
    let (bucket, key) = (fields.bucket()?, fields.key()?);
    let mut inner = fields
        .object("source")?
        .ok_or_else(|| fields.missing("source"))?;
    let source = CopySource {
        bucket: inner.bucket()?,
        key: inner.key()?,
        version_id: inner.nonempty("version_id")?,
    };
    drop(inner);
    Ok(CopyObject {
        bucket,
        key,
        source,
        options: copy_options(fields)?,
    })
}

fn put_object_tagging(fields: &mut Fields<'_>) -> Result<PutObjectTagging, String> {
    let (bucket, key) = (fields.bucket()?, fields.key()?);
    let tags = fields.strings("tags")?;
    // None at all would remove the object's tags, which a forgotten field must not do.
    if tags.is_empty() || tags.len() > MOST_TAGS {
        let count = tags.len();
        return Err(format!(
            "field tags must hold 1 to {MOST_TAGS} tags, but holds {count}"
        ));
    }
    Ok(PutObjectTagging {
        bucket,
        key,
        tags,
        version_id: fields.nonempty("version_id")?,
    })
}

fn upload_fileobj(fields: &mut Fields<'_>) -> Result<UploadFileobj, String> {
    Ok(UploadFileobj {
        bucket: fields.bucket()?,
        key: fields.key()?,
        source: source(fields)?,
        options: put_options(fields)?,
    })
}

/// Only the form: whether the place is allowed is asked last.
fn source(fields: &mut Fields<'_>) -> Result<SourceRef, String> {
    let mut inner = fields
        .object("source")?
        .ok_or_else(|| fields.missing("source"))?;
    match (inner.text("file")?, inner.text("url")?) {
        (Some(file), None) => Ok(SourceRef::File(file_path(&inner, file)?)),
        (None, Some(url)) => match SourceUrl::parse(&url) {
            // Not shown: it may hold a password.
            Err(Refused::Malformed(rule)) => Err(format!("field source.url {rule}")),
            Ok(_) | Err(Refused::Forbidden(_)) => Ok(SourceRef::Url(url)),
        },
        (Some(_), Some(_)) => Err("field source must hold file or url, but holds both".to_owned()),
        (None, None) => Err("field source must hold file or url, but holds neither".to_owned()),
    }
}

fn file_path(fields: &Fields<'_>, file: String) -> Result<PathBuf, String> {
    // `Path` would drop the ending that says that a folder is meant.
    if !Path::new(&file).is_absolute() || file.ends_with('/') || file.ends_with("/.") {
        let rule = "must be the absolute path of a file";
        return Err(fields.wrong("file", rule, &Value::String(file)));
    }
    Ok(PathBuf::from(file))
}

/// What a copy and a put have in common.
fn copy_options(fields: &mut Fields<'_>) -> Result<PutOptions, String> {
    let metadata = fields.metadata()?;
    if metadata
        .keys()
        .any(|name| name.eq_ignore_ascii_case(OWN_METADATA))
    {
        return Err(format!(
            "field metadata may not hold {OWN_METADATA}, which is the worker's"
        ));
    }
    Ok(PutOptions {
        headers: Headers::take(fields, &[Scope::Content, Scope::Object])?,
        metadata,
        tags: fields.strings("tags")?,
        ..PutOptions::default()
    })
}

fn put_options(fields: &mut Fields<'_>) -> Result<PutOptions, String> {
    let options = copy_options(fields)?;
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
        if_none_match,
        sha256,
        ..options
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
    Ok(GetObject {
        bucket,
        key,
        range,
        version_id,
        destination: destination(fields)?,
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

/// Only the form: whether the place is allowed is asked last.
fn destination(fields: &mut Fields<'_>) -> Result<Destination, String> {
    let Some(mut inner) = fields.object("destination")? else {
        return Ok(Destination::Reply);
    };
    match (inner.object("reply")?, inner.text("file")?) {
        (Some(_), None) => Ok(Destination::Reply),
        (None, Some(file)) => Ok(Destination::File(file_path(&inner, file)?)),
        (Some(_), Some(_)) => {
            Err("field destination must hold reply or file, but holds both".to_owned())
        }
        (None, None) => {
            Err("field destination must hold reply or file, but holds neither".to_owned())
        }
    }
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

fn delete_prefix(fields: &mut Fields<'_>) -> Result<DeletePrefix, String> {
    Ok(DeletePrefix {
        bucket: fields.bucket()?,
        prefix: fields.key_named("prefix")?,
    })
}

/// Writes the operation's fields, and what all of its requests say, as producers send them; a put without its body,
/// which travels in the binary form.
pub(super) fn write(operation: &Operation, headers: &Headers) -> Value {
    let mut more = Map::new();
    headers.written(&mut more);
    let mut fields = vec![
        ("version", Value::from(VERSION)),
        ("operation", operation.name().as_str().into()),
        ("bucket", operation.bucket().into()),
    ];
    let mut add = |name: &'static str, value: Option<Value>| {
        fields.extend(value.map(|value| (name, value)));
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    add("key", operation.key().map(Value::from));
    match operation {
        Operation::PutObject(put) => fields.extend(written_options(&put.options, &mut more)),
        Operation::UploadFileobj(upload) => {
            let source = match &upload.source {
                SourceRef::File(file) => json!({"file": file.to_string_lossy()}),
                SourceRef::Url(url) => json!({"url": url}),
            };
            add("source", Some(source));
            fields.extend(written_options(&upload.options, &mut more));
        }
        Operation::CopyObject(copy) => {
            let CopySource {
                bucket,
                key,
                version_id,
            } = &copy.source;
            let mut source = serde_json::json!({"bucket": bucket, "key": key});
            if let Some(version_id) = version_id {
                source["version_id"] = version_id.as_str().into();
            }
            add("source", Some(source));
            fields.extend(written_options(&copy.options, &mut more));
        }
        Operation::PutObjectTagging(tagging) => {
            add("tags", Some(map_value(&tagging.tags)));
            add("version_id", text(&tagging.version_id));
        }
        Operation::GetObject(get) => {
            add("range", text(&get.range));
            add("version_id", text(&get.version_id));
            if let Destination::File(file) = &get.destination {
                add("destination", Some(json!({"file": file.to_string_lossy()})));
            }
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
        Operation::DeletePrefix(delete) => add("prefix", Some(delete.prefix.as_str().into())),
    }
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    fields.chain(more).collect()
}

/// Those that are one header each go into `more`.
fn written_options(
    options: &PutOptions,
    more: &mut Map<String, Value>,
) -> Vec<(&'static str, Value)> {
    options.headers.written(more);
    let strings = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map_value(map));
    let hex = |digest: [u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = [
        ("metadata", strings(&options.metadata)),
        ("tags", strings(&options.tags)),
        ("if_none_match", options.if_none_match.then(|| "*".into())),
        (
            "sha256",
            options.sha256.map(|digest| Value::String(hex(digest))),
        ),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    given.collect()
}

fn map_value(map: &BTreeMap<String, String>) -> Value {
    map.iter()
        .map(|(name, value)| (name.clone(), Value::from(value.clone())))
        .collect()
}
