//! The attempts that failed, as the ledger keeps them: a line an attempt, the newest first.
//!
//! Compact on purpose: most jobs have none, and one that has been parked for a day has hundreds, of which
//! only the last few are worth their bytes. The ledger puts a run's lines before those it has and cuts
//! the text off at [`MAX_BYTES`]; a line that the cut went through is not read.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Failure, Timestamp};

/// How many failed attempts of one run are kept: the newest.
const MAX_LINES: usize = 12;
/// How long the ledger lets the text become, in characters.
pub const MAX_BYTES: i64 = 4096;
/// The longest code or request id in a line, in characters.
const MAX_TEXT: usize = 120;

/// One S3 call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// When its failure was known.
    pub at: Timestamp,
    /// The S3 call, such as `put_object` or `upload_part`.
    pub call: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The failure class's name.
    pub class: String,
    /// As S3 gave it, or ours.
    pub code: String,
    /// S3's id of the request, for its operators.
    pub request_id: Option<String>,
}

/// A line, in this order.
#[derive(Serialize, Deserialize)]
struct Line(i64, String, u64, String, String, Option<String>);

/// The failed attempts of one run, in the order they failed in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptLog(VecDeque<FailedAttempt>);

impl AttemptLog {
    /// Notes a failure; beyond the limit, the oldest is forgotten.
    pub fn note(&mut self, at: Timestamp, call: &str, took_ms: u64, failure: &Failure) {
        if self.0.len() == MAX_LINES {
            self.0.pop_front();
        }
        let short = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
        self.0.push_back(FailedAttempt {
            at,
            call: call.to_owned(),
            took_ms,
            class: failure.class.as_str().to_owned(),
            code: short(&failure.code),
            request_id: failure.request_id.as_deref().map(short),
        });
    }

    /// The text for the ledger, the newest first; `None` when nothing failed.
    pub fn to_text(&self) -> Option<String> {
        let line = |attempt: &FailedAttempt| {
            let FailedAttempt {
                at,
                call,
                took_ms,
                class,
                code,
                request_id,
            } = attempt.clone();
            serde_json::to_string(&Line(
                at.as_micros(),
                call,
                took_ms,
                class,
                code,
                request_id,
            ))
            .ok()
        };
        let lines: Vec<String> = self.0.iter().rev().filter_map(line).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Reads what the ledger holds, the newest first. What is no whole line is left out.
    pub fn read(text: &str) -> Vec<FailedAttempt> {
        let read = |line: &str| serde_json::from_str(line).ok();
        let lines = text.lines().filter_map(read);
        lines
            .map(
                |Line(at, call, took_ms, class, code, request_id)| FailedAttempt {
                    at: Timestamp::from_micros(at),
                    call,
                    took_ms,
                    class,
                    code,
                    request_id,
                },
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::FailureClass;

    fn failure(code: &str) -> Failure {
        let mut failure = Failure::ours(FailureClass::Throttled, code, "slow down");
        failure.request_id = Some("REQ\n1".to_owned());
        failure
    }

    #[test]
    fn the_newest_attempts_are_kept_and_read_back_first() {
        let mut log = AttemptLog::default();
        assert_eq!(log.to_text(), None);
        for number in 0..20 {
            let at = Timestamp::from_micros(number);
            log.note(at, "put_object", 7, &failure(&format!("C{number}")));
        }
        let read = AttemptLog::read(&log.to_text().unwrap());
        assert_eq!(read.len(), MAX_LINES);
        let newest = FailedAttempt {
            at: Timestamp::from_micros(19),
            call: "put_object".to_owned(),
            took_ms: 7,
            class: "throttled".to_owned(),
            code: "C19".to_owned(),
            request_id: Some("REQ\n1".to_owned()),
        };
        assert_eq!(read[0], newest);
        assert_eq!(read[11].code, "C8");
    }

    #[test]
    fn a_line_that_was_cut_is_left_out() {
        let mut log = AttemptLog::default();
        for code in ["A", "B"] {
            log.note(Timestamp::from_micros(1), "get_object", 1, &failure(code));
        }
        let text = log.to_text().unwrap();
        let codes: Vec<_> = AttemptLog::read(&text[..text.len() - 1])
            .into_iter()
            .map(|attempt| attempt.code)
            .collect();
        assert_eq!(codes, ["B"]);
    }

    #[test]
    fn a_run_fits_whole_into_the_ledger() {
        let mut log = AttemptLog::default();
        let long = "x".repeat(1_000);
        for _ in 0..MAX_LINES {
            log.note(
                Timestamp::now(),
                "complete_multipart_upload",
                60_000,
                &failure(&long),
            );
        }
        assert!((log.to_text().unwrap().len() as i64) < MAX_BYTES);
    }
}
