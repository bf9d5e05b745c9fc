//! `brigade demo`: the guided tour. Real files go up, are compared byte for byte, read back, listed; then
//! S3 refuses uploads for a while; in the end everything is deleted and every job accounted for.
//!
//! The worker is a real `brigade worker` process on the RabbitMQ of the settings; S3 and the ledger are
//! private to the demo and go away with it.

mod account;
mod files;
mod outage;
mod screen;
mod tour;

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::config::Settings;

/// Arguments of `brigade demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The folder whose files are uploaded
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Upload jobs of the first act; the other acts follow from it
    #[arg(long, default_value_t = 2_000)]
    uploads: usize,
    /// How long S3 refuses uploads
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = humantime::parse_duration)]
    outage: Duration,
}

/// How the tour ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every job completed, every byte was right.
    AllDone,
    /// Something was lost or wrong; the screen says what.
    Wrong,
}

/// Runs the tour on the broker of `settings`. Ctrl-C ends it at once.
pub async fn run(settings: &Settings, args: DemoArgs) -> anyhow::Result<Verdict> {
    tokio::select! {
        verdict = tour::run(settings, args) => verdict,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}
