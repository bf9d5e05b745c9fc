//! What is wrong with the settings, in sentences for the person who wrote them.

/// Everything that is wrong, not only the first of it; shown as one problem a line. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// The problems, at least one, as sentences without a full stop.
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

/// Collects problems while the settings are read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<String>,
    warnings: Vec<String>,
}

impl Problems {
    pub(super) fn push(&mut self, problem: String) {
        self.found.push(problem);
    }

    /// Something that was put right, and that its writer should know.
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// All warnings so far.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// `value`, unless there was a problem.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, ConfigError> {
        if self.found.is_empty() {
            Ok(value)
        } else {
            Err(ConfigError(self.found))
        }
    }
}
