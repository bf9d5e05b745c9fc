//! A real S3 server inside this process: real HTTP on loopback, real signatures, and faults on demand.
//!
//! Owns the server's life: start, stop, begin again on the same port with the same objects. What it
//! stores is in `store`, what goes wrong in `faults`, what was asked in `journal`. Path-style addresses
//! only, one set of keys, no versions. For development and tests: nothing is synced to disk.

mod answer;
mod call;
mod faults;
mod journal;
mod kept;
mod receive;
mod service;
mod shapes;
mod store;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use aws_sdk_s3::config::Credentials;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
    service::S3ServiceBuilder,
    validation::NameValidation,
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    answer::Front,
    service::Service,
    store::Store,
    wire::{Line, Wire},
};
pub use self::{
    call::{Call, Class, S3Operation},
    faults::{Fault, Faults, Rule, RuleHandle},
    journal::{Entry, Journal},
};

const ACCESS_KEY: &str = "brigade-dev";
const SECRET_KEY: &str = "brigade-dev-secret";
/// The account of the one key.
const ACCOUNT: &str = "000000000000";
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// See the module. Dropped, it ends its tasks and connections; `stop` also waits for them.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    front: Arc<Front>,
    store: Arc<Store>,
    presence: Presence,
    /// Removed with the server; `None` in a directory of the caller's.
    _directory: Option<TempDir>,
}

#[derive(Debug)]
enum Presence {
    /// Connections are refused. The socket, bound but not listening, keeps the port from others.
    Absent(Option<TcpSocket>),
    Serving {
        stopping: CancellationToken,
        tasks: JoinSet<()>,
    },
}

impl S3Server {
    /// Starts a server on a free port, with nothing in it; its files go with it.
    pub async fn start() -> io::Result<Self> {
        let mut server = Self::reserve()?;
        server.begin().await?;
        Ok(server)
    }

    /// Starts a server on this port, or any, over what an earlier one left in the directory. Two servers
    /// at a time must not share a directory.
    pub async fn start_in(directory: &Path, port: Option<u16>) -> io::Result<Self> {
        let mut server = Self::absent(directory, port, None)?;
        server.begin().await?;
        Ok(server)
    }

    /// A server that has an address and refuses connections until `begin`.
    pub fn reserve() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().to_owned();
        Self::absent(&path, None, Some(directory))
    }

    fn absent(path: &Path, port: Option<u16>, directory: Option<TempDir>) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, port.unwrap_or_default()).into())?;
        let store = Arc::new(Store::open(path)?);
        let mut s3 = S3ServiceBuilder::new(Service(Arc::clone(&store)));
        s3.set_auth(OneKey);
        s3.set_validation(BucketNames);
        Ok(Self {
            address: socket.local_addr()?,
            front: Arc::new(Front::new(s3.build())),
            store,
            presence: Presence::Absent(Some(socket)),
            _directory: directory,
        })
    }

    /// Takes connections from here on. Objects, faults and journal are as they were before `stop`.
    /// Without effect on a server that serves.
    pub async fn begin(&mut self) -> io::Result<()> {
        let Presence::Absent(socket) = &mut self.presence else {
            return Ok(());
        };
        let socket = match socket.take() {
            Some(socket) => socket,
            None => bind(self.address)?,
        };
        let listener = socket.listen(BACKLOG)?;
        let stopping = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&self.front), stopping.clone()));
        self.presence = Presence::Serving { stopping, tasks };
        Ok(())
    }

    /// Closes every connection, also those with a call under way, and refuses new ones. When it returns,
    /// all tasks have ended. Without effect on a server that is stopped.
    pub async fn stop(&mut self) {
        let Presence::Serving { stopping, tasks } = &mut self.presence else {
            return;
        };
        stopping.cancel();
        while tasks.join_next().await.is_some() {}
        let socket = bind(self.address).inspect_err(|error| {
            tracing::warn!(address = %self.address, %error, "the port is not reserved meanwhile");
        });
        self.presence = Presence::Absent(socket.ok());
    }

    /// The URL that clients are given.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Access key and secret key.
    pub fn keys(&self) -> (&str, &str) {
        (ACCESS_KEY, SECRET_KEY)
    }

    /// The account that all buckets belong to.
    pub fn account(&self) -> &str {
        ACCOUNT
    }

    /// The keys as the SDK takes them.
    pub fn credentials(&self) -> Credentials {
        Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "embedded S3 server")
    }

    /// What goes wrong; may be changed at any time.
    pub fn faults(&self) -> &Faults {
        self.front.faults()
    }

    /// What was asked.
    pub fn journal(&self) -> &Journal {
        self.front.journal()
    }

    /// Makes a bucket, unless it is there. If it cannot be made, the log says why, and calls on it fail.
    pub fn create_bucket(&self, name: &str) {
        if !BucketNames.validate_bucket_name(name) {
            tracing::error!(bucket = name, "this is no bucket name");
        } else if let Err(error) = self.store.create_bucket(name) {
            tracing::error!(bucket = name, %error, "the bucket could not be made");
        }
    }

    /// An object's bytes as they are stored. Works while the server is stopped.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let object = self.store.object(bucket, key).ok()?;
        object.file.read(0..object.size).ok()
    }

    /// A bucket's keys in order; none for a bucket that is not there.
    pub fn keys_of(&self, bucket: &str) -> Vec<String> {
        let query = store::Query {
            most: usize::MAX,
            ..store::Query::default()
        };
        let page = self.store.list(bucket, &query).unwrap_or_default();
        page.objects.into_iter().map(|(key, _)| key).collect()
    }

    /// The keys of multipart uploads that are neither completed nor aborted.
    pub fn uploads_of(&self, bucket: &str) -> Vec<String> {
        let uploads = self.store.uploads(bucket).unwrap_or_default();
        uploads.into_iter().map(|(key, _, _)| key).collect()
    }
}

/// A bound socket that refuses connections until it listens. The address may have been used a moment ago.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves until told to stop; the connections end with it.
async fn accept(listener: TcpListener, front: Arc<Front>, stopping: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&front), stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most likely out of file handles: give some time to come back.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopping.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection, request after request.
async fn serve(stream: TcpStream, front: Arc<Front>, stopping: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "answers may be late");
    }
    let line = Line::default();
    let wire = TokioIo::new(Wire::new(stream, line.clone()));
    let answering = line.clone();
    let service = service_fn(move |request| {
        let (front, line) = (Arc::clone(&front), answering.clone());
        async move { Ok::<_, Infallible>(front.answer(request, &line).await) }
    });
    let connection = http1::Builder::new().serve_connection(wire, service);
    tokio::select! {
        // Clients go as they please.
        ended = connection => if let Err(error) = ended {
            tracing::trace!(%error, "a connection ended");
        },
        () = line.severed() => {}
        () = stopping.cancelled() => {}
    }
}

/// Knows the one key. s3s's own says `NotSignedUp` of others, which S3 never does.
struct OneKey;

#[async_trait::async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key {
            ACCESS_KEY => Ok(SecretKey::from(SECRET_KEY)),
            _ => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// The names that job messages may carry, wider than AWS's. Only as the source of a copy s3s insists on
/// AWS's rules (3 to 63 lower-case letters, digits, dots and hyphens).
struct BucketNames;

impl NameValidation for BucketNames {
    fn validate_bucket_name(&self, name: &str) -> bool {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=255).contains(&name.len())
            && name.bytes().all(known)
            && !name.trim_matches('.').is_empty()
    }
}
