//! One HTTP request for a source: resolve, judge every address, connect to one that was judged, ask, and
//! follow redirects by the same rules.
//!
//! The name goes into `Host` and TLS, the checked address into the connection, so that no second answer of the
//! name server can change where it leads. No proxy, no cookies, no credentials, no connection shared between
//! jobs. It knows nothing of bodies: that is `url.rs`.

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{SourceRules, address::is_public, job_local, refused};
use crate::job::{
    Failure, FailureClass,
    place::{Origin, Scheme, SourceUrl},
};

/// Redirects followed in all.
const MOST_REDIRECTS: u32 = 5;
/// Longest wait for a connection to one address, and for its TLS; chosen.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for the head of an answer, and for the next bytes of a body; chosen.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Finds the addresses of a host.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

type Resolve = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

impl Resolver {
    /// `resolve` gives the addresses of a name, in order of preference.
    pub fn new(
        resolve: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(resolve))
    }

    /// The system's own.
    pub fn system() -> Self {
        Self::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// Makes requests by the operator's rules.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    pub(super) rules: Arc<SourceRules>,
    resolver: Resolver,
    /// None while no origin wants TLS.
    tls: Option<Arc<ClientConfig>>,
}

/// Go on from here, on condition that it is what it was.
#[derive(Debug, Clone)]
pub(super) struct From {
    pub(super) offset: u64,
    pub(super) validator: HeaderValue,
}

/// The head of an answer, and the connection its body comes by.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    /// Drives the connection; aborted on drop.
    _connection: JoinSet<()>,
}

impl Fetcher {
    pub(super) fn new(rules: Arc<SourceRules>, resolver: Resolver) -> Self {
        let wanted = rules
            .url_hosts
            .iter()
            .any(|origin| origin.scheme == Scheme::Https);
        Self {
            rules,
            resolver,
            tls: wanted.then(tls_settings).flatten(),
        }
    }

    /// Asks for the URL, whose origin is listed, and follows redirects. 200 and 206 are answers, all else fails.
    pub(super) async fn get(&self, url: SourceUrl, from: Option<From>) -> Result<Answer, Failure> {
        let mut url = url;
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.ask(&url, from.as_ref()).await?;
            match answer.status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(answer),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => url = self.redirected(&url, &answer.headers)?,
                status => return Err(of_status(status, &answer.headers, &url.origin)),
            }
        }
        let message = format!("{} redirects more than {MOST_REDIRECTS} times", url.origin);
        Err(job_local("too_many_redirects", message))
    }

    fn redirected(&self, url: &SourceUrl, headers: &HeaderMap) -> Result<SourceUrl, Failure> {
        let location = headers
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        let Some(location) = location else {
            let message = format!("{} redirects without a readable Location", url.origin);
            return Err(job_local("source_refused", message));
        };
        let target = url
            .join(location)
            .and_then(|target| self.rules.url_hosts.admit(target));
        target.map_err(refused)
    }

    async fn ask(&self, url: &SourceUrl, from: Option<&From>) -> Result<Answer, Failure> {
        let request = request(url, from)?;
        let origin = &url.origin;
        let addresses = self.addresses(origin).await?;
        let stream = connect(origin, &addresses).await?;
        match origin.scheme {
            Scheme::Http => exchange(origin, stream, request).await,
            Scheme::Https => {
                let stream = self.encrypted(origin, stream).await?;
                exchange(origin, stream, request).await
            }
        }
    }

    /// All addresses of the host, each of them allowed. One that is not refuses them all: a name that leads to
    /// both is no accident.
    async fn addresses(&self, origin: &Origin) -> Result<Vec<IpAddr>, Failure> {
        let addresses = match &origin.host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => match timeout(CONNECT, (self.resolver.0)(name.clone())).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => return Err(unreachable(origin, &error)),
                Err(_elapsed) => return Err(unreachable(origin, "no name server answers")),
            },
        };
        if addresses.is_empty() {
            return Err(unreachable(origin, "its name has no address"));
        }
        let hidden = addresses.iter().find(|address| !is_public(**address));
        match hidden {
            Some(address) if !self.rules.allow_private_addresses => {
                Err(Failure::forbidden(format!(
                    "{origin} leads to {address}, which is not public, and \
                     sources.allow_private_addresses is false"
                )))
            }
            _ => Ok(addresses),
        }
    }

    async fn encrypted(
        &self,
        origin: &Origin,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let Some(tls) = &self.tls else {
            return Err(unreachable(origin, "TLS can't be set up"));
        };
        let name = match &origin.host {
            Host::Domain(name) => ServerName::try_from(name.clone())
                .map_err(|_| refused_by(origin, "its name can't be that of a certificate"))?,
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        let connector = TlsConnector::from(Arc::clone(tls));
        match timeout(CONNECT, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(unreachable(origin, &format!("TLS: {error}"))),
            Err(_elapsed) => Err(timed_out(origin, "TLS takes too long")),
        }
    }
}

/// The system's certificates, and nothing from the environment but where they lie.
fn tls_settings() -> Option<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::error!("no certificates of authorities are found: https sources will fail");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Some(Arc::new(settings))
}

fn request(url: &SourceUrl, from: Option<&From>) -> Result<Request<Empty<Bytes>>, Failure> {
    let origin = &url.origin;
    let host = match (origin.scheme, origin.port) {
        (Scheme::Http, 80) | (Scheme::Https, 443) => origin.host.to_string(),
        (_, port) => format!("{}:{port}", origin.host),
    };
    let wrong = |_| refused_by(origin, "its path can't be asked for");
    let path = url.path_and_query().parse::<Uri>().map_err(wrong)?;
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .header(
            header::USER_AGENT,
            concat!("brigade/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "*/*")
        // Its size and ranges are to be those of the object.
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    if let Some(from) = from {
        request = request
            .header(header::RANGE, format!("bytes={}-", from.offset))
            .header(header::IF_RANGE, &from.validator);
    }
    request
        .body(Empty::new())
        .map_err(|_| refused_by(origin, "its name can't stand in a request"))
}

/// Connects to the first of the judged addresses that answers.
async fn connect(origin: &Origin, addresses: &[IpAddr]) -> Result<TcpStream, Failure> {
    let mut last = unreachable(origin, "its name has no address");
    for address in addresses {
        last = match timeout(CONNECT, TcpStream::connect((*address, origin.port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => unreachable(origin, &format!("{address}: {error}")),
            Err(_elapsed) => unreachable(origin, &format!("{address} does not answer")),
        };
    }
    Err(last)
}

async fn exchange(
    origin: &Origin,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, Failure> {
    let mut connection = JoinSet::new();
    let asked = async {
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its error reaches the body as well.
        connection.spawn(async move { driver.await.unwrap_or_default() });
        sender.send_request(request).await
    };
    match timeout(SILENCE, asked).await {
        Ok(Ok(answer)) => {
            let (head, body) = answer.into_parts();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                _connection: connection,
            })
        }
        Ok(Err(error)) => Err(unreachable(origin, &error)),
        Err(_elapsed) => Err(timed_out(origin, "no answer in time")),
    }
}

/// What follows from an answer that is no success: the job's fault, or a trouble that passes.
fn of_status(status: StatusCode, headers: &HeaderMap, origin: &Origin) -> Failure {
    let message = format!("{origin} answers HTTP {status}");
    let passing = |class| Failure {
        retry_after: wait_of(headers),
        ..Failure::ours(class, "source_unavailable", message.clone())
    };
    match status.as_u16() {
        404 | 410 => job_local("source_not_found", message),
        401 | 403 | 407 => job_local("source_access_denied", message),
        408 => passing(FailureClass::TimedOut),
        429 => passing(FailureClass::Throttled),
        416 => super::changed(&message),
        500.. => passing(FailureClass::Unavailable),
        _ => job_local("source_refused", message),
    }
}

/// `Retry-After` in seconds, a day at most.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.trim().parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(24 * 3600)))
}

fn refused_by(origin: &Origin, why: &str) -> Failure {
    job_local("source_refused", format!("{origin} can't be asked: {why}"))
}

fn unreachable(origin: &Origin, why: &(impl fmt::Display + ?Sized)) -> Failure {
    let message = format!("{origin} can't be reached: {why}");
    Failure::ours(FailureClass::Unavailable, "source_unreachable", message)
}

pub(super) fn timed_out(origin: &Origin, why: &str) -> Failure {
    let message = format!("{origin}: {why}");
    Failure::ours(FailureClass::TimedOut, "source_timed_out", message)
}
