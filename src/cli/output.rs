//! How results are printed: for people, or as JSON.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use super::{CommandError, Exit};

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints a line on standard output. A reader that has gone away (`| head`) ends the command as done.
pub(super) fn print(text: impl std::fmt::Display) -> Result<(), CommandError> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Says something on standard error; work goes on when nobody listens there any more.
pub(super) fn say(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "brigade: {text}"));
}

/// Prints bytes as they are.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| CommandError::new(Exit::Done, format!("standard output: {error}")))
}

/// Prints a value as JSON on one line.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value)
        .map_err(|error| CommandError::new(Exit::Bug, format!("no JSON: {error}")))?;
    print(text)
}
