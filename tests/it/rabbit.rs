//! The broker under test: the shared node of `make test`, or a node of a test's own that it may kill.

use std::{path::PathBuf, process::Command};

use bucket_brigade::job::{HeaderValue, Message};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{
        BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};

/// A RabbitMQ node.
#[derive(Debug)]
pub(crate) struct Rabbit {
    pub(crate) url: String,
    own: Option<PathBuf>,
    /// A node of its own has the Prometheus plugin.
    observed: bool,
}

impl Rabbit {
    /// The node that `make test` started.
    pub(crate) fn shared() -> Self {
        let url = std::env::var("AMQP_URL");
        let url = url.expect("AMQP_URL is not set: run the tests with `make test`, or with `scripts/rabbitmq run -- cargo test`");
        Self {
            url,
            own: None,
            observed: false,
        }
    }

    /// A private node, started now.
    pub(crate) fn private(name: &str) -> Self {
        Self::make(name, false, "")
    }

    /// A private node with the Prometheus plugin.
    pub(crate) fn observed(name: &str) -> Self {
        Self::make(name, true, "")
    }

    /// A private node with more in its configuration.
    pub(crate) fn configured(name: &str, configuration: &str) -> Self {
        Self::make(name, false, configuration)
    }

    fn make(name: &str, observed: bool, configuration: &str) -> Self {
        let nodes = std::env::var("RABBITMQ_NODES").unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/rabbitmq/tests").to_owned()
        });
        let directory = PathBuf::from(nodes).join(format!("{name}-{:x}", fastrand::u32(..)));
        let more = directory.join("conf.d");
        std::fs::create_dir_all(&more).unwrap();
        std::fs::write(more.join("test.conf"), configuration).unwrap();
        let mut node = Self {
            url: String::new(),
            own: Some(directory),
            observed,
        };
        node.start();
        node
    }

    /// Starts a node that is stopped, killed or new; keeps port and data.
    pub(crate) fn start(&mut self) {
        self.url = self.script("start").trim().to_owned();
    }

    /// `host:port` of its Prometheus plugin.
    pub(crate) fn metrics(&self) -> String {
        self.script("metrics").trim().to_owned()
    }

    /// rabbitmqctl.
    pub(crate) fn ctl(&self, arguments: &[&str]) {
        self.script_with("ctl", arguments);
    }

    /// Gracefully.
    pub(crate) fn stop(&self) {
        self.script("stop");
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        self.script("kill");
    }

    fn script(&self, verb: &str) -> String {
        self.script_with(verb, &[])
    }

    fn script_with(&self, verb: &str, arguments: &[&str]) -> String {
        let directory = self
            .own
            .as_ref()
            .expect("only a private node is started and stopped");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");
        let mut command = Command::new(script);
        if self.observed {
            command.env("RABBITMQ_PROMETHEUS", "1");
        }
        let command = command.arg(verb).arg(directory).args(arguments);
        let done = command.output().unwrap();
        assert!(
            done.status.success(),
            "{verb}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap()
    }

    async fn connect(&self) -> Connection {
        Connection::connect(&self.url, ConnectionProperties::default())
            .await
            .unwrap()
    }

    /// The messages of a queue, put back at once. A missing queue has none.
    pub(crate) async fn peek(&self, queue: &str) -> Vec<Message> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let mut found = Vec::new();
        while let Ok(Some(got)) = channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await
        {
            found.push(message_of(&got.delivery));
        }
        if channel.status().connected() {
            let all = BasicNackOptions {
                multiple: true,
                requeue: true,
            };
            channel.basic_nack(0, all).await.unwrap();
        }
        goodbye(connection).await;
        found
    }

    /// Ready messages and consumers of a queue.
    pub(crate) async fn counts(&self, queue: &str) -> (u32, u32) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await;
        let counts = declared.map_or((0, 0), |queue| {
            (queue.message_count(), queue.consumer_count())
        });
        goodbye(connection).await;
        counts
    }

    /// Moves what is ready in a queue to another one, as the end of a delay would.
    pub(crate) async fn move_all(&self, from: &str, to: &str) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let get = BasicGetOptions::default();
        while let Ok(Some(got)) = channel.basic_get(from.into(), get).await {
            let delivery = got.delivery;
            let confirm = channel.basic_publish(
                "".into(),
                to.into(),
                Default::default(),
                &delivery.data,
                delivery.properties.clone(),
            );
            confirm.await.unwrap();
            delivery.acker.ack(Default::default()).await.unwrap();
        }
        goodbye(connection).await;
    }

    /// Deletes a queue under its consumers.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        goodbye(connection).await;
    }

    /// Publishes a message that its queue dead-letters at once, as the producer asked.
    pub(crate) async fn publish_expiring(&self, queue: &str, id: &str) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_expiration("1".into());
        let options = BasicPublishOptions::default();
        channel
            .basic_publish("".into(), queue.into(), options, b"{}", properties)
            .await
            .unwrap();
        goodbye(connection).await;
    }

    /// Declares a durable classic queue without arguments.
    pub(crate) async fn declare_plain_queue(&self, queue: &str) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), durable, FieldTable::default())
            .await
            .unwrap();
        goodbye(connection).await;
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        if let Some(directory) = &self.own {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");
            drop(Command::new(script).arg("stop").arg(directory).output());
        }
    }
}

fn message_of(delivery: &lapin::message::Delivery) -> Message {
    let properties = &delivery.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    let mut message = Message {
        body: delivery.data.clone().into(),
        message_id: text(properties.message_id()),
        content_type: text(properties.content_type()),
        reply_to: text(properties.reply_to()),
        correlation_id: text(properties.correlation_id()),
        ..Message::default()
    };
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        let value = match value {
            AMQPValue::LongString(text) => HeaderValue::Text(text.to_string()),
            AMQPValue::LongInt(number) => HeaderValue::Integer(i64::from(*number)),
            AMQPValue::LongLongInt(number) => HeaderValue::Integer(*number),
            AMQPValue::LongUInt(number) => HeaderValue::Integer(i64::from(*number)),
            _ => HeaderValue::Other,
        };
        message.headers.insert(name.to_string(), value);
    }
    message
}

/// Bounded: beside a channel error the answer to a close may stay away.
async fn goodbye(connection: Connection) {
    let closing = connection.close(200, "done".into());
    drop(tokio::time::timeout(std::time::Duration::from_secs(5), closing).await);
}
