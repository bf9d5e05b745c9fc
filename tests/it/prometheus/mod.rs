//! Dashboards, alerts and their pages against a real Prometheus: a worker process and a RabbitMQ of their own go through
//! load, an S3 outage, a ledger that is away, an alarm and a broker restart, scraped every second. Then every expression
//! that people or Prometheus will ever run is run over that time.
//!
//! The rules are those of `deploy/prometheus` with a second for every minute (`for` and ranges), the configuration is that
//! one with a second between scrapes and fixed targets. No Grafana can be had here, so the dashboards' files are checked
//! against its rules instead.

mod dashboards;
mod docs;
mod expressions;
mod server;

use std::collections::{BTreeMap, BTreeSet};

use bucket_brigade::{
    dev::s3_server::{Fault, Rule},
    job::{Lane, Message},
};
use expressions::Expression;
use serde_json::{Value, json};

use self::server::{Prometheus, Series, now, read};
use crate::{
    rabbit::Rabbit,
    stage::{self, Stage, eventually},
};

/// What may be 0 all the time, and why: a part of the place, a part of the expression.
const MAY_STAY_ZERO: [(&str, &str, &str); 3] = [
    ("broker-alarm", "free_disk_space", "no disk is filled"),
    ("poison-jobs", "poison", "no job crashes its worker"),
    (
        "poison-jobs",
        "process_start_time",
        "the worker is not restarted",
    ),
];

/// Words in the pages that look like a series and are none.
const NO_SERIES: [&str; 1] = ["rabbitmq_prometheus"];

/// Alerts that the faults must raise, with a label where one matters.
const LOAD: [&str; 2] = ["BrigadeAccessDenied", "BrigadeDeadLettersGrowing"];
const GIVEN_UP: [&str; 2] = ["BrigadeExpiredJobs", "BrigadeCleanupAbandoned"];
const OUTAGES: [&str; 5] = [
    "BrigadeCircuitOpen",
    "BrigadeNoProgress",
    "BrigadeLedgerDown",
    "BrigadeNotConsuming",
    "BrigadeBrokerAlarm",
];
const BROKER: [&str; 1] = ["BrigadeBrokerLost"];
const WORKER: [&str; 1] = ["BrigadeNoWorkers"];

/// Seconds in a day.
const DAY: u64 = 86_400;

/// The stage with a Prometheus that watches it.
struct Watched {
    stage: Stage,
    prometheus: Prometheus,
    began: f64,
    jobs: usize,
}

impl Watched {
    /// Starts RabbitMQ and Prometheus; the worker is started by the test.
    async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let worker = port.local_addr().unwrap().to_string();
        drop(port);
        let rabbit = Rabbit::observed("prometheus");
        let metrics = rabbit.metrics();
        let mut stage = Stage::on(rabbit).await.set("http.listen", &worker);
        // The rules name the queues by the default prefix, and this broker is nobody else's.
        "brigade".clone_into(&mut stage.prefix);
        stage.s3.create_bucket("denied");
        let rules = ["recording.yml", "alerts.yml"];
        let mut files: Vec<(&str, String)> = rules
            .iter()
            .map(|name| {
                (
                    *name,
                    expressions::hastened(&read(&format!("deploy/prometheus/{name}"))),
                )
            })
            .collect();
        let configuration = expressions::hastened_configuration(&worker, &metrics);
        files.push(("prometheus.yml", configuration));
        Self {
            prometheus: Prometheus::start(&files),
            stage,
            began: now(),
            jobs: 0,
        }
    }

    fn id(&mut self) -> String {
        self.jobs += 1;
        format!("j{}", self.jobs)
    }

    async fn publish(
        &mut self,
        lane: Lane,
        operation: &str,
        count: usize,
        change: fn(&mut Message),
    ) {
        let mut messages = Vec::new();
        for _ in 0..count {
            let id = self.id();
            let key = format!("k{}", self.jobs % 50);
            let mut message = match operation {
                "put_object" => stage::put(&id, &key),
                _ => stage::on_key(&id, operation, &key),
            };
            change(&mut message);
            messages.push(message);
        }
        self.stage.publish_all(lane, messages).await;
    }

    /// A second of ordinary work: every operation, with an answer asked for once, and an id that is used twice.
    async fn load(&mut self) {
        self.publish(Lane::Upload, "put_object", 40, |_| ()).await;
        self.publish(Lane::Read, "get_object", 10, |_| ()).await;
        self.publish(Lane::Read, "head_object", 10, |_| ()).await;
        self.publish(Lane::Cleanup, "delete_object", 20, |_| ())
            .await;
        for key in ["k1", "k2"] {
            self.stage
                .publish(Lane::Upload, stage::put("twice", key))
                .await;
        }
        let id = self.id();
        let listed = stage::on_key(&id, "list_objects", "");
        self.stage.published.insert(id);
        self.stage.request(Lane::Read, listed).await;
    }

    /// Waits until all of these alerts have fired.
    async fn until_fired(&self, alerts: &[&str]) {
        println!("{:5.1} s: until {alerts:?} fire", now() - self.began);
        let mut missing: BTreeSet<&str> = alerts.iter().copied().collect();
        eventually(&format!("{alerts:?} fire"), async || {
            for alert in self.prometheus.firing().await {
                missing.remove(alert["alertname"].as_str().unwrap());
            }
            missing.is_empty().then_some(())
        })
        .await;
    }

    /// Waits until none of these alerts fires.
    async fn until_silent(&self, alerts: &[&str]) {
        println!("{:5.1} s: until {alerts:?} end", now() - self.began);
        eventually(&format!("{alerts:?} end"), async || {
            let firing = self.prometheus.firing().await;
            let on = |name: &str| firing.iter().any(|alert| alert["alertname"] == name);
            (!alerts.iter().any(|name| on(name))).then_some(())
        })
        .await;
    }

    /// Waits until the expression has shown more than 0.
    async fn until_shown(&self, expression: &str) {
        eventually(expression, async || {
            let answer = self.prometheus.range(expression, self.began).await.unwrap();
            let mut values = answer.iter().flat_map(|series| &series.values);
            values.any(|value| *value > 0.0).then_some(())
        })
        .await;
    }
}

/// Published longer ago than `limits.max_job_age`.
fn old(message: &mut Message) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time of this century"
    )]
    let now = now() as u64;
    message.timestamp = Some(now - 2 * DAY);
}

fn to_denied_bucket(message: &mut Message) {
    let mut job: Value = serde_json::from_slice(&message.body).unwrap();
    job["bucket"] = json!("denied");
    message.body = job.to_string().into();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_an_answer_and_the_alerts_fire_over_load_outage_and_restart() {
    let mut watched = Watched::start().await;
    let mut worker = watched.stage.process();
    eventually("every target is scraped", async || {
        let targets = watched.prometheus.targets().await;
        (targets == ["up"; 3]).then_some(())
    })
    .await;

    // Load, some of it denied.
    let faults = watched.stage.s3.faults().clone();
    faults.add(Rule::new(Fault::status(403, "AccessDenied")).bucket("denied"));
    for _ in 0..3 {
        watched.load().await;
        watched
            .publish(Lane::Upload, "put_object", 20, to_denied_bucket)
            .await;
    }
    watched.until_fired(&LOAD).await;

    // S3 is away: uploads and reads pause, deletes park, what is too old is given up.
    let outage = faults.add(Rule::new(Fault::status(503, "ServiceUnavailable")));
    for (lane, operation) in [
        (Lane::Cleanup, "delete_object"),
        (Lane::Upload, "put_object"),
    ] {
        watched.publish(lane, operation, 5, old).await;
        watched.publish(lane, operation, 50, |_| ()).await;
    }
    watched.publish(Lane::Read, "get_object", 20, |_| ()).await;
    watched.until_fired(&GIVEN_UP).await;
    // By a probe, since the first failures came all at once.
    watched
        .until_shown(r#"rate(brigade_s3_attempt_duration_seconds_count{class="unavailable"}[10s])"#)
        .await;

    // Meanwhile the ledger goes away as well, and RabbitMQ refuses publishes.
    let lock = watched.stage.lock_ledger().await;
    watched
        .publish(Lane::Cleanup, "delete_object", 20, |_| ())
        .await;
    let memory = "set_vm_memory_high_watermark";
    watched.stage.rabbit.ctl(&[memory, "absolute", "1"]);
    watched.until_fired(&OUTAGES).await;
    watched.stage.rabbit.ctl(&[memory, "0.6"]);
    drop(lock);
    outage.remove();
    watched.until_silent(&OUTAGES).await;
    watched.load().await;

    // RabbitMQ restarts while uploads run whose acks it will not get.
    let hang = faults.add(stage::uploads_hang());
    let before = watched.stage.puts();
    watched
        .publish(Lane::Upload, "put_object", 10, |_| ())
        .await;
    eventually("uploads run", async || {
        (watched.stage.puts() > before).then_some(())
    })
    .await;
    watched.stage.rabbit.stop();
    hang.remove();
    watched.until_fired(&BROKER).await;
    watched.stage.rabbit.start();
    watched.until_silent(&BROKER).await;
    watched.load().await;

    watched
        .until_shown("rate(brigade_acks_lost_total[10s])")
        .await;
    watched
        .until_shown("rate(brigade_duplicates_total[10s])")
        .await;
    watched
        .until_shown("rate(brigade_repeats_differ_total[10s])")
        .await;

    let (executed, wrong) = execute(&watched).await;
    worker.kill();
    watched.until_fired(&WORKER).await;
    let totals = watched.stage.total_queue_check().await;
    assert_eq!(totals.lost, Vec::<String>::new());
    println!("{executed} expressions executed");
    assert!(
        wrong.is_empty(),
        "{} of {executed} expressions:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(executed > 100, "the test executes too little: {executed}");
}

/// Runs everything over the time since the start; how many, and what is wrong.
async fn execute(watched: &Watched) -> (usize, Vec<String>) {
    let prometheus = &watched.prometheus;
    let mut all = expressions::of_dashboards();
    all.extend(expressions::of_rules(&prometheus.rules().await));
    all.extend(expressions::of_docs());
    let known = prometheus.names().await;
    let (mut wrong, mut answers) = (Vec::new(), BTreeMap::new());
    for expression in &all {
        let Expression { place, text, .. } = expression;
        let unknown: Vec<_> = expressions::names(text)
            .difference(&known)
            .cloned()
            .collect();
        if !unknown.is_empty() {
            wrong.push(format!("{place}: no series {unknown:?}"));
        }
        let executed = expression.executed();
        if !answers.contains_key(&executed) {
            let answer = prometheus.range(&executed, watched.began).await;
            answers.insert(executed.clone(), answer);
        }
        let fault = match &answers[&executed] {
            Err(error) => Some(error.clone()),
            Ok(series) if series.is_empty() => Some("empty".to_owned()),
            Ok(series) => {
                let silent = |one: &&Series| !one.values.iter().any(|value| value.is_finite());
                let mut quiet = series.iter().filter(silent);
                // A quantile of what was observed once, before its first scrape, has no rate to be of.
                let all_quiet = quiet.clone().count() == series.len();
                let may_be_quiet = executed.contains("histogram_quantile(") && !all_quiet;
                quiet
                    .next()
                    .filter(|_| !may_be_quiet)
                    .map(|one| format!("no number in {}", one.labels))
            }
        };
        let zero = || {
            let series = answers[&executed].iter().flatten();
            let mut values = series.flat_map(|one| &one.values);
            values.all(|value| *value == 0.0)
        };
        let excused = MAY_STAY_ZERO
            .iter()
            .any(|(at, part, _)| place.contains(at) && text.contains(part));
        if let Some(fault) = fault {
            wrong.push(format!("{place}: {fault}: {executed}"));
        } else if !expression.condition && !excused && zero() {
            wrong.push(format!("{place}: 0 all the time: {executed}"));
        }
    }
    for page in docs::pages() {
        let spoken = page.text.split('`').skip(1).step_by(2);
        for name in spoken.flat_map(expressions::names) {
            if !NO_SERIES.contains(&name.as_str())
                && !known.contains(&name)
                && !known.contains(&format!("{name}_bucket"))
            {
                wrong.push(format!("{}: no series {name}", page.name));
            }
        }
    }
    (all.len(), wrong)
}
