//! RabbitMQ 3.10 to 4.3, one code path for all: the only code that knows AMQP.
//!
//! Two connections, since a blocked one blocks acks as well: one consumes, one publishes. Each is kept
//! by a task of its own, which this type owns and joins. Refuses to know what a job is; a message is
//! bytes, properties and headers here (RESILIENCE.md, events 1, 2, 13-16).

mod addresses;
mod connection;
mod consumer;
mod dead;
mod endpoint;
mod lifeline;
mod login;
mod message;
mod producer;
mod publisher;
mod pulse;
mod queue_look;
mod status;
mod stranger;
pub mod topology;
mod topology_keeper;

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use addresses::Addresses;
use connection::{Keeper, Slot};
pub use dead::{DeadLetter, DeadQueues, Walk, WalkError};
pub use login::Login;
pub use producer::{ConnectError, Producer, RequestError};
use publisher::Publisher;
pub use queue_look::QueueLook;
use status::StatusBoard;
use topology_keeper::TopologyKeeper;

use crate::{
    broker::{Broker, BrokerError, BrokerStatus, Names, PublishError, Subscription, Target},
    job::{Lane, Message, outcome::ParkDelay},
    metrics::{Metrics, Role},
    watch,
};

/// How long a look at a queue's length may take; people wait for it.
const QUEUE_LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What a worker does about exchanges and queues when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopologyMode {
    /// Declares what is missing.
    Declare,
    /// Asks whether it is there: for a user without configure permission.
    Verify,
    /// Does nothing.
    None,
}

/// Settings of the connection to RabbitMQ.
#[derive(Debug, Clone)]
pub struct RabbitSettings {
    /// `amqp://` or `amqps://` URLs with user and password: the nodes of one cluster, tried in turn from a
    /// random one on.
    pub urls: Vec<SecretString>,
    /// Names the setting that they are, and where it came from, in messages.
    pub setting: String,
    /// What every exchange and queue begins with.
    pub prefix: String,
    /// The lanes whose queues must be there.
    pub lanes: Vec<Lane>,
    /// What is done about exchanges and queues.
    pub topology: TopologyMode,
    /// How often a problem with them is looked at again; 30 s is right (RESILIENCE.md, event 15).
    pub topology_recheck: Duration,
    /// How long one try to connect may take.
    pub connect_timeout: Duration,
    /// Asked of the broker, in whole seconds; a heartbeat in the URL wins.
    pub heartbeat: Duration,
    /// How long a publish may wait for its confirm.
    pub publish_timeout: Duration,
}

/// The broker of a worker.
pub struct RabbitMq {
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// The two connections' tasks. Nothing awaits under it: closing takes them out first.
    tasks: Mutex<JoinSet<()>>,
}

/// What subscriptions and ackers need for as long as they live.
struct Shared {
    names: Names,
    consuming: Slot,
    publisher: Publisher,
    topology: Arc<TopologyKeeper>,
    status: Arc<StatusBoard>,
    /// Tries to consume a lane's queue in a row that were not answered.
    unanswered: [AtomicU32; Lane::ALL.len()],
}

impl RabbitMq {
    /// Starts to connect, and returns before anything is connected. Needs a Tokio runtime.
    pub fn start(settings: RabbitSettings, metrics: Arc<Metrics>) -> Arc<Self> {
        let RabbitSettings {
            urls,
            setting,
            prefix,
            lanes,
            topology,
            topology_recheck,
            connect_timeout,
            heartbeat,
            publish_timeout,
        } = settings;
        let names = Names::new(prefix);
        let status = Arc::new(StatusBoard::new(metrics));
        let keeper = TopologyKeeper::new(
            &names,
            &lanes,
            topology,
            topology_recheck,
            Arc::clone(&status),
        );
        let topology = Arc::new(keeper);
        let (consuming, consuming_slot) = watch::channel(None);
        let (publishing, publishing_slot) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (role, slot, topology) in [
            (Role::Publish, publishing, None),
            (Role::Consume, consuming, Some(Arc::clone(&topology))),
        ] {
            // Each begins with an address of its own choice.
            match Addresses::parse(&urls, connect_timeout, heartbeat) {
                Ok(addresses) => {
                    let keeper = Keeper {
                        role,
                        addresses,
                        setting: setting.clone(),
                        slot,
                        status: Arc::clone(&status),
                        topology,
                    };
                    let (stop, status) = (stop.clone(), Arc::clone(&keeper.status));
                    tasks.spawn(async move {
                        let ended = AssertUnwindSafe(keeper.run(stop.clone()))
                            .catch_unwind()
                            .await;
                        if ended.is_err() || !stop.is_cancelled() {
                            status.broken(role);
                        }
                    });
                }
                // Settings are checked before; should one slip through, it is said and nothing is tried.
                Err(why) => status.down(role, &format!("{why} ({setting})")),
            }
        }
        let publisher = Publisher::new(names.clone(), publishing_slot, publish_timeout);
        let shared = Shared {
            names,
            consuming: consuming_slot,
            publisher,
            topology,
            status,
            unanswered: Default::default(),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            stop,
            tasks: Mutex::new(tasks),
        })
    }

    fn consuming(&self) -> Result<Arc<lapin::Connection>, BrokerError> {
        let connection = self.shared.consuming.borrow().clone();
        connection
            .filter(|connection| connection.status().connected())
            .ok_or_else(|| BrokerError::NotConnected(self.shared.status.why_down(Role::Consume)))
    }

    /// Messages that wait in these queues together; `None` when one of them can't be looked at in time.
    async fn ready_in(&self, queues: &[String]) -> Option<u32> {
        let connection = self.consuming().ok()?;
        let look = async {
            // A channel of its own: a missing queue closes it.
            let channel = connection.create_channel().await.ok()?;
            let options = QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let mut ready: u32 = 0;
            for queue in queues {
                let declared =
                    channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
                ready = ready.saturating_add(declared.await.ok()?.message_count());
            }
            Some(ready)
        };
        tokio::time::timeout(QUEUE_LOOK_TIMEOUT, look)
            .await
            .ok()
            .flatten()
    }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn subscribe(
        &self,
        lane: Lane,
        prefetch: u16,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let connection = self.consuming()?;
        if self.shared.topology.walks()
            && let Some(problem) = self.shared.topology.problem(lane)
        {
            return Err(BrokerError::Queue(problem));
        }
        let subscription = consumer::subscribe(&self.shared, &connection, lane, prefetch).await?;
        Ok(Box::new(subscription))
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        self.shared.publisher.publish(target, message).await
    }

    fn names(&self) -> &Names {
        &self.shared.names
    }

    async fn queue_ready(&self, lane: Lane) -> Option<u32> {
        self.ready_in(&[self.shared.names.lane_queue(lane)]).await
    }

    async fn queue_parked(&self, lane: Lane) -> Option<u32> {
        let names = &self.shared.names;
        self.ready_in(&ParkDelay::ALL.map(|delay| names.retry_queue(lane, delay)))
            .await
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.shared.status.subscribe()
    }

    async fn close(&self) {
        self.stop.cancel();
        let mut tasks = {
            let mut owned = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *owned)
        };
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the task of a connection panicked");
            }
        }
        self.shared.publisher.close();
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMq")
            .field("status", &*self.status().borrow())
            .finish_non_exhaustive()
    }
}
