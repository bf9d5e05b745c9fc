//! The acts of the demo and the account at its end.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{
    DemoArgs, Verdict, files, outage,
    screen::{Act, Screen},
};
use crate::{
    broker::{
        Target,
        rabbitmq::{Producer, topology},
    },
    config::Settings,
    dev::{playground::joined, s3_server::S3Server, worker_process::WorkerProcess},
    job::{
        Headers, JobId, Message, Operation, State, Timestamp,
        message::header,
        operation::{
            DeleteObject, DeleteObjects, Destination, GetObject, ListObjects, PutObject, PutOptions,
        },
        options::{CONTENT_TYPE, NO_HEADERS},
        wire,
    },
    ledger::{self, Ledger},
    worker::new_owner,
};

pub(super) const BUCKET: &str = "demo";
/// Messages and requests on their way at a time.
const IN_FLIGHT: usize = 16;
/// An act that makes no progress for so long has failed.
const PATIENCE: Duration = Duration::from_secs(40);
/// The screen is redrawn so often.
pub(super) const FRAME: Duration = Duration::from_millis(200);

/// The stage of the demo and the account of what was published.
pub(super) struct Tour {
    pub(super) screen: Screen,
    pub(super) s3: S3Server,
    pub(super) worker: WorkerProcess,
    producer: Producer,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) published: HashSet<JobId>,
    pub(super) acts: Vec<Played>,
    pub(super) problems: Vec<String>,
}

/// One act for the closing table.
pub(super) struct Played {
    pub(super) name: &'static str,
    pub(super) jobs: Vec<JobId>,
    pub(super) took: Duration,
}

pub(super) async fn run(settings: &Settings, args: DemoArgs) -> anyhow::Result<Verdict> {
    // Later acts read, list and look at every file, so each must be uploaded once at least.
    let files = files::read(&args.folder)?.into_iter();
    let files: BTreeMap<String, Bytes> = files.take(args.uploads.max(1)).collect();
    let directory = tempfile::tempdir()?;
    let screen = Screen::new();
    let bytes: usize = files.values().map(Bytes::len).sum();
    screen.say(format!(
        "Bucket Brigade: {} files ({} KiB) of {} as jobs through RabbitMQ to S3 and back.\n",
        files.len(),
        bytes / 1024,
        args.folder.display()
    ));

    let s3 = S3Server::start_in(&directory.path().join("s3"), None).await?;
    s3.create_bucket(BUCKET);
    let prefix = format!("demo-{:08x}", fastrand::u32(..));
    let ledger_url = format!("sqlite://{}", directory.path().join("ledger.db").display());
    let http = free_address().await?;
    let variables = variables(settings, &s3, &prefix, &ledger_url);
    let log = directory.path().join("worker.log");
    let mut worker = WorkerProcess::start(&variables, http, log)?;
    worker.ready().await?;
    let url = &settings.amqp.url;
    let producer = Producer::connect(url, &prefix, Duration::from_secs(10)).await?;
    let ledger = ledger::open_existing(&ledger_url, new_owner(), settings.ledger.lease).await?;
    let shown: Vec<String> = url.iter().map(|it| masked(it.expose_secret())).collect();
    screen.say(format!("   RabbitMQ   {}", shown.join(", ")));
    screen.say(format!(
        "   S3         {} (embedded, bucket {BUCKET})",
        s3.endpoint()
    ));
    screen.say("   ledger     SQLite, one row a job");
    screen.say(format!(
        "   worker     http://{http} (status page, /metrics)"
    ));

    let mut tour = Tour {
        screen,
        s3,
        worker,
        producer,
        ledger,
        published: HashSet::new(),
        acts: Vec::new(),
        problems: Vec::new(),
    };
    tour.upload(&files, args.uploads).await?;
    tour.read_back(&files).await?;
    tour.list(&files).await?;
    outage::play(&mut tour, &files, args.outage).await?;
    tour.delete().await?;
    let verdict = tour.account().await?;
    tour.producer.close().await;
    tour.worker.stop().await?;
    topology::remove(url, &prefix)
        .await
        .context("the demo's queues can't be removed")?;
    tour.s3.stop().await;
    tour.screen.ended().context("standard output")?;
    Ok(verdict)
}

impl Tour {
    async fn upload(&mut self, files: &BTreeMap<String, Bytes>, jobs: usize) -> anyhow::Result<()> {
        let objects = objects("files", files, jobs);
        let act = self.screen.act(
            "Upload: each file is a job in the upload lane",
            objects.len(),
        );
        let puts = objects.iter().map(|(key, bytes)| put(key, bytes));
        self.play("upload", act, puts.collect(), "objects stored")
            .await?;
        self.compare(&objects);
        Ok(())
    }

    async fn read_back(&mut self, files: &BTreeMap<String, Bytes>) -> anyhow::Result<()> {
        let objects = objects("files", files, usize::MAX);
        let headline = "Read back: the read lane answers each job with the object's bytes";
        let mut act = self.screen.act(headline, objects.len());
        let began = Instant::now();
        let (producer, mut jobs, mut right) = (&self.producer, Vec::new(), 0);
        let mut answers = stream::iter(&objects)
            .map(|(key, bytes)| async move {
                let get = GetObject {
                    bucket: BUCKET.to_owned(),
                    key: key.clone(),
                    range: None,
                    version_id: None,
                    destination: Destination::Reply,
                };
                let (id, target, message) = job(Operation::GetObject(get));
                let answer = producer.request(&target, &message, PATIENCE).await;
                answer.map(|answer| (id, answer, key, bytes))
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((id, answer, key, bytes)) = answers.try_next().await? {
            if answer.text(header::RESULT).is_some() && answer.body == *bytes {
                right += 1;
            } else {
                self.problems.push(format!("{key} came back different"));
            }
            jobs.push(id);
            act.update(jobs.len(), "answers compared");
        }
        drop(answers);
        self.published.extend(jobs.iter().cloned());
        let took = began.elapsed();
        act.close(&format!("{right} objects came back byte for byte."));
        self.acts.push(Played {
            name: "read back",
            jobs,
            took,
        });
        Ok(())
    }

    async fn list(&mut self, files: &BTreeMap<String, Bytes>) -> anyhow::Result<()> {
        let folders: HashSet<&str> = files
            .keys()
            .filter_map(|name| Some(name.split_once('/')?.0))
            .collect();
        let mut act = self.screen.act(
            "List: one job a folder, pages followed inside",
            folders.len(),
        );
        let began = Instant::now();
        let (mut jobs, mut named) = (Vec::new(), 0);
        for folder in folders {
            let prefix = format!("files/0/{folder}/");
            let (id, target, message) = job(Operation::ListObjects(ListObjects {
                bucket: BUCKET.to_owned(),
                prefix: Some(prefix.clone()),
                delimiter: None,
                max_keys: 10_000,
                start_after: None,
            }));
            let answer = self.producer.request(&target, &message, PATIENCE).await?;
            let report: serde_json::Value = serde_json::from_slice(&answer.body)?;
            let keys = report["result"]["keys"].as_array().map_or(0, Vec::len);
            let expected = files
                .keys()
                .filter(|name| name.starts_with(&prefix["files/0/".len()..]));
            if keys != expected.count() {
                self.problems.push(format!("{prefix} lists {keys} keys"));
            }
            named += keys;
            jobs.push(id);
            act.update(jobs.len(), &prefix);
        }
        self.published.extend(jobs.iter().cloned());
        act.close(&format!("{named} keys named."));
        self.acts.push(Played {
            name: "list",
            jobs,
            took: began.elapsed(),
        });
        Ok(())
    }

    async fn delete(&mut self) -> anyhow::Result<()> {
        let keys = self.s3.keys_of(BUCKET);
        let (singles, rest) = keys.split_at(keys.len().min(200));
        let single = |key: &String| {
            let (bucket, key) = (BUCKET.to_owned(), key.clone());
            job(Operation::DeleteObject(DeleteObject {
                bucket,
                key,
                version_id: None,
            }))
        };
        let many = |keys: &[String]| {
            let (bucket, keys) = (BUCKET.to_owned(), keys.to_vec());
            job(Operation::DeleteObjects(DeleteObjects { bucket, keys }))
        };
        let jobs: Vec<_> = singles
            .iter()
            .map(single)
            .chain(rest.chunks(50).map(many))
            .collect();
        let headline = "Delete: best effort, in its own low-priority lane, without a breaker";
        let act = self.screen.act(headline, jobs.len());
        self.play("delete", act, jobs, "delete jobs done").await?;
        let left = self.s3.keys_of(BUCKET).len();
        if left > 0 {
            self.problems
                .push(format!("{left} objects were not deleted"));
        }
        Ok(())
    }

    /// Publishes the jobs of one act and waits until all of them completed.
    async fn play(
        &mut self,
        name: &'static str,
        mut act: Act,
        jobs: Vec<(JobId, Target, Message)>,
        done: &str,
    ) -> anyhow::Result<()> {
        let before = self.completed().await?;
        let total = jobs.len();
        let began = Instant::now();
        let ids = self.publish(jobs).await?;
        let mut progress = (0, Instant::now());
        loop {
            let completed = self.completed().await? - before;
            let rate = completed as f64 / began.elapsed().as_secs_f64();
            act.update(completed, &format!("{rate:.0} a second"));
            if completed >= total {
                break;
            }
            if completed > progress.0 {
                progress = (completed, Instant::now());
            }
            ensure!(
                progress.1.elapsed() < PATIENCE,
                "no job completed for {PATIENCE:?}; the worker's log ends with:\n{}",
                self.worker.log_tail()
            );
            tokio::time::sleep(FRAME / 4).await;
        }
        let took = act.close(&format!("{total} {done}."));
        self.acts.push(Played {
            name,
            jobs: ids,
            took,
        });
        Ok(())
    }

    /// Publishes jobs, each confirmed by the broker; their ids in the same order.
    pub(super) async fn publish(
        &mut self,
        jobs: Vec<(JobId, Target, Message)>,
    ) -> anyhow::Result<Vec<JobId>> {
        let producer = &self.producer;
        let ids: Vec<JobId> = jobs.iter().map(|(id, ..)| id.clone()).collect();
        stream::iter(jobs)
            .map(Ok)
            .try_for_each_concurrent(IN_FLIGHT, |(_, target, message)| async move {
                producer.publish(&target, &message).await
            })
            .await?;
        self.published.extend(ids.iter().cloned());
        Ok(ids)
    }

    /// Notes an act for the closing table.
    pub(super) fn played(&mut self, act: Played) {
        self.acts.push(act);
    }

    /// Notes objects that S3 does not hold byte for byte.
    pub(super) fn compare(&mut self, objects: &[(String, Bytes)]) {
        let wrong = objects.iter().filter(|(key, bytes)| {
            self.s3
                .object(BUCKET, key)
                .is_none_or(|stored| stored != **bytes)
        });
        let wrong: Vec<String> = wrong
            .map(|(key, _)| format!("{key} is not in S3 as it was sent"))
            .collect();
        if wrong.is_empty() {
            self.screen.say(format!(
                "   {} objects are in S3 byte for byte.",
                objects.len()
            ));
        }
        self.problems.extend(wrong);
    }

    /// Jobs that completed so far, as the ledger has it.
    pub(super) async fn completed(&self) -> anyhow::Result<usize> {
        let rows = self.ledger.stats().await?;
        let completed = rows.iter().filter(|row| row.state == State::Completed);
        Ok(usize::try_from(
            completed.map(|row| row.count).sum::<u64>(),
        )?)
    }
}

/// At most `most` objects made of the files, each file once a round; at least one round.
pub(super) fn objects(
    folder: &str,
    files: &BTreeMap<String, Bytes>,
    most: usize,
) -> Vec<(String, Bytes)> {
    let rounds = if most == usize::MAX {
        1
    } else {
        most.div_ceil(files.len())
    };
    let rounds = 0..rounds.max(1);
    let named = rounds.flat_map(|round| {
        files
            .iter()
            .map(move |(name, bytes)| (format!("{folder}/{round}/{name}"), bytes.clone()))
    });
    named.take(most.max(1)).collect()
}

pub(super) fn put(key: &str, bytes: &Bytes) -> (JobId, Target, Message) {
    let options = PutOptions {
        headers: Headers::default().with(CONTENT_TYPE, files::content_type(key)),
        ..PutOptions::default()
    };
    let (bucket, key, body) = (BUCKET.to_owned(), key.to_owned(), bytes.clone());
    job(Operation::PutObject(PutObject {
        bucket,
        key,
        body,
        options,
    }))
}

pub(super) fn job(operation: Operation) -> (JobId, Target, Message) {
    let id = JobId::fresh();
    let message = wire::encode(&id, &operation, &NO_HEADERS, Timestamp::now());
    (id, Target::Jobs(operation.name().lane()), message)
}

fn variables(
    settings: &Settings,
    s3: &S3Server,
    prefix: &str,
    ledger: &str,
) -> Vec<(String, String)> {
    let (access_key, secret_key) = s3.keys();
    [
        ("AMQP_URL", joined(&settings.amqp.url).as_str()),
        ("BRIGADE_AMQP__PREFIX", prefix),
        ("DATABASE_URL", ledger),
        ("BRIGADE_S3__ENDPOINT", &s3.endpoint()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        // Two seconds instead of five: a viewer's patience, not a store's.
        ("BRIGADE_CIRCUIT__OPEN_BASE", "2s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// A free address on loopback. Somebody may take it before the worker does; then the worker says so.
async fn free_address() -> std::io::Result<SocketAddr> {
    tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await?
        .local_addr()
}

/// A URL without its user and password.
fn masked(url: &str) -> String {
    match url
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)))
    {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => url.to_owned(),
    }
}
