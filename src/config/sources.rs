//! Where settings come from, besides the defaults. The only reader of the process's environment.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// What may override the defaults, the weakest first: file, environment, flags.
#[derive(Clone, Default)]
pub struct Sources {
    /// A TOML file; else the variable `BRIGADE_CONFIG` names one.
    pub file: Option<PathBuf>,
    /// Names and values of variables. Those that are not ours are passed over; of a name given twice the last counts.
    pub env: Vec<(String, String)>,
    /// Keys such as `lanes.upload.concurrency`, and values. Of a key given twice the last counts.
    pub flags: Vec<(String, String)>,
}

/// The variable that names the settings file.
const FILE_VARIABLE: &str = "BRIGADE_CONFIG";

impl Sources {
    /// The environment of this process, with the command line's `file` and `flags`.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        // Not `vars`, which panics at a variable that is no UTF-8, be it ours or not.
        let env = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect();
        Self { file, env, flags }
    }

    /// The settings file, if one is named.
    pub(super) fn file(&self) -> Option<&Path> {
        let file = self.file.as_deref();
        file.or_else(|| self.variable(FILE_VARIABLE).map(Path::new))
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let mut named = self.env.iter().rev().filter(|(this, _)| this == name);
        named
            .next()
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

/// Names only: values may be secret, and the environment holds secrets of others too.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().map(|(name, _)| name.clone()).collect()
        };
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("env", &names(&self.env))
            .field("flags", &names(&self.flags))
            .finish()
    }
}
