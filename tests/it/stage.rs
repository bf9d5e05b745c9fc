//! One test's stage: a prefix of its own on the real broker, an embedded S3 with faults, a ledger file,
//! workers in this process or as real processes, and the total-queue check that closes every fault test.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bucket_brigade::{
    broker::{
        Target,
        rabbitmq::{Producer, topology},
    },
    config::{self, Settings, Sources},
    dev::s3_server::{S3Operation, S3Server},
    job::{Circuit, JobId, Lane, Message, State, Timestamp, outcome::ParkDelay},
    lane::LaneState,
    ledger::{self, JobFilter, JobRecord, Ledger},
    resilience::CircuitBreaker,
    storage::StorageSettings,
    worker::{Worker, new_owner, storage_settings},
};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use sqlx::{ConnectOptions, Executor};

pub(crate) use crate::messages::*;
use crate::{proxy::Proxy, rabbit::Rabbit};

/// No condition of a test is waited for longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
pub(crate) struct Stage {
    pub(crate) s3: S3Server,
    pub(crate) rabbit: Rabbit,
    pub(crate) prefix: String,
    pub(crate) published: BTreeSet<String>,
    pub(crate) directory: tempfile::TempDir,
    extra: Vec<(String, String)>,
}

/// Where every published job is at the end of a test.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) completed: usize,
    pub(crate) dead: usize,
    pub(crate) queued: usize,
    /// Neither: this is what must never happen.
    pub(crate) lost: Vec<String>,
}

impl Stage {
    /// A stage on the shared broker, with bucket `b` and quick retries.
    pub(crate) async fn new() -> Self {
        Self::on(Rabbit::shared()).await
    }

    /// A stage on a broker of its own.
    pub(crate) async fn on(rabbit: Rabbit) -> Self {
        // Shown for a test that fails; the first test installs it for all.
        let log = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter("warn,bucket_brigade=info,s3s=off");
        drop(log.try_init());
        let directory = tempfile::tempdir().unwrap();
        let s3 = S3Server::start().await.unwrap();
        s3.create_bucket("b");
        Self {
            s3,
            rabbit,
            prefix: format!("test-{:016x}", fastrand::u64(..)),
            published: BTreeSet::new(),
            directory,
            extra: Vec::new(),
        }
    }

    /// The ledger is a schema of its own on the PostgreSQL server of `make test`.
    pub(crate) async fn on_postgres(self) -> Self {
        let server = std::env::var("BRIGADE_TEST_POSTGRES_URL");
        let server = server.expect("BRIGADE_TEST_POSTGRES_URL is not set: run the tests with `make test`, or with `scripts/postgres run -- cargo test`");
        let schema = self.prefix.replace('-', "_");
        let options: sqlx::postgres::PgConnectOptions = server.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("create schema {schema}"));
        connection.execute(create).await.unwrap();
        let mark = if server.contains('?') { '&' } else { '?' };
        self.set(
            "ledger.url",
            &format!("{server}{mark}options[search_path]={schema}"),
        )
    }

    /// Adds a setting for workers that start from here on.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.extra.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same with a proxy between the worker and the broker; publishing and looking go past it.
    pub(crate) async fn behind_a_proxy(self) -> (Self, Proxy) {
        let url = self.rabbit.url.clone();
        let address = url.split(['@', '/']).nth(3).unwrap();
        let proxy = Proxy::to(address.to_owned()).await;
        let through = url.replace(address, &proxy.address);
        (self.set("amqp.url", &through), proxy)
    }

    /// The settings of this stage as pairs.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let ledger = self.directory.path().join("ledger.db");
        let own = [
            ("amqp.url", self.rabbit.url.clone()),
            ("amqp.prefix", self.prefix.clone()),
            ("ledger.url", format!("sqlite://{}", ledger.display())),
            ("s3.endpoint", self.s3.endpoint()),
            ("s3.region", "us-east-1".to_owned()),
            ("retry.base_delay", "20ms".to_owned()),
            ("circuit.open_base", "300ms".to_owned()),
            ("circuit.open_max", "1s".to_owned()),
            ("http.listen", "127.0.0.1:0".to_owned()),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        own.chain(self.extra.clone()).collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        let sources = Sources {
            file: None,
            env: Vec::new(),
            flags: self.pairs(),
        };
        config::load(&sources).unwrap().settings
    }

    /// A worker in this process, on all lanes.
    pub(crate) async fn worker(&self) -> Worker {
        self.worker_with(|_| {}).await
    }

    /// The same with S3 reached in another way.
    pub(crate) async fn worker_with(&self, change: impl FnOnce(&mut StorageSettings)) -> Worker {
        let settings = self.settings();
        let mut storage = storage_settings(&settings);
        storage.credentials = Some(self.s3.credentials());
        change(&mut storage);
        Worker::start_with_storage(&settings, &Lane::ALL, storage)
            .await
            .unwrap()
    }

    /// Publishes a message by that lane's key.
    pub(crate) async fn publish(&mut self, lane: Lane, message: Message) {
        self.published.extend(message.message_id.clone());
        let producer = self.producer().await;
        eventually("the lane's queue takes a job", async || {
            producer.publish(&Target::Jobs(lane), &message).await.ok()
        })
        .await;
    }

    /// Publishes many jobs of a lane, sixteen at a time.
    pub(crate) async fn publish_all(&mut self, lane: Lane, messages: Vec<Message>) {
        let producer = &self.producer().await;
        self.published.extend(
            messages
                .iter()
                .filter_map(|message| message.message_id.clone()),
        );
        futures_util::stream::iter(messages)
            .for_each_concurrent(16, |message| async move {
                eventually("the lane's queue takes a job", async || {
                    producer.publish(&Target::Jobs(lane), &message).await.ok()
                })
                .await;
            })
            .await;
    }

    pub(crate) async fn producer(&self) -> Producer {
        let settings = self.settings();
        Producer::connect(&settings.amqp.url, &self.prefix, Duration::from_secs(10))
            .await
            .unwrap()
    }

    /// Declares the topology without a worker, so that jobs can be queued before one starts.
    pub(crate) async fn declare(&self) {
        let settings = self.settings();
        let url = &settings.amqp.url;
        topology::apply(url, &self.prefix).await.unwrap();
    }

    /// Publishes a job and waits for its answer.
    pub(crate) async fn request(&self, lane: Lane, message: Message) -> Message {
        let producer = self.producer().await;
        producer
            .request(&Target::Jobs(lane), &message, PATIENCE)
            .await
            .unwrap()
    }

    /// Waits until every lane of the worker takes deliveries.
    pub(crate) async fn until_consuming(&self, worker: &Worker) {
        for lane in &worker.view().lanes {
            let mut states = lane.status.subscribe();
            let consuming = states.wait_for(|state| *state == LaneState::Consuming);
            tokio::time::timeout(PATIENCE, consuming)
                .await
                .expect("the lane consumes")
                .unwrap();
        }
    }

    /// Waits until the lane's queue holds that many ready messages.
    pub(crate) async fn until_queued(&self, lane: Lane, count: u32) {
        let queue = format!("{}.{lane}", self.prefix);
        eventually(
            &format!("{count} messages are ready in {queue}"),
            async || (self.rabbit.counts(&queue).await.0 == count).then_some(()),
        )
        .await;
    }

    /// Waits until the lane has nothing ready, nothing under way and nothing parked.
    pub(crate) async fn until_empty(&self, lane: Lane) {
        self.until_queued(lane, 0).await;
        for delay in ParkDelay::ALL {
            eventually("nothing is parked", async || {
                self.parked(lane, delay).await.is_empty().then_some(())
            })
            .await;
        }
    }

    /// The ready messages of a lane, looked at without taking them.
    pub(crate) async fn queued(&self, lane: Lane) -> Vec<Message> {
        self.rabbit.peek(&format!("{}.{lane}", self.prefix)).await
    }

    /// Somebody else's way to the same S3.
    pub(crate) fn client(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .endpoint_url(self.s3.endpoint())
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .credentials_provider(self.s3.credentials())
            .force_path_style(true)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// Puts objects into bucket `b`; the journal does not have them.
    pub(crate) async fn store(&self, objects: impl Iterator<Item = (String, String)>) {
        self.store_in("b", objects).await;
    }

    /// The same in another bucket.
    pub(crate) async fn store_in(
        &self,
        bucket: &str,
        objects: impl Iterator<Item = (String, String)>,
    ) {
        let client = self.client();
        for (key, text) in objects {
            let put = client.put_object().bucket(bucket).key(key);
            put.body(text.into_bytes().into()).send().await.unwrap();
        }
        self.s3.journal().reset();
    }

    /// How often S3 has stored this key of bucket `b`.
    pub(crate) fn stored(&self, key: &str) -> usize {
        let entries = self.s3.journal().entries();
        let stored = entries.iter().filter(|entry| {
            let (call, status) = (&entry.call, entry.status);
            call.operation == S3Operation::PutObject && call.key == key && status == Some(200)
        });
        stored.count()
    }

    /// Puts of objects that S3 has heard of so far.
    pub(crate) fn puts(&self) -> u64 {
        self.s3.journal().count(S3Operation::PutObject)
    }

    /// A file of the test's own; its path.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Allows jobs to upload the test's own files, in parts of 5 MiB from 5 MiB on.
    pub(crate) fn uploading(self) -> Self {
        let folder = self.folder();
        self.set("sources.file_roots", &folder)
            .set("upload.multipart_threshold", "5MiB")
            .set("upload.part_size", "5MiB")
    }

    /// The folder of the test's own files.
    pub(crate) fn folder(&self) -> String {
        self.directory.path().to_str().unwrap().to_owned()
    }

    /// Keeps the ledger from being written, as another program's long transaction would, until dropped.
    pub(crate) async fn lock_ledger(&self) -> sqlx::SqliteConnection {
        let path = self.directory.path().join("ledger.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = options.connect().await.unwrap();
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        connection
    }

    /// Waits until the claim of a worker that died holds its job no more.
    pub(crate) async fn until_lease_ran_out(&self, id: &str) {
        let path = self.directory.path().join("ledger.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = options.connect().await.unwrap();
        eventually("the lease has run out", async || {
            let look = sqlx::query_scalar("select leased_until from jobs where id = $1");
            let until: i64 = look.bind(id).fetch_one(&mut connection).await.unwrap();
            (until < Timestamp::now().as_micros()).then_some(())
        })
        .await;
    }

    /// The ledger, once a worker has made it.
    pub(crate) async fn ledger(&self) -> Arc<dyn Ledger> {
        let settings = self.settings();
        let url = settings.ledger.url.expose_secret();
        eventually("the ledger is there", async || {
            ledger::open_existing(url, new_owner(), Duration::from_secs(15))
                .await
                .ok()
        })
        .await
    }

    /// Every row by id.
    pub(crate) async fn rows(&self) -> BTreeMap<String, JobRecord> {
        let ledger = self.ledger().await;
        let mut filter = JobFilter {
            limit: 1_000,
            ..JobFilter::default()
        };
        let mut rows = BTreeMap::new();
        loop {
            let page = ledger.list(&filter).await.unwrap();
            rows.extend(page.jobs.into_iter().map(|job| (job.id.to_string(), job)));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return rows,
            }
        }
    }

    pub(crate) async fn row(&self, id: &str) -> Option<JobRecord> {
        self.ledger()
            .await
            .get(&JobId::parse(id).unwrap())
            .await
            .unwrap()
    }

    /// Waits until the job's row is in that state.
    pub(crate) async fn until(&self, id: &str, state: State) -> JobRecord {
        let ledger = self.ledger().await;
        let id = JobId::parse(id).unwrap();
        eventually(&format!("{id} is {}", state.as_str()), async || {
            ledger
                .get(&id)
                .await
                .unwrap()
                .filter(|row| row.state == state)
        })
        .await
    }

    /// Waits until that many rows are in that state.
    pub(crate) async fn until_count(&self, state: State, count: usize) {
        let ledger = self.ledger().await;
        let what = format!("{count} jobs are {}", state.as_str());
        eventually(&what, async || {
            let rows = ledger.stats().await.unwrap();
            let found: u64 = rows
                .iter()
                .filter(|row| row.state == state)
                .map(|row| row.count)
                .sum();
            (found >= count as u64).then_some(())
        })
        .await;
    }

    /// The dead letters of a lane by job id, looked at without taking them.
    pub(crate) async fn dead(&self, lane: Lane) -> Vec<Message> {
        self.rabbit
            .peek(&format!("{}.{lane}.dead", self.prefix))
            .await
    }

    /// The parked copies of a lane.
    pub(crate) async fn parked(&self, lane: Lane, delay: ParkDelay) -> Vec<Message> {
        let millis = delay.millis();
        self.rabbit
            .peek(&format!("{}.{lane}.retry.{millis}", self.prefix))
            .await
    }

    /// Every job that was published is completed, dead-lettered or still queued. Call it without a
    /// worker, or when nothing is in flight.
    pub(crate) async fn total_queue_check(&self) -> Totals {
        let rows = self.rows().await;
        let mut places: BTreeMap<String, &str> = BTreeMap::new();
        for lane in Lane::ALL {
            let mut queues = vec![format!("{}.{lane}", self.prefix)];
            queues.extend(
                ParkDelay::ALL.map(|d| format!("{}.{lane}.retry.{}", self.prefix, d.millis())),
            );
            for queue in queues {
                for message in self.rabbit.peek(&queue).await {
                    places.insert(message.message_id.unwrap_or_default(), "queued");
                }
            }
            for letter in self.dead(lane).await {
                places.insert(letter.message_id.unwrap_or_default(), "dead");
            }
        }
        let mut totals = Totals::default();
        for id in &self.published {
            let done = rows
                .get(id)
                .is_some_and(|row| matches!(row.state, State::Completed | State::Abandoned));
            match places.get(id) {
                _ if done => totals.completed += 1,
                Some(&"dead") => totals.dead += 1,
                Some(_) => totals.queued += 1,
                None => totals.lost.push(id.clone()),
            }
        }
        totals
    }

    /// Ends the stage: every published job completed, none lost, none dead.
    pub(crate) async fn assert_all_completed(&self) {
        let expected = Totals {
            completed: self.published.len(),
            ..Totals::default()
        };
        assert_eq!(self.total_queue_check().await, expected);
    }
}

/// The breaker of a worker in this process.
pub(crate) fn circuit_of(worker: &Worker, circuit: Circuit) -> Arc<CircuitBreaker> {
    let found = worker
        .view()
        .circuits
        .iter()
        .find(|shown| shown.name == circuit);
    Arc::clone(&found.unwrap().breaker)
}

/// Polls a condition until it gives a value.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "in {PATIENCE:?} it did not come to pass: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
