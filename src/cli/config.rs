//! `brigade config show|check`: the effective settings, each with where it came from.

use clap::{Args, Subcommand};

use super::{
    Exit, Outcome, Output, Shared,
    output::{Rows, print, print_json},
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
    /// Say whether the settings are sound
    Check,
}

pub(super) fn run(shared: &Shared, args: &ConfigArgs) -> Outcome {
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
        (ConfigCommand::Check, Output::Json) => print_json(&serde_json::json!({"ok": true}))?,
        (ConfigCommand::Check, Output::Text) => print("the settings are sound")?,
    }
    Ok(Exit::Done)
}
