//! Reads raw values by their rules and says what is wrong in one form of sentence.

use super::{
    error::Problems,
    raw::{FROM_DEFAULTS, FROM_FLAGS, Raw, RawSetting, RawValue},
    rules::Ruling,
    secrets::{is_secret, masked_url},
};

/// Reads all settings, so that all problems are found. What can't be read is stood in for by the type's
/// default, and the whole is thrown away then: see [`Problems::into_result`].
pub(super) struct Reader<'r> {
    raw: &'r Raw,
    problems: &'r mut Problems,
}

impl<'r> Reader<'r> {
    pub(super) fn new(raw: &'r Raw, problems: &'r mut Problems) -> Self {
        Self { raw, problems }
    }

    /// A single value.
    pub(super) fn one<T: Default>(&mut self, key: &str, rule: impl Fn(&str) -> Ruling<T>) -> T {
        let Some(RawSetting { value, origin }) = self.find(key) else {
            return T::default();
        };
        let ruling = match value {
            RawValue::One(text) => rule(text),
            RawValue::Many(items) => match rule(&shown_list(items)) {
                Ok(_) => Err("a single value".to_owned()),
                refused => refused,
            },
        };
        ruling.unwrap_or_else(|expected| {
            let problem = if is_secret(key) {
                format!("{key} must be {expected}; the value is not shown (from {origin})")
            } else {
                format!(
                    "{key} must be {expected}, but is {} (from {origin})",
                    shown(value)
                )
            };
            self.problems.push(problem);
            T::default()
        })
    }

    /// A list of any length: a list in a file, elsewhere `a,b` or a JSON array of texts.
    pub(super) fn many<T>(&mut self, key: &str, rule: impl Fn(&str) -> Ruling<T>) -> Vec<T> {
        let Some(RawSetting { value, origin }) = self.find(key) else {
            return Vec::new();
        };
        let Some(items) = items(value) else {
            let shown = shown(value);
            self.problems.push(format!(
                "{key} must be a list like a,b or [\"a\", \"b\"], but is {shown} (from {origin})"
            ));
            return Vec::new();
        };
        let mut good = Vec::with_capacity(items.len());
        for item in items {
            match rule(&item) {
                Ok(value) => good.push(value),
                Err(expected) => {
                    let shown = masked_url(&item);
                    self.problems.push(format!(
                        "each item of {key} must be {expected}, but one is {shown:?} (from {origin})"
                    ));
                }
            }
        }
        good
    }

    /// A list of at least one secret: one that is wrong is named by its place, and none is shown.
    pub(super) fn secrets<T>(&mut self, key: &str, rule: impl Fn(&str) -> Ruling<T>) -> Vec<T> {
        let Some(RawSetting { value, origin }) = self.find(key) else {
            return Vec::new();
        };
        // A text that is no list is looked at as one item, for the sake of the rule's words.
        let items = items(value).unwrap_or_else(|| vec![String::new()]);
        let count = items.len().max(1);
        let mut good = Vec::with_capacity(count);
        for at in 0..count {
            match rule(items.get(at).map_or("", String::as_str)) {
                Ok(value) => good.push(value),
                Err(expected) => self.problems.push(match count {
                    1 => format!("{key} must be {expected}; the value is not shown (from {origin})"),
                    _ => format!(
                        "{key} must be {expected}, but number {} of {count} is not; the value is not shown \
                         (from {origin})",
                        at + 1
                    ),
                }),
            }
        }
        good
    }

    /// The setting's name and where its value came from, for messages of its service. `variable` is its familiar one.
    pub(super) fn named(&self, key: &str, variable: &str) -> String {
        match self.raw.get(key).map(|setting| setting.origin.as_str()) {
            None | Some(FROM_DEFAULTS) => {
                format!("{variable} is not set, so {key} has its default")
            }
            Some(FROM_FLAGS) => format!("{key} from the command line"),
            Some(origin) => format!("{key} from {origin}"),
        }
    }

    fn find(&mut self, key: &str) -> Option<&'r RawSetting> {
        let found = self.raw.get(key);
        if found.is_none() {
            // The test `every_setting_is_read_and_refuses_nonsense` keeps this from being seen.
            self.problems.push(format!(
                "{key} has no default: this is a bug, please report it"
            ));
        }
        found
    }
}

/// The items of a list; `None` for a text that begins like a JSON array and is none of texts.
pub(super) fn items(value: &RawValue) -> Option<Vec<String>> {
    match value {
        RawValue::Many(items) => Some(items.clone()),
        RawValue::One(text) if text.trim_start().starts_with('[') => {
            serde_json::from_str(text).ok()
        }
        RawValue::One(text) => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Some(items.map(str::to_owned).collect())
        }
    }
}

fn shown(value: &RawValue) -> String {
    match value {
        RawValue::One(text) => format!("{:?}", masked_url(text)),
        RawValue::Many(items) => shown_list(items),
    }
}

fn shown_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| masked_url(item)).collect();
    format!("{items:?}")
}
