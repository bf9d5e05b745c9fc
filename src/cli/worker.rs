//! `brigade worker`: run until a signal, then drain.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{CommandError, Exit, Outcome, Shared, output, signals::Signals};
use crate::{
    config::{Entry, Loaded},
    http::HttpServer,
    job::Lane,
    telemetry::{self, Log},
    worker::Worker,
};

/// How long the HTTP server may take to stop.
const HTTP_GRACE: Duration = Duration::from_millis(200);

/// Arguments of `brigade worker`.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The lanes this worker serves
    #[arg(long, value_delimiter = ',', default_value = "upload,read,cleanup", value_parser = parse_lane)]
    lanes: Vec<Lane>,
}

fn parse_lane(name: &str) -> Result<Lane, String> {
    Lane::parse(name).ok_or_else(|| "lanes are upload, read and cleanup".to_owned())
}

pub(super) async fn run(shared: &Shared, args: WorkerArgs) -> Outcome {
    let loaded = shared.load(Vec::new())?;
    let settings = &loaded.settings;
    let mut lanes = args.lanes;
    lanes.sort_unstable();
    lanes.dedup();
    let log = telemetry::install(&settings.log.level, settings.log.format)
        .map_err(CommandError::usage)?;
    let ended = serve(&loaded, &lanes, &log).await;
    // Through the log: nobody may be left to read standard error, and the process ends all the same.
    Ok(ended.unwrap_or_else(|error| error.report_to(|text| log.say(output::tagged(text)))))
}

async fn serve(loaded: &Loaded, lanes: &[Lane], log: &Log) -> Outcome {
    let settings = &loaded.settings;
    for warning in loaded.warnings() {
        tracing::warn!(why = warning, "a setting was put right");
    }
    if !loaded.proxies().is_empty() {
        let proxies = loaded.proxies().join(" ");
        tracing::info!(
            proxies,
            "S3 is called through a proxy where these variables say so; URLs that uploads come from never are"
        );
    }
    tracing::info!(changed = changed(&loaded.entries()), "settings");
    // Before anything starts, so that a signal during the start drains too.
    let mut signals = Signals::try_new()?;

    let worker = tokio::select! {
        worker = Worker::start(settings, lanes) => worker?,
        // Nothing runs yet.
        () = signals.next() => return Ok(Exit::Done),
    };
    let dropped = worker.view().metrics.log_lines_dropped.clone();
    log.count_dropped(move |lines| dropped.inc_by(lines));
    let http = HttpServer::start(settings.http.listen, Arc::clone(worker.view())).await;
    let http = match http {
        Ok(http) => http,
        Err(error) => {
            worker.drain(settings.drain.timeout).await;
            let listen = settings.http.listen;
            return Err(CommandError::new(
                Exit::Failed,
                format!("http.listen {listen} can't be had: {error}; choose another address"),
            ));
        }
    };
    let names: Vec<&str> = lanes.iter().map(|lane| lane.as_str()).collect();
    tracing::info!(
        worker = &*worker.view().worker,
        version = env!("CARGO_PKG_VERSION"),
        lanes = names.join(","),
        http = %http.address(),
        "started"
    );

    tokio::select! {
        () = signals.next() => {}
        // Not drained: what is broken may be what a drain needs. The broker delivers again what was in hand.
        what = worker.failed() => {
            return Err(CommandError::new(Exit::Bug, format!("{what}: this is a bug, please report it; ending, so that a new worker takes over")));
        }
    }
    let exit = tokio::select! {
        _ = worker.drain(settings.drain.timeout) => Exit::Done,
        () = signals.next() => {
            tracing::warn!("a second signal: stopping now, the broker delivers again what was running");
            Exit::Failed
        }
    };
    // A page that is being read is not waited for.
    drop(tokio::time::timeout(HTTP_GRACE, http.stop()).await);
    Ok(exit)
}

/// What is not as in `config/default.toml`: `key=value (where from)`, secrets masked.
fn changed(entries: &[Entry]) -> String {
    let changed = entries.iter().filter(|entry| entry.origin != "default");
    let changed: Vec<String> = changed
        .map(|Entry { key, value, origin }| format!("{key}={value} ({origin})"))
        .collect();
    changed.join(", ")
}
