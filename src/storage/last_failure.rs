//! The last failure that spoke against each circuit: for people who ask why it is open, never for decisions.
//!
//! It lies beside the breaker, which knows nothing of S3. `guard.rs` notes it before the verdict, so that
//! whoever hears of a change of the circuit finds its cause here.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::job::{CallName, Circuit, Failure, Timestamp};

/// The longest code or sentence that is kept, in characters; a store may answer with a page.
const LONGEST: usize = 500;

/// What a store answered, or did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are the contract's, section 8")]
pub struct LastFailure {
    pub at: Timestamp,
    pub class: &'static str,
    pub code: String,
    pub message: String,
    /// Where S3 is looked for, without user and password.
    pub endpoint: Arc<str>,
    /// The S3 operation, a step such as `upload_part` included.
    pub operation: &'static str,
    pub bucket: String,
}

impl LastFailure {
    pub(super) fn new(
        failure: &Failure,
        endpoint: &Arc<str>,
        operation: CallName,
        bucket: &str,
    ) -> Self {
        let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
        Self {
            at: Timestamp::now(),
            class: failure.class.as_str(),
            code: short(&failure.code),
            message: short(&failure.message),
            endpoint: Arc::clone(endpoint),
            operation: operation.as_str(),
            bucket: bucket.to_owned(),
        }
    }
}

impl fmt::Display for LastFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            class,
            code,
            message,
            endpoint,
            operation,
            bucket,
            ..
        } = self;
        write!(
            f,
            "{class}, {code} to {operation} in bucket {bucket} at {endpoint}: {message}"
        )
    }
}

/// The last failure of each circuit, shared by those who call S3 and those who show it.
#[derive(Debug, Default)]
pub struct LastFailures {
    /// Nothing awaits under either.
    upload: Mutex<Option<LastFailure>>,
    download: Mutex<Option<LastFailure>>,
}

impl LastFailures {
    pub(super) fn note(&self, circuit: Circuit, failure: LastFailure) {
        let last = self.cell(circuit).lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// The circuit's, if it ever had one. It stays when the circuit closes: `at` says how old it is.
    pub fn of(&self, circuit: Circuit) -> Option<LastFailure> {
        let last = self.cell(circuit).lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    const fn cell(&self, circuit: Circuit) -> &Mutex<Option<LastFailure>> {
        match circuit {
            Circuit::Upload => &self.upload,
            Circuit::Download => &self.download,
        }
    }
}
