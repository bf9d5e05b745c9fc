//! A small S3 over TCP that answers what a test tells it, byte for byte, and everything that a job needs to call it.

use std::sync::{Arc, Mutex, atomic::AtomicU32};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::super::{
    CallContext, Clients, Done, Stop, Storage, StorageSettings,
    script::{Stage, job, keys, settings, shared, temporary_files, uploads},
};
use crate::{
    job::{Failure, FailureClass, Job, JobId, Operation, place::Roots},
    metrics::Metrics,
    resilience::RetryPolicy,
};

/// One request as it arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Request line and header lines, as they came.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .find(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The region that the request was signed for.
    pub(super) fn region(&self) -> &str {
        let scope = self.header("authorization").unwrap_or_default();
        scope.split('/').nth(2).unwrap_or_default()
    }

    pub(super) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An answer with its length.
pub(super) fn reply(status: u16, headers: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let headers: Vec<_> = headers.iter().map(|line| line.as_bytes()).collect();
    reply_bytes(status, &headers, body)
}

/// The same with headers that are no text.
pub(super) fn reply_bytes(status: u16, headers: &[&[u8]], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut raw = format!("HTTP/1.1 {status} X\r\n").into_bytes();
    for line in headers {
        raw.extend_from_slice(line);
        raw.extend_from_slice(b"\r\n");
    }
    // A HEAD's answer says how long its body would be.
    let has_length = headers
        .iter()
        .any(|line| line.to_ascii_lowercase().starts_with(b"content-length"));
    if !has_length && status != 204 {
        raw.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    raw.extend_from_slice(b"\r\n");
    raw.extend_from_slice(body);
    raw
}

/// The trait that S3 has in every answer.
pub(super) const ID: &str = "x-amz-request-id: REQ1";

/// An error document of S3.
pub(super) fn error(status: u16, code: &str) -> Vec<u8> {
    reply(
        status,
        &[ID, "content-type: application/xml"],
        document(code, ""),
    )
}

pub(super) fn document(code: &str, more: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>the message</Message>{more}</Error>")
}

/// What S3 answers when all is well, by kind of request.
pub(super) fn good(request: &Request) -> Vec<u8> {
    let xml = |xml: &str| reply(200, &[ID], format!("<?xml version=\"1.0\"?>{xml}"));
    let etag = r#"etag: "e1""#;
    match request.method.as_str() {
        "POST" if request.target.contains("?delete") => {
            let body = request.text();
            let keys = body.split("<Key>").skip(1);
            let keys = keys.filter_map(|rest| rest.split_once("</Key>"));
            let keys: String = keys
                .map(|(key, _)| format!("<Deleted><Key>{key}</Key></Deleted>"))
                .collect();
            xml(&format!("<DeleteResult>{keys}</DeleteResult>"))
        }
        "GET" if request.target.contains("list-type=2") => {
            xml("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        }
        "PUT" if request.header("x-amz-copy-source").is_some() => {
            xml("<CopyObjectResult><ETag>\"e1\"</ETag></CopyObjectResult>")
        }
        "HEAD" => reply(200, &[ID, etag, "content-length: 5"], ""),
        "GET" if request.header("range").is_some() => {
            reply(206, &[ID, etag, "content-range: bytes 0-0/5"], "h")
        }
        "GET" => reply(200, &[ID, etag], "hello"),
        "DELETE" => reply(204, &[ID], ""),
        _ => reply(200, &[ID, etag], ""),
    }
}

/// A storage whose S3 is the test.
pub(super) struct Wire {
    pub(super) storage: Storage,
    pub(super) metrics: Arc<Metrics>,
    seen: Arc<Mutex<Vec<Request>>>,
    /// For the context: circuit, slots.
    stage: Stage,
}

impl Wire {
    /// Answers each request with the bytes that `answer` makes of it and of its number, from 0.
    pub(super) async fn new(
        answer: impl Fn(&Request, usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::with(|_| {}, answer).await
    }

    pub(super) async fn with(
        change: impl FnOnce(&mut StorageSettings),
        answer: impl Fn(&Request, usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, noted) = (Arc::new(answer), Arc::clone(&seen));
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
                tokio::spawn(async move { serve(stream, &*answer, &noted).await });
            }
        });
        let mut settings = StorageSettings {
            endpoint: Some(format!("http://{address}")),
            region: Some("us-east-1".to_owned()),
            credentials: keys(),
            ..settings()
        };
        change(&mut settings);
        // As the worker's, but without looking for the system's authorities.
        let http = aws_smithy_http_client::Builder::new().build_http();
        let clients = Clients::from_shared(&shared(keys()), &settings, http);
        let metrics = Arc::new(Metrics::try_new(50).unwrap());
        Self {
            storage: Storage::new(clients, Arc::clone(&metrics), || 0.5, uploads()).with_places(
                temporary_files(),
                Roots::new("none", vec![std::env::temp_dir()]),
            ),
            metrics,
            seen,
            stage: Stage::new([]),
        }
    }

    pub(super) fn context(&self) -> CallContext {
        CallContext {
            retry: RetryPolicy {
                max_attempts: 3,
                base_delay: std::time::Duration::from_millis(1),
                multiplier: 1.0,
                jitter: 0.0,
            },
            calls: Arc::new(AtomicU32::new(0)),
            ..self.stage.context()
        }
    }

    pub(super) async fn run(&self, operation: Operation) -> Result<Done, Stop> {
        self.storage.run(&job(operation), &self.context()).await
    }

    /// The same for a job of that name.
    pub(super) async fn run_as(&self, id: &str, operation: Operation) -> Result<Done, Stop> {
        let id = JobId::parse(id).unwrap();
        let job = Job {
            id,
            ..job(operation)
        };
        self.storage.run(&job, &self.context()).await
    }

    pub(super) async fn failure(&self, operation: Operation) -> Failure {
        match self.run(operation).await {
            Err(Stop::Failed(failure)) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    /// The same for a job without a circuit.
    pub(super) async fn failure_beside(&self, operation: Operation) -> Failure {
        let context = CallContext {
            breaker: None,
            ..self.context()
        };
        match self.storage.run(&job(operation), &context).await {
            Err(Stop::Failed(failure)) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    /// What the circuit has heard.
    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.stage.breaker.snapshot().consecutive_failures
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.is(method, part))
            .count()
    }

    /// Calls of that class in `brigade_s3_attempt_duration_seconds`.
    pub(super) fn attempts(&self, call: &str, class: FailureClass) -> u64 {
        let labels = [call, class.as_str()];
        self.metrics
            .s3_attempt_duration
            .with_label_values(&labels)
            .get_sample_count()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Request, usize) -> Vec<u8> + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await {
        let raw = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            let number = seen.len() - 1;
            drop(seen);
            answer(&request, number)
        };
        if stream.write_all(&raw).await.is_err() {
            return;
        }
    }
}

/// The next request of a connection; none when it is closed.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|it| it == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut request = Request {
        head,
        ..Request::default()
    };
    let length: usize = request
        .header("content-length")
        .map_or(0, |it| it.parse().unwrap());
    while buffer.len() < end + 4 + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = buffer[end + 4..end + 4 + length].to_vec();
    buffer.drain(..end + 4 + length);
    let mut line = request.head.split(' ');
    request.method = line.next()?.to_owned();
    request.target = line.next()?.to_owned();
    Some(request)
}
