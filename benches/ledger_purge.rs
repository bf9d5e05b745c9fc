//! Does the ledger forget jobs as fast as they end, and without slowing claims down?
//!
//! Claims and completes jobs at a steady rate through a [`LedgerWriter`], on SQLite, and on PostgreSQL when
//! `BRIGADE_TEST_POSTGRES_URL` names a server, directly and, when `BRIGADE_TEST_PGBOUNCER_URL` names one, through
//! PgBouncer. First for a while with a short retention: rows and bytes must stay flat once the retention has passed.
//! Then in many short windows, in turn with that retention and with one that purges nothing, on the same table: what
//! a claim takes, without a purge against with one. What was not purged in between goes before the next window, unmeasured.
//!
//! ```sh
//! scripts/postgres run -- cargo bench --bench ledger_purge -- [--seconds 300] [--retention 60] [--rate 5000] \
//!     [--windows 12] [--only sqlite|postgres|pgbouncer]
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bucket_brigade::{
    job::{AttemptLog, JobId, Lane, OperationName, RequestDigest, State, Timestamp},
    ledger::{
        self, Claim, ClaimRequest, Ending, Ledger,
        writer::{LedgerWriter, WriterSettings},
    },
    metrics::Metrics,
    worker::new_owner,
};
use sqlx::{ConnectOptions, Connection};
use tokio::{task::JoinSet, time::Instant};

/// How often a share of the rate is started.
const TICK: Duration = Duration::from_millis(10);
const WINDOW: Duration = Duration::from_secs(5);
/// The bounds: rows at the end against rows when the retention had passed, and the ratio of claims.
const FLAT: f64 = 1.1;
const NO_SLOWER: f64 = 0.95;
const IN_FLIGHT: usize = 256;
const FOR_EVER: Duration = Duration::from_secs(14 * 86_400);

struct Arguments {
    seconds: u64,
    retention: Duration,
    rate: u64,
    windows: u64,
    only: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let text = |name: &str| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments.nth(1)
    };
    let number = |name: &str, default: u64| match text(name) {
        Some(text) => text.parse().with_context(|| format!("{name} {text}")),
        None => Ok(default),
    };
    let arguments = Arguments {
        seconds: number("--seconds", 300)?,
        retention: Duration::from_secs(number("--retention", 60)?),
        rate: number("--rate", 5_000)?,
        windows: number("--windows", 12)?,
        only: text("--only"),
    };
    let folder = tempfile::tempdir()?;
    let variable = |name: &str| {
        std::env::vars()
            .find(|(known, _)| known == name)
            .map(|(_, it)| it)
    };
    let databases = [
        (
            "sqlite",
            Some(format!(
                "sqlite://{}",
                folder.path().join("ledger.db").display()
            )),
        ),
        ("postgres", variable("BRIGADE_TEST_POSTGRES_URL")),
        ("pgbouncer", variable("BRIGADE_TEST_PGBOUNCER_URL")),
    ];
    let mut within = true;
    for (name, url) in databases {
        if arguments.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        match url {
            Some(url) => within &= bench(name, &url, &arguments).await?,
            None => println!("{name}: not measured, no server is named"),
        }
    }
    anyhow::ensure!(within, "a bound was not kept");
    Ok(())
}

async fn bench(name: &str, url: &str, arguments: &Arguments) -> anyhow::Result<bool> {
    ledger::migrate(url).await?;
    let flat = stays_flat(name, url, arguments).await?;
    let ratio = claims(name, url, arguments).await?;
    let (_ledger, writer) = writer(url, arguments.retention).await?;
    let rate = flood(&writer).await?;
    println!("{name}: {rate:.0} jobs/s with {IN_FLIGHT} in flight");
    writer.close().await;
    Ok(flat && ratio >= NO_SLOWER)
}

async fn writer(url: &str, retention: Duration) -> anyhow::Result<(Arc<dyn Ledger>, LedgerWriter)> {
    let ledger = ledger::open(url, new_owner(), Duration::from_secs(15)).await?;
    let settings = WriterSettings {
        retention,
        ..WriterSettings::default()
    };
    let metrics = Arc::new(Metrics::try_new(1)?);
    let writer = LedgerWriter::start(Arc::clone(&ledger), settings, metrics);
    Ok((ledger, writer))
}

async fn stays_flat(name: &str, url: &str, arguments: &Arguments) -> anyhow::Result<bool> {
    let (ledger, writer) = writer(url, arguments.retention).await?;
    let began = Instant::now();
    let total = Duration::from_secs(arguments.seconds);
    let mut after_retention = None;
    let mut finished = 0;
    while began.elapsed() < total {
        let mut load = load(&writer, arguments.rate, WINDOW).await?;
        finished += load.finished;
        let rows = rows(&ledger).await?;
        if began.elapsed() >= arguments.retention + WINDOW && after_retention.is_none() {
            after_retention = Some(rows);
        }
        println!(
            "{name}: {:>4.0} s, {rows} rows, {} MiB; {:.0} jobs/s, a claim {:.1} ms, 99 % within {:.1} ms",
            began.elapsed().as_secs_f64(),
            bytes(url).await? >> 20,
            load.finished as f64 / WINDOW.as_secs_f64(),
            load.mean() * 1e3,
            load.at(0.99) * 1e3,
        );
    }
    writer.close().await;
    let rate = finished as f64 / began.elapsed().as_secs_f64();
    let last = rows(&ledger).await? as f64;
    let growth = last / after_retention.context("--seconds is no longer than --retention")? as f64;
    println!(
        "{name}: {rate:.0} jobs/s finished; rows at the end against rows after the retention: {growth:.2}"
    );
    Ok(growth <= FLAT)
}

async fn claims(name: &str, url: &str, arguments: &Arguments) -> anyhow::Result<f64> {
    let (mut ratios, mut with, mut without) = (Vec::new(), 0.0, 0.0);
    for window in 0..arguments.windows {
        let mut means = [0.0; 2];
        // In turn, so that neither is always first.
        for turn in 0..2 {
            let purges = (window + turn) % 2 == 0;
            let retention = if purges {
                arguments.retention
            } else {
                FOR_EVER
            };
            let (ledger, writer) = writer(url, retention).await?;
            while ledger.purge(arguments.retention, 1_000).await? > 0 {}
            // Until the purger is under way.
            load(&writer, arguments.rate, Duration::from_secs(2)).await?;
            means[usize::from(purges)] = load(&writer, arguments.rate, WINDOW).await?.mean();
            writer.close().await;
        }
        ratios.push(means[0] / means[1]);
        without += means[0];
        with += means[1];
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let count = arguments.windows as f64;
    println!(
        "{name}: a claim takes {:.2} ms with a purge, {:.2} ms without; ratio {median:.2} (median of {count}, {:.2} to {:.2})",
        with / count * 1e3,
        without / count * 1e3,
        ratios[0],
        ratios[ratios.len() - 1],
    );
    Ok(median)
}

/// What the claims of a while took, in seconds.
#[derive(Default)]
struct Load {
    finished: u64,
    claims: Vec<f64>,
}

impl Load {
    fn mean(&self) -> f64 {
        self.claims.iter().sum::<f64>() / self.claims.len().max(1) as f64
    }

    fn at(&mut self, share: f64) -> f64 {
        self.claims.sort_by(f64::total_cmp);
        let last = self.claims.len().saturating_sub(1);
        self.claims
            .get((last as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    }
}

/// Starts jobs at that rate, whether or not those before have ended, and waits for all.
async fn load(writer: &LedgerWriter, rate: u64, time: Duration) -> anyhow::Result<Load> {
    let began = Instant::now();
    let mut jobs = JoinSet::new();
    let mut load = Load::default();
    let mut started = 0;
    let mut tick = tokio::time::interval(TICK);
    while began.elapsed() < time {
        tick.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while started < due {
            started += 1;
            jobs.spawn(run(writer.clone()));
        }
        while let Some(claim) = jobs.try_join_next() {
            load.claims.push(claim??);
        }
    }
    while let Some(claim) = jobs.join_next().await {
        load.claims.push(claim??);
    }
    load.finished = load.claims.len() as u64;
    Ok(load)
}

/// How many jobs a second the ledger takes when there are always enough of them.
async fn flood(writer: &LedgerWriter) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut jobs = JoinSet::new();
    let mut finished = 0;
    for _ in 0..IN_FLIGHT {
        jobs.spawn(run(writer.clone()));
    }
    while let Some(job) = jobs.join_next().await {
        job??;
        finished += 1;
        if began.elapsed() < WINDOW {
            jobs.spawn(run(writer.clone()));
        }
    }
    Ok(f64::from(finished) / began.elapsed().as_secs_f64())
}

/// Claims a job and completes it; says how long the claim took.
async fn run(writer: LedgerWriter) -> anyhow::Result<f64> {
    let name = format!("{:032x}", fastrand::u128(..));
    let id = JobId::parse(&name).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let request = ClaimRequest {
        id: id.clone(),
        lane: Lane::Upload,
        operation: OperationName::PutObject,
        bucket: "bucket".to_owned(),
        key: Some(format!("reports/2026/{name}.json")),
        enqueued_at: Timestamp::now(),
        replay: 0,
        replayed_at: None,
        attempts: 0,
        parks: 0,
        digest: RequestDigest::from_bytes(&fastrand::u128(..).to_le_bytes()).context("16 bytes")?,
        ignored: Vec::new(),
    };
    let began = Instant::now();
    let Claim::Taken(taken) = writer.claim(request).await? else {
        anyhow::bail!("{name} is not new");
    };
    let took = began.elapsed().as_secs_f64();
    let ending = Ending {
        id,
        fence: taken.fence,
        state: State::Completed,
        attempts: 1,
        parks: 0,
        panics: 0,
        failure: None,
        result: Some(
            serde_json::json!({"etag": "\"d41d8cd98f00b204e9800998ecf8427e\"", "size": 1024}),
        ),
        failed: AttemptLog::default(),
    };
    writer.commit(ending).await?;
    Ok(took)
}

async fn rows(ledger: &Arc<dyn Ledger>) -> anyhow::Result<u64> {
    Ok(ledger.stats().await?.iter().map(|row| row.count).sum())
}

/// Of the table with its indexes, or of the file.
async fn bytes(url: &str) -> anyhow::Result<u64> {
    if let Some(file) = url.strip_prefix("sqlite://") {
        return Ok(std::fs::metadata(file)?.len());
    }
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    let mut connection = options.extra_float_digits(None).connect().await?;
    let size = sqlx::raw_sql("select pg_total_relation_size('jobs')::text");
    let size = size.fetch_one(&mut connection).await?;
    let size: &str = sqlx::Row::try_get(&size, 0)?;
    connection.close().await?;
    Ok(size.parse()?)
}
