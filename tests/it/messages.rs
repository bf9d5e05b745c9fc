//! Job messages and S3 faults that several tests use.

use bucket_brigade::{
    dev::s3_server::{Class, Fault, Rule},
    job::Message,
};
use serde_json::{Value, json};

/// A job message with a JSON body.
pub(crate) fn message(id: &str, job: &Value) -> Message {
    Message {
        message_id: Some(id.to_owned()),
        content_type: Some("application/json".to_owned()),
        body: job.to_string().into(),
        ..Message::default()
    }
}

/// A put of a small text to bucket `b`.
pub(crate) fn put(id: &str, key: &str) -> Message {
    let job = json!({"version": 1, "operation": "put_object", "bucket": "b", "key": key,
        "body": {"text": format!("text of {key}")}});
    message(id, &job)
}

/// Any operation on one key of bucket `b`.
pub(crate) fn on_key(id: &str, operation: &str, key: &str) -> Message {
    message(
        id,
        &json!({"version": 1, "operation": operation, "bucket": "b", "key": key}),
    )
}

/// Uploads are answered 503.
pub(crate) fn unavailable() -> Rule {
    answer(503, "ServiceUnavailable")
}

/// Uploads are answered so.
pub(crate) fn answer(status: u16, code: &str) -> Rule {
    Rule::new(Fault::status(status, code)).class(Class::Upload)
}

/// Uploads take effect, but the answer never comes.
pub(crate) fn answer_lost() -> Rule {
    Rule::new(Fault::LoseAnswer).class(Class::Upload)
}

/// Uploads hang until the rule goes.
pub(crate) fn uploads_hang() -> Rule {
    Rule::new(Fault::Hang).class(Class::Upload)
}

/// Deletes are answered 503.
pub(crate) fn deletes_unavailable() -> Rule {
    Rule::new(Fault::status(503, "ServiceUnavailable")).class(Class::Delete)
}

/// Deletes hang until the rule goes.
pub(crate) fn deletes_hang() -> Rule {
    Rule::new(Fault::Hang).class(Class::Delete)
}

/// A sample of a metrics page by its name and labels (sorted by label); 0 when absent.
pub(crate) fn metric(page: &str, sample: &str) -> f64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
