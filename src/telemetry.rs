//! Logs: text on a terminal, JSON lines off it.

use std::io::IsTerminal;

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
            .try_init()
    } else {
        log.with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    installed.map_err(|error| error.to_string())
}
