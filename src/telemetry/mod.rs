//! Logs: text on a terminal, JSON lines off it, one event a line.
//!
//! Owns format and filter; what is said, and at which level, is said where it happens. Nobody waits for standard
//! error: lines go through `queue.rs`. `docs/reference/logs.md` lists every event.

mod queue;

use std::{
    fmt::{Debug, Display},
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    sync::Arc,
};

use tracing::{Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        MakeWriter,
        format::{self, Writer},
    },
    util::SubscriberInitExt,
};

use queue::LineQueue;

use crate::{config::LogFormat, terminal};

/// The process's log. Dropped, it waits for the lines that are not written yet, a second at most.
#[derive(Debug)]
#[must_use = "dropped, it waits for the last lines: hold it until the command ends"]
pub struct Log {
    queue: Arc<LineQueue>,
}

impl Log {
    /// Calls `count` with the number of lines that were dropped because standard error took none, those of before
    /// included.
    pub fn count_dropped(&self, count: impl Fn(u64) + Send + 'static) {
        self.queue.count_dropped(Box::new(count));
    }

    /// Says something that is no event, such as why the command fails, behind the lines before it.
    pub fn say(&self, text: impl Display) {
        let text = format!("{text}\n");
        self.queue.push(terminal::lines(&text).as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush();
    }
}

/// Installs the process's log writer on standard error. Call once, from the binary.
///
/// `level` is a filter such as `info` or `info,bucket_brigade::lane=debug`.
pub fn install(level: &str, format: LogFormat) -> Result<Log, String> {
    // What these report as errors is reported by us, in our words, where it is handled.
    let level = format!("lapin=off,s3s=off,{level}");
    let filter = EnvFilter::try_new(level).map_err(|error| format!("log.level: {error}"))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let queue = LineQueue::start(io::stderr(), queue::MOST_BYTES, report_dropped)
        .map_err(|error| format!("no thread for the log: {error}"))?;
    let lines = Arc::clone(&queue);
    let line = move || Line(Arc::clone(&lines));
    let installed = if json {
        json_log(filter, line).try_init()
    } else {
        text_log(filter, line, std::io::stderr().is_terminal()).try_init()
    };
    installed.map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(Log { queue })
}

/// Writes one line: the log's formatters hand over each in one piece.
struct Line(Arc<LineQueue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn report_dropped(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were dropped: standard error did not take them in time"
    );
}

fn json_log<W>(filter: EnvFilter, writer: W) -> impl SubscriberInitExt + Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would print to standard error, which is what can't be written, and panic.
        .log_internal_errors(false)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .finish()
}

/// One event a line, whatever is in its fields: what a terminal would obey is escaped.
fn text_log<W>(
    filter: EnvFilter,
    writer: W,
    colours: bool,
) -> impl SubscriberInitExt + Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let value = format!("{value:?}");
        let value = terminal::escaped(&value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name if writer.has_ansi_escapes() => {
                write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}")
            }
            name => write!(writer, "{name}={value}"),
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .log_internal_errors(false)
        .fmt_fields(format::debug_fn(field).delimited(" "))
        .with_target(false)
        .with_ansi(colours)
        .finish()
}

/// The standard report of a panic is text of several lines, which no reader of JSON lines understands, and which may
/// quote what a terminal would obey.
/// A job's panic is caught, and told once more by its lane, with the job's fields.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let text = panic.payload_as_str().unwrap_or("no text");
    tracing::error!(
        place,
        panic = text,
        "a panic: this is a bug, please report it"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const HOSTILE: &str = "a\u{1b}[2Jb\n2026-11-28T00:00:00Z INFO forged\u{9b}\r";

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(colours: bool) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = text_log(EnvFilter::new("debug"), move || writer.clone(), colours);
        tracing::subscriber::with_default(log, || {
            let error = io::Error::other(HOSTILE);
            let error: &dyn std::error::Error = &error;
            tracing::debug!(text = HOSTILE, shown = %HOSTILE, debugged = ?HOSTILE, error, "buried");
            tracing::debug!("{HOSTILE}");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn no_field_of_a_text_log_can_steer_a_terminal_or_begin_a_line() {
        let plain = said(false);
        assert!(
            !plain.chars().any(|c| c != '\n' && c.is_control()),
            "{plain:?}"
        );
        assert_eq!(plain.lines().count(), 2, "{plain}");
        assert!(plain.contains(r"shown=a\u{1b}[2Jb\n2026"), "{plain}");
        // Our own colours stay.
        let coloured = said(true);
        assert_eq!(coloured.lines().count(), 2, "{coloured}");
        assert!(coloured.contains("\u{1b}[3mshown\u{1b}[0m"), "{coloured:?}");
        assert!(
            !coloured.contains("\u{1b}[2J") && !coloured.contains('\u{9b}'),
            "{coloured:?}"
        );
    }

    /// A disk that is full.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_is_left_out() {
        let debug = || EnvFilter::new("debug");
        tracing::subscriber::with_default(json_log(debug(), || Full), || tracing::debug!("lost"));
        tracing::subscriber::with_default(text_log(debug(), || Full, false), || {
            tracing::debug!("lost")
        });
    }
}
