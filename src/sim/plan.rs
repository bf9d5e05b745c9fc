//! A schedule: the workers' settings, the jobs, and what goes wrong when. A seed makes one; nothing of it is decided
//! while it runs.

use std::fmt;

use serde_json::{Value, json};

use super::{
    chance::Chance,
    fault::{Fault, QueueOf, Refusal, Side, Weather},
    theme::Theme,
};
use crate::{
    job::{Circuit, Lane},
    resilience::circuit_breaker::Mode,
};

/// The points at which a task may panic: where the code says so, but for those that only end a process.
pub(super) const PANIC_POINTS: [&str; 15] = [
    "job.decoded",
    "job.claimed",
    "call.before",
    "call.after",
    "outcome.unrecorded",
    "outcome.recorded",
    "reply.before",
    "park.before",
    "park.confirmed",
    "bury.before",
    "bury.confirmed",
    "ack.before",
    "requeue.before",
    "claims.written",
    "endings.written",
];

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) knobs: Knobs,
    pub(super) jobs: Vec<JobPlan>,
    pub(super) events: Vec<Event>,
    /// When everything is mended, in milliseconds.
    pub(super) horizon: u64,
}

/// The workers' settings.
#[derive(Debug, Clone)]
pub(super) struct Knobs {
    pub(super) lanes: Vec<Lane>,
    /// Workers from the start.
    pub(super) workers: u64,
    pub(super) concurrency: u64,
    pub(super) prefetch: u64,
    pub(super) max_attempts: u64,
    pub(super) failure_threshold: u64,
    pub(super) half_open_permits: u64,
    pub(super) open_base: u64,
    pub(super) open_max: u64,
    pub(super) job_deadline: u64,
    pub(super) max_job_age: u64,
    pub(super) drain: u64,
    pub(super) batch_keys: u64,
    /// A request of S3 takes so long at most, in milliseconds.
    pub(super) latency: u64,
    /// A write of the ledger likewise.
    pub(super) commit: u64,
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct JobPlan {
    pub(super) at: u64,
    pub(super) lane: Lane,
    pub(super) id: String,
    pub(super) what: What,
    pub(super) asks: Asks,
}

/// What a job is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Put,
    PutOnce,
    Head,
    Get,
    List,
    Delete,
    DeleteMany,
    /// No job at all.
    Malformed,
}

/// Where its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    Nothing,
    Answer,
    /// From a queue that is gone.
    InVain,
}

/// One thing that goes wrong, and when.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) at: u64,
    pub(super) fault: Fault,
}

impl JobPlan {
    pub(super) fn body(&self) -> Value {
        let (id, bucket) = (&self.id, "b");
        match self.what {
            What::Put => {
                json!({"version": 1, "operation": "put_object", "bucket": bucket, "key": id, "body": {"text": "hello"}})
            }
            What::PutOnce => {
                json!({"version": 1, "operation": "put_object", "bucket": bucket, "key": id, "if_none_match": "*", "body": {"text": "hello"}})
            }
            What::Head => {
                json!({"version": 1, "operation": "head_object", "bucket": bucket, "key": id})
            }
            What::Get => {
                json!({"version": 1, "operation": "get_object", "bucket": bucket, "key": id})
            }
            What::List => {
                json!({"version": 1, "operation": "list_objects", "bucket": bucket, "prefix": id})
            }
            What::Delete => {
                json!({"version": 1, "operation": "delete_object", "bucket": bucket, "key": id})
            }
            What::DeleteMany => {
                let keys = [format!("{id}.0"), format!("{id}.1")];
                json!({"version": 1, "operation": "delete_objects", "bucket": bucket, "keys": keys})
            }
            What::Malformed => json!({"version": 1, "operation": "make_coffee"}),
        }
    }
}

impl Plan {
    /// The schedule of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed, "plan", 0);
        let theme = Theme::draw(&mut chance);
        let mut knobs = Knobs::draw(&mut chance);
        theme.tune(&mut knobs, &mut chance);
        let horizon = 1000 * chance.between(20, 300);
        let mut plan = Self {
            seed,
            jobs: jobs(&mut chance, &knobs, theme, horizon),
            events: Vec::new(),
            knobs,
            horizon,
        };
        for fault in theme.faults(&plan.knobs, &mut chance) {
            let at = chance.between(0, 20_000);
            plan.events.push(Event { at, fault });
        }
        let count = chance.pick(&[0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8]);
        for _ in 0..count {
            let at = chance.between(0, horizon);
            let fault = plan.fault(&mut chance);
            plan.events.push(Event { at, fault });
        }
        plan.events.sort_by_key(|event| event.at);
        plan
    }

    fn fault(&self, chance: &mut Chance) -> Fault {
        let lane = chance.pick(&self.knobs.lanes);
        let worker = chance.between(0, 2) as usize;
        let lasts = match chance.between(0, 3) {
            0 => chance.between(100, 3_000),
            1 | 2 => chance.between(1_000, 60_000),
            _ => chance.between(20_000, 240_000),
        };
        let queue = chance.pick(&[QueueOf::Jobs, QueueOf::FirstRetry, QueueOf::Dead]);
        let copies = chance.pick(&[QueueOf::FirstRetry, QueueOf::Dead]);
        let count = chance.between(1, 4);
        let job = chance.between(0, self.jobs.len() as u64 - 1) as usize;
        match chance.between(0, 41) {
            0..=13 => Fault::Store {
                weather: chance.pick(&Weather::ALL),
                lane: chance.pick(&[None, Some(lane), Some(lane)]),
                permille: chance.pick(&[100, 500, 1000, 1000, 1000]),
                lasts,
            },
            14 => Fault::ChannelsLost { worker },
            15 => Fault::Disconnected { worker, lasts },
            16 => Fault::Alarm { lasts },
            17 | 18 => Fault::FullQueue {
                lane,
                queue: copies,
                lasts,
            },
            19 => Fault::MissingQueue { lane, queue, lasts },
            20 => Fault::ConsumersForgotten,
            21 | 22 => {
                let refusal = chance.pick(&[
                    Refusal::Returned,
                    Refusal::Nacked,
                    Refusal::LateConfirm,
                    Refusal::LostConfirm,
                ]);
                Fault::CopiesRefused { refusal, count }
            }
            23 => Fault::AcksLost { count },
            24 | 25 => Fault::LedgerDown { lasts },
            26 => Fault::CommitsDown { lasts },
            27 => Fault::LedgerSilent { lasts },
            28 => Fault::LedgerSlow {
                by: chance.between(10, 4_000),
                lasts,
            },
            29 => Fault::LedgerAnswersLost { count },
            30 => Fault::RowRefused { job },
            31 => Fault::LeasesRunOut,
            32 => match chance.between(0, 1) {
                0 => Fault::ClockAhead {
                    by: chance.between(1, 900_000),
                },
                _ => Fault::ClockBack {
                    by: chance.between(1, 900_000),
                },
            },
            33 | 34 => Fault::Operator {
                circuit: chance.pick(&[Circuit::Upload, Circuit::Download]),
                mode: chance.pick(&[Mode::Auto, Mode::ForceOpen, Mode::ForceClosed]),
            },
            35 => Fault::WorkerStarts,
            36 => Fault::WorkerDrains { worker },
            37 => Fault::WorkerKilled { worker },
            38 => Fault::WorkerDies {
                worker,
                call: chance.between(1, 60),
                side: chance.pick(&[Side::Before, Side::After]),
            },
            39 => Fault::Panic {
                point: chance.pick(&PANIC_POINTS),
            },
            40 => Fault::JobAgain { job },
            _ => Fault::Replay { lane },
        }
    }
}

impl Knobs {
    fn draw(chance: &mut Chance) -> Self {
        let lanes = match chance.between(0, 4) {
            0 => vec![Lane::Upload],
            1 => vec![Lane::Read],
            2 => vec![Lane::Cleanup],
            _ => Lane::ALL.to_vec(),
        };
        Self {
            lanes,
            workers: chance.pick(&[1, 1, 1, 2, 3]),
            concurrency: chance.pick(&[1, 2, 2, 4, 8]),
            prefetch: chance.pick(&[1, 2, 4, 8, 16, 32]),
            max_attempts: chance.pick(&[1, 2, 3, 3, 3]),
            failure_threshold: chance.pick(&[1, 2, 3, 5, 5]),
            half_open_permits: chance.pick(&[1, 1, 1, 2, 3]),
            open_base: chance.pick(&[1_000, 5_000]),
            open_max: chance.pick(&[10_000, 60_000]),
            job_deadline: chance.pick(&[60_000, 120_000, 300_000]),
            max_job_age: chance.pick(&[300_000, 86_400_000, 86_400_000]),
            drain: chance.pick(&[1_000, 5_000, 25_000]),
            batch_keys: chance.pick(&[1, 3, 1000]),
            latency: chance.pick(&[0, 20, 200, 2_000]),
            commit: chance.pick(&[0, 3, 20]),
        }
    }
}

fn jobs(chance: &mut Chance, knobs: &Knobs, theme: Theme, horizon: u64) -> Vec<JobPlan> {
    let (count, burst) = match theme {
        Theme::Backlog => (30, true),
        _ => (
            chance.pick(&[1, 2, 3, 5, 8, 12, 20, 30]),
            chance.permille(500),
        ),
    };
    let job = |number: u64, chance: &mut Chance| {
        let lane = chance.pick(&knobs.lanes);
        let what = match lane {
            _ if chance.permille(20) => What::Malformed,
            Lane::Upload => chance.pick(&[What::Put, What::Put, What::PutOnce]),
            Lane::Read => chance.pick(&[What::Head, What::Head, What::Get, What::List]),
            Lane::Cleanup => chance.pick(&[What::Delete, What::Delete, What::DeleteMany]),
        };
        let asks = match what {
            What::Get | What::List => Asks::Answer,
            _ => chance.pick(&[Asks::Nothing, Asks::Nothing, Asks::Answer, Asks::InVain]),
        };
        let initial = &lane.as_str()[..1];
        JobPlan {
            at: if burst {
                chance.between(0, 200)
            } else {
                chance.between(0, horizon)
            },
            lane,
            id: format!("{initial}-{number}"),
            what,
            asks,
        }
    };
    (0..count).map(|number| job(number, chance)).collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |at: u64| at as f64 / 1000.0;
        writeln!(
            f,
            "seed {}, mended at {:.3} s, {:?}",
            self.seed,
            seconds(self.horizon),
            self.knobs
        )?;
        for job in &self.jobs {
            let JobPlan {
                at,
                lane,
                id,
                what,
                asks,
            } = job;
            writeln!(
                f,
                "{:>9.3} s  job {id} {what:?} by {lane}, asks {asks:?}",
                seconds(*at)
            )?;
        }
        for event in &self.events {
            writeln!(f, "{:>9.3} s  {}", seconds(event.at), event.fault)?;
        }
        Ok(())
    }
}
