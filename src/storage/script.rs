//! A scripted S3 in process, for tests: answers in order, no network, Tokio's clock also for the SDK, so
//! that a paused runtime pauses its rate limiter and time-outs too.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::{
    config::{
        Credentials, HttpClient, RuntimeComponents, SharedCredentialsProvider,
        http::{HttpRequest, HttpResponse},
    },
    error::ConnectorError,
    primitives::SdkBody,
};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    CallContext, Checksums, Clients, Done, Lease, LedgerTrouble, Stop, Storage, StorageSettings,
    UploadSettings,
    source::{SourceRules, Sources},
};
use crate::{
    job::{
        Carried, Failure, Headers, Job, JobId, Operation, RequestDigest, Timestamp, place::Roots,
    },
    metrics::Metrics,
    resilience::{CircuitBreaker, CircuitSettings, RetryPolicy, Slots, TokioClock},
};

/// What the script answers to one request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, headers and the whole body.
    Reply(u16, Vec<(&'static str, String)>, String),
    /// A 200 whose body sends these chunks and then never another byte.
    Stalls(Vec<&'static str>),
    /// A 200 whose body never ends: a byte a second.
    Trickles,
    /// The connection is reset.
    Reset,
    /// No connection comes about in time.
    ConnectTimeout,
    /// Nothing ever comes.
    Silence,
    /// The same, so much later.
    After(Duration, Box<Self>),
    /// Whoever calls panics.
    Panic,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Reply(status, Vec::new(), String::new())
    }

    pub(crate) fn body(status: u16, body: &str) -> Self {
        Self::Reply(status, Vec::new(), body.to_owned())
    }

    /// An error as S3 writes it.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let xml = format!("<Error><Code>{code}</Code><Message>the message</Message></Error>");
        Self::Reply(status, vec![("x-amz-request-id", "REQ1".to_owned())], xml)
    }

    /// What `DeleteObjects` says of keys that are gone, and of others with their codes.
    pub(crate) fn deletes(deleted: &[&str], failed: &[(&str, &str)]) -> Self {
        let deleted = deleted
            .iter()
            .map(|key| format!("<Deleted><Key>{key}</Key></Deleted>"));
        let failed = failed.iter().map(|(key, code)| {
            format!("<Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error>")
        });
        let content: String = deleted.chain(failed).collect();
        Self::body(200, &format!("<DeleteResult>{content}</DeleteResult>"))
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Self::Reply(_, headers, _) = &mut self {
            headers.push((name, value.to_string()));
        }
        self
    }
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(super) method: String,
    pub(crate) uri: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

/// The answers still to give, and the requests seen.
#[derive(Debug)]
pub(super) struct Script {
    answers: Mutex<VecDeque<Answer>>,
    /// Given when the answers are used up.
    lasting: Answer,
    seen: Mutex<Vec<Seen>>,
}

impl Script {
    fn next(&self) -> Answer {
        self.answers
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or_else(|| self.lasting.clone())
    }
}

#[derive(Debug, Clone)]
struct Connector(Arc<Script>);

impl HttpClient for Connector {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let body = std::mem::replace(request.body_mut(), SdkBody::taken());
        let body = body.collect().now_or_never().expect("it is in memory");
        let body = body.unwrap().to_bytes();
        let headers = request.headers().iter();
        self.0.seen.lock().unwrap().push(Seen {
            method: request.method().to_owned(),
            uri: request.uri().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
            at: Instant::now(),
        });
        let answer = self.0.next();
        HttpConnectorFuture::new(async move {
            let answer = match answer {
                Answer::After(wait, answer) => {
                    tokio::time::sleep(wait).await;
                    *answer
                }
                answer => answer,
            };
            match answer {
                Answer::Reply(status, headers, body) => {
                    Ok(response(status, &headers, SdkBody::from(body)))
                }
                Answer::Stalls(chunks) => {
                    let chunks = chunks.into_iter().map(|chunk| {
                        Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(chunk)))
                    });
                    let frames = stream::iter(chunks).chain(stream::pending());
                    let body = SdkBody::from_body_1_x(StreamBody::new(frames));
                    Ok(response(200, &[], body))
                }
                Answer::Trickles => {
                    let frames = stream::unfold((), |()| async {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        let byte = http_body::Frame::data(Bytes::from_static(b" "));
                        Some((Ok::<_, std::io::Error>(byte), ()))
                    });
                    let body = SdkBody::from_body_1_x(StreamBody::new(frames));
                    Ok(response(200, &[], body))
                }
                Answer::Reset => {
                    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    Err(ConnectorError::io(reset.into()))
                }
                Answer::ConnectTimeout => Err(ConnectorError::timeout("connect".into())),
                Answer::Silence | Answer::After(..) => std::future::pending().await,
                Answer::Panic => panic!("scripted"),
            }
        })
    }
}

/// What the script says, and what S3 says in all answers, or in all good ones.
fn response(status: u16, headers: &[(&'static str, String)], body: SdkBody) -> HttpResponse {
    let is_empty = body.bytes().is_some_and(<[u8]>::is_empty);
    let mut response = HttpResponse::new(status.try_into().unwrap(), body);
    response.headers_mut().insert("x-amz-request-id", "REQ1");
    if status == 200 && is_empty {
        response.headers_mut().insert("etag", "\"script\"");
        response.headers_mut().insert("content-length", "0");
    }
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.clone());
    }
    response
}

/// Tokio's clock with a date, for signatures and the rate limiter.
#[derive(Debug)]
struct TokioTime(Instant);

impl TimeSource for TokioTime {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_774_000_000) + self.0.elapsed()
    }
}

/// A storage on a script, and everything a lane would give it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(super) script: Arc<Script>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) breaker: Arc<CircuitBreaker>,
    pub(crate) slots: Arc<Slots>,
    pub(super) calls: Arc<AtomicU32>,
    pub(super) max_reply_bytes: u64,
}

/// Where the script is.
pub(super) const ENDPOINT: &str = "http://s3.test:9000";

pub(super) fn settings() -> StorageSettings {
    StorageSettings {
        endpoint: Some(ENDPOINT.to_owned()),
        region: None,
        force_path_style: None,
        attempt_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(3),
        checksums: Checksums::Auto,
        credentials: None,
        copy_whole_up_to: 100,
        require_etag: true,
        put_defaults: Headers::default(),
    }
}

/// Parts of 5 MiB from 5 MiB on, four at a time.
pub(super) fn uploads() -> UploadSettings {
    const MIB: u64 = 1024 * 1024;
    UploadSettings {
        multipart_threshold: 5 * MIB,
        part_size: 5 * MIB,
        part_concurrency: 4,
        memory_budget: 32 * MIB,
    }
}

/// Files of tests, and nothing else.
pub(super) fn temporary_files() -> Sources {
    Sources::new(SourceRules {
        file_roots: Roots::new("sources.file_roots", vec![std::env::temp_dir()]),
        ..SourceRules::nothing()
    })
}

/// What the environment says in tests: a region, keys and a paused clock.
pub(super) fn shared(credentials: Option<Credentials>) -> SdkConfig {
    let mut builder = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .time_source(TokioTime(Instant::now()));
    builder.set_credentials_provider(credentials.map(SharedCredentialsProvider::new));
    builder.build()
}

pub(super) fn keys() -> Option<Credentials> {
    Some(Credentials::new("AKID", "SECRET", None, None, "test"))
}

impl Stage {
    /// These answers in order, and the last of them for ever.
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with(answers, &settings(), &shared(keys()))
    }

    pub(super) fn with(
        answers: impl IntoIterator<Item = Answer>,
        settings: &StorageSettings,
        shared: &SdkConfig,
    ) -> Self {
        let answers: VecDeque<_> = answers.into_iter().collect();
        let script = Arc::new(Script {
            lasting: answers.back().cloned().unwrap_or(Answer::Silence),
            answers: Mutex::new(answers),
            seen: Mutex::default(),
        });
        let http = Connector(Arc::clone(&script));
        Self::of(script, http, settings, shared)
    }

    /// Over another HTTP client than a script's.
    pub(crate) fn over(http: impl HttpClient + 'static) -> Self {
        let script = Arc::new(Script {
            answers: Mutex::default(),
            lasting: Answer::Silence,
            seen: Mutex::default(),
        });
        Self::of(script, http, &settings(), &shared(keys()))
    }

    fn of(
        script: Arc<Script>,
        http: impl HttpClient + 'static,
        settings: &StorageSettings,
        shared: &SdkConfig,
    ) -> Self {
        let clients = Clients::from_shared(shared, settings, http);
        let metrics = Arc::new(Metrics::try_new(50).unwrap());
        let numbers = CircuitSettings {
            failure_threshold: 5,
            open_base: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
            half_open_permits: 1,
            probe_timeout: Duration::from_secs(60),
        };
        Self {
            script,
            storage: Arc::new(
                Storage::new(clients, Arc::clone(&metrics), || 0.5, uploads())
                    .with_places(temporary_files(), Roots::new("none", Vec::new())),
            ),
            metrics,
            breaker: CircuitBreaker::new(
                numbers,
                Arc::new(TokioClock),
                || 0.5,
                Box::new(|_, _, _| {}),
            ),
            slots: Slots::fixed(2),
            calls: Arc::default(),
            max_reply_bytes: 1000,
        }
    }

    pub(crate) fn context(&self) -> CallContext {
        CallContext {
            breaker: Some(Arc::clone(&self.breaker)),
            probe: Mutex::new(None),
            slots: Arc::clone(&self.slots),
            retry: RetryPolicy {
                max_attempts: 3,
                base_delay: Duration::from_secs(1),
                multiplier: 2.0,
                jitter: 0.2,
            },
            max_reply_bytes: self.max_reply_bytes,
            calls: Arc::clone(&self.calls),
            failed: Arc::default(),
            lease: None,
            unfinished: 0,
            enqueued_at: Timestamp::from_micros(1_774_000_000_500_000),
            parts: Arc::default(),
            uploads: None,
            draining: CancellationToken::new(),
        }
    }

    pub(super) async fn run(&self, operation: Operation) -> Result<Done, Stop> {
        self.run_in(operation, &self.context()).await
    }

    pub(super) async fn run_in(
        &self,
        operation: Operation,
        context: &CallContext,
    ) -> Result<Done, Stop> {
        self.storage.run(&job(operation), context).await
    }

    /// The failure of an operation that must fail.
    pub(super) async fn failure(&self, operation: Operation) -> Failure {
        match self.run(operation).await {
            Err(Stop::Failed(failure)) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().unwrap().clone()
    }

    /// Requests as `METHOD path`.
    pub(super) fn requests(&self) -> usize {
        self.script.seen.lock().unwrap().len()
    }

    pub(super) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// `s3_operations_total` of bucket `b`, which has its name from its first success on.
    pub(super) fn operations(&self, operation: &str, result: &str) -> u64 {
        let count = |bucket| {
            let labels = [operation, bucket, result];
            self.metrics.s3_operations.with_label_values(&labels).get()
        };
        count("b") + count("other")
    }

    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.breaker.snapshot().consecutive_failures
    }
}

/// Job `job-1`, which nobody waits for.
pub(crate) fn job(operation: Operation) -> Job {
    Job {
        id: JobId::parse("job-1").unwrap(),
        digest: RequestDigest::of(&operation, &Headers::default()),
        operation,
        headers: Headers::default(),
        ignored: Vec::new(),
        reply_to: None,
        correlation_id: None,
        published_at: None,
        carried: Carried::default(),
    }
}

/// A lease that is asked `asked` times with this answer.
pub(super) fn lease(answer: Result<bool, LedgerTrouble>, asked: &Arc<AtomicU32>) -> Option<Lease> {
    let asked = Arc::clone(asked);
    Some(Lease::new(move || {
        asked.fetch_add(1, Ordering::Relaxed);
        let answer = answer.clone();
        Box::pin(async move { answer })
    }))
}

/// Operations on bucket `b`, key `k`.
#[path = "script_operations.rs"]
pub(crate) mod op;
