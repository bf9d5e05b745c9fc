//! `brigade topology apply|check`: declares exchanges and queues, or compares them.

use clap::{Args, Subcommand};

use super::{
    CommandError, Exit, Outcome, Output, Shared,
    output::{print, print_json},
};
use crate::broker::rabbitmq::topology;

/// Arguments of `brigade topology`.
#[derive(Debug, Args)]
pub(super) struct TopologyArgs {
    #[command(subcommand)]
    command: TopologyCommand,
}

#[derive(Debug, Subcommand)]
enum TopologyCommand {
    /// Declare what is missing; existing queues are never changed
    Apply,
    /// Compare, change nothing, and exit 1 on differences
    Check,
}

pub(super) async fn run(shared: &Shared, args: TopologyArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let (url, prefix) = (&settings.amqp.url, settings.amqp.prefix.as_str());
    let work = async {
        match args.command {
            TopologyCommand::Apply => topology::apply(url, prefix).await,
            TopologyCommand::Check => topology::check(url, prefix).await,
        }
    };
    let differences = match tokio::time::timeout(shared.timeout, work).await {
        Ok(Ok(differences)) => differences,
        Ok(Err(error)) => return Err(CommandError::unreachable(error)),
        Err(_) => {
            return Err(CommandError::unreachable(
                "the broker did not answer in time",
            ));
        }
    };
    match shared.output {
        Output::Json => print_json(&serde_json::json!({"differences": differences}))?,
        Output::Text if differences.is_empty() => {
            print("exchanges and queues are as they should be")?
        }
        Output::Text => {
            for difference in &differences {
                print(format!("{}: {}", difference.object, difference.problem))?;
            }
        }
    }
    Ok(if differences.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}
