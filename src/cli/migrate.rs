//! `brigade migrate`: brings the ledger's schema up to date, or says what is pending.

use clap::Args;
use secrecy::ExposeSecret;

use super::{
    CommandError, Exit, Outcome, Output, Shared,
    output::{print, print_json},
};
use crate::ledger;

/// Arguments of `brigade migrate`.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// Change nothing; exit 1 when something is pending
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(shared: &Shared, args: MigrateArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let url = settings.ledger.url.expose_secret();
    let at = |error: CommandError| error.at(&settings.ledger.url_named);
    let pending = shared.answer("ledger", ledger::pending(url)).await;
    let pending = pending.map_err(at)?;
    if !args.check && !pending.is_empty() {
        let migrated = shared.answer("ledger", ledger::migrate(url)).await;
        migrated.map_err(at)?;
    }
    match shared.output {
        Output::Json if args.check => print_json(&serde_json::json!({"pending": pending}))?,
        Output::Json => print_json(&serde_json::json!({"applied": pending}))?,
        Output::Text if pending.is_empty() => print("the ledger's schema is up to date")?,
        Output::Text => {
            let what = if args.check { "pending" } else { "applied" };
            for name in &pending {
                print(format!("{what}: {name}"))?;
            }
        }
    }
    Ok(if args.check && !pending.is_empty() {
        Exit::Failed
    } else {
        Exit::Done
    })
}
