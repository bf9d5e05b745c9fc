//! A producer: what `brigade enqueue` and the tests publish with. One connection, not rebuilt.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Connection, Error,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::FieldTable,
};
use secrecy::SecretString;

use super::{
    QueueLook, addresses::Addresses, message::from_delivery, publisher::Publisher,
    queue_look::look_at,
};
use crate::{
    broker::{Names, PublishError, Target},
    job::{Lane, Message},
    watch,
};

const HEARTBEAT: Duration = Duration::from_secs(10);

/// Why there was no connection; a sentence without the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub(super) String);

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The job was not taken over.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It was, but no result came in time; it goes on.
    #[error("no answer in time")]
    NoAnswer,
    /// It was, but the connection was lost while its result was waited for; it goes on.
    #[error("the connection was lost")]
    Lost,
}

/// Publishes and asks, from any number of tasks at once.
#[derive(Debug)]
pub struct Producer {
    connection: watch::Sender<Option<Arc<Connection>>>,
    publisher: Publisher,
    names: Names,
    timeout: Duration,
}

impl Producer {
    /// Connects, once, to the first address that takes it, tried in turn from a random one on. `timeout` holds
    /// for connecting and for each publish.
    pub async fn connect(
        urls: &[SecretString],
        prefix: &str,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let mut addresses = Addresses::parse(urls, timeout, HEARTBEAT).map_err(ConnectError)?;
        let connecting = addresses.connect("brigade producer", timeout);
        let connection = connecting.await.map_err(ConnectError)?;
        let (connection, slot) = watch::channel(Some(Arc::new(connection)));
        let names = Names::new(prefix);
        let publisher = Publisher::new(names.clone(), slot, timeout);
        Ok(Self {
            connection,
            publisher,
            names,
            timeout,
        })
    }

    /// Publishes persistent and, but for events, mandatory; returns with the confirm.
    pub async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        self.publisher.publish(target, message).await
    }

    /// Publishes with a reply queue of its own, and waits for the first answer to this message.
    ///
    /// The queue is exclusive, not the broker's direct reply-to: a reply to it is mandatory, so the
    /// worker sees when nobody listens any more.
    pub async fn request(
        &self,
        target: &Target,
        message: &Message,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let connection = self.connection.borrow().clone();
        let lost = |error: Error| PublishError::NotConnected(error.to_string());
        let closed = || PublishError::NotConnected("closed".to_owned());
        let connection = connection.ok_or_else(closed)?;
        let listen = async {
            let channel = connection.create_channel().await?;
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..Default::default()
            };
            let queue = channel
                .queue_declare("".into(), options, FieldTable::default())
                .await?;
            let options = BasicConsumeOptions {
                no_ack: true,
                ..Default::default()
            };
            let (name, tag) = (queue.name().clone(), "".into());
            let answers = channel
                .basic_consume(name, tag, options, FieldTable::default())
                .await?;
            Ok((channel, queue.name().to_string(), answers))
        };
        // The channel is held until the answer is there: the queue goes with it.
        let (_channel, queue, mut answers) = tokio::time::timeout(self.timeout, listen)
            .await
            .map_err(|_| PublishError::TimedOut)?
            .map_err(lost)?;
        let mut asked = message.clone();
        asked.reply_to = Some(queue);
        let correlation_id = asked
            .correlation_id
            .clone()
            .or_else(|| asked.message_id.clone());
        self.publish(target, &asked).await?;
        let answer = async {
            while let Some(Ok(mut delivery)) = answers.next().await {
                let answer = from_delivery(&mut delivery);
                if answer.correlation_id == correlation_id {
                    return Ok(answer);
                }
            }
            Err(RequestError::Lost)
        };
        let answer = tokio::time::timeout(timeout, answer).await;
        answer.unwrap_or(Err(RequestError::NoAnswer))
    }

    /// The lane's queue: its name, and what is in it, if it is there and the broker answers in time.
    pub async fn look(&self, lane: Lane) -> (String, Option<QueueLook>) {
        let queue = self.names.lane_queue(lane);
        let connection = self.connection.borrow().clone();
        let look = async { look_at(&*connection?, &queue).await.ok()? };
        let look = tokio::time::timeout(self.timeout, look).await;
        (queue, look.ok().flatten())
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.publisher.close();
        if let Some(connection) = self.connection.send_replace(None) {
            let closing = connection.close(200, "done".into());
            if !matches!(
                tokio::time::timeout(self.timeout, closing).await,
                Ok(Ok(()))
            ) {
                tracing::debug!("the broker was not told goodbye");
            }
        }
    }
}
