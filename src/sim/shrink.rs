//! A failing schedule made smaller: jobs, events and workers are left out one after the other, as long as the same
//! rule stays broken.

use super::{plan::Plan, run::run};

/// Runs at most.
const MOST: u32 = 400;

/// The smallest schedule that was found to break the rule, and how many runs that took.
pub(super) fn shrink(plan: &Plan, rule: &str) -> (Plan, u32) {
    let mut runs = 0;
    let mut breaks = |plan: &Plan| {
        runs += 1;
        runs <= MOST && run(plan).state.broken.iter().any(|it| it.rule == rule)
    };
    let mut best = plan.clone();
    loop {
        let before = size(&best);
        best = without(best, |plan| &mut plan.events, &mut breaks);
        best = without(best, |plan| &mut plan.jobs, &mut breaks);
        for simpler in simpler(&best) {
            if breaks(&simpler) {
                best = simpler;
            }
        }
        if size(&best) == before {
            break;
        }
    }
    (best, runs.min(MOST))
}

/// Jobs and events, for people.
pub(super) fn size(plan: &Plan) -> (usize, usize, u64) {
    (plan.jobs.len(), plan.events.len(), plan.knobs.workers)
}

/// Leaves out halves, quarters, and so on down to single ones.
fn without<T: Clone>(
    mut best: Plan,
    list: impl Fn(&mut Plan) -> &mut Vec<T>,
    breaks: &mut impl FnMut(&Plan) -> bool,
) -> Plan {
    let mut chunk = list(&mut best).len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < list(&mut best).len() {
            let mut smaller = best.clone();
            let end = (at + chunk).min(list(&mut smaller).len());
            list(&mut smaller).drain(at..end);
            if breaks(&smaller) {
                best = smaller;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    best
}

fn simpler(plan: &Plan) -> Vec<Plan> {
    let mut one_worker = plan.clone();
    one_worker.knobs.workers = 1;
    let mut at_once = plan.clone();
    (at_once.knobs.latency, at_once.knobs.commit) = (0, 0);
    let mut shorter = plan.clone();
    let ends = plan
        .events
        .iter()
        .map(|event| event.at + event.fault.lasts().unwrap_or(0));
    let last = ends.chain(plan.jobs.iter().map(|job| job.at)).max();
    shorter.horizon = plan.horizon.min(last.unwrap_or(0) + 1_000);
    vec![one_worker, at_once, shorter]
}
