//! `brigade config show|check`: the effective settings, each with where it came from.

use clap::{Args, Subcommand};

use secrecy::ExposeSecret;

use super::{
    CommandError, Exit, Outcome, Output, Shared,
    output::{Rows, print, print_json},
};
use crate::{
    config::{Loaded, Settings},
    ledger, storage,
    terminal::escaped,
    worker::storage_settings,
};

/// Arguments of `brigade config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting and where it came from; secrets are masked
    Show,
    /// Say whether the settings are sound, the S3 endpoint is a URL and the ledger's folder can be written to
    Check,
}

pub(super) async fn run(shared: &Shared, args: &ConfigArgs) -> Outcome {
    let loaded = shared.load(Vec::new())?;
    match (&args.command, shared.output) {
        (ConfigCommand::Show, Output::Json) => print_json(&loaded.entries())?,
        (ConfigCommand::Show, Output::Text) => {
            let mut rows = Rows::headed(["setting", "value", "from"]);
            for entry in loaded.entries() {
                rows.add([entry.key, entry.value, entry.origin]);
            }
            print(rows)?;
        }
        (ConfigCommand::Check, output) => check(&loaded, output).await?,
    }
    Ok(Exit::Done)
}

async fn check(loaded: &Loaded, output: Output) -> Result<(), CommandError> {
    let problems = problems(&loaded.settings).await;
    if !problems.is_empty() {
        return Err(CommandError::usage(problems.join("\n")));
    }
    let warnings = loaded.warnings();
    match output {
        Output::Json => print_json(&serde_json::json!({"ok": true, "warnings": warnings})),
        Output::Text => {
            for warning in warnings {
                print(format!("warning: {}", escaped(warning)))?;
            }
            print("the settings are sound")
        }
    }
}

/// What no worker can work with, though each setting is sound. Connects to nothing.
async fn problems(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = ledger::check_place(settings.ledger.url.expose_secret()) {
        problems.push(format!("{error} ({})", settings.ledger.url_named));
    }
    // From the AWS files too, which the settings know nothing of.
    if let Some(failure) = storage::misconfiguration(&storage_settings(settings)).await {
        problems.push(format!("S3 can't be called: {}", failure.message));
    }
    problems
}
