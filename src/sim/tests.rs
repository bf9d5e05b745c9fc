//! What `make test` asks of the simulation, and what `make sim` does.

use std::{collections::BTreeMap, time::Duration};

use super::{
    fault::{Fault, Weather},
    plan::Plan,
    run::run,
    search::{search, story},
};

/// Seeds that everybody runs; `make sim` runs others.
const SEEDS: u64 = 300;

#[test]
fn a_seed_runs_the_same_way_each_time() {
    let (first, count) = (asked("BRIGADE_SIM_SEED"), asked("BRIGADE_SIM_SEEDS"));
    let first = first.unwrap_or(0);
    for seed in first..first + count.unwrap_or(40).min(1_000) {
        let plan = Plan::of(seed);
        let (first, second) = (run(&plan).to_string(), run(&plan).to_string());
        let differs = first.lines().zip(second.lines()).position(|(a, b)| a != b);
        if let Some(line) = differs {
            let around = |text: &str| {
                let lines = text.lines().skip(line.saturating_sub(10)).take(13);
                lines.collect::<Vec<_>>().join("\n")
            };
            panic!(
                "seed {seed} differs in line {line}\n{}\n\n{}",
                around(&first),
                around(&second)
            );
        }
        assert!(first == second, "seed {seed}: one run is longer");
    }
}

/// What `make sim` asks for.
fn asked(variable: &str) -> Option<u64> {
    #[expect(
        clippy::disallowed_methods,
        reason = "no setting: only a test reads it"
    )]
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap())
}

#[test]
fn no_seed_breaks_a_rule() {
    let (first, threads) = (asked("BRIGADE_SIM_SEED"), asked("BRIGADE_SIM_THREADS"));
    let count = asked("BRIGADE_SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    #[expect(clippy::disallowed_methods, reason = "the real time that it took")]
    let began = std::time::Instant::now();
    let found = search(
        first.unwrap_or(0),
        count,
        Duration::from_secs(24 * 3600),
        threads.unwrap_or(2) as usize,
    );
    let took = began.elapsed().as_secs_f64();
    let rate = found.seeds as f64 / took;
    crate::terminal::say(format_args!(
        "{} seeds in {took:.1} s, {rate:.0} a second, {:.0} simulated hours",
        found.seeds,
        found.simulated.as_secs_f64() / 3600.0
    ));
    if asked("BRIGADE_SIM_REPORT").is_some() {
        for (what, count) in &found.met {
            crate::terminal::say(format_args!("{count:>9}  {what}"));
        }
    }
    let mut rules: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, rule) in &found.failed {
        rules.entry(rule).or_default().push(*seed);
    }
    for (rule, seeds) in &rules {
        crate::terminal::say(format_args!("{rule}: {seeds:?}"));
    }
    let mut stories = rules.values().filter_map(|seeds| story(*seeds.first()?));
    if let Some(first) = stories.next() {
        let others: String = stories.collect();
        panic!("{first}\n{others}");
    }
    if first.is_none() {
        check_coverage(&found.met);
    }
}

/// Nothing of what the simulation is for is passed over by its seeds.
fn check_coverage(met: &BTreeMap<String, u64>) {
    let stores = Weather::ALL.map(|weather| format!("store {weather:?}"));
    let others = [
        "circuit closed",
        "circuit open",
        "circuit half_open",
        "lane consuming",
        "lane probing",
        "lane disconnected",
        "lane draining",
        "lane paused by Breaker",
        "lane paused by Ledger",
        "lane paused by Amqp",
        "stopped: Drained",
        "stopped: Aborted",
    ];
    let kinds = Fault::KINDS
        .iter()
        .chain(&others)
        .map(|name| (*name).to_owned());
    let missing: Vec<String> = kinds
        .chain(stores)
        .filter(|what| !met.contains_key(what))
        .collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
}
