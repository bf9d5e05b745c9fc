//! How results are printed: for people, or as JSON.

use std::{fmt::Display, io};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::{CommandError, Exit};
use crate::terminal;

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A table for people, without lines. What a terminal would obey in a cell is escaped.
#[derive(Debug)]
pub(super) struct Rows(Table);

impl Rows {
    /// Without a head: names and values.
    pub(super) fn new() -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        Self(table)
    }

    pub(super) fn headed<const N: usize>(head: [&str; N]) -> Self {
        let mut rows = Self::new();
        rows.0.set_header(head);
        rows
    }

    pub(super) fn add<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter();
        let cells = cells.map(|cell| terminal::escaped(cell.as_ref()).into_owned());
        self.0.add_row(cells.collect::<Vec<_>>());
    }

    /// A row for a field of JSON: a text as it is, `null` not at all.
    pub(super) fn add_value(&mut self, name: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => self.add([name, text]),
            other => self.add([name, &terminal::json(&other.to_string())]),
        }
    }
}

impl Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A reader that has gone away (`| head`) ends the command as done; a full disk is a failure.
pub(super) fn out_failed(error: io::Error) -> CommandError {
    let exit = match error.kind() {
        io::ErrorKind::BrokenPipe => Exit::Done,
        _ => Exit::Failed,
    };
    CommandError::new(exit, format!("standard output: {error}"))
}

/// For a command whose work goes on when the reader of its output leaves: whether the reader is still there.
pub(super) fn unless_left(printed: Result<(), CommandError>) -> Result<bool, CommandError> {
    match printed {
        Ok(()) => Ok(true),
        Err(error) if error.exit == Exit::Done => Ok(false),
        Err(error) => Err(error),
    }
}

/// Prints text on standard output.
pub(super) fn print(text: impl Display) -> Result<(), CommandError> {
    terminal::print(text).map_err(out_failed)
}

/// Says something on standard error; work goes on when nobody listens there any more.
pub(super) fn say(text: impl Display) {
    terminal::say(tagged(text));
}

/// With the program's name in front, as everything on standard error that is no log.
pub(super) fn tagged(text: impl Display) -> String {
    format!("brigade: {text}")
}

/// Prints bytes as they are.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), CommandError> {
    terminal::print_bytes(bytes).map_err(out_failed)
}

/// Prints a value as JSON on one line.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value)
        .map_err(|error| CommandError::new(Exit::Bug, format!("no JSON: {error}")))?;
    terminal::print_json(&text).map_err(out_failed)
}
