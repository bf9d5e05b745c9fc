//! A look at one queue, as a passive declare gives it: how many messages wait, how many consume.

use lapin::{
    Connection, Error, ErrorKind,
    options::QueueDeclareOptions,
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::FieldTable,
};

/// A queue as a passive declare shows it; the counts lag by up to a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLook {
    /// Messages that wait.
    pub ready: u32,
    /// Consumers on it.
    pub consumers: u32,
}

/// `None` when there is no such queue. Takes as long as the broker: the caller has a time-out.
pub(super) async fn look_at(
    connection: &Connection,
    queue: &str,
) -> Result<Option<QueueLook>, Error> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    // A channel for each, since a missing queue closes it.
    let channel = connection.create_channel().await?;
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
    match declared.await {
        Ok(found) => Ok(Some(QueueLook {
            ready: found.message_count(),
            consumers: found.consumer_count(),
        })),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}
