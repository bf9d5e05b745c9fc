//! Why a circuit changed: for the log, in a sentence.

use std::fmt;

/// What moved a breaker on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// So many operations in a row failed for a reason of the service.
    Failures(u32),
    /// The open time has passed.
    ProbeDue,
    /// The probe succeeded.
    ProbeSucceeded,
    /// The probe failed.
    ProbeFailed,
    /// The probe made no progress for `probe_timeout`.
    ProbeStuck,
    /// An operator said so.
    Operator,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Failures(1) => "an operation failed",
            Self::Failures(count) => return write!(f, "{count} operations in a row failed"),
            Self::ProbeDue => "the open time has passed",
            Self::ProbeSucceeded => "a probe succeeded",
            Self::ProbeFailed => "a probe failed",
            Self::ProbeStuck => "a probe made no progress",
            Self::Operator => "an operator said so",
        };
        f.write_str(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_a_sentence() {
        let said = |cause: Cause| cause.to_string();
        assert_eq!(said(Cause::Failures(1)), "an operation failed");
        assert_eq!(said(Cause::Failures(5)), "5 operations in a row failed");
        assert_eq!(said(Cause::ProbeDue), "the open time has passed");
        assert_eq!(said(Cause::Operator), "an operator said so");
    }
}
