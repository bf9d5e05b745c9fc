//! Settings in variables: which name sets which key, and secrets that a variable keeps in a file.
//!
//! It knows nothing of values but that they are text; what a key allows is `rules`' business.

use std::collections::BTreeMap;

use super::{
    error::Problems,
    raw::{Leaf, RawValue},
    secrets::SECRET_KEYS,
};

const PREFIX: &str = "BRIGADE_";
const FILE_SUFFIX: &str = "_FILE";

/// Names that people know from elsewhere. `BRIGADE_…` wins over them.
const FAMILIAR: [(&str, &str); 3] = [
    ("AMQP_URL", "amqp.url"),
    ("DATABASE_URL", "ledger.url"),
    ("RUST_LOG", "log.level"),
];

/// The variable that sets `key`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// What a variable is for.
enum Use<'n> {
    /// It holds the value of this key, known or not.
    Value(String),
    /// It names the file that holds the secret, which `plain` could hold itself.
    SecretFile { key: String, plain: &'n str },
}

/// The settings in `env`, the weaker before the stronger. Keys are as written, and may be unknown.
pub(super) fn leaves(env: &[(String, String)], problems: &mut Problems) -> Vec<Leaf> {
    let env: BTreeMap<&str, &str> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let (mut familiar, mut own) = (Vec::new(), Vec::new());
    for (&name, &value) in &env {
        // Set to nothing, it is a shell's way of not setting it.
        if name == "RUST_LOG" && value.is_empty() {
            continue;
        }
        let read = match use_of(name, value) {
            None => continue,
            Some(Use::Value(key)) => Ok((key, value.to_owned())),
            Some(Use::SecretFile { plain, .. }) if env.contains_key(plain) => Err(format!(
                "{plain} and {name} are both set, but only one of them may be"
            )),
            Some(Use::SecretFile { key, .. }) => {
                read_secret(name, value).map(|secret| (key, secret))
            }
        };
        match read {
            Ok((key, text)) => {
                let layer = if name.starts_with(PREFIX) {
                    &mut own
                } else {
                    &mut familiar
                };
                layer.push(Leaf::new(key, RawValue::One(text), name.to_owned()));
            }
            Err(problem) => problems.push(problem),
        }
    }
    familiar.extend(own);
    familiar
}

fn use_of<'n>(name: &'n str, value: &str) -> Option<Use<'n>> {
    if is_no_setting(name, value) {
        return None;
    }
    if let Some(plain) = name.strip_suffix(FILE_SUFFIX)
        && let Some(key) = key_of(plain)
        && SECRET_KEYS.contains(&key.as_str())
    {
        return Some(Use::SecretFile { key, plain });
    }
    key_of(name).map(Use::Value)
}

/// The key that a variable means to set, known or not; `None` for a variable of others.
fn key_of(name: &str) -> Option<String> {
    let familiar = FAMILIAR.iter().find(|(variable, _)| *variable == name);
    if let Some((_, key)) = familiar {
        return Some((*key).to_owned());
    }
    name.strip_prefix(PREFIX)
        .map(|key| key.replace("__", ".").to_ascii_lowercase())
}

fn is_no_setting(name: &str, value: &str) -> bool {
    // Which file, which build, and what tests pass to themselves.
    matches!(name, "BRIGADE_CONFIG" | "BRIGADE_REVISION")
        || name.starts_with("BRIGADE_TEST_")
        || is_service_link(name, value)
}

/// Kubernetes puts `BRIGADE_SERVICE_HOST`, `BRIGADE_PORT_9464_TCP` and the like into every pod beside a
/// service whose name begins with "brigade". No setting has such a name, and no typing error becomes one.
fn is_service_link(name: &str, value: &str) -> bool {
    let names_a_port = name
        .split("_PORT_")
        .skip(1)
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let is_service = name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    is_service || names_a_port || (name.ends_with("_PORT") && value.contains("://"))
}

/// The text of the file that `variable` names, without the line break at its end. The error is a problem.
fn read_secret(variable: &str, path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{variable}: {path} can't be read: {error}"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{variable}: {path} is empty")),
        secret => Ok(secret.to_owned()),
    }
}
