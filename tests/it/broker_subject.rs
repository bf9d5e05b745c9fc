//! The two brokers under the suite, and how a test looks into each.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bucket_brigade::{
    broker::{
        Broker, Delivery, Ended, Names, Subscription, Target,
        memory::MemoryBroker,
        rabbitmq::{RabbitMq, RabbitSettings, TopologyMode},
    },
    job::{Lane, Message},
    metrics::Metrics,
};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
    uri::AMQPUri,
};

use crate::{proxy::Proxy, rabbit::Rabbit};

/// Nothing that a test waits for takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LANE: Lane = Lane::Upload;

/// Headers that RabbitMQ adds, by version.
pub(crate) const OF_THE_BROKER: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// What the suite needs besides the seam.
#[async_trait]
pub(crate) trait Probe: Send + Sync {
    /// The messages that wait in a queue.
    async fn ready(&self, queue: &str) -> Vec<Message>;
    async fn declare_queue(&self, queue: &str);
    async fn delete_queue(&self, queue: &str);
    /// Cuts every connection of the broker under test.
    fn lose_connections(&self);
}

/// A broker under test, connected, with queues of its own.
pub(crate) struct Subject {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) probe: Box<dyn Probe>,
    pub(crate) names: Names,
}

pub(crate) struct Twin(MemoryBroker);

#[async_trait]
impl Probe for Twin {
    async fn ready(&self, queue: &str) -> Vec<Message> {
        self.0.ready(queue)
    }

    async fn declare_queue(&self, queue: &str) {
        self.0.declare_queue(queue);
    }

    async fn delete_queue(&self, queue: &str) {
        self.0.delete_queue(queue);
    }

    fn lose_connections(&self) {
        self.0.lose_channels();
    }
}

pub(crate) struct Node {
    rabbit: Rabbit,
    proxy: Proxy,
}

impl Node {
    async fn channel(&self) -> (Connection, Channel) {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.rabbit.url, properties)
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }
}

#[async_trait]
impl Probe for Node {
    async fn ready(&self, queue: &str) -> Vec<Message> {
        let mut messages = self.rabbit.peek(queue).await;
        for message in &mut messages {
            // RabbitMQ counts on the message itself.
            message
                .headers
                .retain(|name, _| !OF_THE_BROKER.contains(&name.as_str()));
        }
        messages
    }

    async fn declare_queue(&self, queue: &str) {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .unwrap();
    }

    async fn delete_queue(&self, queue: &str) {
        let (_connection, channel) = self.channel().await;
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }

    fn lose_connections(&self) {
        self.proxy.cut();
    }
}

pub(crate) fn fresh_prefix() -> String {
    format!("test-{:016x}", fastrand::u64(..))
}

pub(crate) fn settings(url: &str, prefix: &str) -> RabbitSettings {
    RabbitSettings {
        urls: vec![url.into()],
        setting: "amqp.url from a test".to_owned(),
        prefix: prefix.to_owned(),
        lanes: Lane::ALL.to_vec(),
        topology: TopologyMode::Declare,
        topology_recheck: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
        heartbeat: Duration::from_secs(10),
        publish_timeout: Duration::from_secs(10),
    }
}

pub(crate) fn start(settings: RabbitSettings) -> Arc<RabbitMq> {
    RabbitMq::start(settings, Arc::new(Metrics::try_new(50).unwrap()))
}

pub(crate) fn memory() -> Subject {
    let prefix = fresh_prefix();
    let broker = MemoryBroker::new(&prefix);
    Subject {
        broker: Arc::new(broker.clone()),
        probe: Box::new(Twin(broker)),
        names: Names::new(prefix),
    }
}

pub(crate) async fn rabbitmq() -> Subject {
    let rabbit = Rabbit::shared();
    let mut uri: AMQPUri = rabbit.url.parse().unwrap();
    let authority = &mut uri.authority;
    let proxy = Proxy::to(format!("{}:{}", authority.host, authority.port)).await;
    let (host, port) = proxy.address.split_once(':').unwrap();
    (authority.host, authority.port) = (host.to_owned(), port.parse().unwrap());
    let prefix = fresh_prefix();
    let broker = start(settings(&uri.to_string(), &prefix));
    let subject = Subject {
        broker,
        probe: Box::new(Node { rabbit, proxy }),
        names: Names::new(prefix),
    };
    subject.connected().await;
    subject
}

impl Subject {
    pub(crate) async fn connected(&self) {
        connected(&*self.broker).await;
    }

    pub(crate) async fn publish(&self, id: &str) {
        self.broker
            .publish(&Target::Jobs(LANE), &message(id))
            .await
            .unwrap();
    }

    pub(crate) async fn subscribe(&self, prefetch: u16) -> Box<dyn Subscription> {
        // Just after a reconnect the lane may be faster than the broker's own bookkeeping.
        eventually("the lane subscribes", async || {
            self.broker.subscribe(LANE, prefetch).await.ok()
        })
        .await
    }

    pub(crate) async fn ready(&self, queue: &str) -> Vec<String> {
        ids(&self.probe.ready(queue).await)
    }

    /// Waits until that many messages wait in the lane's queue.
    pub(crate) async fn until_ready(&self, count: usize) -> Vec<Message> {
        let queue = self.names.lane_queue(LANE);
        eventually("messages wait in the lane's queue", async || {
            let ready = self.probe.ready(&queue).await;
            (ready.len() == count).then_some(ready)
        })
        .await
    }
}

pub(crate) async fn connected(broker: &dyn Broker) {
    let mut status = broker.status();
    let connected = status.wait_for(|status| status.is_connected());
    let connected = tokio::time::timeout(PATIENCE, connected).await;
    connected.expect("connected in time").unwrap();
}

/// Polls a condition until it gives a value.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn message(id: &str) -> Message {
    Message {
        body: "{}".into(),
        message_id: Some(id.to_owned()),
        ..Message::default()
    }
}

pub(crate) async fn next(subscription: &mut dyn Subscription) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
    next.expect("a delivery in time").expect("a delivery")
}

pub(crate) async fn ended(subscription: &mut dyn Subscription) -> Ended {
    loop {
        let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
        if let Err(ended) = next.expect("an end in time") {
            return ended;
        }
    }
}

pub(crate) fn ids(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|it| it.message_id.clone().unwrap_or_default())
        .collect()
}

pub(crate) fn id(delivery: &Delivery) -> &str {
    delivery.message.message_id.as_deref().unwrap_or_default()
}
