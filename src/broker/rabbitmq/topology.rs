//! Exchanges and queues: one table, which declaring, checking and exporting walk in its order.
//!
//! The order is RESILIENCE.md's: a queue comes after what its dead letters go to, since a missing target
//! costs 180 s (facts: rabbitmq.md, 6). An existing queue is never deleted or changed. The broker answers
//! a mismatch by closing the channel, so each finding costs a channel, and no lane disturbs another.

use std::time::Duration;

use lapin::{
    Channel, Connection, Error, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Value, json};

use super::addresses::Addresses;
use crate::{
    broker::Names,
    job::{Lane, outcome::ParkDelay},
};

/// How long one declaration may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Deliveries before the broker itself dead-letters a job: a backstop, the ledger finds the culprit first.
const LANE_DELIVERY_LIMIT: i64 = 1_000;
/// Looks that dead letters survive; without the argument 21 of them empty the queue on 4.x.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000;

/// What is not as it should be. Serialised as `{"object", "problem"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `exchange NAME` or `queue NAME`.
    pub object: String,
    /// A sentence that says what mends it.
    pub problem: String,
}

/// The broker could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TopologyError(String);

/// Declares everything for all lanes, and returns what could not be declared.
pub async fn apply(urls: &[SecretString], prefix: &str) -> Result<Vec<Difference>, TopologyError> {
    on_own_connection(urls, prefix, Walk::Declare).await
}

/// Compares everything for all lanes without creating anything. Bindings can't be compared over AMQP.
pub async fn check(urls: &[SecretString], prefix: &str) -> Result<Vec<Difference>, TopologyError> {
    on_own_connection(urls, prefix, Walk::Compare).await
}

/// Deletes everything of a prefix, jobs included: for a prefix made up for one demo or test, nothing else.
pub async fn remove(urls: &[SecretString], prefix: &str) -> Result<(), TopologyError> {
    let (connection, addresses) = connect(urls).await?;
    let removed = async {
        let channel = open_channel(&connection).await?;
        for object in table(&Names::new(prefix), &Lane::ALL).iter().rev() {
            let name = object.name.as_str().into();
            match object.kind {
                Kind::Exchange(_) => channel.exchange_delete(name, Default::default()).await?,
                Kind::Queue { .. } => {
                    channel.queue_delete(name, Default::default()).await?;
                }
            }
        }
        Ok(())
    };
    let removed = removed.await;
    say_goodbye(&connection).await;
    removed.map_err(|error: Error| TopologyError(addresses.current().sentence(&error)))
}

/// Everything for all lanes in virtual host `/`, as RabbitMQ's definitions file has it.
pub fn export(prefix: &str) -> Value {
    let mut exchanges = Vec::new();
    let mut queues = Vec::new();
    let mut bindings = Vec::new();
    for object in table(&Names::new(prefix), &Lane::ALL) {
        match object.kind {
            Kind::Exchange(kind) => exchanges.push(json!({
                "name": object.name, "vhost": "/", "type": kind, "durable": true,
                "auto_delete": false, "internal": false, "arguments": {},
            })),
            Kind::Queue {
                arguments,
                exchange,
                key,
            } => {
                let arguments: serde_json::Map<String, Value> = arguments
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect();
                queues.push(json!({
                    "name": object.name, "vhost": "/", "durable": true, "auto_delete": false,
                    "arguments": arguments,
                }));
                bindings.push(json!({
                    "source": exchange, "vhost": "/", "destination": object.name,
                    "destination_type": "queue", "routing_key": key, "arguments": {},
                }));
            }
        }
    }
    json!({
        "vhosts": [{"name": "/"}],
        "exchanges": exchanges, "queues": queues, "bindings": bindings,
    })
}

/// One exchange, or one queue with its binding.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) name: String,
    /// The lane that can't do without it; `None`: no lane can, or (events) all can.
    pub(super) lane: Option<Lane>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Exchange(&'static str),
    Queue {
        arguments: Vec<(&'static str, Argument)>,
        exchange: String,
        key: String,
    },
}

#[derive(Debug, Clone)]
enum Argument {
    Text(String),
    Number(i64),
}

impl From<Argument> for Value {
    fn from(argument: Argument) -> Self {
        match argument {
            Argument::Text(text) => text.into(),
            Argument::Number(number) => number.into(),
        }
    }
}

impl From<Argument> for AMQPValue {
    fn from(argument: Argument) -> Self {
        match argument {
            Argument::Text(text) => Self::LongString(text.into()),
            Argument::Number(number) => Self::LongLongInt(number),
        }
    }
}

/// The table, in the order of declaration.
pub(super) fn table(names: &Names, lanes: &[Lane]) -> Vec<Object> {
    let text = |text: &str| Argument::Text(text.to_owned());
    let queue = |lane, name, mut arguments: Vec<_>, exchange, key| {
        arguments.insert(0, ("x-queue-type", text("quorum")));
        Object {
            name,
            lane: Some(lane),
            kind: Kind::Queue {
                arguments,
                exchange,
                key,
            },
        }
    };
    // At least once, which on the broker needs `reject-publish`, else it falls back without a word.
    let dead_letters_to = |exchange: String, lane: Lane| {
        [
            ("x-dead-letter-exchange", Argument::Text(exchange)),
            ("x-dead-letter-routing-key", text(lane.as_str())),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ]
    };
    let mut table: Vec<Object> = [
        (names.jobs(), "direct"),
        (names.retry(), "direct"),
        (names.dead(), "direct"),
        (names.events(), "topic"),
    ]
    .into_iter()
    .map(|(name, kind)| Object {
        name,
        lane: None,
        kind: Kind::Exchange(kind),
    })
    .collect();
    for &lane in lanes {
        let arguments = vec![("x-delivery-limit", Argument::Number(DEAD_DELIVERY_LIMIT))];
        let name = names.dead_queue(lane);
        table.push(queue(lane, name, arguments, names.dead(), lane.to_string()));
    }
    for &lane in lanes {
        let mut arguments = vec![("x-delivery-limit", Argument::Number(LANE_DELIVERY_LIMIT))];
        arguments.extend(dead_letters_to(names.dead(), lane));
        let name = names.lane_queue(lane);
        table.push(queue(lane, name, arguments, names.jobs(), lane.to_string()));
    }
    for &lane in lanes {
        for delay in ParkDelay::ALL {
            let mut arguments = vec![("x-message-ttl", Argument::Number(delay.millis().into()))];
            arguments.extend(dead_letters_to(names.jobs(), lane));
            let (name, key) = (
                names.retry_queue(lane, delay),
                Names::retry_key(lane, delay),
            );
            table.push(queue(lane, name, arguments, names.retry(), key));
        }
    }
    table
}

/// What is done with each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// Declared and bound.
    Declare,
    /// Asked whether it is there: a passive declare compares nothing.
    Exists,
    /// Asked whether it is there, and only then declared, which compares and can't create.
    Compare,
}

impl Object {
    fn title(&self) -> String {
        match self.kind {
            Kind::Exchange(_) => format!("exchange {}", self.name),
            Kind::Queue { .. } => format!("queue {}", self.name),
        }
    }

    async fn visit(&self, channel: &Channel, walk: Walk) -> Result<(), Error> {
        match walk {
            Walk::Declare => {
                self.declare(channel, false).await?;
                self.bind(channel).await
            }
            Walk::Exists => self.declare(channel, true).await,
            Walk::Compare => {
                self.declare(channel, true).await?;
                self.declare(channel, false).await
            }
        }
    }

    async fn declare(&self, channel: &Channel, passive: bool) -> Result<(), Error> {
        let name = self.name.as_str().into();
        match &self.kind {
            Kind::Exchange(kind) => {
                let kind = match *kind {
                    "topic" => ExchangeKind::Topic,
                    _ => ExchangeKind::Direct,
                };
                let options = ExchangeDeclareOptions {
                    passive,
                    durable: true,
                    ..Default::default()
                };
                channel
                    .exchange_declare(name, kind, options, FieldTable::default())
                    .await
            }
            Kind::Queue { arguments, .. } => {
                let options = QueueDeclareOptions {
                    passive,
                    durable: true,
                    ..Default::default()
                };
                let mut table = FieldTable::default();
                for (name, value) in arguments {
                    table.insert((*name).into(), value.clone().into());
                }
                channel.queue_declare(name, options, table).await.map(drop)
            }
        }
    }

    async fn bind(&self, channel: &Channel) -> Result<(), Error> {
        let Kind::Queue { exchange, key, .. } = &self.kind else {
            return Ok(());
        };
        let (queue, exchange, key) = (&self.name, exchange.as_str(), key.as_str());
        let options = QueueBindOptions::default();
        let (queue, exchange, key) = (queue.as_str().into(), exchange.into(), key.into());
        channel
            .queue_bind(queue, exchange, key, options, FieldTable::default())
            .await
    }
}

/// What the broker said against an object; the channel is gone then.
enum Finding {
    Missing(String),
    Differs(String),
    Forbidden(String),
    Other(String),
}

impl Finding {
    /// `None`: it is the connection that failed.
    fn of(error: &Error) -> Option<Self> {
        let ErrorKind::ProtocolError(error) = error.kind() else {
            return None;
        };
        let text = error.get_message().to_string();
        let AMQPErrorKind::Soft(kind) = error.kind() else {
            return None;
        };
        Some(match kind {
            AMQPSoftError::NOTFOUND => Self::Missing(text),
            AMQPSoftError::PRECONDITIONFAILED => Self::Differs(text),
            AMQPSoftError::ACCESSREFUSED => Self::Forbidden(text),
            _ => Self::Other(text),
        })
    }

    fn sentence(self, walk: Walk) -> String {
        match (self, walk) {
            // Something that a queue is bound to; declared before it, unless that failed.
            (Self::Missing(text), Walk::Declare) => format!("can't be bound ({text})"),
            (Self::Missing(_), Walk::Compare) => {
                "missing; `brigade topology apply` declares it".to_owned()
            }
            (Self::Missing(_), Walk::Exists) => {
                "missing; run `brigade topology apply`, or set amqp.topology to \"declare\""
                    .to_owned()
            }
            (Self::Differs(text), _) => format!(
                "exists with other arguments ({text}); it is never changed for you: empty it, \
                 delete it, and run `brigade topology apply`"
            ),
            (Self::Forbidden(text), Walk::Declare) => format!(
                "may not be declared ({text}); grant configure, write and read permission, or run \
                 `brigade topology apply` as a user who may and set amqp.topology to \"verify\""
            ),
            (Self::Forbidden(text), Walk::Exists) => {
                format!(
                    "may not be looked at ({text}); grant permission, or set amqp.topology to \"none\""
                )
            }
            (Self::Forbidden(text), Walk::Compare) => {
                format!("can't be compared ({text}); it takes configure permission")
            }
            (Self::Other(text), _) => text,
        }
    }
}

/// Walks the table; an error is the connection's.
pub(super) async fn walk(
    connection: &Connection,
    table: &[Object],
    walk: Walk,
) -> Result<Vec<(Object, Difference)>, Error> {
    let mut found = Vec::new();
    let mut channel = open_channel(connection).await?;
    for object in table {
        let visit = tokio::time::timeout(STEP_TIMEOUT, object.visit(&channel, walk));
        let visited = visit.await.unwrap_or_else(|_| Err(timed_out()));
        if let Err(error) = visited {
            let problem = Finding::of(&error).ok_or(error)?.sentence(walk);
            let difference = Difference {
                object: object.title(),
                problem,
            };
            found.push((object.clone(), difference));
            channel = open_channel(connection).await?;
        }
    }
    Ok(found)
}

/// Opening and closing are bounded like a declaration: beside a channel error an answer may stay away for ever.
async fn open_channel(connection: &Connection) -> Result<Channel, Error> {
    let opening = tokio::time::timeout(STEP_TIMEOUT, connection.create_channel());
    opening.await.unwrap_or_else(|_| Err(timed_out()))
}

async fn say_goodbye(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    if !matches!(
        tokio::time::timeout(STEP_TIMEOUT, closing).await,
        Ok(Ok(()))
    ) {
        tracing::debug!("the broker was not told goodbye");
    }
}

fn timed_out() -> Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Connects to the first address that takes it; the one whose turn it is is that one.
async fn connect(urls: &[SecretString]) -> Result<(Connection, Addresses), TopologyError> {
    let timeout = STEP_TIMEOUT;
    let mut addresses = Addresses::parse(urls, timeout, timeout).map_err(TopologyError)?;
    let connecting = addresses.connect("brigade topology", timeout);
    let connection = connecting.await.map_err(TopologyError)?;
    Ok((connection, addresses))
}

async fn on_own_connection(
    urls: &[SecretString],
    prefix: &str,
    how: Walk,
) -> Result<Vec<Difference>, TopologyError> {
    let (connection, addresses) = connect(urls).await?;
    let found = walk(&connection, &table(&Names::new(prefix), &Lane::ALL), how)
        .await
        .map_err(|error| TopologyError(addresses.current().sentence(&error)))?;
    say_goodbye(&connection).await;
    Ok(found
        .into_iter()
        .map(|(_, difference)| difference)
        .collect())
}
