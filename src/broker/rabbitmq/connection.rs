//! A connection that is rebuilt for as long as the process runs, and why it does not stand meanwhile.
//!
//! lapin's own recovery stays off: with it the same job runs twice in one process, silently (facts:
//! rabbitmq.md, 10). Nothing that is said here holds the password (RESILIENCE.md, events 1 and 13).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, Error, ErrorKind, Event,
    protocol::{AMQPErrorKind, AMQPSoftError},
    tcp::TLSConfig,
    uri::{AMQPAuthority, AMQPScheme, AMQPUri},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{status::StatusBoard, topology_keeper::TopologyKeeper};
use crate::metrics::Role;

/// The wait before a connection is tried again: full jitter between these.
const RETRY_LEAST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// A connection that stood for this long was a good one: the next wait is short again.
const STABLE: Duration = Duration::from_secs(30);
/// How often a connection is looked at. lapin has no event for a lost socket; lanes and publishes that
/// use the connection notice at once.
const LOOK: Duration = Duration::from_millis(250);
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The current connection of one role, if it stands.
pub(super) type Slot = watch::Receiver<Option<Arc<Connection>>>;

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
    timeout: Duration,
}

impl Endpoint {
    /// Reads the URL; its own `heartbeat` wins over `heartbeat`.
    pub(super) fn parse(
        url: &SecretString,
        timeout: Duration,
        heartbeat: Duration,
    ) -> Result<Self, String> {
        let mut uri: AMQPUri = url
            .expose_secret()
            .parse()
            .map_err(|error: String| format!("amqp.url is no AMQP URL: {error}"))?;
        let seconds = u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(seconds);
        Ok(Self { uri, timeout })
    }

    /// Host and port, for people.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// One try to connect. The error is a sentence.
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, String> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.sentence(&error))?;
        let lifeline = Arc::new(Lifeline::default());
        let (timeout, held) = (self.timeout, Arc::clone(&lifeline));
        let connecting = Connection::connector(
            self.uri.clone(),
            runtime,
            async move |uri: AMQPUri, runtime| {
                let connecting = async {
                    let AMQPAuthority { host, port, .. } = &uri.authority;
                    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), *port))
                        .await?
                        .collect();
                    let stream = AsyncTcpStream::connect(&runtime, found).await?;
                    if let AsyncTcpStream::Plain(stream) = &stream {
                        held.hold(stream.get_ref());
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => stream.into_tls(host, TLSConfig::default()).await,
                    }
                };
                match tokio::time::timeout(timeout, connecting).await {
                    Ok(opened) => opened.map_err(Error::from),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            },
            properties,
        );
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.sentence(&error)),
            Err(_) => {
                lifeline.cut();
                let seconds = self.timeout.as_secs_f64();
                Err(format!(
                    "no answer from {} within {seconds} s",
                    self.address()
                ))
            }
        }
    }

    pub(super) fn sentence(&self, error: &Error) -> String {
        let address = self.address();
        match error.kind() {
            ErrorKind::IOError(error) => match error.kind() {
                // The kind's name reads better than the system's text, unless it says nothing.
                std::io::ErrorKind::Other => format!("{error} at {address}"),
                kind if error.raw_os_error().is_some() => format!("{kind} at {address}"),
                _ => format!("{error} at {address}"),
            },
            ErrorKind::ProtocolError(error)
                if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) =>
            {
                let user = &self.uri.authority.userinfo.username;
                format!("{address} refuses user {user:?} or the password")
            }
            ErrorKind::ProtocolError(error) => format!("{} at {address}", error.get_message()),
            _ => format!("{error} at {address}"),
        }
    }
}

/// A second handle on a connection's socket, to end it from outside. A handshake that is given up keeps
/// lapin's thread and socket for as long as a hung broker keeps its end open.
#[derive(Default)]
struct Lifeline {
    /// Nothing awaits under it.
    #[cfg(unix)]
    socket: std::sync::Mutex<Option<std::net::TcpStream>>,
}

impl Lifeline {
    #[cfg(unix)]
    fn hold(&self, socket: &tokio::net::TcpStream) {
        use std::os::fd::AsFd;
        let copy = socket
            .as_fd()
            .try_clone_to_owned()
            .map(std::net::TcpStream::from);
        *self.lock() = copy.ok();
    }

    #[cfg(not(unix))]
    fn hold(&self, _: &tokio::net::TcpStream) {}

    /// Ends the socket, if it was opened.
    fn cut(&self) {
        #[cfg(unix)]
        if let Some(socket) = self.lock().take() {
            // An error means that the other end was faster.
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }

    #[cfg(unix)]
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<std::net::TcpStream>> {
        self.socket
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Keeps the connection of one role, and says how it is.
pub(super) struct Keeper {
    pub(super) role: Role,
    pub(super) endpoint: Endpoint,
    pub(super) slot: watch::Sender<Option<Arc<Connection>>>,
    pub(super) status: Arc<StatusBoard>,
    /// Walked after each connect, before the connection may be used; the consuming role's.
    pub(super) topology: Option<Arc<TopologyKeeper>>,
}

impl Keeper {
    /// Connects, watches, connects again, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut failures = 0;
        let mut stood_before = false;
        let mut known = String::new();
        loop {
            let started = tokio::time::Instant::now();
            let lost = tokio::select! {
                lost = self.connect_and_watch(&mut stood_before) => lost,
                () = stop.cancelled() => break,
            };
            if started.elapsed() > STABLE {
                failures = 0;
            }
            let role = self.role.as_str();
            // Once an outage, and once more for each new reason.
            if self.slot.borrow().is_some() || lost != known {
                tracing::warn!(role, why = lost, "no connection to RabbitMQ");
            } else {
                tracing::debug!(role, why = lost, "still no connection to RabbitMQ");
            }
            known.clone_from(&lost);
            let wait = full_jitter(failures, fastrand::f64());
            failures += 1;
            self.slot.send_replace(None);
            let seconds = wait.as_secs_f64().ceil();
            let why = format!("{lost}, next try in {seconds} s");
            self.status.down(self.role, &why);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.close().await;
    }

    /// Returns why there is no connection, or none any more.
    async fn connect_and_watch(&self, stood_before: &mut bool) -> String {
        let name = format!("brigade {}", self.role.as_str());
        let connection = match self.endpoint.connect(&name).await {
            Ok(connection) => Arc::new(connection),
            Err(why) => return why,
        };
        if let Some(topology) = &self.topology
            && let Err(error) = topology.walk(&connection).await
        {
            return self.endpoint.sentence(&error);
        }
        self.slot.send_replace(Some(Arc::clone(&connection)));
        self.status.up(self.role, *stood_before);
        *stood_before = true;
        tracing::info!(
            role = self.role.as_str(),
            address = self.endpoint.address(),
            "connected to RabbitMQ"
        );
        self.watch(&connection).await;
        format!("the connection to {} was lost", self.endpoint.address())
    }

    /// Ends when the connection is lost.
    async fn watch(&self, connection: &Arc<Connection>) {
        let mut events = std::pin::pin!(connection.events_listener());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let recheck = async {
            match &self.topology {
                Some(topology) => topology.keep(connection).await,
                None => std::future::pending().await,
            }
        };
        let mut recheck = std::pin::pin!(recheck);
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(role = self.role.as_str(), reason, "RabbitMQ takes no publishes for now");
                        self.status.blocked(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!(role = self.role.as_str(), "RabbitMQ takes publishes again");
                        self.status.blocked(None);
                    }
                    _ => {}
                },
                _ = look.tick() => if !connection.status().connected() {
                    return;
                },
                () = &mut recheck => return,
            }
        }
    }

    async fn close(self) {
        let connection = self.slot.send_replace(None);
        self.status.down(self.role, "closed");
        if let Some(connection) = connection {
            let closing = connection.close(200, "closed".into());
            if !matches!(
                tokio::time::timeout(CLOSE_TIMEOUT, closing).await,
                Ok(Ok(()))
            ) {
                tracing::debug!(role = self.role.as_str(), "the broker was not told goodbye");
            }
        }
    }
}

/// The wait after so many failures in a row; `chance` is from 0 to 1.
fn full_jitter(failures: u32, chance: f64) -> Duration {
    let most = (RETRY_LEAST * 2_u32.saturating_pow(failures.min(16) + 1)).min(RETRY_MOST);
    RETRY_LEAST + (most - RETRY_LEAST).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        let timeout = Duration::from_millis(200);
        Endpoint::parse(&url.into(), timeout, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn the_wait_grows_to_thirty_seconds_and_never_falls_below_half_a_second() {
        assert_eq!(full_jitter(0, 0.0), Duration::from_millis(500));
        assert_eq!(full_jitter(0, 1.0), Duration::from_secs(1));
        assert_eq!(full_jitter(2, 1.0), Duration::from_secs(4));
        assert_eq!(full_jitter(100, 0.0), Duration::from_millis(500));
        assert_eq!(full_jitter(100, 1.0), Duration::from_secs(30));
    }

    #[test]
    fn a_heartbeat_in_the_url_wins() {
        assert_eq!(endpoint("amqp://h").uri.query.heartbeat, Some(10));
        assert_eq!(
            endpoint("amqp://h?heartbeat=3").uri.query.heartbeat,
            Some(3)
        );
    }

    #[tokio::test]
    async fn a_refused_connection_is_said_without_the_password() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = format!("amqp://user:secret@127.0.0.1:{port}/%2f");
        let why = endpoint(&url).connect("test").await.unwrap_err();
        assert_eq!(why, format!("connection refused at 127.0.0.1:{port}"));
    }

    #[tokio::test]
    async fn a_broker_that_never_answers_is_given_up_and_its_socket_closed() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = endpoint(&format!("amqp://user:secret@{address}/%2f"));
        let (why, accepted) = tokio::join!(endpoint.connect("test"), listener.accept());
        assert_eq!(
            why.unwrap_err(),
            format!("no answer from {address} within 0.2 s")
        );
        let mut greeting = Vec::new();
        // Ends only when the other side has closed its socket.
        let mut socket = accepted.unwrap().0;
        let read = socket.read_to_end(&mut greeting);
        tokio::time::timeout(Duration::from_secs(5), read)
            .await
            .unwrap()
            .unwrap();
        assert!(greeting.starts_with(b"AMQP"), "{greeting:?}");
    }
}
