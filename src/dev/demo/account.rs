//! The account at the end of the demo: every published job by its ledger row, and the closing table.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Verdict, screen,
    tour::{Played, Tour},
};
use crate::{
    job::{JobId, State},
    ledger::JobFilter,
};

impl Tour {
    /// The table, and whether everything is accounted for.
    pub(super) async fn account(&mut self) -> anyhow::Result<Verdict> {
        let mut times = BTreeMap::new();
        let mut filter = JobFilter {
            limit: 1_000,
            ..JobFilter::default()
        };
        loop {
            let page = self.ledger.list(&filter).await?;
            for job in page.jobs {
                let (started, finished) = (job.started_at, job.finished_at);
                if let (State::Completed, Some(started), Some(finished)) =
                    (job.state, started, finished)
                {
                    times.insert(job.id, finished.since(started));
                }
            }
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        let missing = self
            .published
            .iter()
            .filter(|id| !times.contains_key(id))
            .count();
        let mut rows = Vec::new();
        for act in &self.acts {
            rows.push(row_of(act, &times));
        }
        let all = Played {
            name: "all",
            jobs: self.published.iter().cloned().collect(),
            took: self.acts.iter().map(|act| act.took).sum(),
        };
        rows.push(row_of(&all, &times));
        let head = ["act", "jobs", "lost", "jobs/s", "job time p50", "p99"];
        self.screen.say(format!("\n{}", screen::table(head, rows)));
        if let Some(bytes) = self.worker.peak_memory() {
            self.screen
                .say(format!("The worker's peak memory: {} MiB.", bytes >> 20));
        }
        for problem in self.problems.iter().take(10) {
            self.screen.say(format!("WRONG: {problem}"));
        }
        if missing > 0 || !self.problems.is_empty() {
            self.screen.say(format!(
                "{missing} jobs lost, {} things wrong.",
                self.problems.len()
            ));
            return Ok(Verdict::Wrong);
        }
        self.screen.say(
            "Nothing was lost.\n\n\
             Try next:  make dev    RabbitMQ, S3, worker and status page, left running for you\n\
             \x20          README.md   enqueue a job from Python, run a worker of your own",
        );
        Ok(Verdict::AllDone)
    }
}

fn row_of(act: &Played, times: &BTreeMap<JobId, Duration>) -> [String; 6] {
    let mut taken: Vec<Duration> = act
        .jobs
        .iter()
        .filter_map(|id| times.get(id).copied())
        .collect();
    taken.sort_unstable();
    let at = |share: f64| {
        let index = ((taken.len() as f64 * share) as usize).min(taken.len().saturating_sub(1));
        taken.get(index).map_or("-".to_owned(), |time| {
            format!("{:.0} ms", time.as_secs_f64() * 1e3)
        })
    };
    [
        act.name.to_owned(),
        act.jobs.len().to_string(),
        (act.jobs.len() - taken.len()).to_string(),
        format!(
            "{:.0}",
            taken.len() as f64 / act.took.as_secs_f64().max(0.001)
        ),
        at(0.5),
        at(0.99),
    ]
}
