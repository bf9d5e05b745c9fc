//! The one JSON that replies, events and `jobs show` carry (CONTRACT.md, section 3).

use serde::Serialize;
use serde_json::Value;

use super::{Failure, Timestamp};

/// What became of a job. Times are RFC 3339 in UTC; a field that could not be read is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the contract's, section 3")]
pub struct Report {
    pub id: Option<String>,
    pub lane: String,
    pub operation: Option<String>,
    pub bucket: Option<String>,
    pub key: Option<String>,
    /// `completed`, `dead_lettered` or `abandoned`; in `jobs show` also a passing state.
    pub outcome: String,
    /// S3 requests made for the job so far.
    pub attempts: u32,
    pub result: Option<Value>,
    pub error: Option<ReportedError>,
    pub enqueued_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub worker: Option<String>,
    /// The job had ended before, and this answers another delivery of its id. Only then in the JSON.
    #[serde(skip_serializing_if = "is_false")]
    pub repeated: bool,
    /// That delivery asks for something else, which was not done. Only then in the JSON.
    #[serde(skip_serializing_if = "is_false")]
    pub differs: bool,
    /// Fields of the message that this version does not know. In the JSON if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The failure as people and programs read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are the contract's, section 3")]
pub struct ReportedError {
    pub class: String,
    pub code: String,
    pub message: String,
    pub request_id: Option<String>,
}

impl From<&Failure> for ReportedError {
    fn from(failure: &Failure) -> Self {
        Self {
            class: failure.class.as_str().to_owned(),
            code: failure.code.clone(),
            message: failure.message.clone(),
            request_id: failure.request_id.clone(),
        }
    }
}

impl Report {
    /// The JSON as bytes for a message body.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data: serialising it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
