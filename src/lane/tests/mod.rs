//! A whole lane in one process and on one paused clock: the broker's and the ledger's twins in memory, and a
//! scripted S3. What each event of RESILIENCE.md leaves in queues, rows, replies and metrics.
//!
//! Every test ends with the total-queue check: each job that was published is finished, dead-lettered or still
//! queued.

mod clocks;
mod duplicates;
mod half_broken;
mod pauses;
mod repeats;
mod replies;
mod settling;
mod streams;
mod thin_lines;
mod trouble;
mod windows;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus::IntCounter;
use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{Broker, Names, Target, memory::MemoryBroker},
    job::{
        JobId, Lane, Message, OperationName, State, Timestamp,
        outcome::ParkDelay,
        place::{Origins, Roots},
        wire::{Rules, decode},
    },
    ledger::{
        Claim, ClaimRequest, Ledger,
        memory::MemoryLedger,
        writer::{LedgerWriter, WriterSettings},
    },
    storage::script::{Answer, Stage},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(15);
const PREFETCH: u16 = 4;
/// The queue that replies go to.
const ANSWERS: &str = "answers";

/// One lane that runs, and everything around it.
struct Rig {
    lane: Lane,
    broker: MemoryBroker,
    ledger: MemoryLedger,
    stage: Stage,
    status: Arc<LaneStatus>,
    failures: Arc<RecentFailures>,
    totals: Arc<Totals>,
    running: Arc<Running>,
    suspects: Arc<Suspects>,
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: JoinSet<()>,
    published: BTreeSet<String>,
    writer: Option<LedgerWriter>,
    prefetch: u16,
}

impl Rig {
    /// A lane on an S3 that gives these answers.
    fn start(lane: Lane, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with(lane, answers, |_| {})
    }

    /// The same with other limits.
    fn with(
        lane: Lane,
        answers: impl IntoIterator<Item = Answer>,
        change: impl FnOnce(&mut LaneLimits),
    ) -> Self {
        let mut rig = Self::new(lane, answers);
        rig.run(change);
        rig
    }

    /// Everything but a running lane.
    fn new(lane: Lane, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::on(lane, Stage::new(answers))
    }

    /// The same on a given stage.
    fn on(lane: Lane, stage: Stage) -> Self {
        let broker = MemoryBroker::new("t");
        broker.declare_queue(ANSWERS);
        Self {
            lane,
            broker,
            ledger: MemoryLedger::new("w", LEASE),
            status: Arc::new(LaneStatus::new(lane, Arc::clone(&stage.metrics))),
            failures: Arc::default(),
            totals: Arc::default(),
            running: Arc::default(),
            suspects: Arc::default(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: JoinSet::new(),
            published: BTreeSet::new(),
            writer: None,
            prefetch: PREFETCH,
            stage,
        }
    }

    fn run(&mut self, change: impl FnOnce(&mut LaneLimits)) {
        let mut limits = LaneLimits {
            concurrency: 2,
            adaptive: false,
            admission: 2,
            rules: rules(),
            allow: AllowList::default(),
            retry: self.stage.context().retry,
            max_job_age: 24 * HOUR,
            job_deadline: HOUR,
            max_reply_bytes: 1000,
            events: true,
            batch: None,
        };
        change(&mut limits);
        let ledger = Arc::new(self.ledger.clone());
        let metrics = Arc::clone(&self.stage.metrics);
        let writer = LedgerWriter::start(ledger, WriterSettings::default(), Arc::clone(&metrics));
        self.writer = Some(writer.clone());
        let parts = LaneParts {
            lane: self.lane,
            broker: Arc::new(self.broker.clone()),
            ledger: writer,
            storage: Arc::clone(&self.stage.storage),
            breaker: self.lane.circuit().map(|_| Arc::clone(&self.stage.breaker)),
            metrics,
            status: Arc::clone(&self.status),
            running: Arc::clone(&self.running),
            suspects: Arc::clone(&self.suspects),
            unknown_fields: Arc::default(),
            foreground: None,
            failures: Arc::clone(&self.failures),
            totals: Arc::clone(&self.totals),
            limits,
            abort: self.abort.clone(),
            worker: "w".into(),
        };
        let runner = LaneRunner::new(parts, self.prefetch, self.stop.clone(), None);
        self.tasks.spawn(runner.run());
    }

    /// Another worker, with the same limits, when this one was told to stop.
    fn restart(&mut self) {
        (self.stop, self.abort) = (CancellationToken::new(), CancellationToken::new());
        self.run(|_| {});
    }

    /// Publishes a message to the lane's queue.
    async fn publish(&mut self, message: Message) {
        self.published.extend(message.message_id.clone());
        let target = Target::Jobs(self.lane);
        self.broker.publish(&target, &message).await.unwrap();
    }

    /// Publishes to the lane's queue, past what holds up the worker's own publishes.
    fn publish_unconfirmed(&mut self, message: Message) {
        self.published.extend(message.message_id.clone());
        self.broker.put(&Target::Jobs(self.lane), &message);
    }

    /// Publishes these jobs, all alike.
    async fn publish_all(&mut self, ids: &[&str], job: &Value) {
        for id in ids {
            self.publish(message(id, job)).await;
        }
    }

    /// Lets time pass until that is so.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        // Closely at first, then for half an hour.
        for look in 0..3_200 {
            if holds(self) {
                return;
            }
            let pause = match look {
                ..500 => 10,
                500..1_500 => 100,
                _ => 1_000,
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        panic!(
            "it never came to be that {what}; the lane: {:?}",
            self.status.state()
        );
    }

    async fn until_settled(&self) {
        self.until("everything in the lane's queue is settled", |rig| {
            rig.queued() == 0 && rig.status.in_flight() == 0
        })
        .await;
    }

    async fn until_state(&self, id: &str, state: State) {
        self.until(&format!("{id} is {state:?}"), |rig| {
            rig.state(id) == Some(state)
        })
        .await;
    }

    /// Ready or unsettled in the lane's queue.
    fn queued(&self) -> usize {
        self.broker.depth(&Names::new("t").lane_queue(self.lane))
    }

    fn state(&self, id: &str) -> Option<State> {
        self.ledger.row(id).map(|row| row.state)
    }

    fn dead(&self) -> Vec<Message> {
        self.broker.dead(self.lane)
    }

    fn parked(&self, delay: ParkDelay) -> Vec<Message> {
        self.broker.parked(self.lane, delay)
    }

    /// The JSON of the replies so far.
    fn replies(&self) -> Vec<Value> {
        let replies = self.broker.replies(ANSWERS);
        let json = |reply: &Message| serde_json::from_slice(&reply.body).unwrap();
        replies.iter().map(json).collect()
    }

    /// `brigade_jobs_total` of the lane.
    fn jobs(&self, operation: &str, outcome: &str) -> u64 {
        let jobs = &self.stage.metrics.jobs;
        let labels = [self.lane.as_str(), operation, outcome];
        jobs.with_label_values(&labels).get()
    }

    fn requeued(&self, reason: &str) -> u64 {
        self.for_reason(&self.stage.metrics.requeued, reason)
    }

    fn parked_for(&self, reason: &str) -> u64 {
        self.for_reason(&self.stage.metrics.parked, reason)
    }

    fn buried_for(&self, reason: &str) -> u64 {
        self.for_reason(&self.stage.metrics.dead_lettered, reason)
    }

    fn duplicates(&self) -> u64 {
        self.of_lane(&self.stage.metrics.duplicates)
    }

    fn repeats_that_differ(&self) -> u64 {
        self.of_lane(&self.stage.metrics.repeats_differ)
    }

    fn redeliveries(&self) -> u64 {
        self.of_lane(&self.stage.metrics.redeliveries)
    }

    fn acks_lost(&self) -> u64 {
        self.of_lane(&self.stage.metrics.acks_lost)
    }

    fn access_denied(&self) -> u64 {
        self.of_lane(&self.stage.metrics.access_denied)
    }

    /// First starts whose wait in the queue was counted.
    fn queue_waits(&self) -> u64 {
        let waits = &self.stage.metrics.job_queue_wait;
        waits
            .with_label_values(&[self.lane.as_str()])
            .get_sample_count()
    }

    fn replies_counted(&self, result: &str) -> u64 {
        let replies = &self.stage.metrics.replies;
        replies.with_label_values(&[result]).get()
    }

    fn for_reason(&self, counter: &crate::metrics::Family<IntCounter, 2>, reason: &str) -> u64 {
        counter
            .with_label_values(&[self.lane.as_str(), reason])
            .get()
    }

    fn of_lane(&self, counter: &crate::metrics::Family<IntCounter, 1>) -> u64 {
        counter.with_label_values(&[self.lane.as_str()]).get()
    }

    fn total(&self, total: fn(&Totals) -> &AtomicU64) -> u64 {
        total(&self.totals).load(Ordering::Relaxed)
    }

    /// S3 calls now: on their way, and held back.
    fn sent_and_held(&self) -> (i64, i64) {
        let calls = |state| {
            let labels = [self.lane.as_str(), state];
            self.stage.metrics.s3_calls.with_label_values(&labels).get()
        };
        (calls("sent"), calls("held"))
    }

    /// Calls that S3 has seen.
    fn calls(&self) -> usize {
        self.stage.seen().len()
    }

    /// Another worker claims the job.
    async fn claim_elsewhere(&self, worker: &str, id: &str) -> Claim {
        let sent = message(id, &put());
        let job = decode(&sent, Lane::Upload, &rules(), Timestamp::now()).unwrap();
        let request = ClaimRequest {
            id: JobId::parse(id).unwrap(),
            lane: self.lane,
            operation: OperationName::PutObject,
            bucket: "b".to_owned(),
            key: Some("k".to_owned()),
            digest: job.digest,
            ignored: Vec::new(),
            enqueued_at: Timestamp::now(),
            replay: 0,
            replayed_at: None,
            attempts: 0,
            parks: 0,
        };
        let ledger = self.ledger.for_worker(worker);
        ledger.claim(&[request]).await.unwrap().remove(0)
    }

    /// Drains the lane and makes sure that no job is lost.
    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        assert_eq!(self.status.in_flight(), 0);
        let names = Names::new("t");
        let mut found: BTreeSet<String> = ParkDelay::ALL
            .into_iter()
            .flat_map(|delay| self.parked(delay))
            .chain(self.dead())
            .chain(self.broker.ready(&names.lane_queue(self.lane)))
            .filter_map(|message| message.message_id)
            .collect();
        let is_finished = |id: &String| {
            let state = JobId::parse(id).ok().and_then(|id| self.state(id.as_str()));
            matches!(state, Some(State::Completed | State::Abandoned))
        };
        found.extend(self.published.iter().filter(|id| is_finished(id)).cloned());
        let lost: Vec<_> = self.published.difference(&found).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}

fn rules() -> Rules {
    Rules {
        max_message_bytes: 10_000,
        destination_roots: Roots::new("destinations.file_roots", Vec::new()),
        source_roots: Roots::new("sources.file_roots", Vec::new()),
        source_origins: Origins::new(Vec::new()),
    }
}

/// A job message without a `timestamp`.
fn message(id: &str, job: &Value) -> Message {
    Message {
        message_id: Some(id.to_owned()),
        body: job.to_string().into(),
        content_type: Some("application/json".to_owned()),
        ..Message::default()
    }
}

/// The same, from somebody who waits for the result.
fn asked(id: &str, job: &Value) -> Message {
    Message {
        reply_to: Some(ANSWERS.to_owned()),
        ..message(id, job)
    }
}

/// The same, published so long ago.
fn aged(id: &str, job: &Value, age: Duration) -> Message {
    let seconds = Timestamp::now().as_micros() / 1_000_000;
    Message {
        timestamp: Some(u64::try_from(seconds).unwrap() - age.as_secs()),
        ..message(id, job)
    }
}

fn put() -> Value {
    json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k", "body": {"text": "hello"}})
}

fn head() -> Value {
    json!({"version": 1, "operation": "head_object", "bucket": "b", "key": "k"})
}

fn get() -> Value {
    json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k"})
}

fn delete() -> Value {
    json!({"version": 1, "operation": "delete_object", "bucket": "b", "key": "k"})
}

/// S3 has taken the object.
fn stored() -> Answer {
    Answer::status(200).header("etag", "\"e\"")
}

/// S3 is ill, and says so in a way that makes the SDK's own rate limiter slow down.
fn throttled() -> Answer {
    Answer::error(503, "SlowDown")
}

/// S3 is ill.
fn ill() -> Answer {
    Answer::error(500, "InternalError")
}

fn after(wait: Duration, answer: Answer) -> Answer {
    Answer::After(wait, Box::new(answer))
}

/// So many times the same.
fn times(count: usize, answer: &Answer) -> Vec<Answer> {
    vec![answer.clone(); count]
}
