//! Replaying and discarding: one sweep through the dead queues, letter by letter.
//!
//! A letter leaves its queue only when it is settled elsewhere, so the process may be killed at any point.

use std::{
    collections::BTreeSet,
    io::{IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Selection, circuit_watch::CircuitWatch, connect};
use crate::{
    broker::{
        PublishError,
        rabbitmq::{DeadLetter, DeadQueues, Walk, WalkError},
    },
    cli::{
        CommandError, Exit, Outcome, Output, Shared, circuit,
        output::{print, print_json, say},
    },
    config::Settings,
    job::{Timestamp, message::header},
    terminal::escaped,
};

/// A wait after which what the walk holds may have gone back.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// Arguments of `brigade dead replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    selection: Selection,
    /// Replay every dead letter (that --lane and --limit leave)
    #[arg(long)]
    all: bool,
    /// Say what would be replayed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// At most this many letters a second
    #[arg(long, value_name = "N", value_parser = parse_rate, conflicts_with = "dry_run")]
    rate: Option<f64>,
}

/// Arguments of `brigade dead discard`.
#[derive(Debug, Args)]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    selection: Selection,
    /// Discard every dead letter (that --lane and --limit leave)
    #[arg(long)]
    all: bool,
    /// Say what would be discarded, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long)]
    yes: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.001..=1_000_000.0).contains(rate))
        .ok_or_else(|| "must be a number of letters a second, 0.001 to 1000000".to_owned())
}

pub(super) async fn replay(shared: &Shared, settings: &Settings, args: ReplayArgs) -> Outcome {
    args.selection.demand_all(args.all, "replay")?;
    let queues = connect(shared, settings).await?;
    let authority = circuit::authority(settings.http.listen);
    let fate = match args.dry_run {
        true => Fate::Stay,
        false => Fate::Replay {
            pace: args.rate.map(pace),
            watch: CircuitWatch::new(authority),
        },
    };
    finish(shared, queues, &args.selection, fate, "replayed").await
}

pub(super) async fn discard(shared: &Shared, settings: &Settings, args: DiscardArgs) -> Outcome {
    args.selection.demand_all(args.all, "discard")?;
    let mut selection = args.selection;
    if args.dry_run {
        let queues = connect(shared, settings).await?;
        return finish(shared, queues, &selection, Fate::Stay, "discarded").await;
    }
    if !args.yes && !std::io::stdin().is_terminal() {
        return Err(CommandError::usage(
            "dead discard removes letters for good: off a terminal it wants --yes",
        ));
    }
    let queues = connect(shared, settings).await?;
    if !args.yes {
        let mut counted = Sweep::default();
        counted.run(&queues, &selection, &mut Fate::Stay).await?;
        if counted.matched > 0 && !is_confirmed(counted.matched)? {
            queues.close().await;
            return Err(CommandError::new(Exit::Failed, "nothing was discarded"));
        }
        // What came in meanwhile was not asked about.
        selection.limit = Some(counted.matched);
    }
    finish(shared, queues, &selection, Fate::Discard, "discarded").await
}

fn pace(rate: f64) -> tokio::time::Interval {
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

fn is_confirmed(count: u64) -> Result<bool, CommandError> {
    let failed = |error| CommandError::new(Exit::Failed, format!("no answer: {error}"));
    let mut terminal = std::io::stderr();
    write!(terminal, "Discard {count} dead letters for good? [y/N] ").map_err(failed)?;
    terminal.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn finish(
    shared: &Shared,
    queues: DeadQueues,
    selection: &Selection,
    mut fate: Fate,
    done: &str,
) -> Outcome {
    let mut sweep = Sweep::default();
    let swept = sweep.run(&queues, selection, &mut fate).await;
    queues.close().await;
    sweep.print(shared.output, selection, &fate, done)?;
    swept?;
    let missing = selection.ids.iter().any(|id| !sweep.found.contains(id));
    Ok(if missing || !sweep.failed.is_empty() {
        Exit::Failed
    } else {
        Exit::Done
    })
}

/// What becomes of the letters that are meant.
enum Fate {
    Stay,
    Discard,
    Replay {
        pace: Option<tokio::time::Interval>,
        watch: CircuitWatch,
    },
}

impl Fate {
    /// Waits for the letter's turn.
    async fn turn(&mut self, letter: &DeadLetter) {
        if let Self::Replay { pace, watch } = self {
            if let Some(pace) = pace {
                pace.tick().await;
            }
            watch.until_closed(letter.replay_lane()).await;
        }
    }

    async fn befall(&self, walk: &Walk<'_>, letter: DeadLetter) -> Result<(), WalkError> {
        match self {
            Self::Stay => Ok(()),
            Self::Discard => walk.discard(letter).await,
            Self::Replay { .. } => {
                let message = letter.replayed(Timestamp::now());
                walk.replay(letter, &message).await
            }
        }
    }
}

/// What one sweep found and did.
#[derive(Default)]
struct Sweep {
    /// Letters that are meant.
    matched: u64,
    /// Of these, settled.
    done: u64,
    found: BTreeSet<String>,
    /// Letters that no queue takes, with the reason; they stay.
    failed: Vec<(Option<String>, String)>,
}

impl Sweep {
    async fn run(
        &mut self,
        queues: &DeadQueues,
        selection: &Selection,
        fate: &mut Fate,
    ) -> Result<(), WalkError> {
        let began = Timestamp::now();
        for lane in selection.lanes() {
            let mut walk = queues.walk(lane).await?;
            let mut progressed = false;
            while selection.limit.is_none_or(|limit| self.matched < limit) {
                let Some(letter) = walk.next().await? else {
                    break;
                };
                if !selection.takes(&letter) || came_back(&letter, began) {
                    continue;
                }
                let asked = Instant::now();
                fate.turn(&letter).await;
                // Only if that makes progress: a queue may take longer to walk than a walk may last.
                if walk.is_stale() && (progressed || asked.elapsed() > LONG_WAIT) {
                    walk.end().await?;
                    walk = queues.walk(lane).await?;
                    progressed = false;
                    continue;
                }
                progressed = true;
                self.settle(&walk, letter, fate).await?;
            }
            walk.end().await?;
        }
        Ok(())
    }

    async fn settle(
        &mut self,
        walk: &Walk<'_>,
        letter: DeadLetter,
        fate: &Fate,
    ) -> Result<(), WalkError> {
        let id = letter.message.message_id.clone();
        self.found.extend(id.clone());
        self.matched += 1;
        match fate.befall(walk, letter).await {
            Ok(()) => self.done += 1,
            // About this letter; the next may be well.
            Err(WalkError::Publish(why @ (PublishError::Returned(_) | PublishError::Nacked))) => {
                self.failed.push((id, why.to_string()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn print(
        &self,
        output: Output,
        selection: &Selection,
        fate: &Fate,
        done: &str,
    ) -> Result<(), CommandError> {
        let dry_run = matches!(fate, Fate::Stay);
        let count = if dry_run { 0 } else { self.done };
        let missing = selection.ids.iter().filter(|id| !self.found.contains(*id));
        let missing: Vec<&String> = missing.collect();
        if output == Output::Json {
            let failed: Vec<Value> = self
                .failed
                .iter()
                .map(|(id, error)| json!({"id": id, "error": error}))
                .collect();
            return print_json(&json!({
                "matched": self.matched, done: count, "dry_run": dry_run,
                "failed": failed, "not_found": missing,
            }));
        }
        for (id, error) in &self.failed {
            let id = id.as_deref().unwrap_or("a letter without an id");
            say(format!("{} stays dead: {}", escaped(id), escaped(error)));
        }
        for id in missing {
            say(format!("no dead letter {}", escaped(id)));
        }
        match dry_run {
            true => print(format!("{} letters would be {done}", self.matched)),
            false => print(format!("{count} letters {done}")),
        }
    }
}

/// Whether this sweep replayed the letter already, and it died again: else a job that always fails would
/// keep the sweep going for ever. Both times are this machine's.
fn came_back(letter: &DeadLetter, began: Timestamp) -> bool {
    let replayed_at = letter.message.text(header::REPLAYED_AT);
    replayed_at
        .and_then(Timestamp::parse_rfc3339)
        .is_some_and(|at| at >= began)
}
