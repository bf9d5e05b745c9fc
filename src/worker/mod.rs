//! The composition root: the only file that names every adapter, and the worker's life from start to drain.
//!
//! Services may start in any order: a worker waits for broker and ledger, says so in `/readyz` and in
//! the log, and does not exit (RESILIENCE.md, event 1).

mod circuit;
mod queue_looks;
mod sweeper;
mod throughput;
mod wiring;

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::{FutureExt, future::BoxFuture};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::mpsc,
    task::{self, JoinSet},
};

pub use circuit::WorkerCircuit;
pub use queue_looks::{QueueCounts, QueueLooks};
pub use throughput::Throughput;
use wiring::{destination_roots, lane_limits, rabbit_settings, sources, upload_settings};
pub use wiring::{message_rules, storage_settings};

pub use crate::storage::LastFailure;

use crate::{
    broker::{Broker, rabbitmq::RabbitMq},
    config::{LedgerSettings, Settings},
    drain::{Drain, Stopped},
    job::{Lane, Timestamp},
    lane::{
        Foreground, LaneParts, LaneRunner, LaneStatus, Pace, RecentFailures, Running, Suspects,
        Totals, UnknownFields,
    },
    ledger::{
        self, Ledger, Owner,
        writer::{LedgerStatus, LedgerWriter, WriterSettings},
    },
    metrics::Metrics,
    storage::{Clients, Storage, StorageSettings},
    watch,
};

/// The wait before opening the ledger again: first and longest.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
const REOPEN_MOST: Duration = Duration::from_secs(4);

/// How long closing the connections may take.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// What a worker stands on.
pub(crate) struct Ground {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) owner: Owner,
    /// Asked again until it succeeds; an error says why for people.
    pub(crate) open_ledger: OpenLedger,
}

type OpenLedger =
    Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Ledger>, String>> + Send + Sync>;

/// A running worker. Drop it only after [`Worker::drain`].
#[derive(Debug)]
pub struct Worker {
    view: Arc<WorkerView>,
    tasks: JoinSet<()>,
    /// What ended that must not; its other end is with the life of the worker.
    failure: watch::Sender<Option<String>>,
}

/// What others may see of a worker, and the few handles they may use.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct WorkerView {
    /// `host-pid`.
    pub worker: Arc<str>,
    pub started_at: Timestamp,
    pub metrics: Arc<Metrics>,
    pub broker: Arc<dyn Broker>,
    /// Down until the ledger is open and migrated, then as its writer says.
    pub ledger: watch::Receiver<LedgerStatus>,
    pub lanes: Vec<LaneView>,
    pub circuits: Vec<WorkerCircuit>,
    /// How many jobs wait and are parked in each lane.
    pub queues: QueueLooks,
    pub drain: Drain,
    pub totals: Arc<Totals>,
    pub throughput: Arc<Throughput>,
    pub failures: Arc<RecentFailures>,
    pub admin_token: Option<SecretString>,
}

/// One lane of the worker.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct LaneView {
    pub lane: Lane,
    pub concurrency: usize,
    pub status: Arc<LaneStatus>,
}

impl Worker {
    /// Starts a worker for `lanes` on RabbitMQ. Returns before anything is connected.
    pub async fn start(settings: &Settings, lanes: &[Lane]) -> anyhow::Result<Self> {
        Self::start_with_storage(settings, lanes, storage_settings(settings)).await
    }

    /// The same with S3 reached in a given way.
    pub async fn start_with_storage(
        settings: &Settings,
        lanes: &[Lane],
        storage: StorageSettings,
    ) -> anyhow::Result<Self> {
        let metrics = new_metrics(settings)?;
        let broker = RabbitMq::start(rabbit_settings(settings, lanes), Arc::clone(&metrics));
        Self::start_on(broker, settings, lanes, metrics, storage).await
    }

    /// The same on a given broker; tests use the in-process twin.
    pub async fn start_on(
        broker: Arc<dyn Broker>,
        settings: &Settings,
        lanes: &[Lane],
        metrics: Arc<Metrics>,
        storage: StorageSettings,
    ) -> anyhow::Result<Self> {
        let clients = Clients::build(&storage).await;
        let storage = Storage::new(
            clients,
            Arc::clone(&metrics),
            fastrand::f64,
            upload_settings(settings),
        )
        .with_places(sources(settings), destination_roots(settings));
        let owner = new_owner();
        let (ledger, opener) = (settings.ledger.clone(), owner.clone());
        let ground = Ground {
            broker,
            storage: Arc::new(storage),
            metrics,
            owner,
            open_ledger: Box::new(move || try_open_ledger(ledger.clone(), opener.clone()).boxed()),
        };
        Ok(Self::start_from(ground, settings, lanes))
    }

    /// Starts a worker's tasks. Returns before the ledger is open.
    pub(crate) fn start_from(ground: Ground, settings: &Settings, lanes: &[Lane]) -> Self {
        let Ground {
            broker,
            storage,
            metrics,
            owner,
            open_ledger,
        } = ground;
        let (lines, changes) = mpsc::unbounded_channel();
        let circuit_of = |lane: &Lane| {
            let (of, last_failures) = ((lane.circuit()?, *lane), storage.last_failures());
            let circuit = WorkerCircuit::new(of, settings, &metrics, last_failures, lines.clone());
            Some(circuit)
        };
        let circuits: Vec<_> = lanes.iter().filter_map(circuit_of).collect();
        let status_of = |lane: &Lane| LaneView {
            lane: *lane,
            concurrency: settings.lanes.of(*lane).concurrency,
            status: Arc::new(LaneStatus::new(*lane, Arc::clone(&metrics))),
        };
        let opening = LedgerStatus::Down("not opened yet".to_owned());
        let (ledger_status, ledger) = watch::channel(opening);
        let view = Arc::new(WorkerView {
            worker: Arc::clone(&owner.worker),
            started_at: Timestamp::now(),
            lanes: lanes.iter().map(status_of).collect(),
            metrics,
            queues: QueueLooks::new(Arc::clone(&broker), lanes),
            broker,
            ledger,
            circuits,
            drain: Drain::default(),
            totals: Arc::default(),
            throughput: Arc::default(),
            failures: Arc::default(),
            admin_token: settings.http.admin_token.clone(),
        });
        let mut tasks = JoinSet::new();
        let (failure, _) = watch::channel(None);
        let life = Life {
            view: Arc::clone(&view),
            settings: settings.clone(),
            storage,
            open_ledger,
        };
        let (stop, failed) = (view.drain.stop.clone(), failure.clone());
        tasks.spawn(async move {
            let ended = AssertUnwindSafe(life.run(ledger_status))
                .catch_unwind()
                .await;
            let ended_well = matches!(ended, Ok(Ok(())));
            let why = match ended {
                Ok(Ok(())) => "its lanes ended".to_owned(),
                Ok(Err(why)) => why,
                Err(_) => "the task that owns its lanes panicked".to_owned(),
            };
            if !stop.is_cancelled() {
                failed.send_replace(Some(why));
            } else if !ended_well {
                tracing::error!(
                    why,
                    "the drain was cut short: this is a bug, please report it"
                );
            }
        });
        tasks.spawn(circuit::tell(
            changes,
            Arc::clone(&view),
            view.drain.stop.clone(),
        ));
        tasks.spawn(
            Arc::clone(&view.throughput).sample(Arc::clone(&view.totals), view.drain.stop.clone()),
        );
        Self {
            view,
            tasks,
            failure,
        }
    }

    /// What others may see.
    pub fn view(&self) -> &Arc<WorkerView> {
        &self.view
    }

    /// Ends when a part of the worker ended that must not, by a bug, and says which: the process must end, so
    /// that a new one takes over (RESILIENCE.md, event 21). Never ends in a drain.
    pub fn failed(&self) -> impl Future<Output = String> + use<> {
        let mut failure = self.failure.subscribe();
        async move {
            let failed = failure.wait_for(Option::is_some).await;
            let why = failed.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                None => std::future::pending().await,
            }
        }
    }

    /// Stops taking, lets running jobs finish until `timeout`, interrupts and requeues the rest, closes.
    pub async fn drain(mut self, timeout: Duration) -> Stopped {
        tracing::info!(timeout_s = timeout.as_secs_f64(), "draining");
        let tasks = &mut self.tasks;
        let ended = async { while tasks.join_next().await.is_some() {} };
        let stopped = self.view.drain.run(timeout, ended).await;
        // A broker that does not answer takes everything back when it notices.
        let closed = tokio::time::timeout(CLOSE_GRACE, self.view.broker.close()).await;
        if closed.is_err() {
            tracing::warn!("the broker does not answer: its connections are left to it");
        }
        match stopped {
            Stopped::GivenUp => {
                tracing::warn!(
                    "broker or ledger do not answer: stopping all the same, the broker delivers again what was in hand"
                );
            }
            Stopped::Drained | Stopped::Aborted => tracing::info!(?stopped, "drained"),
        }
        stopped
    }
}

/// Everything that a worker does in the background.
struct Life {
    view: Arc<WorkerView>,
    settings: Settings,
    storage: Arc<Storage>,
    open_ledger: OpenLedger,
}

impl Life {
    /// Until the drain. `Err`: a part ended that must not, and which.
    async fn run(self, status: watch::Sender<LedgerStatus>) -> Result<(), String> {
        let stop = self.view.drain.stop.clone();
        let ledger = tokio::select! {
            biased;
            ledger = self.open_ledger(&status) => ledger,
            () = stop.cancelled() => return Ok(()),
        };
        let settings = WriterSettings {
            commit_wait: self.settings.ledger.commit_wait,
            retention: self.settings.ledger.retention,
            lease: self.settings.ledger.lease,
            ..WriterSettings::default()
        };
        let writer = LedgerWriter::start(ledger, settings, Arc::clone(&self.view.metrics));
        let (mut lanes, names) = self.start_lanes(&writer);
        let mut broker = self.view.broker.status();
        let mut sweeper = JoinSet::new();
        if self.view.lanes.iter().any(|view| view.lane == Lane::Upload) {
            sweeper.spawn(sweeper::run(
                writer.clone(),
                Arc::clone(&self.storage),
                stop.clone(),
            ));
        }
        let mut health = writer.status();
        loop {
            status.send_replace(health.borrow_and_update().clone());
            tokio::select! {
                biased;
                Ok(()) = health.changed() => {}
                ended = lanes.join_next_with_id() => {
                    let id = match &ended {
                        None => break,
                        Some(Ok((id, ()))) => *id,
                        Some(Err(error)) => error.id(),
                    };
                    let lane = names.get(&id).map_or("unknown", |lane| lane.as_str());
                    if !stop.is_cancelled() {
                        return Err(format!("the {lane} lane ended"));
                    }
                    if let Some(Err(error)) = ended {
                        tracing::error!(lane, %error, "a lane ended in the drain: this is a bug, please report it");
                    }
                }
                why = writer.ended() => return Err(format!("the ledger's writer ended: {why}")),
                Some(ended) = sweeper.join_next(), if !sweeper.is_empty() => {
                    if ended.is_err() {
                        return Err("the task that sweeps unfinished uploads ended".to_owned());
                    }
                }
                Ok(broken) = broker.wait_for(|status| status.broken.is_some()) => {
                    return Err(broken.broken.clone().unwrap_or_default());
                }
            }
        }
        while sweeper.join_next().await.is_some() {}
        writer.close().await;
        Ok(())
    }

    /// Opens the ledger, for as long as it takes.
    async fn open_ledger(&self, status: &watch::Sender<LedgerStatus>) -> Arc<dyn Ledger> {
        let mut wait = REOPEN_FIRST;
        loop {
            match (self.open_ledger)().await {
                Ok(ledger) => return ledger,
                Err(why) => {
                    let why = format!("{why} ({})", self.settings.ledger.url_named);
                    let down = LedgerStatus::Down(why.clone());
                    if status.send_replace(down.clone()) != down {
                        tracing::warn!(why, "the ledger can't be opened; it is tried again");
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REOPEN_MOST);
        }
    }

    /// The lanes' tasks, and which is whose.
    fn start_lanes(&self, writer: &LedgerWriter) -> (JoinSet<()>, HashMap<task::Id, Lane>) {
        let view = &self.view;
        let running: Arc<Running> = Arc::default();
        let suspects: Arc<Suspects> = Arc::default();
        let unknown_fields: Arc<UnknownFields> = Arc::default();
        let foreground: Arc<Foreground> = Arc::default();
        let (mut lanes, mut names) = (JoinSet::new(), HashMap::new());
        for LaneView { lane, status, .. } in &view.lanes {
            let yields = lane.circuit().is_none();
            let circuit = view
                .circuits
                .iter()
                .find(|circuit| Some(circuit.name) == lane.circuit());
            let parts = LaneParts {
                lane: *lane,
                broker: Arc::clone(&view.broker),
                ledger: writer.clone(),
                storage: Arc::clone(&self.storage),
                breaker: circuit.map(|circuit| Arc::clone(&circuit.breaker)),
                metrics: Arc::clone(&view.metrics),
                status: Arc::clone(status),
                running: Arc::clone(&running),
                suspects: Arc::clone(&suspects),
                unknown_fields: Arc::clone(&unknown_fields),
                foreground: (!yields).then(|| Arc::clone(&foreground)),
                failures: Arc::clone(&view.failures),
                totals: Arc::clone(&view.totals),
                limits: lane_limits(*lane, &self.settings),
                abort: view.drain.abort.clone(),
                worker: Arc::clone(&view.worker),
            };
            let pace = yields.then(|| {
                let batch = self.settings.cleanup;
                let pace = Pace::new(Arc::clone(&foreground), batch.batch_keys, batch.batch_wait);
                Arc::new(pace)
            });
            let prefetch = self.settings.lanes.of(*lane).prefetch;
            let runner = LaneRunner::new(parts, prefetch, view.drain.stop.clone(), pace);
            names.insert(lanes.spawn(runner.run()).id(), *lane);
        }
        (lanes, names)
    }
}

/// Opens the configured ledger, and migrates it if that is ours to do.
async fn try_open_ledger(
    settings: LedgerSettings,
    owner: Owner,
) -> Result<Arc<dyn Ledger>, String> {
    let url = settings.url.expose_secret();
    if settings.migrate {
        ledger::migrate(url)
            .await
            .map_err(|error| error.to_string())?;
    } else {
        let pending = ledger::pending(url)
            .await
            .map_err(|error| error.to_string())?;
        if !pending.is_empty() {
            let names = pending.join(", ");
            return Err(format!(
                "migrations are pending ({names}): run `brigade migrate`"
            ));
        }
    }
    let opened = ledger::open(url, owner, settings.lease).await;
    opened.map_err(|error| error.to_string())
}

/// A fresh registry for the settings' limits.
pub fn new_metrics(settings: &Settings) -> anyhow::Result<Arc<Metrics>> {
    let metrics = Metrics::try_new(settings.metrics.max_bucket_labels);
    Ok(Arc::new(metrics.context(
        "the metrics can't be registered: this is a bug",
    )?))
}

/// `host-pid`, and the same with a random start id.
pub fn new_owner() -> Owner {
    let host = gethostname::gethostname();
    let worker = format!("{}-{}", host.to_string_lossy(), std::process::id());
    let unique = format!("{worker}-{:08x}", fastrand::u32(..));
    Owner {
        worker: worker.into(),
        unique: unique.into(),
    }
}
