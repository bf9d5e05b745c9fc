//! Does a lane find its concurrency? The upload lane with `adaptive` on beside fixed settings, on stores of this program's own.
//!
//! * A thin line: the store reads 1 MiB/s over all connections; 100 puts of 512 KiB, default settings.
//! * Stores that answer after 2, 20 and 200 ms; puts of 1 KiB, as many as are done in 20 seconds, at most 512 at a time.
//! * A store that answers 503 `SlowDown` above 500 puts a second.
//!
//! A real worker process works on the broker of `AMQP_URL` with a SQLite ledger. Store, broker and this program share the
//! machine's cores with it, so rates are worth something only beside each other.
//!
//! ```sh
//! scripts/rabbitmq run -- cargo bench --bench adaptive
//! scripts/rabbitmq run -- cargo bench --bench adaptive -- --thin-line
//! ```

mod rig;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bucket_brigade::job::{
    Operation,
    operation::{PutObject, PutOptions},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rig::{Rig, amqp_url, number};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, OnceCell},
    task::JoinSet,
    time::Instant,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// No worker is faster on the machines that this was run on.
const MOST_A_SECOND: u64 = 6_000;

/// A store, which answers every put.
struct Store {
    /// Bytes a second, over all connections.
    line: Option<usize>,
    latency: Duration,
    /// Puts a second; what is more is throttled.
    rate: Option<f64>,
    turn: Mutex<()>,
    tokens: Mutex<(Instant, f64)>,
    first: OnceCell<Instant>,
    stored: AtomicU64,
    throttled: AtomicU64,
}

impl Store {
    fn new(line: Option<usize>, latency_ms: u64, rate: Option<f64>) -> Arc<Self> {
        Arc::new(Self {
            line,
            latency: Duration::from_millis(latency_ms),
            rate,
            turn: Mutex::default(),
            tokens: Mutex::new((Instant::now(), 0.0)),
            first: OnceCell::new(),
            stored: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        })
    }

    /// Its address, and what serves it until it is dropped.
    async fn listen(self: &Arc<Self>) -> anyhow::Result<(SocketAddr, JoinSet<()>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let store = Arc::clone(self);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_nodelay(true));
                let store = Arc::clone(&store);
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let store = Arc::clone(&store);
                        async move { Ok::<_, Infallible>(store.answer(request).await) }
                    });
                    let io = TokioIo::new(stream);
                    drop(http1::Builder::new().serve_connection(io, service).await);
                });
            }
        });
        Ok((address, server))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.first.get_or_init(|| async { Instant::now() }).await;
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            if let (Some(data), Some(line)) = (frame.data_ref(), self.line) {
                self.carry(data.len(), line).await;
            }
        }
        tokio::time::sleep(self.latency).await;
        let answer = Response::builder().header("x-amz-request-id", "BENCH");
        let answer = match self.may_store().await {
            true => {
                self.stored.fetch_add(1, Ordering::Relaxed);
                answer.header("etag", "\"bench\"").body(Full::default())
            }
            false => {
                self.throttled.fetch_add(1, Ordering::Relaxed);
                let xml = "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";
                answer.status(503).body(Full::from(xml))
            }
        };
        answer.unwrap_or_default()
    }

    async fn carry(&self, bytes: usize, line: usize) {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(16 * KIB);
            let _turn = self.turn.lock().await;
            tokio::time::sleep(Duration::from_secs_f64(piece as f64 / line as f64)).await;
            left -= piece;
        }
    }

    async fn may_store(&self) -> bool {
        let Some(rate) = self.rate else { return true };
        let mut tokens = self.tokens.lock().await;
        let now = Instant::now();
        let filled = tokens.1 + now.duration_since(tokens.0).as_secs_f64() * rate;
        *tokens = (now, filled.min(rate / 10.0));
        let may = tokens.1 >= 1.0;
        if may {
            tokens.1 -= 1.0;
        }
        may
    }
}

/// How many calls at a time the lane may make.
#[derive(Clone, Copy)]
enum Setting {
    Fixed(usize),
    UpTo(usize),
}

impl Setting {
    fn name(self) -> String {
        match self {
            Self::Fixed(count) => format!("fixed {count}"),
            Self::UpTo(most) => format!("adaptive, at most {most}"),
        }
    }

    fn variables(self) -> [(&'static str, String); 3] {
        let (count, adaptive) = match self {
            Self::Fixed(count) => (count, "false"),
            Self::UpTo(most) => (most, "true"),
        };
        [
            ("BRIGADE_LANES__UPLOAD__CONCURRENCY", count.to_string()),
            ("BRIGADE_LANES__UPLOAD__ADAPTIVE", adaptive.to_owned()),
            (
                "BRIGADE_LANES__UPLOAD__PREFETCH",
                (2 * count).max(128).to_string(),
            ),
        ]
    }
}

/// What one run came to.
struct Measured {
    stored: u64,
    throttled: u64,
    seconds: f64,
    /// Processor time of the worker, in seconds.
    cpu: f64,
    openings: f64,
    parked: f64,
    limit: f64,
}

/// Lets a worker work until so many are stored, or for so long from its first put on.
async fn run(
    rig: &Rig,
    store: Arc<Store>,
    setting: Setting,
    jobs: u64,
    most: Duration,
) -> anyhow::Result<Measured> {
    let (address, _server) = store.listen().await?;
    let http = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut variables = vec![
        ("BRIGADE_S3__ENDPOINT", format!("http://{address}")),
        ("BRIGADE_HTTP__LISTEN", http.to_string()),
    ];
    variables.extend(setting.variables());
    let worker = rig.worker(&variables).await?;
    let starting = Instant::now();
    let began = loop {
        match store.first.get() {
            Some(first) => break *first,
            None if starting.elapsed() > Duration::from_secs(60) => {
                anyhow::bail!("no put comes")
            }
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    while store.stored.load(Ordering::Relaxed) < jobs && began.elapsed() < most {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (stored, throttled) = (
        store.stored.load(Ordering::Relaxed),
        store.throttled.load(Ordering::Relaxed),
    );
    let seconds = began.elapsed().as_secs_f64();
    let (cpu, _) = worker.usage()?;
    let page = metrics(http).await?;
    let sum = |name: &str, label: &str| -> f64 {
        let rows = page
            .lines()
            .filter(|row| row.starts_with(name) && row.contains(label));
        rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    let measured = Measured {
        stored,
        throttled,
        seconds,
        cpu,
        openings: sum("brigade_circuit_transitions_total", "to=\"open\""),
        parked: sum("brigade_parked_total", "lane=\"upload\""),
        limit: sum("brigade_lane_concurrency_limit", "lane=\"upload\""),
    };
    drop(worker);
    Ok(measured)
}

async fn metrics(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
        .await?;
    let mut page = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut page)).await??;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn puts(count: usize, size: usize) -> impl Iterator<Item = Operation> {
    let body = Bytes::from(vec![b'x'; size]);
    (0..count).map(move |n| {
        Operation::PutObject(PutObject {
            bucket: "bench".to_owned(),
            key: format!("k{n}"),
            body: body.clone(),
            options: PutOptions::default(),
        })
    })
}

/// A hundred puts over a thin line: a queue of its own each time.
async fn thin_line(url: &str) -> anyhow::Result<()> {
    println!("\n100 puts of 512 KiB over 1 MiB/s\n");
    println!(
        "| setting | stored | seconds | openings | parked | limit at the end |\n|---|---|---|---|---|---|"
    );
    let fixed = [8, 64, 512].map(Setting::Fixed);
    for setting in [Setting::UpTo(64)].into_iter().chain(fixed) {
        let rig = Rig::start(url).await?;
        rig.publish(puts(100, 512 * KIB)).await?;
        let store = Store::new(Some(MIB), 2, None);
        let most = Duration::from_secs(110);
        let it = run(&rig, store, setting, 100, most).await?;
        println!(
            "| {} | {} | {:.0} | {} | {} | {} |",
            setting.name(),
            it.stored,
            it.seconds,
            it.openings,
            it.parked,
            it.limit
        );
        rig.close().await?;
    }
    Ok(())
}

/// The same time for each setting, on one queue that never runs dry.
async fn in_the_same_time(
    rig: &Rig,
    store: impl Fn() -> Arc<Store>,
    seconds: u64,
) -> anyhow::Result<()> {
    println!(
        "| setting | puts/s | throttled | CPU a put | openings | parked | limit at the end |\n|---|---|---|---|---|---|---|"
    );
    let mut waiting = 0;
    let fixed = [8, 64, 512].map(Setting::Fixed);
    for setting in [Setting::UpTo(512)].into_iter().chain(fixed) {
        let wanted = MOST_A_SECOND * seconds;
        rig.publish(puts(usize::try_from(wanted.saturating_sub(waiting))?, KIB))
            .await?;
        waiting = waiting.max(wanted);
        let most = Duration::from_secs(seconds);
        let it = run(rig, store(), setting, u64::MAX, most).await?;
        anyhow::ensure!(it.stored < waiting, "the queue ran dry");
        waiting -= it.stored;
        let throttled = it.throttled as f64 / (it.stored + it.throttled) as f64;
        println!(
            "| {} | {:.0} | {:.2} % | {:.0} us | {} | {} | {} |",
            setting.name(),
            it.stored as f64 / it.seconds,
            throttled * 100.0,
            it.cpu * 1e6 / it.stored as f64,
            it.openings,
            it.parked,
            it.limit
        );
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = amqp_url()?;
    let seconds = number("seconds", 20)? as u64;
    // The line needs two minutes a setting, and hardly a processor.
    if std::env::args().any(|argument| argument == "--thin-line") {
        return thin_line(&url).await;
    }
    for latency in [2, 20, 200] {
        println!("\nA store that answers after {latency} ms\n");
        let rig = Rig::start(&url).await?;
        let store = || Store::new(None, latency, None);
        in_the_same_time(&rig, store, seconds)
            .await
            .with_context(|| format!("{latency} ms"))?;
        rig.close().await?;
    }
    println!("\nA store that throttles above 500 puts a second, 10 ms\n");
    let rig = Rig::start(&url).await?;
    let store = || Store::new(None, 10, Some(500.0));
    in_the_same_time(&rig, store, seconds).await?;
    rig.close().await
}
