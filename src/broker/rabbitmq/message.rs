//! Our [`Message`] to and from AMQP properties.
//!
//! Reads only what a copy may carry: `user_id`, `expiration`, `priority` and the rest of the properties
//! are never looked at (facts: rabbitmq.md, 7). Texts are bounded, since all properties and headers of
//! a message must fit one frame of 128 KiB, those of its later copies too: a frame too large ends the
//! whole connection.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    broker::PublishError,
    job::{HeaderValue, Message, message::header},
};

/// Longest job or report in a header, in bytes.
const MAX_JSON_HEADER: usize = 64 * 1024;
/// Longest other header text, in bytes.
const MAX_TEXT_HEADER: usize = 8 * 1024;
/// A buffer with less room to spare stays as it is, in bytes.
const WORTH_SHRINKING: usize = 64 * 1024;
/// AMQP's mark for messages that survive a broker restart.
const PERSISTENT: u8 = 2;

/// A received message, and the bytes of its body unchanged.
pub(super) fn from_amqp(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
    let headers: BTreeMap<String, HeaderValue> = properties
        .headers()
        .iter()
        .flat_map(FieldTable::inner)
        .map(|(name, value)| (name.to_string(), read_header(name.as_str(), value)))
        .collect();
    Message {
        body: body.into(),
        message_id: text(properties.message_id()),
        content_type: text(properties.content_type()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        timestamp: *properties.timestamp(),
        kind: text(properties.kind()),
        app_id: text(properties.app_id()),
        headers,
    }
}

/// Takes the message out of a delivery.
pub(super) fn from_delivery(delivery: &mut Delivery) -> Message {
    let mut body = std::mem::take(&mut delivery.data);
    // It was put together frame by frame, in a buffer that doubled: up to half of it is empty.
    if body.capacity() - body.len() > WORTH_SHRINKING {
        body.shrink_to_fit();
    }
    from_amqp(&delivery.properties, body)
}

/// The properties of a message to send, always persistent.
///
/// `Err(Returned)` when something that can't be left out is longer than AMQP allows.
pub(super) fn to_amqp(message: &Message) -> Result<BasicProperties, PublishError> {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        let value = match value {
            HeaderValue::Text(text) if text.len() > longest(name) => {
                return Err(too_long(
                    &format!("header {name}"),
                    text.len(),
                    longest(name),
                ));
            }
            HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
            HeaderValue::Integer(number) => AMQPValue::LongLongInt(*number),
            HeaderValue::Other => continue,
        };
        headers.insert(short("a header's name", name)?, value);
    }
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    if let Some(id) = &message.message_id {
        properties = properties.with_message_id(short("message_id", id)?);
    }
    if let Some(id) = &message.correlation_id {
        properties = properties.with_correlation_id(short("correlation_id", id)?);
    }
    if let Some(queue) = &message.reply_to {
        properties = properties.with_reply_to(short("reply_to", queue)?);
    }
    if let Some(timestamp) = message.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    // These three only describe. An object's content type may be longer than AMQP's 255 bytes, and its
    // bytes are worth more than the description.
    if let Some(value) = message
        .content_type
        .as_deref()
        .and_then(|it| ShortString::try_new(it).ok())
    {
        properties = properties.with_content_type(value);
    }
    if let Some(value) = message
        .kind
        .as_deref()
        .and_then(|it| ShortString::try_new(it).ok())
    {
        properties = properties.with_type(value);
    }
    if let Some(value) = message
        .app_id
        .as_deref()
        .and_then(|it| ShortString::try_new(it).ok())
    {
        properties = properties.with_app_id(value);
    }
    Ok(properties)
}

/// AMQP's short string, at most 255 bytes; lapin's own conversion panics on a longer one.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, PublishError> {
    ShortString::try_new(text).map_err(|_| too_long(what, text.len(), 255))
}

fn too_long(what: &str, bytes: usize, most: usize) -> PublishError {
    PublishError::Returned(format!(
        "{what} has {bytes} bytes, at most {most} can be sent"
    ))
}

fn longest(name: &str) -> usize {
    match name {
        header::JOB | header::RESULT => MAX_JSON_HEADER,
        _ => MAX_TEXT_HEADER,
    }
}

fn read_header(name: &str, value: &AMQPValue) -> HeaderValue {
    let text = |bytes: &[u8]| {
        if bytes.len() > longest(name) {
            return HeaderValue::Other;
        }
        HeaderValue::Text(String::from_utf8_lossy(bytes).into_owned())
    };
    match value {
        AMQPValue::LongString(it) => text(it.as_bytes()),
        AMQPValue::ByteArray(it) => text(it.as_slice()),
        AMQPValue::ShortString(it) => text(it.as_str().as_bytes()),
        AMQPValue::ShortShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongLongInt(number) => HeaderValue::Integer(*number),
        AMQPValue::Timestamp(seconds) => {
            i64::try_from(*seconds).map_or(HeaderValue::Other, HeaderValue::Integer)
        }
        _ => HeaderValue::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_what_is_received() {
        let message = Message {
            body: "{}".into(),
            message_id: Some("j1".into()),
            content_type: Some("application/json".into()),
            correlation_id: Some("c".into()),
            reply_to: Some("answers".into()),
            timestamp: Some(1_790_000_000),
            kind: Some("k".into()),
            app_id: Some("a".into()),
            ..Message::default()
        }
        .with_text(header::TRACEPARENT, "00-1-2-01")
        .with_count(header::PARKS, 3);
        let properties = to_amqp(&message).unwrap();
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(from_amqp(&properties, b"{}".to_vec()), message);
    }

    #[test]
    fn numbers_of_every_width_and_byte_strings_are_read() {
        let mut headers = FieldTable::default();
        let values = [
            AMQPValue::ShortShortInt(-1),
            AMQPValue::ShortShortUInt(200),
            AMQPValue::ShortInt(-300),
            AMQPValue::ShortUInt(60_000),
            AMQPValue::LongInt(-70_000),
            AMQPValue::LongUInt(4_000_000_000),
            AMQPValue::LongLongInt(i64::MIN),
            AMQPValue::Timestamp(5),
        ];
        for (index, value) in values.into_iter().enumerate() {
            headers.insert(format!("n{index}").into(), value);
        }
        headers.insert("bytes".into(), AMQPValue::ByteArray(b"7".to_vec().into()));
        headers.insert(
            "broken".into(),
            AMQPValue::LongString(vec![0xff, b'x'].into()),
        );
        headers.insert("flag".into(), AMQPValue::Boolean(true));
        headers.insert("huge".into(), AMQPValue::Timestamp(u64::MAX));
        let message = from_amqp(
            &BasicProperties::default().with_headers(headers),
            Vec::new(),
        );
        let numbers: Vec<Option<i64>> = (0..8)
            .map(|index| message.headers[&format!("n{index}")].as_integer())
            .collect();
        let expected = [-1, 200, -300, 60_000, -70_000, 4_000_000_000, i64::MIN, 5].map(Some);
        assert_eq!(numbers, expected);
        assert_eq!(message.count("bytes"), Some(7));
        assert_eq!(message.text("broken"), Some("\u{fffd}x"));
        assert_eq!(message.headers["flag"], HeaderValue::Other);
        assert_eq!(message.headers["huge"], HeaderValue::Other);
    }

    #[test]
    fn headers_that_would_not_fit_a_later_copy_are_not_read_and_not_sent() {
        let of = |name: &str, bytes: usize| {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), AMQPValue::LongString("x".repeat(bytes).into()));
            from_amqp(
                &BasicProperties::default().with_headers(headers),
                Vec::new(),
            )
        };
        assert!(of(header::JOB, MAX_JSON_HEADER).text(header::JOB).is_some());
        assert_eq!(
            of(header::JOB, MAX_JSON_HEADER + 1).headers[header::JOB],
            HeaderValue::Other
        );
        assert_eq!(
            of("tracestate", MAX_TEXT_HEADER + 1).headers["tracestate"],
            HeaderValue::Other
        );

        let mut message = Message::default();
        let text = HeaderValue::Text("x".repeat(MAX_JSON_HEADER + 1));
        message.headers.insert(header::RESULT.into(), text);
        assert!(matches!(to_amqp(&message), Err(PublishError::Returned(_))));
    }

    #[test]
    fn a_property_too_long_for_amqp_is_an_error_or_left_out_never_a_panic() {
        let long = "x".repeat(256);
        let message = Message {
            content_type: Some(long.clone()),
            ..Message::default()
        };
        assert_eq!(to_amqp(&message).unwrap().content_type(), &None);
        let message = Message {
            correlation_id: Some(long),
            ..Message::default()
        };
        assert!(matches!(to_amqp(&message), Err(PublishError::Returned(_))));
    }
}
