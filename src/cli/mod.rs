//! The command line: one file a subcommand. Arguments in, an exit code out.

#![expect(
    clippy::doc_markdown,
    rustdoc::bare_urls,
    reason = "doc comments here are help texts for a terminal"
)]

mod batch;
mod circuit;
mod config;
mod dead;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod enqueue;
mod healthcheck;
mod jobs;
mod migrate;
mod option_flags;
mod output;
mod signals;
mod topology;
mod unanswered;
mod upload;
mod worker;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub use output::Output;

use crate::{
    config::{ConfigError, Loaded, Sources},
    terminal,
};

/// Queue-driven S3 job processor: RabbitMQ in, S3 out, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "brigade", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Shared {
    /// Settings file (TOML); BRIGADE_CONFIG names one too
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one setting, such as lanes.upload.concurrency=128; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// How long to wait for a service
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: std::time::Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a worker until SIGTERM or Ctrl-C, then drain
    Worker(worker::WorkerArgs),
    /// Publish jobs
    Enqueue(enqueue::EnqueueArgs),
    /// Look at jobs in the ledger
    Jobs(jobs::JobsArgs),
    /// Look at dead letters, replay or discard them
    Dead(dead::DeadArgs),
    /// Look at the circuit breakers of running workers, or force them
    Circuit(circuit::CircuitArgs),
    /// Bring the ledger's schema up to date
    Migrate(migrate::MigrateArgs),
    /// Look at the effective settings
    Config(config::ConfigArgs),
    /// Declare, compare or export exchanges and queues
    Topology(topology::TopologyArgs),
    /// What is wrong with broker, queues, S3 permissions, ledger and clocks, and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Is the worker on http.listen alive? Exit 0 or 1
    Healthcheck,
    /// Embedded S3, SQLite, a worker and the status page, for trying it out
    #[cfg(feature = "dev")]
    Dev,
    /// The guided tour: real files up, read back, deleted; then an S3 outage
    #[cfg(feature = "dev")]
    Demo(crate::dev::demo::DemoArgs),
}

/// How a command ends; the numbers are the contract's, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, or found wanting.
    Failed = 1,
    /// The command line or the settings are wrong.
    Usage = 64,
    /// A service is unreachable, or did not answer in time.
    Unreachable = 69,
    /// A bug.
    Bug = 70,
}

/// A failed command: what to say, and the exit code.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    error: anyhow::Error,
}

impl CommandError {
    /// Ends the command with `exit` and a message.
    pub fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self {
            exit,
            error: anyhow::anyhow!("{message}"),
        }
    }

    /// The command line or the settings are wrong.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A service is unreachable.
    pub fn unreachable(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// Says on standard error what went wrong; nothing when the command is done, and only its reader left.
    fn report(self) -> Exit {
        self.report_to(|text| output::say(text))
    }

    /// The same, with `say` instead of standard error.
    fn report_to(self, say: impl FnOnce(&str)) -> Exit {
        if self.exit != Exit::Done {
            say(&format!("{:#}", self.error));
        }
        self.exit
    }

    /// Adds which setting gave the service's address, and where it came from.
    fn at(self, setting: &str) -> Self {
        Self {
            error: anyhow::anyhow!("{:#} ({setting})", self.error),
            ..self
        }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self {
            exit: Exit::Failed,
            error,
        }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

type Outcome = Result<Exit, CommandError>;

impl Shared {
    /// The settings, with this command's own flags on top.
    fn load(&self, flags: Vec<(String, String)>) -> Result<Loaded, CommandError> {
        let mut all = Vec::new();
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CommandError::usage(format!("--set wants KEY=VALUE, but has {pair:?}"))
            })?;
            all.push((key.trim().to_owned(), value.to_owned()));
        }
        all.extend(flags);
        let sources = Sources::from_process(self.config.clone(), all);
        Ok(crate::config::load(&sources)?)
    }

    /// Waits for an answer of `service`, at most `--timeout`. No answer, and a failure: exit 69.
    async fn answer<T, E: std::fmt::Display>(
        &self,
        service: &str,
        asking: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CommandError> {
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(answer) => answer.map_err(CommandError::unreachable),
            Err(_) => Err(CommandError::unreachable(format!(
                "the {service} did not answer within {} (--timeout)",
                humantime::format_duration(self.timeout)
            ))),
        }
    }
}

/// Runs the command line; prints, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = match explain(&error) {
                Ok(exit) => exit,
                Err(failed) => failed.report(),
            };
            return ExitCode::from(exit as u8);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(dispatch(cli));
            // A file read or a name lookup that hangs must not keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(CommandError::new(
            Exit::Failed,
            format!("no runtime: {error}"),
        )),
    };
    let exit = ended.unwrap_or_else(CommandError::report);
    ExitCode::from(exit as u8)
}

/// Prints help, version, or what is wrong with the command line.
fn explain(error: &clap::Error) -> Outcome {
    let text = error.render().to_string();
    if !error.use_stderr() {
        error.print().map_err(output::out_failed)?;
        return Ok(Exit::Done);
    }
    // With colours, unless an argument would add its own.
    if terminal::lines(&text) == text {
        // Nothing can be done about a closed terminal.
        drop(error.print());
    } else {
        terminal::say(text.trim_end());
    }
    Ok(Exit::Usage)
}

async fn dispatch(cli: Cli) -> Outcome {
    let Cli { shared, command } = cli;
    match command {
        Command::Worker(args) => worker::run(&shared, args).await,
        Command::Enqueue(args) => enqueue::run(&shared, args).await,
        Command::Jobs(args) => jobs::run(&shared, args).await,
        Command::Dead(args) => dead::run(&shared, args).await,
        Command::Circuit(args) => circuit::run(&shared, args).await,
        Command::Migrate(args) => migrate::run(&shared, args).await,
        Command::Config(args) => config::run(&shared, &args).await,
        Command::Topology(args) => topology::run(&shared, args).await,
        Command::Doctor(args) => doctor::run(&shared, args).await,
        Command::Healthcheck => healthcheck::run(&shared).await,
        #[cfg(feature = "dev")]
        Command::Dev => dev::playground(&shared).await,
        #[cfg(feature = "dev")]
        Command::Demo(args) => dev::demo(&shared, args).await,
    }
}
