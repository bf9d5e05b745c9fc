//! Logs: text on a terminal, JSON lines off it, one event a line.
//!
//! Owns format and filter; what is said, and at which level, is said where it happens.
//! `docs/reference/logs.md` lists every event.

use std::{io::IsTerminal, panic::PanicHookInfo};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Installs the process's log writer on standard error. Call once, from the binary.
///
/// `level` is a filter such as `info` or `info,bucket_brigade::lane=debug`.
pub fn install(level: &str, format: LogFormat) -> Result<(), String> {
    // What these report as errors is reported by us, in our words, where it is handled.
    let level = format!("lapin=off,s3s=off,{level}");
    let filter = EnvFilter::try_new(level).map_err(|error| format!("log.level: {error}"))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = if json {
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    } else {
        log.with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    installed.map_err(|error| error.to_string())?;
    if json {
        std::panic::set_hook(Box::new(report_panic));
    }
    Ok(())
}

/// The standard report of a panic is text of several lines, which no reader of JSON lines understands.
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
