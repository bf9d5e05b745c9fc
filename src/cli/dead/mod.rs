//! `brigade dead list|show|replay|discard`: what became of the jobs that nobody could do, and what to do
//! about them. Which letters are meant is in `selection.rs`, what is done with them in `sweep.rs`.

mod circuit_watch;
mod list;
mod selection;
mod sweep;

use clap::{Args, Subcommand};

use super::{CommandError, Outcome, Shared};
use crate::{
    broker::rabbitmq::{DeadQueues, WalkError},
    config::Settings,
};

use selection::Selection;
use sweep::{DiscardArgs, ReplayArgs};

/// Arguments of `brigade dead`.
#[derive(Debug, Args)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// Dead letters, grouped by lane, reason and error code
    List(Selection),
    /// One dead letter with its headers and its job
    Show {
        /// The job's id
        id: String,
    },
    /// Put letters back into their lanes
    Replay(ReplayArgs),
    /// Remove letters for good
    Discard(DiscardArgs),
}

pub(super) async fn run(shared: &Shared, args: DeadArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    match args.command {
        DeadCommand::List(selection) => list::list(shared, &settings, &selection).await,
        DeadCommand::Show { id } => list::show(shared, &settings, &id).await,
        DeadCommand::Replay(args) => sweep::replay(shared, &settings, args).await,
        DeadCommand::Discard(args) => sweep::discard(shared, &settings, args).await,
    }
}

async fn connect(shared: &Shared, settings: &Settings) -> Result<DeadQueues, CommandError> {
    DeadQueues::connect(&settings.amqp.url, &settings.amqp.prefix, shared.timeout)
        .await
        .map_err(|why| CommandError::unreachable(why).at(&settings.amqp.url_named))
}

impl From<WalkError> for CommandError {
    fn from(error: WalkError) -> Self {
        Self::unreachable(error)
    }
}
