//! What every drill has: a stage whose workers reach the broker over a wire, jobs in the queue, samples of
//! how fast they are done, and the account at the end.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

use bucket_brigade::{
    dev::s3_server::{Entry, S3Operation},
    http::client,
    job::{Lane, State, Timestamp},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{process::WorkerProcess, rabbit::Rabbit, stage::Stage, wire::Wire};

/// How often throughput is sampled, and over how many samples it is taken.
const SAMPLE: Duration = Duration::from_millis(100);
const WINDOW: usize = 10;
/// This share of the throughput before the fault is full throughput again.
const FULL: f64 = 0.8;

/// A call that was sent before the circuit opened arrives within this.
const ON_THEIR_WAY: Duration = Duration::from_millis(250);

/// A drill under way.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) wire: Wire,
    /// To the other nodes of a cluster.
    more_wires: Vec<Wire>,
    pub(crate) jobs: usize,
    http: String,
    /// Jobs that had their S3 call by each time, while no fault makes calls of no effect.
    samples: Vec<(Instant, u64)>,
    began: (Instant, Timestamp),
}

/// What a drill has shown.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) jobs: usize,
    pub(crate) lost: usize,
    pub(crate) dead: usize,
    pub(crate) twice: usize,
    /// Puts of the same bytes to the same key, before the job's end was in the ledger.
    pub(crate) repeated: usize,
    pub(crate) deliveries_per_job: f64,
    /// Subscriptions to the lane's queue after the first.
    pub(crate) resubscriptions: u64,
    /// The largest `x-delivery-count` of a delivery.
    pub(crate) delivery_count: u64,
    pub(crate) while_open: Option<WhileOpen>,
    pub(crate) full_after: Option<Duration>,
    /// The most memory that the worker has held, in bytes.
    pub(crate) peak: Option<u64>,
}

/// What happened while a circuit was open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WhileOpen {
    pub(crate) calls: u64,
    pub(crate) probes: u64,
    /// How often it closed again.
    pub(crate) closings: u64,
    /// Share of a core, where it was measured.
    pub(crate) cpu: Option<f64>,
}

/// A stage with the settings that a worker has by default, whose workers reach the broker over a wire; and their
/// address for HTTP.
pub(crate) async fn wired(rabbit: Rabbit) -> (Stage, Wire, String) {
    let url = rabbit.url.clone();
    let (scheme, rest) = url.split_once("@").unwrap();
    let (target, vhost) = rest.split_once('/').unwrap();
    let wire = Wire::to(target.to_owned()).await;
    // Free a moment ago, and in nobody's interest but ours.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let http = free.unwrap().to_string();
    let stage = Stage::on(rabbit)
        .await
        .set("amqp.url", &format!("{scheme}@{}/{vhost}", wire.address))
        .set("http.listen", &http)
        .set("retry.base_delay", "1s")
        .set("circuit.open_base", "5s")
        .set("circuit.open_max", "60s");
    (stage, wire, http)
}

impl Scene {
    /// Queues the jobs.
    pub(crate) async fn set(rabbit: Rabbit, jobs: usize) -> Self {
        let (mut stage, wire, http) = wired(rabbit).await;
        stage.declare().await;
        let messages = (0..jobs).map(|n| crate::stage::put(&format!("j{n}"), &format!("k{n}")));
        stage.publish_all(Lane::Upload, messages.collect()).await;
        Self {
            stage,
            wire,
            more_wires: Vec::new(),
            jobs,
            http,
            samples: Vec::new(),
            began: (Instant::now(), Timestamp::now()),
        }
    }

    /// The same over a wire to each node of a cluster.
    pub(crate) async fn over(rabbit: Rabbit, wires: Vec<Wire>, jobs: usize) -> Self {
        let urls: Vec<String> = wires
            .iter()
            .map(|wire| format!("amqp://guest:guest@{}/%2f", wire.address))
            .collect();
        let mut scene = Self::set(rabbit, 0).await;
        scene.stage = scene.stage.set("amqp.url", &urls.join(","));
        let messages = (0..jobs).map(|n| crate::stage::put(&format!("j{n}"), &format!("k{n}")));
        scene
            .stage
            .publish_all(Lane::Upload, messages.collect())
            .await;
        let mut wires = wires.into_iter();
        scene.wire = wires.next().unwrap();
        scene.more_wires = wires.collect();
        scene.jobs = jobs;
        scene
    }

    /// To each node, in their order.
    pub(crate) fn wires(&self) -> impl Iterator<Item = &Wire> {
        std::iter::once(&self.wire).chain(&self.more_wires)
    }

    pub(crate) fn puts(&self) -> u64 {
        self.stage.s3.journal().count(S3Operation::PutObject)
    }

    /// Runs until a share of the jobs, in percent, has had its S3 call; samples meanwhile.
    pub(crate) async fn until_share(&mut self, percent: usize) {
        let share = (self.jobs * percent / 100) as u64;
        while self.puts() < share {
            self.sample().await;
        }
    }

    async fn sample(&mut self) {
        sleep(SAMPLE).await;
        self.samples.push((Instant::now(), self.puts()));
    }

    /// Jobs a second over the last window, as good as the best one so far.
    pub(crate) fn best_rate(&self) -> f64 {
        let windows = self.samples.windows(WINDOW);
        windows.map(rate).fold(0.0, f64::max)
    }

    /// Waits until jobs are done as fast as before, from now on; `None` when they ran out before that.
    pub(crate) async fn until_full(&mut self, before: f64) -> Option<Duration> {
        let healed = Instant::now();
        let first = self.samples.len();
        while self.completed().await < self.jobs as u64 {
            self.sample().await;
            let window = self.samples.len().saturating_sub(WINDOW).max(first);
            let window = &self.samples[window..];
            if window.len() >= 5 && rate(window) >= FULL * before {
                // The window's beginning is when it was as fast.
                return Some(window[0].0.duration_since(healed));
            }
        }
        None
    }

    /// Jobs a second over the last five seconds.
    pub(crate) fn mean_rate(&self) -> f64 {
        rate(&self.samples[self.samples.len().saturating_sub(5 * WINDOW)..])
    }

    /// Jobs a second in each second since then.
    pub(crate) fn course(&self, since: Instant) -> String {
        let first = self.samples.partition_point(|sample| sample.0 < since);
        let seconds = self.samples[first..]
            .chunks(WINDOW)
            .map(|it| format!("{:.0}", rate(it)));
        seconds.collect::<Vec<_>>().join(" ")
    }

    pub(crate) async fn completed(&self) -> u64 {
        let ledger = self.stage.ledger().await;
        let Ok(stats) = ledger.stats().await else {
            return 0; // locked by a drill
        };
        let completed = stats.iter().filter(|row| row.state == State::Completed);
        completed.map(|row| row.count).sum()
    }

    /// Waits until every job is completed, or for the patience; the account tells which.
    pub(crate) async fn until_done(&self, patience: Duration) {
        let began = Instant::now();
        while self.completed().await < self.jobs as u64 && began.elapsed() < patience {
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// The state of the upload circuit, as its worker says; empty while it does not answer.
    pub(crate) async fn circuit(&self) -> String {
        let answer = client::get(&self.http, "/api/status", Duration::from_secs(2)).await;
        let status = answer.map_or(Value::Null, |answer| answer.json());
        status["circuits"]["upload"]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) async fn until_circuit(&self, wanted: &str, patience: Duration) -> bool {
        let began = Instant::now();
        while self.circuit().await != wanted {
            if began.elapsed() > patience {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Probes that the upload circuit has admitted so far.
    pub(crate) async fn probes(&self) -> u64 {
        let answer = client::get(&self.http, "/metrics", Duration::from_secs(2)).await;
        let page = answer.map_or_else(|_| Vec::new(), |answer| answer.body);
        let name =
            "brigade_circuit_transitions_total{circuit=\"upload\",from=\"open\",to=\"half_open\"}";
        crate::stage::metric(&String::from_utf8_lossy(&page), name) as u64
    }

    /// Calls and probes while the upload circuit was open or half-open, by the times in the worker's log and in the
    /// S3 server's journal. Calls that were on their way when it opened are none of them.
    pub(crate) fn while_open(&self, worker: &WorkerProcess) -> WhileOpen {
        let changes: Vec<(Timestamp, String)> = worker.log().lines().filter_map(change).collect();
        let mut open = WhileOpen {
            calls: 0,
            probes: changes.iter().filter(|it| it.1 == "half_open").count() as u64,
            closings: changes.iter().filter(|it| it.1 == "closed").count() as u64,
            cpu: None,
        };
        let entries = self.stage.s3.journal().entries();
        let mut opened = None;
        for (at, state) in changes {
            match (state.as_str(), opened) {
                ("open", None) => opened = Some(at),
                ("closed", Some(since)) => {
                    let since = since.plus(ON_THEIR_WAY);
                    let during = |it: &&Entry| (since..at).contains(&self.at(it));
                    open.calls += entries.iter().filter(during).count() as u64;
                    opened = None;
                }
                _ => {}
            }
        }
        open
    }

    /// Ends the workers, and accounts for every job.
    pub(crate) async fn account(self, workers: Vec<WorkerProcess>) -> Shown {
        let subscriptions: u64 = self.wires().map(|it| it.subscriptions(".upload")).sum();
        for mut worker in workers {
            worker.terminate();
            worker.wait().await;
        }
        let totals = self.stage.total_queue_check().await;
        let (twice, repeated) = self.repeats().await;
        Shown {
            jobs: self.jobs,
            // A job that is not done by now counts as lost for the drill, wherever it is.
            lost: totals.lost.len() + totals.queued,
            dead: totals.dead,
            twice,
            repeated,
            resubscriptions: subscriptions.saturating_sub(1),
            delivery_count: self
                .wires()
                .map(Wire::most_delivery_count)
                .max()
                .unwrap_or(0),
            deliveries_per_job: self.wires().map(Wire::deliveries).sum::<u64>() as f64
                / self.jobs as f64,
            ..Shown::default()
        }
    }

    /// Puts that were a second effect: after the job's end was in the ledger, or while another put of the
    /// job was under way. And puts that were harmless repeats.
    async fn repeats(&self) -> (usize, usize) {
        let mut puts: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in self.stage.s3.journal().entries() {
            if entry.call.operation == S3Operation::PutObject && entry.status == Some(200) {
                puts.entry(entry.call.key.clone()).or_default().push(entry);
            }
        }
        let (mut twice, mut repeated) = (0, 0);
        for row in self.stage.rows().await.values() {
            let (Some(key), Some(finished)) = (&row.key, row.finished_at) else {
                continue;
            };
            let Some(puts) = puts.get(key).filter(|puts| puts.len() > 1) else {
                continue;
            };
            let late = puts.iter().filter(|put| self.at(put) > finished);
            let overlapping = puts.windows(2).filter(|pair| {
                pair[0]
                    .took
                    .is_none_or(|took| pair[0].at + took > pair[1].at)
            });
            let wrong = late.count() + overlapping.count();
            twice += wrong;
            repeated += puts.len() - 1 - wrong.min(puts.len() - 1);
        }
        (twice, repeated)
    }

    fn at(&self, entry: &Entry) -> Timestamp {
        let since = entry.at.into_std().saturating_duration_since(self.began.0);
        Timestamp::from_micros(self.began.1.as_micros() + i64::try_from(since.as_micros()).unwrap())
    }
}

fn rate(window: &[(Instant, u64)]) -> f64 {
    let (first, last) = (window[0], window[window.len() - 1]);
    let jobs = last.1.saturating_sub(first.1) as f64;
    jobs / last.0.duration_since(first.0).as_secs_f64().max(0.001)
}

/// A change of the upload circuit in a line of a worker's log: when, and the new state.
fn change(line: &str) -> Option<(Timestamp, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    if line["message"] != "the circuit changed" || line["circuit"] != "upload" {
        return None;
    }
    let at = Timestamp::parse_rfc3339(line["timestamp"].as_str()?)?;
    Some((at, line["to"].as_str()?.to_owned()))
}
