//! What a viewer of the demo sees: a headline an act, one live line below it, a closing word.
//!
//! On a terminal the live line is redrawn in place; elsewhere it is printed when it says something new,
//! at most once a second.

use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::terminal;

/// The live line off a terminal is printed at most so often.
const QUIET: Duration = Duration::from_secs(1);

/// The demo's output, on standard output. The tour goes on when it can't be written, so that it cleans up after itself.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    act: u32,
    out: Out,
}

/// Where lines go. After a first failure nothing is written any more.
#[derive(Debug, Clone, Default)]
struct Out(Arc<Mutex<Option<io::Error>>>);

impl Out {
    fn print(&self, text: impl std::fmt::Display) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            *failed = terminal::print(text).err();
        }
    }
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            act: 0,
            out: Out::default(),
        }
    }

    /// Why not everything could be shown, but for a viewer who left.
    pub(super) fn ended(&self) -> io::Result<()> {
        let mut failed = self.out.0.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// A line of text.
    pub(super) fn say(&self, text: impl std::fmt::Display) {
        self.out.print(text);
    }

    /// Opens the next act; its live line counts to `total`.
    pub(super) fn act(&mut self, headline: &str, total: usize) -> Act {
        self.act += 1;
        self.out.print(format_args!("\n{}. {headline}", self.act));
        let bar = ProgressBar::new(total as u64);
        if self.terminal {
            bar.set_draw_target(ProgressDrawTarget::stdout());
            let style = ProgressStyle::with_template("   {bar:24} {pos}/{len}  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Act {
            bar,
            terminal: self.terminal,
            began: Instant::now(),
            printed: None,
            last: String::new(),
            out: self.out.clone(),
        }
    }
}

/// One act's live line.
#[derive(Debug)]
pub(super) struct Act {
    bar: ProgressBar,
    terminal: bool,
    began: Instant,
    printed: Option<Instant>,
    last: String,
    out: Out,
}

impl Act {
    /// Redraws the live line.
    pub(super) fn update(&mut self, done: usize, text: &str) {
        self.bar.set_position(done as u64);
        self.bar.set_message(terminal::escaped(text).into_owned());
        let now = Instant::now();
        let due = self
            .printed
            .is_none_or(|at| now.duration_since(at) >= QUIET);
        if !self.terminal && due {
            let total = self.bar.length().unwrap_or(0);
            let line = format!("   {done}/{total}  {text}");
            if line != self.last {
                self.out.print(&line);
                self.last = line;
                self.printed = Some(now);
            }
        }
    }

    /// Says something that stays, above the live line.
    pub(super) fn note(&self, text: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let line = format!("   {at:5.1} s  {text}");
        if self.terminal {
            self.bar.println(terminal::escaped(&line));
        } else {
            self.out.print(line);
        }
    }

    /// Ends the act; how long it took.
    pub(super) fn close(self, text: &str) -> Duration {
        self.bar.finish_and_clear();
        self.out.print(format_args!("   {text}"));
        self.began.elapsed()
    }
}

/// A table whose first column is text and whose others are figures.
pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(head)
        .add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
