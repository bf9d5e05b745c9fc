//! Settings: raw layers become validated settings, once, at start (CONTRACT.md, section 6).
//!
//! Defaults, then a file, then the environment, then flags; the later wins. A process that gets its
//! [`Settings`] needs to check nothing again, and one that gets a [`ConfigError`] has connected to
//! nothing yet. This module alone reads the environment. It refuses to know what brokers, stores and
//! ledgers make of their settings.

mod amazon;
mod environment;
mod error;
mod raw;
mod reader;
mod relations;
mod rules;
mod secrets;
mod settings;
mod sources;
mod units;

#[cfg(test)]
mod tests;

use serde::Serialize;

pub use error::ConfigError;
pub use settings::{
    AmqpSettings, Checksums, CircuitSettings, CleanupSettings, DestinationsSettings, DrainSettings,
    EventsSettings, HttpSettings, LaneSettings, LanesSettings, LedgerSettings, LimitsSettings,
    LogFormat, LogSettings, MetricsSettings, RetrySettings, S3Settings, Settings, SourcesSettings,
    TopologyMode, UploadSettings,
};
pub use sources::Sources;

use error::Problems;
use raw::{Raw, RawValue};
use reader::Reader;

/// Validated settings, and for people where each came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the process runs by.
    pub settings: Settings,
    entries: Vec<Entry>,
    warnings: Vec<String>,
    proxies: Vec<String>,
}

impl Loaded {
    /// Every setting, sorted by key.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.clone()
    }

    /// The proxies for S3 that the environment names, as `NAME=URL` with passwords masked.
    pub fn proxies(&self) -> &[String] {
        &self.proxies
    }

    /// What was put right, as sentences without a full stop and without secrets.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// One setting as it is shown. Holds no secrets: passwords in URLs and tokens are masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// As in `config/default.toml`: `lanes.upload.concurrency`.
    pub key: String,
    /// As it was written; a list is joined by commas.
    pub value: String,
    /// `default`, `command line`, the path of a file, or the name of a variable.
    pub origin: String,
}

/// Lays the sources over the defaults and checks the whole. Reads files, connects to nothing.
///
/// Fails with every problem that was found; relations between settings are looked at only when each
/// value is sound.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut problems = Problems::default();
    let raw = Raw::gather(sources, &mut problems);
    amazon::check(sources, &mut problems);
    let settings = Settings::read(&mut Reader::new(&raw, &mut problems));
    if problems.is_empty() {
        relations::check(&settings, &raw, &mut problems);
    }
    let entries = entries(&raw, sources);
    let warnings = problems.take_warnings();
    problems.into_result(Loaded {
        settings,
        entries,
        warnings,
        proxies: amazon::proxies(sources),
    })
}

fn entries(raw: &Raw, sources: &Sources) -> Vec<Entry> {
    let entry = |(key, setting): (&str, &raw::RawSetting)| {
        let (text, origin) = match &setting.value {
            RawValue::One(text) if text.is_empty() || text == "auto" => {
                match decided_by_sdk(key, sources) {
                    Some((variable, value)) => (value.to_owned(), variable.to_owned()),
                    None => (text.clone(), setting.origin.clone()),
                }
            }
            value if secrets::is_list(key) => {
                let items = reader::items(value).unwrap_or_default();
                let masked: Vec<String> = items.iter().map(|it| secrets::masked(key, it)).collect();
                return Entry {
                    key: key.to_owned(),
                    value: masked.join(","),
                    origin: setting.origin.clone(),
                };
            }
            RawValue::One(text) => (text.clone(), setting.origin.clone()),
            RawValue::Many(items) => (items.join(","), setting.origin.clone()),
        };
        Entry {
            key: key.to_owned(),
            value: secrets::masked(key, &text),
            origin,
        }
    };
    raw.iter().map(entry).collect()
}

/// The variable that the AWS SDK goes by while we leave `key` to it. Shown only: the SDK reads it itself.
fn decided_by_sdk<'s>(key: &str, sources: &'s Sources) -> Option<(&'static str, &'s str)> {
    let variables = match key {
        "s3.endpoint" => ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        "s3.region" => ["AWS_REGION", "AWS_DEFAULT_REGION"],
        _ => return None,
    };
    variables
        .into_iter()
        .find_map(|name| Some((name, sources.variable(name)?.trim())))
}
