//! Raw settings: the layers laid over each other, each value with where it came from, and unknown keys.
//!
//! The known keys are those of `config/default.toml`; nothing else lists them. What a value must look
//! like is `rules`' business.

use std::{collections::BTreeMap, path::Path};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    util::nest,
    value::{Dict, Map, Value},
};

use super::{
    environment::{self, variable_of},
    error::Problems,
    sources::Sources,
};
use crate::nearest::nearest;

/// The program's own defaults: every key there is.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Origins that are no file and no variable.
pub(super) const FROM_DEFAULTS: &str = "default";
pub(super) const FROM_FLAGS: &str = "command line";

/// A value as it was written; numbers and switches are kept as their text.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum RawValue {
    One(String),
    /// A list of a file.
    Many(Vec<String>),
}

/// One key in one layer.
pub(super) struct Leaf {
    key: String,
    value: RawValue,
    origin: String,
}

impl Leaf {
    pub(super) fn new(key: String, value: RawValue, origin: String) -> Self {
        Self { key, value, origin }
    }

    /// Takes white space off the ends of its texts; false when there was none. No setting means any.
    fn trim(&mut self) -> bool {
        let texts = match &mut self.value {
            RawValue::One(text) => std::slice::from_mut(text),
            RawValue::Many(items) => items.as_mut_slice(),
        };
        let mut had_any = false;
        for text in texts {
            let trimmed = text.trim();
            if trimmed.len() < text.len() {
                had_any = true;
                *text = trimmed.to_owned();
            }
        }
        had_any
    }
}

impl Provider for Leaf {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let value = match &self.value {
            RawValue::One(text) => Value::from(text.as_str()),
            RawValue::Many(items) => Value::from(items.clone()),
        };
        let nested = nest(&self.key, value).into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(nested))
    }
}

/// One key with the value that is in force.
#[derive(Clone)]
pub(super) struct RawSetting {
    pub(super) value: RawValue,
    pub(super) origin: String,
}

/// The value of every known key, before anything was checked.
pub(super) struct Raw(BTreeMap<String, RawSetting>);

impl Raw {
    /// Lays the layers over each other. Unknown keys and unreadable files become problems and are left out.
    pub(super) fn gather(sources: &Sources, problems: &mut Problems) -> Self {
        let defaults = file_leaves(DEFAULTS, FROM_DEFAULTS, problems);
        let known: Vec<String> = defaults.iter().map(|leaf| leaf.key.clone()).collect();

        let mut layers = Vec::new();
        if let Some(path) = sources.file() {
            layers.extend(read_file(path, problems));
        }
        layers.extend(environment::leaves(&sources.env, problems));
        layers.extend(sources.flags.iter().map(|(key, value)| {
            Leaf::new(
                key.clone(),
                RawValue::One(value.clone()),
                FROM_FLAGS.to_owned(),
            )
        }));
        layers.retain(|leaf| {
            let is_known = known.contains(&leaf.key);
            if !is_known {
                problems.push(unknown(leaf, &known));
            }
            is_known
        });

        for leaf in &mut layers {
            if leaf.trim() {
                let Leaf { key, origin, .. } = leaf;
                problems.warn(format!(
                    "{key} has white space at its ends, which is left out (from {origin})"
                ));
            }
        }

        let figment = defaults
            .into_iter()
            .chain(layers)
            .fold(Figment::new(), Figment::merge);
        let setting = |key: String| {
            let value = figment.find_value(&key).ok()?;
            let origin = figment.get_metadata(value.tag())?.name.to_string();
            Some((
                key,
                RawSetting {
                    value: raw_value(&value),
                    origin,
                },
            ))
        };
        Self(known.into_iter().filter_map(setting).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&RawSetting> {
        self.0.get(key)
    }

    /// Every key with its value, sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &RawSetting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }
}

fn read_file(path: &Path, problems: &mut Problems) -> Vec<Leaf> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => file_leaves(&text, &name, problems),
        Err(error) => {
            problems.push(format!("the settings file {name} can't be read: {error}"));
            Vec::new()
        }
    }
}

/// The keys of a TOML text. One that can't be read is a problem without keys.
fn file_leaves(text: &str, origin: &str, problems: &mut Problems) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    match Toml::from_str::<Dict>(text) {
        Ok(dict) => flatten("", &dict, origin, &mut leaves),
        Err(error) => {
            // Not the error's own text: it quotes the line, which may hold a password.
            let start = error.span().map_or(0, |span| span.start);
            let line = text
                .bytes()
                .take(start)
                .filter(|byte| *byte == b'\n')
                .count()
                + 1;
            let reason = error.message().replace('\n', ", ");
            problems.push(format!("{origin} is not sound TOML: line {line}: {reason}"));
        }
    }
    leaves
}

fn flatten(above: &str, dict: &Dict, origin: &str, leaves: &mut Vec<Leaf>) {
    for (name, value) in dict {
        let key = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        match value {
            Value::Dict(_, inner) => flatten(&key, inner, origin, leaves),
            value => leaves.push(Leaf::new(key, raw_value(value), origin.to_owned())),
        }
    }
}

fn raw_value(value: &Value) -> RawValue {
    match value {
        Value::Array(_, items) => RawValue::Many(items.iter().map(text_of).collect()),
        value => RawValue::One(text_of(value)),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        // A list or table inside a list: no rule allows it, and as JSON it can be shown.
        value => serde_json::to_string(value).unwrap_or_default(),
    }
}

/// Names the key, where it stands and what was meant; not the value, which may be a secret under a wrong name.
fn unknown(leaf: &Leaf, known: &[String]) -> String {
    let Leaf { key, origin, .. } = leaf;
    let section = format!("{key}.");
    if known.iter().any(|name| name.starts_with(&section)) {
        return format!("{key} is a section, not a setting (from {origin})");
    }
    let meant = match nearest(key, known.iter().map(String::as_str)) {
        Some(name) if origin.starts_with("BRIGADE_") => {
            format!("did you mean {name} ({})?", variable_of(name))
        }
        Some(name) => format!("did you mean {name}?"),
        None => "`brigade config show` lists them all".to_owned(),
    };
    format!("{key} is not a setting (from {origin}); {meant}")
}
