//! `brigade topology apply|check|export`: declares exchanges and queues, compares or prints them.

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
    /// Print as RabbitMQ definitions, for `rabbitmqctl import_definitions`; asks no broker
    Export,
}

pub(super) async fn run(shared: &Shared, args: TopologyArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let (url, prefix) = (&settings.amqp.url, settings.amqp.prefix.as_str());
    let worked = match args.command {
        TopologyCommand::Apply => {
            tokio::time::timeout(shared.timeout, topology::apply(url, prefix)).await
        }
        TopologyCommand::Check => {
            tokio::time::timeout(shared.timeout, topology::check(url, prefix)).await
        }
        TopologyCommand::Export => {
            print(format!("{:#}", topology::export(prefix)))?;
            return Ok(Exit::Done);
        }
    };
    let differences = match worked {
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
