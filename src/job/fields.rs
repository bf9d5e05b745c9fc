//! Reads typed fields out of a JSON object, with sentences for whoever wrote the message.
//!
//! Unknown fields are ignored at every depth, and named; `null` means absent, a known field of the wrong type is
//! an error that names field, rule and value. Knows JSON shapes, not operations.

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::{Map, Value};

use crate::nearest::nearest;

/// Longest value shown in an error, in characters.
const SHOWN: usize = 60;

/// How many unknown fields of a message are named.
const MOST_NAMED: usize = 16;
/// The longest name that is told, in characters.
const LONGEST_NAME: usize = 100;

/// The names of a message's fields, as dotted paths.
#[derive(Default)]
pub(super) struct Names {
    /// Those that nobody asked for, at most [`MOST_NAMED`].
    unknown: RefCell<Vec<String>>,
    /// Those that were asked for; kept only for a hint.
    known: Option<RefCell<Vec<String>>>,
}

impl Names {
    /// Names of which an unknown one is an error that says what was meant.
    pub(super) fn checked() -> Self {
        Self {
            known: Some(RefCell::default()),
            ..Self::default()
        }
    }

    /// Whether an unknown one is an error.
    pub(super) const fn are_checked(&self) -> bool {
        self.known.is_some()
    }

    /// The unknown ones, in their order. Complete once all [`Fields`] are dropped.
    pub(super) fn unknown(&self) -> Vec<String> {
        let mut unknown = self.unknown.take();
        unknown.sort_unstable();
        unknown
    }

    /// Which of the known ones is most likely meant by an unknown one.
    pub(super) fn meant_by(&self, unknown: &str) -> Option<String> {
        let known = self.known.as_ref()?.borrow();
        nearest(unknown, known.iter().map(String::as_str)).map(str::to_owned)
    }

    fn asked(&self, path: &str, name: &str) {
        if let Some(known) = &self.known {
            known.borrow_mut().push(format!("{path}{name}"));
        }
    }

    fn left(&self, path: &str, name: &str) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MOST_NAMED {
            unknown.push(told(&format!("{path}{name}")));
        }
    }
}

/// A name from a message, as it may be shown anywhere: short, and without control characters.
fn told(name: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut told: String = name.chars().take(LONGEST_NAME).map(shown).collect();
    if name.chars().nth(LONGEST_NAME).is_some() {
        told.push('…');
    }
    told
}

/// A JSON object whose known fields are taken out one by one. What is left when it is dropped, `null` apart, is
/// unknown.
pub(super) struct Fields<'a> {
    map: Map<String, Value>,
    /// Where the object stands, for errors: `body.` or nothing.
    path: String,
    names: &'a Names,
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        for (name, value) in &self.map {
            if !value.is_null() {
                self.names.left(&self.path, name);
            }
        }
    }
}

type Read<T> = Result<T, String>;

impl<'a> Fields<'a> {
    /// Of a whole message.
    pub(super) fn new(map: Map<String, Value>, names: &'a Names) -> Self {
        Self {
            map,
            path: String::new(),
            names,
        }
    }

    /// Takes the field's value; `null` is absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.names.asked(&self.path, name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// An optional text.
    pub(super) fn text(&mut self, name: &str) -> Read<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "must be a string", &other)),
        }
    }

    /// An optional text that may become a header: no control characters.
    pub(super) fn header_text(&mut self, name: &str) -> Read<Option<String>> {
        let text = self.text(name)?;
        if let Some(text) = &text {
            self.check_header(name, text)?;
        }
        Ok(text)
    }

    /// An optional text that, if given, is not empty.
    pub(super) fn nonempty(&mut self, name: &str) -> Read<Option<String>> {
        let text = self.text(name)?;
        match text {
            Some(text) if text.is_empty() => {
                Err(format!("field {}{name} must not be empty", self.path))
            }
            text => Ok(text),
        }
    }

    /// An optional whole number from `low` to `high`.
    pub(super) fn number(&mut self, name: &str, low: u32, high: u32) -> Read<Option<u32>> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let in_range = whole(&value).and_then(|n| u32::try_from(n).ok());
        match in_range.filter(|n| (low..=high).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(
                name,
                &format!("must be a whole number from {low} to {high}"),
                &value,
            )),
        }
    }

    /// An optional object of strings, which become headers.
    pub(super) fn strings(&mut self, name: &str) -> Read<BTreeMap<String, String>> {
        let mut strings = BTreeMap::new();
        match self.take(name) {
            None => {}
            Some(Value::Object(map)) => {
                for (key, value) in map {
                    let Value::String(text) = value else {
                        return Err(self.wrong(
                            &format!("{name}.{key}"),
                            "must be a string",
                            &value,
                        ));
                    };
                    self.check_header(name, &key)?;
                    self.check_header(&format!("{name}.{key}"), &text)?;
                    strings.insert(key, text);
                }
            }
            Some(other) => return Err(self.wrong(name, "must be an object of strings", &other)),
        }
        Ok(strings)
    }

    /// The optional user metadata of an object: what every store keeps as it is, and gives back.
    pub(super) fn metadata(&mut self) -> Read<BTreeMap<String, String>> {
        let metadata = self.strings("metadata")?;
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in &metadata {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(allowed) {
                let rule = "must have names of A-Z a-z 0-9 and ! # $ % & ' * + - . ^ _ ` | ~, which become headers";
                return Err(self.wrong("metadata", rule, &Value::String(name.clone())));
            }
            if let Some(other) = names.insert(name.to_ascii_lowercase(), name) {
                return Err(format!(
                    "field {}metadata holds {other} and {name}, which are one header: names differ in more than case",
                    self.path
                ));
            }
            if value.chars().any(char::is_control) {
                let rule =
                    "may hold no control character such as a tab, which stores change or refuse";
                let value = Value::String(value.clone());
                return Err(self.wrong(&format!("metadata.{name}"), rule, &value));
            }
        }
        Ok(metadata)
    }

    /// An optional object with fields of its own.
    pub(super) fn object(&mut self, name: &str) -> Read<Option<Self>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                map,
                path: format!("{}{name}.", self.path),
                names: self.names,
            })),
            Some(other) => Err(self.wrong(name, "must be an object", &other)),
        }
    }

    /// The bucket: required, 1 to 255 of `A-Z a-z 0-9 . _ -`.
    pub(super) fn bucket(&mut self) -> Read<String> {
        let bucket = self.text("bucket")?.ok_or_else(|| self.missing("bucket"))?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(allowed) {
            let rule = "must be 1 to 255 characters of A-Z a-z 0-9 . _ -";
            return Err(self.wrong("bucket", rule, &Value::String(bucket)));
        }
        Ok(bucket)
    }

    /// The key: required, 1 to 1,024 bytes.
    pub(super) fn key(&mut self) -> Read<String> {
        self.key_named("key")
    }

    /// The same in a field of another name.
    pub(super) fn key_named(&mut self, name: &str) -> Read<String> {
        let key = self.text(name)?.ok_or_else(|| self.missing(name))?;
        self.check_key(name, &key)?;
        Ok(key)
    }

    /// The keys: required, 1 to 10,000 of them.
    pub(super) fn keys(&mut self) -> Read<Vec<String>> {
        let value = self.take("keys").ok_or_else(|| self.missing("keys"))?;
        let Value::Array(values) = value else {
            return Err(self.wrong("keys", "must be an array of strings", &value));
        };
        if values.is_empty() || values.len() > 10_000 {
            let count = values.len();
            return Err(format!(
                "field keys must hold 1 to 10,000 keys, but holds {count}"
            ));
        }
        let mut keys = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let name = format!("keys[{index}]");
            let Value::String(key) = value else {
                return Err(self.wrong(&name, "must be a string", &value));
            };
            self.check_key(&name, &key)?;
            keys.push(key);
        }
        Ok(keys)
    }

    pub(super) fn missing(&self, name: &str) -> String {
        let path = &self.path;
        match nearest(name, self.map.keys().map(String::as_str)) {
            Some(given) => format!(
                "field {path}{name} is missing, but there is {path}{}",
                told(given)
            ),
            None => format!("field {path}{name} is missing"),
        }
    }

    pub(super) fn wrong(&self, name: &str, rule: &str, value: &Value) -> String {
        // An object's bytes belong into no error, log or header.
        let is_body = name == "body" || self.path.starts_with("body");
        let given = if is_body {
            kind(value).to_owned()
        } else {
            shown(value)
        };
        format!("field {}{name} {rule}, but is {given}", self.path)
    }

    fn check_key(&self, name: &str, key: &str) -> Read<()> {
        if key.is_empty() || key.len() > 1024 {
            let (path, len) = (&self.path, key.len());
            return Err(format!(
                "field {path}{name} must be 1 to 1,024 bytes, but has {len}"
            ));
        }
        Ok(())
    }

    fn check_header(&self, name: &str, text: &str) -> Read<()> {
        if text.contains(['\r', '\n']) {
            let rule = "becomes a header and may hold no line break";
            return Err(self.wrong(name, rule, &Value::String(text.to_owned())));
        }
        Ok(())
    }
}

/// A JSON number that is whole, `1.0` included, as some languages write it.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Beyond 2^53 a float no longer says which whole number was meant.
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
    })
}

/// A value for an error: its JSON, cut.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a value is, without showing it.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether U+0000 stands anywhere in a value; SQL text can't hold it.
pub(super) fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(map) => map
            .iter()
            .any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
