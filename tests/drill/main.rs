//! `make drill`: what fails in the field fails here, against real worker processes, a real broker and a
//! real S3 server; prints what became of the jobs, and exits 1 when a bound is broken.
//!
//! Takes the stage of the integration tests. `docs/explanation/failure-drills.md` has the method.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::clone_on_ref_ptr,
    clippy::disallowed_methods,
    reason = "a drill that meets an error fails, and says where; it uses a part of the tests' stage"
)]

mod cluster;
mod drills;
mod memory;
#[path = "../it/messages.rs"]
mod messages;
#[path = "../it/process.rs"]
mod process;
#[path = "../it/proxy.rs"]
mod proxy;
#[path = "../it/rabbit.rs"]
mod rabbit;
mod scene;
mod sink;
#[path = "../it/stage.rs"]
mod stage;
mod store;
mod wire;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};

use self::scene::Shown;

/// Breaks what breaks in the field, and accounts for every job.
#[derive(Debug, Parser)]
#[command(name = "drill")]
struct Options {
    /// Jobs a drill; at least so many that a worker has work for ten seconds
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// Seconds that S3 is away; its brown-out lasts half of it
    #[arg(long, default_value = "60", value_parser = seconds)]
    outage: Duration,
    /// Only these drills
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let names = drills::NAMES
        .into_iter()
        .chain(store::NAMES)
        .chain(cluster::NAMES)
        .chain(memory::NAMES);
    // `cluster` means all of `cluster-…`.
    let is_meant = |it: &String, name: &str| {
        name.strip_prefix(it.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let chosen =
        |name: &&str| options.only.is_empty() || options.only.iter().any(|it| is_meant(it, name));
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    for name in names.filter(chosen) {
        eprintln!("drill {name}…");
        let shown = runtime.block_on(async {
            if memory::NAMES.contains(&name) {
                memory::run(name).await
            } else if cluster::NAMES.contains(&name) {
                cluster::run(name, options.jobs).await
            } else if store::NAMES.contains(&name) {
                store::run(name, options.jobs).await
            } else {
                drills::run(name, &options).await
            }
        });
        broken.extend(
            breaches(name, &shown)
                .into_iter()
                .map(|it| format!("{name}: {it}")),
        );
        rows.push(row(name, &shown));
    }
    println!("{}", table(rows));
    for breach in &broken {
        println!("BROKEN: {breach}");
    }
    ExitCode::from(u8::from(!broken.is_empty()))
}

/// The bounds that a drill has broken.
fn breaches(name: &str, shown: &Shown) -> Vec<String> {
    let mut broken = Vec::new();
    let mut bound = |holds: bool, what: String| {
        if !holds {
            broken.push(what);
        }
    };
    bound(shown.lost == 0, format!("{} jobs are lost", shown.lost));
    bound(shown.dead == 0, format!("{} jobs are dead", shown.dead));
    bound(
        shown.twice == 0,
        format!("{} effects took place twice", shown.twice),
    );
    if let Some(open) = shown.while_open {
        let half_broken = store::NAMES.contains(&name);
        let (most, within) = match half_broken {
            true => (1.2, store::BOUND),
            false => (2.0, Duration::from_secs(5)),
        };
        let deliveries = shown.deliveries_per_job;
        bound(
            deliveries <= most,
            format!("{deliveries:.2} deliveries a job, not {most}"),
        );
        let (calls, probes) = (open.calls, open.probes);
        bound(
            calls <= probes,
            format!("{calls} S3 calls while open, {probes} probes"),
        );
        let full = shown.full_after;
        bound(
            full.is_some_and(|after| after <= within),
            format!("full throughput after {full:?}, not within {within:?}"),
        );
        let (subscribed, count) = (shown.resubscriptions, shown.delivery_count);
        bound(
            // One for each probe, one for each closing, and one when the lane has seen how small its messages are.
            !half_broken || subscribed <= probes + open.closings + 1,
            format!(
                "{subscribed} re-subscriptions for {probes} probes and {} closings",
                open.closings
            ),
        );
        bound(
            !half_broken || count <= 3,
            format!("an x-delivery-count of {count}"),
        );
    }
    if cluster::NAMES.contains(&name) {
        let (full, within) = (shown.full_after, cluster::BOUND);
        bound(
            full.is_some_and(|after| after <= within),
            format!("full throughput after {full:?}, not within {within:?}"),
        );
    }
    if let Some(peak) = shown.peak {
        let (peak, most) = (mib(peak), mib(memory::BOUND));
        bound(peak <= most, format!("a peak of {peak} MiB, not {most}"));
    }
    if name == "rolling-restart" {
        let repeated = shown.repeated;
        bound(
            repeated == 0,
            format!("{repeated} puts repeated though every worker drained"),
        );
    }
    broken
}

const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}

fn row(name: &str, shown: &Shown) -> [String; 13] {
    let none = || "-".to_owned();
    let open = shown.while_open;
    [
        name.to_owned(),
        shown.jobs.to_string(),
        shown.lost.to_string(),
        shown.dead.to_string(),
        shown.twice.to_string(),
        shown.repeated.to_string(),
        format!("{:.2}", shown.deliveries_per_job),
        shown.delivery_count.to_string(),
        shown.resubscriptions.to_string(),
        open.map_or_else(none, |it| format!("{} of {} probes", it.calls, it.probes)),
        shown
            .full_after
            .map_or_else(none, |it| format!("{:.1}", it.as_secs_f64())),
        open.and_then(|it| it.cpu)
            .map_or_else(none, |it| format!("{:.2} %", it * 100.0)),
        shown
            .peak
            .map_or_else(none, |peak| format!("{} MiB", mib(peak))),
    ]
}

fn table(rows: Vec<[String; 13]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "drill",
        "jobs",
        "lost",
        "dead",
        "twice",
        "repeated puts",
        "deliveries a job",
        "x-delivery-count",
        "re-subscriptions",
        "S3 calls while open",
        "full after, s",
        "CPU while open",
        "peak memory",
    ]);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
