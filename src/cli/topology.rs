//! `brigade topology apply|check|export`: declares exchanges and queues, compares or prints them.

use clap::{Args, Subcommand};

use super::{
    Exit, Outcome, Output, Shared,
    output::{print, print_json},
};
use crate::{broker::rabbitmq::topology, terminal::json};

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
    let differences = match args.command {
        TopologyCommand::Apply => shared.answer("broker", topology::apply(url, prefix)).await,
        TopologyCommand::Check => shared.answer("broker", topology::check(url, prefix)).await,
        TopologyCommand::Export => {
            print(json(&format!("{:#}", topology::export(prefix))))?;
            return Ok(Exit::Done);
        }
    };
    let differences = differences.map_err(|error| error.at(&settings.amqp.url_named))?;
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
