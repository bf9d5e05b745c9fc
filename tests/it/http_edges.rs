//! The worker's HTTP server towards callers that are many, slow, large or nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bucket_brigade::{
    broker::{
        Broker, BrokerError, BrokerStatus, Names, PublishError, Subscription, Target,
        memory::MemoryBroker,
    },
    http::{HttpServer, client},
    job::{Lane, Message},
    metrics::Metrics,
    worker::{Worker, storage_settings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use crate::stage::{self, Stage};

const SOON: Duration = Duration::from_secs(20);
/// Longer than the server waits for a request's head or body.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker that counts how often its queues are looked at.
#[derive(Debug)]
struct Counted {
    broker: Arc<dyn Broker>,
    looks: AtomicUsize,
    /// How long a look takes.
    delay: Duration,
}

#[async_trait]
impl Broker for Counted {
    async fn subscribe(
        &self,
        lane: Lane,
        prefetch: u16,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        self.broker.subscribe(lane, prefetch).await
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        self.broker.publish(target, message).await
    }

    fn names(&self) -> &Names {
        self.broker.names()
    }

    async fn queue_ready(&self, lane: Lane) -> Option<u32> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        self.broker.queue_ready(lane).await
    }

    async fn queue_parked(&self, lane: Lane) -> Option<u32> {
        self.broker.queue_parked(lane).await
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.broker.status()
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}

async fn served(stage: &Stage) -> (Worker, HttpServer) {
    let worker = stage.worker().await;
    let listen = ([127, 0, 0, 1], 0).into();
    let http = HttpServer::start(listen, worker.view().clone()).await;
    (worker, http.unwrap())
}

/// Sends `request` as it is, keeps its own side open, and reads what comes until the server closes, or `patience` ends.
async fn exchange(at: &str, request: &str, patience: Duration) -> (String, bool) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(patience, stream.read_to_end(&mut answer))
        .await
        .is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// The first line of the answer, as soon as it is there.
async fn first_line(at: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 32];
    let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await;
    let read = read.unwrap_or(Ok(0)).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read])
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Looks at the queues while `/api/status` is asked for, `rounds` times twenty at a time; and how long that took.
async fn looks(delay: Duration, rounds: usize) -> (usize, Duration) {
    let stage = Stage::new().await;
    let settings = stage.settings();
    let broker = Arc::new(Counted {
        broker: Arc::new(MemoryBroker::new(&stage.prefix)),
        looks: AtomicUsize::new(0),
        delay,
    });
    let metrics = Arc::new(Metrics::try_new(50).unwrap());
    let mut storage = storage_settings(&settings);
    storage.credentials = Some(stage.s3.credentials());
    let shared: Arc<dyn Broker> = broker.clone();
    let worker = Worker::start_on(shared, &settings, &Lane::ALL, metrics, storage).await;
    let worker = worker.unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let http = HttpServer::start(listen, worker.view().clone())
        .await
        .unwrap();
    let at = http.address().to_string();
    let ask = async || {
        let status = client::get(&at, "/api/status", PATIENCE).await.unwrap();
        let ready = &status.json()["lanes"]["read"]["queue_ready"];
        assert_eq!((status.code, ready), (200, &0.into()));
    };
    broker.looks.store(0, Ordering::SeqCst);
    let began = Instant::now();
    for _ in 0..rounds {
        futures_util::future::join_all((0..20).map(|_| ask())).await;
    }
    let took = began.elapsed();
    let looks = broker.looks.load(Ordering::SeqCst);
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
    (looks, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_callers_of_the_status_share_one_look_at_the_queues_a_second() {
    let (looks, took) = looks(Duration::ZERO, 5).await;
    let most = 3 * (2 + usize::try_from(took.as_secs()).unwrap());
    assert!(looks <= most, "{looks} looks for 100 calls in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_wait_for_a_slow_look_share_it() {
    let (looks, took) = looks(Duration::from_millis(1500), 1).await;
    assert!(
        looks <= 6,
        "{looks} looks of 1.5 s for 20 callers at once, in {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_a_request_is_hung_up_on() {
    let stage = Stage::new().await.set("http.admin_token", "letmein");
    let (worker, http) = served(&stage).await;
    let at = http.address().to_string();
    let post = "POST /api/circuits/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer letmein\r\n";
    let silent = exchange(&at, "", PATIENCE);
    let half_a_head = exchange(&at, "GET /livez HTTP/1.1\r\nHost: x\r\n", PATIENCE);
    let request = format!("{post}Content-Length: 10\r\n\r\n{{");
    let half_a_body = exchange(&at, &request, PATIENCE);
    let idle = exchange(&at, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", PATIENCE);
    let (silent, head, body, idle) = tokio::join!(silent, half_a_head, half_a_body, idle);
    for (what, (answer, closed)) in [
        ("silent", silent),
        ("head", head),
        ("body", body),
        ("idle", idle),
    ] {
        assert!(
            closed,
            "{what}: still connected after {PATIENCE:?}: {answer}"
        );
    }
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_connections_holds_a_bounded_number_and_locks_nobody_out() {
    let stage = Stage::new().await;
    let (worker, http) = served(&stage).await;
    let at = http.address().to_string();
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(&at).await.unwrap());
        // The newest caller is always served.
        if held.len() % 50 == 0 {
            assert_eq!(client::get(&at, "/livez", SOON).await.unwrap().code, 200);
        }
    }
    let mut first = held.swap_remove(0);
    let mut byte = [0];
    let end = tokio::time::timeout(SOON, first.read(&mut byte)).await;
    assert!(
        matches!(end, Ok(Ok(0) | Err(_))),
        "the oldest of 200 connections still stands"
    );
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_counts_before_its_token() {
    let stage = Stage::new().await.set("http.admin_token", "letmein");
    let (worker, http) = served(&stage).await;
    let at = http.address().to_string();
    let request = |method: &str, path: &str, token: &str, more: &str| {
        format!(
            "{method} /api/circuits/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n{more}\r\n"
        )
    };
    let large = "Content-Length: 100000000\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (method, path, token, more, code) in [
        // The body is announced, and never sent.
        ("POST", "upload", "Bearer guess", large, 401),
        ("POST", "upload", "Bearer guess", chunked, 401),
        (
            "POST",
            "upload",
            "Basic letmein",
            "Content-Length: 0\r\n",
            401,
        ),
        (
            "POST",
            "upload",
            "Bearer letmein2",
            "Content-Length: 0\r\n",
            401,
        ),
        ("POST", "%ff", "Bearer guess", "Content-Length: 0\r\n", 401),
        ("GET", "upload", "Bearer guess", "", 401),
        ("POST", "upload", "Bearer letmein", large, 413),
        (
            "POST",
            "sideways",
            "Bearer letmein",
            "Content-Length: 0\r\n",
            404,
        ),
        (
            "POST",
            "%ff",
            "Bearer letmein",
            "Content-Length: 0\r\n",
            404,
        ),
        ("GET", "upload", "Bearer letmein", "", 405),
    ] {
        let line = first_line(&at, &request(method, path, token, more)).await;
        assert!(
            line.starts_with(&format!("HTTP/1.1 {code} ")),
            "{method} {path} {token} {more:?}: {line}"
        );
    }
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}
