//! Seeds in bulk, on several threads: what they met, and the first one that breaks a rule.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    plan::Plan,
    run::{Report, run},
    shrink::{shrink, size},
};

/// What many seeds came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) seeds: u64,
    /// What was met, and how often.
    pub(super) met: BTreeMap<String, u64>,
    /// The seeds that break a rule, with the rule.
    pub(super) failed: BTreeMap<u64, &'static str>,
    pub(super) simulated: Duration,
}

impl Found {
    fn add(&mut self, seed: u64, report: &Report) {
        self.seeds += 1;
        self.simulated += report.lasted;
        for (what, count) in &report.state.met {
            *self.met.entry(what.clone()).or_default() += count;
        }
        if let Some(broken) = report.broken() {
            self.failed.insert(seed, broken.rule);
        }
    }
}

/// Runs seeds from `first` on, at most `count`, for no longer than `time`, on so many threads.
pub(super) fn search(first: u64, count: u64, time: Duration, threads: usize) -> Found {
    let next = AtomicU64::new(first);
    let found = Mutex::new(Found::default());
    #[expect(
        clippy::disallowed_methods,
        reason = "the real time that a search may take"
    )]
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || began.elapsed() > time {
                        return;
                    }
                    let report = run(&Plan::of(seed));
                    found.lock().unwrap().add(seed, &report);
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// The whole story of a seed that breaks a rule: its schedule made small, and the trace of that.
pub(super) fn story(seed: u64) -> Option<String> {
    let plan = Plan::of(seed);
    let broken = run(&plan).broken()?.clone();
    let (small, runs) = shrink(&plan, broken.rule);
    let report = run(&small);
    let lines = report.state.trace.len();
    let shown = report.state.trace.iter().enumerate();
    // A run that never ends says the same for hours.
    let shown = shown.filter(|(number, _)| *number < 150 || number + 30 > lines);
    let shown: Vec<_> = shown.map(|(_, line)| line.as_str()).collect();
    let shown = shown.join("\n");
    Some(format!(
        "seed {seed} breaks the rule \"{}\": {}\nfrom {:?} jobs, events and workers to {:?} in {runs} runs\n\n{small}\n{shown}\n",
        broken.rule,
        broken.text,
        size(&plan),
        size(&small)
    ))
}
