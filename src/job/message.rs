//! The AMQP form of a job, free of any AMQP library: body, the properties we use, headers.
//!
//! Knows which of them a copy may carry (park, bury, replay) and which it must not.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Header names of ours.
pub mod header {
    /// The job's JSON in the binary form.
    pub const JOB: &str = "brigade-job";
    /// The report beside an object's bytes in a reply.
    pub const RESULT: &str = "brigade-result";
    /// Why a letter is dead.
    pub const REASON: &str = "brigade-reason";
    /// S3's error code or ours.
    pub const ERROR_CODE: &str = "brigade-error-code";
    /// What went wrong, as a sentence.
    pub const ERROR: &str = "brigade-error";
    /// S3 calls made so far.
    pub const ATTEMPTS: &str = "brigade-attempts";
    /// Steps taken on the parking ladder.
    pub const PARKS: &str = "brigade-parks";
    /// Times that a worker panicked over the message outside of the job's run, where no row counts it.
    pub const PANICS: &str = "brigade-panics";
    /// When a worker saw the job first, RFC 3339.
    pub const FIRST_SEEN: &str = "brigade-first-seen";
    /// When the letter died, RFC 3339.
    pub const DEAD_AT: &str = "brigade-dead-at";
    /// Times replayed.
    pub const REPLAY: &str = "brigade-replay";
    /// When it was replayed last, RFC 3339.
    pub const REPLAYED_AT: &str = "brigade-replayed-at";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state.
    pub const TRACESTATE: &str = "tracestate";

    /// Foreign and lasting headers that every copy keeps; all else is dropped.
    pub(super) const KEPT: [&str; 6] = [
        JOB,
        TRACEPARENT,
        TRACESTATE,
        FIRST_SEEN,
        REPLAY,
        REPLAYED_AT,
    ];
}

/// Longest header text of ours in bytes: the whole header must fit one AMQP frame of 128 KiB.
const MAX_HEADER_TEXT: usize = 1024;

/// A header's value, as far as we read headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// Text; bytes that are no UTF-8 are replaced.
    Text(String),
    /// Any whole number.
    Integer(i64),
    /// A kind we never read.
    Other,
}

impl HeaderValue {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Integer(_) | Self::Other => None,
        }
    }

    /// The number, also when it was sent as text.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            Self::Other => None,
        }
    }
}

/// A message as received, or as it will be sent. Always sent persistent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The bytes: JSON, or the object in the binary form.
    pub body: Bytes,
    /// The job's id.
    pub message_id: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// Of the request, for its reply.
    pub correlation_id: Option<String>,
    /// Queue that wants the result.
    pub reply_to: Option<String>,
    /// Seconds since 1970, by the producer's clock.
    pub timestamp: Option<u64>,
    /// AMQP property `type`, kept for the producer.
    pub kind: Option<String>,
    /// AMQP property `app_id`, kept for the producer.
    pub app_id: Option<String>,
    /// Headers by name.
    pub headers: BTreeMap<String, HeaderValue>,
}

impl Message {
    /// A header's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(HeaderValue::as_text)
    }

    /// A header's whole number, if it fits.
    pub fn count(&self, name: &str) -> Option<u32> {
        self.headers
            .get(name)?
            .as_integer()
            .and_then(|number| u32::try_from(number).ok())
    }

    /// A copy to park or bury: body, the properties that are safe to repeat, and the lasting headers.
    ///
    /// `user_id`, `expiration`, `priority`, `CC`, `BCC` and `x-*` were never read, so they can't be
    /// copied; the other `brigade-*` headers are written anew by the caller (facts: rabbitmq.md, 7).
    #[must_use]
    pub fn copy(&self) -> Self {
        let kept = |name: &String| header::KEPT.contains(&name.as_str());
        let headers = self.headers.iter().filter(|(name, _)| kept(name));
        Self {
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            ..self.clone()
        }
    }

    /// Sets a text header, cut to 1 KiB at a character's edge.
    #[must_use]
    pub fn with_text(mut self, name: &str, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(MAX_HEADER_TEXT));
        self.headers
            .insert(name.to_owned(), HeaderValue::Text(text));
        self
    }

    /// Sets a number header.
    #[must_use]
    pub fn with_count(mut self, name: &str, count: u32) -> Self {
        self.headers
            .insert(name.to_owned(), HeaderValue::Integer(i64::from(count)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_identity_and_trace_and_drops_what_the_broker_or_an_earlier_death_wrote() {
        let original = Message {
            body: Bytes::from_static(b"{}"),
            message_id: Some("j1".into()),
            reply_to: Some("answers".into()),
            ..Message::default()
        }
        .with_text(header::TRACEPARENT, "00-1-2-01")
        .with_text(header::JOB, "{}")
        .with_text(header::REASON, "permanent")
        .with_text(header::DEAD_AT, "2026-01-01T00:00:00Z")
        .with_text("x-death", "x")
        .with_text("CC", "other")
        .with_count(header::REPLAY, 2);
        let copy = original.copy();
        assert_eq!(copy.message_id, original.message_id);
        assert_eq!(copy.reply_to, original.reply_to);
        let names: Vec<&str> = copy.headers.keys().map(String::as_str).collect();
        assert_eq!(names, [header::JOB, header::REPLAY, header::TRACEPARENT]);
    }

    #[test]
    fn header_text_is_cut_at_a_characters_edge() {
        let message = Message::default().with_text(header::ERROR, "ä".repeat(1000));
        assert_eq!(message.text(header::ERROR).map(str::len), Some(1024));
        let message = Message::default().with_text(header::ERROR, format!("a{}", "ä".repeat(1000)));
        assert_eq!(message.text(header::ERROR).map(str::len), Some(1023));
    }
}
