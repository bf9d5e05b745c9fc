//! One address of RabbitMQ: one try to connect, and a sentence for people when it fails.
//!
//! lapin's own recovery stays off: with it the same job runs twice in one process, silently (facts:
//! rabbitmq.md, 10). Nothing that is said here holds the password.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, Error, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    tcp::TLSConfig,
    uri::{AMQPAuthority, AMQPScheme, AMQPUri},
};
use secrecy::{ExposeSecret, SecretString};

use super::{lifeline::Lifeline, stranger};

/// A connection that stands, with the handle that ends it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) lifeline: Arc<Lifeline>,
}

/// Where and how to connect.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
    timeout: Duration,
    known: Arc<Known>,
}

/// What earlier tries have shown of an address.
#[derive(Debug, Default)]
struct Known {
    /// RabbitMQ has answered there.
    is_rabbit: AtomicBool,
    /// Hosts that its name leads to, and the tries so far: each begins with another host.
    hosts: AtomicUsize,
    tries: AtomicUsize,
}

impl Endpoint {
    /// Reads the URL; its own `heartbeat` (seconds) and `connection_timeout` (milliseconds) win. The error
    /// follows "is no AMQP URL: " and does not show it.
    pub(super) fn parse(
        url: &SecretString,
        timeout: Duration,
        heartbeat: Duration,
    ) -> Result<Self, String> {
        let mut uri: AMQPUri = url.expose_secret().parse()?;
        if let Some(host) = bracketed(url.expose_secret()) {
            host.clone_into(&mut uri.authority.host);
        }
        let seconds = u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(seconds);
        let own = uri.query.connection_timeout.filter(|millis| *millis > 0);
        Ok(Self {
            timeout: own.map_or(timeout, Duration::from_millis),
            uri,
            known: Arc::default(),
        })
    }

    /// Host and port, for people.
    pub(super) fn address(&self) -> String {
        let AMQPAuthority { host, port, .. } = &self.uri.authority;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// The virtual host.
    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// What the broker was asked for; zero is none.
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.uri.query.heartbeat.unwrap_or_default().into())
    }

    /// Whether its name leads to several hosts, as far as a look-up has shown.
    pub(super) fn has_several_hosts(&self) -> bool {
        self.known.hosts.load(Ordering::Relaxed) > 1
    }

    /// One try to connect, of at most `patience`. The error is a sentence.
    pub(super) async fn connect(&self, name: &str, patience: Duration) -> Result<Opened, String> {
        let patience = patience.min(self.timeout);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.sentence(&error))?;
        let lifeline = Arc::new(Lifeline::default());
        let (held, known) = (Arc::clone(&lifeline), Arc::clone(&self.known));
        let connecting = Connection::connector(
            self.uri.clone(),
            runtime,
            async move |uri: AMQPUri, runtime| {
                let connecting = async {
                    let AMQPAuthority { host, port, .. } = &uri.authority;
                    let hosts = tokio::net::lookup_host((host.as_str(), *port)).await?;
                    let hosts = known.turned(hosts.collect());
                    // A host that swallows everything leaves time for the next one, and for the handshake.
                    let share = patience / u32::try_from(hosts.len() + 1).unwrap_or(u32::MAX);
                    let mut failed = std::io::Error::from(std::io::ErrorKind::NotFound);
                    for host in hosts {
                        let opening = AsyncTcpStream::connect(&runtime, vec![host]);
                        match tokio::time::timeout(share, opening).await {
                            Ok(Ok(stream)) => return Ok(stream),
                            Ok(Err(error)) => failed = error,
                            Err(_) => failed = std::io::ErrorKind::TimedOut.into(),
                        }
                    }
                    Err(failed)
                };
                let opening = async {
                    let stream = connecting.await?;
                    if let AsyncTcpStream::Plain(stream) = &stream {
                        held.hold(stream.get_ref());
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => {
                            let host = &uri.authority.host;
                            stream.into_tls(host, TLSConfig::default()).await
                        }
                    }
                };
                match tokio::time::timeout(patience, opening).await {
                    Ok(opened) => opened.map_err(Error::from),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            },
            properties,
        );
        let why = match tokio::time::timeout(patience, connecting).await {
            Ok(Ok(connection)) => {
                self.known.is_rabbit.store(true, Ordering::Relaxed);
                return Ok(Opened {
                    connection,
                    lifeline,
                });
            }
            Ok(Err(error)) => {
                let why = self.sentence(&error);
                if matches!(error.kind(), ErrorKind::ProtocolError(_)) {
                    return Err(why);
                }
                why
            }
            Err(_) => {
                let seconds = patience.as_secs_f64();
                format!("no answer from {} within {seconds} s", self.address())
            }
        };
        // Somebody is there, and it was never RabbitMQ: a wrong port is the usual reason.
        let is_stranger = lifeline.is_held() && !self.known.is_rabbit.load(Ordering::Relaxed);
        lifeline.cut();
        let said = match is_stranger {
            true => stranger::look(&self.uri).await,
            false => None,
        };
        Err(said.map_or(why, |said| format!("{} {said}", self.address())))
    }

    /// What went wrong, for people.
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
            ErrorKind::ProtocolError(error)
                if *error.kind() == AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) =>
            {
                let (vhost, text) = (self.vhost(), error.get_message());
                match vhost {
                    // What RabbitMQ calls `/` is `%2f` in a URL.
                    "" => format!(
                        "{address} has no virtual host \"\": a URL that ends in `/` names the empty one; \
                         the default is written /%2f, or left out with its `/`"
                    ),
                    _ => format!(
                        "{address} refuses virtual host {vhost:?} ({text}); make it with \
                         `rabbitmqctl add_vhost` and grant the user rights in it, or correct the URL"
                    ),
                }
            }
            ErrorKind::ProtocolError(error) => format!("{} at {address}", error.get_message()),
            _ => format!("{error} at {address}"),
        }
    }
}

impl Known {
    /// The hosts, with another one first at each try: one that hangs after its connect must not be the first for
    /// ever.
    fn turned(&self, mut hosts: Vec<SocketAddr>) -> Vec<SocketAddr> {
        self.hosts.store(hosts.len(), Ordering::Relaxed);
        let turn = self.tries.fetch_add(1, Ordering::Relaxed);
        if !hosts.is_empty() {
            let first = turn % hosts.len();
            hosts.rotate_left(first);
        }
        hosts
    }
}

/// The IPv6 address of a URL, which lapin's own reader passes over.
fn bracketed(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    Some(host.strip_prefix('[')?.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn endpoint(url: &str) -> Endpoint {
        let timeout = Duration::from_millis(200);
        Endpoint::parse(&url.into(), timeout, Duration::from_secs(10)).unwrap()
    }

    /// Somebody who answers everything with `answer`, and where.
    async fn somebody(answer: &'static [u8]) -> SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut answering = tokio::task::JoinSet::new();
        answering.spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut question = [0; 64];
                drop(socket.read(&mut question).await);
                drop(socket.write_all(answer).await);
            }
        });
        answering.detach_all();
        address
    }

    #[test]
    fn what_the_url_says_of_times_wins() {
        assert_eq!(endpoint("amqp://h").heartbeat(), Duration::from_secs(10));
        let own = endpoint("amqp://h?heartbeat=3&connection_timeout=700");
        assert_eq!(own.heartbeat(), Duration::from_secs(3));
        assert_eq!(own.timeout, Duration::from_millis(700));
    }

    #[test]
    fn an_ipv6_address_is_the_one_that_is_written() {
        let v6 = endpoint("amqps://u:p@[::1]:5673/v?heartbeat=3");
        assert_eq!(v6.uri.authority.host, "::1");
        assert_eq!(v6.address(), "[::1]:5673");
    }

    #[tokio::test]
    async fn a_refused_connection_is_said_without_the_password() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = format!("amqp://user:secret@127.0.0.1:{port}/%2f");
        let why = endpoint(&url).connect("test", PATIENCE).await.unwrap_err();
        assert_eq!(why, format!("connection refused at 127.0.0.1:{port}"));
    }

    #[tokio::test]
    async fn a_broker_that_never_answers_is_given_up_and_its_socket_closed() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = endpoint(&format!("amqp://user:secret@{address}/%2f"));
        let (why, accepted) = tokio::join!(endpoint.connect("test", PATIENCE), listener.accept());
        assert_eq!(
            why.unwrap_err(),
            format!("no answer from {address} within 0.2 s")
        );
        let mut greeting = Vec::new();
        // Ends only when the other side has closed its socket.
        let mut socket = accepted.unwrap().0;
        let read = socket.read_to_end(&mut greeting);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        assert!(greeting.starts_with(b"AMQP"), "{greeting:?}");
    }

    #[tokio::test]
    async fn a_port_that_speaks_something_else_is_named_for_what_it_speaks() {
        let http = somebody(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let tls = somebody(&[0x15, 3, 3, 0, 2, 2, 70]).await;
        let amqp = somebody(b"AMQP\0\0\x09\x01").await;
        for (url, said) in [
            (format!("amqp://u:hush@{http}"), "speaks HTTP, not AMQP: "),
            (format!("amqps://u:hush@{http}"), "speaks HTTP, not AMQP: "),
            (format!("amqp://u:hush@{tls}"), "speaks TLS: write amqps://"),
            (
                format!("amqps://u:hush@{amqp}"),
                "speaks AMQP without TLS: ",
            ),
        ] {
            let why = endpoint(&url).connect("test", PATIENCE).await.unwrap_err();
            assert!(why.contains(said) && !why.contains("hush"), "{url}: {why}");
        }
    }

    #[test]
    fn hosts_of_one_name_take_turns() {
        let known = Known::default();
        let host = |last: u8| SocketAddr::from(([10, 0, 0, last], 5672));
        let hosts = || vec![host(1), host(2)];
        assert_eq!(known.turned(hosts()), [host(1), host(2)]);
        assert_eq!(known.turned(hosts()), [host(2), host(1)]);
        assert_eq!(known.turned(vec![host(9)]), [host(9)]);
        assert_eq!(known.turned(Vec::new()), []);
    }
}
