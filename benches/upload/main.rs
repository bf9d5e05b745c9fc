//! Large uploads: what they cost beside others, and what `kill -9` costs them.
//!
//! Compares a real worker process with a bare SDK loop and with boto3's `upload_fileobj`, in an order that turns
//! with each round: the same sparse file, read once before, 8 MiB parts, eight at a time, to the same store. Prints
//! wall time, CPU of the client and its peak memory, and the ratios of the medians. Then kills a worker at random
//! points of uploads to the embedded S3 server and counts the parts that were sent again.
//!
//! ```sh
//! make bench-upload                              # 1 GiB to an embedded S3 server in its own process
//! make bench-upload ARGS='--size 10240 --endpoint http://127.0.0.1:8333 --python venv/bin/python --kills 20'
//! ```
//!
//! `--size` is in MiB. `--endpoint` is any S3-compatible store, with `AWS_ACCESS_KEY_ID` and
//! `AWS_SECRET_ACCESS_KEY` in the environment; without it they must not be set. `--python` needs boto3; without it
//! boto3 is left out. `--after-each` is a command for a store that frees the space of what was deleted only when
//! told to.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark that meets an error stops, and reads its arguments from where it is started"
)]

mod kill;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation},
    types::{CompletedMultipartUpload, CompletedPart},
};
use bucket_brigade::{
    broker::{
        Target,
        rabbitmq::{Producer, topology},
    },
    dev::s3_server::S3Server,
    job::{
        JobId, Lane, Operation, Timestamp,
        operation::{PutOptions, SourceRef, UploadFileobj},
        options::NO_HEADERS,
        wire,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

const MIB: u64 = 1024 * 1024;
const PART: u64 = 8 * MIB;
const AT_A_TIME: usize = 8;
const BUCKET: &str = "bench";
/// No upload takes longer.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What one upload cost its client.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

struct Arguments(Vec<String>);

impl Arguments {
    fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.value(name)
            .map_or(default, |text| text.parse().unwrap())
    }
}

fn main() {
    let arguments = Arguments(std::env::args().collect());
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    if arguments.value("--serve").is_some() {
        runtime.block_on(serve());
    } else if let Some(file) = arguments.value("--sdk-loop") {
        let cost = runtime.block_on(sdk_loop(
            Path::new(file),
            arguments.value("--endpoint").unwrap(),
        ));
        println!("{} {} {}", cost.seconds, cost.cpu_seconds, cost.peak_mib);
    } else {
        runtime.block_on(run(&arguments));
    }
}

async fn run(arguments: &Arguments) {
    let url = std::env::var("AMQP_URL").expect("AMQP_URL is not set: make bench-upload sets it");
    let size = arguments.number("--size", 1024) * MIB;
    let folder = tempfile::tempdir_in(".").unwrap();
    let file = folder.path().canonicalize().unwrap().join("source");
    sparse(&file, size);
    let rounds = arguments.number("--rounds", 3);
    if rounds > 0 {
        compare(arguments, &url, &file, rounds).await;
    }
    let kills = arguments.number("--kills", 5);
    if kills > 0 {
        let seed = arguments.number("--seed", fastrand::u64(..));
        sparse(&file, arguments.number("--kill-size", 1024) * MIB);
        kill::at_random_points(&url, &file, kills, seed).await;
    }
}

/// A file of which every MiB begins with its number, and the rest is a hole.
fn sparse(path: &Path, size: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in (0..size).step_by(MIB as usize) {
        file.write_all_at(&at.to_be_bytes(), at).unwrap();
    }
}

async fn compare(arguments: &Arguments, url: &str, file: &Path, rounds: u64) {
    let mut server = None;
    let endpoint = match arguments.value("--endpoint") {
        Some(endpoint) => endpoint.to_owned(),
        None => {
            let (child, endpoint) = Running::serve();
            server = Some(child);
            endpoint
        }
    };
    let client = client(&endpoint);
    drop(client.create_bucket().bucket(BUCKET).send().await);
    let bucket = client.head_bucket().bucket(BUCKET).send().await;
    bucket.expect("the store takes no keys but its own: see --endpoint");
    let mut costs: BTreeMap<&str, Vec<Cost>> = BTreeMap::new();
    let size = file.metadata().unwrap().len();
    let mut clients = [
        ("brigade", "brigade"),
        ("SDK loop", "sdk"),
        ("boto3", "boto3"),
    ];
    for round in 1..=rounds {
        for (name, key) in clients {
            // For the first the system would have to read the file from the disk, for others it is in memory.
            std::io::copy(
                &mut std::fs::File::open(file).unwrap(),
                &mut std::io::sink(),
            )
            .unwrap();
            let cost = match (name, arguments.value("--python")) {
                ("brigade", _) => brigade(url, file, &endpoint).await,
                ("SDK loop", _) => child(sdk_command(file, &endpoint)),
                (_, None) => continue,
                (_, Some(python)) => {
                    let mut command = Command::new(python);
                    command.arg("benches/upload/boto3_peer.py");
                    command.arg(file).arg(&endpoint);
                    child(command)
                }
            };
            println!(
                "round {round}: {name:<9} {:7.2} s  {:7.2} s of CPU  {:6.1} MiB at most",
                cost.seconds, cost.cpu_seconds, cost.peak_mib
            );
            costs.entry(name).or_default().push(cost);
            // Checked and removed, so that the store does not fill up.
            let head = client.head_object().bucket(BUCKET).key(key).send();
            let length = head.await.unwrap().content_length.unwrap();
            assert_eq!(u64::try_from(length).unwrap(), size);
            let delete = client.delete_object().bucket(BUCKET).key(key).send();
            delete.await.unwrap();
            if let Some(command) = arguments.value("--after-each") {
                let mut shell = Command::new("sh");
                shell.args(["-c", command]).stdout(Stdio::null());
                shell.status().unwrap();
            }
        }
        clients.rotate_left(1);
    }
    let ours = costs["brigade"].clone();
    for (name, theirs) in costs.iter().filter(|(name, _)| **name != "brigade") {
        let ratio = |of: fn(&Cost) -> f64| median(&ours, of) / median(theirs, of);
        println!(
            "brigade / {name}: time {:.2}, CPU {:.2}, memory {:.2}",
            ratio(|cost| cost.seconds),
            ratio(|cost| cost.cpu_seconds),
            ratio(|cost| cost.peak_mib)
        );
    }
    drop(server);
}

fn median(costs: &[Cost], of: fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One job, from its publishing to its reply, by a worker that was idle before.
async fn brigade(url: &str, file: &Path, endpoint: &str) -> Cost {
    let broker = Broker::new(url).await;
    let keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    let keys = [keys.0, keys.1].map(|name| std::env::var(name).ok());
    let worker = broker.worker(file, endpoint, keys);
    // A job of nothing, so that connections are made and pages touched.
    let small = file.with_file_name("small");
    std::fs::write(&small, "small").unwrap();
    broker.upload("warm-up", &small, "small").await;
    let (pid, began) = (worker.0.id(), Instant::now());
    let before = cpu_of(pid);
    broker.upload("job", file, "brigade").await;
    Cost {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu_of(pid) - before,
        peak_mib: peak_of(pid),
    }
}

/// A prefix of its own on the broker, and a ledger.
struct Broker {
    url: String,
    prefix: String,
    producer: Producer,
    folder: tempfile::TempDir,
}

impl Broker {
    async fn new(url: &str) -> Self {
        let prefix = format!("bench-{:08x}", fastrand::u32(..));
        let amqp = [url.to_owned().into()];
        topology::apply(&amqp, &prefix).await.unwrap();
        let producer = Producer::connect(&amqp, &prefix, Duration::from_secs(10)).await;
        Self {
            url: url.to_owned(),
            prefix,
            producer: producer.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn worker(&self, file: &Path, endpoint: &str, [key, secret]: [Option<String>; 2]) -> Running {
        let ledger = self.folder.path().join("ledger.db");
        let settings = [
            ("amqp.url", self.url.clone()),
            ("amqp.prefix", self.prefix.clone()),
            ("ledger.url", format!("sqlite://{}", ledger.display())),
            ("ledger.lease", "3s".to_owned()),
            ("s3.endpoint", endpoint.to_owned()),
            ("s3.region", "us-east-1".to_owned()),
            ("http.listen", "127.0.0.1:0".to_owned()),
            (
                "sources.file_roots",
                file.parent().unwrap().display().to_string(),
            ),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.arg("worker");
        for (name, value) in settings {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        command
            .env(
                "AWS_ACCESS_KEY_ID",
                key.unwrap_or_else(|| "brigade-dev".to_owned()),
            )
            .env(
                "AWS_SECRET_ACCESS_KEY",
                secret.unwrap_or_else(|| "brigade-dev-secret".to_owned()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    async fn upload(&self, id: &str, file: &Path, key: &str) {
        let operation = Operation::UploadFileobj(UploadFileobj {
            bucket: BUCKET.to_owned(),
            key: key.to_owned(),
            source: SourceRef::File(file.to_owned()),
            options: PutOptions::default(),
        });
        let message = wire::encode(
            &JobId::parse(id).unwrap(),
            &operation,
            &NO_HEADERS,
            Timestamp::now(),
        );
        let target = Target::Jobs(Lane::Upload);
        let answer = self
            .producer
            .request(&target, &message, PATIENCE)
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&answer.body);
        assert!(text.contains("\"completed\""), "{text}");
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Running {
    /// The embedded S3 server, and its address.
    fn serve() -> (Self, String) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args(["--serve", "yes"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        (Self(child), line.trim().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn serve() {
    let server = S3Server::start().await.unwrap();
    server.journal().keep_counts_only();
    println!("{}", server.endpoint());
    std::future::pending::<()>().await;
}

fn sdk_command(file: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("--sdk-loop")
        .arg(file)
        .args(["--endpoint", endpoint]);
    command
}

/// A client that measures itself: seconds, seconds of CPU and MiB on one line.
fn child(mut command: Command) -> Cost {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    let [seconds, cpu_seconds, peak_mib] = numbers[..] else {
        panic!("{command:?} says {text:?}");
    };
    Cost {
        seconds,
        cpu_seconds,
        peak_mib,
    }
}

fn client(endpoint: &str) -> Client {
    let key =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (id, secret) = (
        key("AWS_ACCESS_KEY_ID", "brigade-dev"),
        key("AWS_SECRET_ACCESS_KEY", "brigade-dev-secret"),
    );
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(id, secret, None, None, "bench"))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

/// What anybody would write: read a part, send it, eight at a time.
async fn sdk_loop(file: &Path, endpoint: &str) -> Cost {
    let client = client(endpoint);
    let began = Instant::now();
    let before = cpu_of(std::process::id());
    let created = client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("sdk")
        .send();
    let id = created.await.unwrap().upload_id.unwrap();
    let source = std::fs::File::open(file).unwrap();
    let count = source.metadata().unwrap().len().div_ceil(PART);
    let parts = stream::iter(1..=i32::try_from(count).unwrap()).map(|number| {
        let mut bytes = Vec::with_capacity(PART as usize);
        (&source).take(PART).read_to_end(&mut bytes).unwrap();
        let part = client
            .upload_part()
            .bucket(BUCKET)
            .key("sdk")
            .upload_id(&id);
        let part = part.part_number(number).body(bytes.into());
        async move {
            let sent = part.send().await?;
            let part = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(sent.e_tag);
            Ok::<_, aws_sdk_s3::Error>(part.build())
        }
    });
    let mut parts: Vec<CompletedPart> = parts
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await
        .unwrap();
    parts.sort_by_key(CompletedPart::part_number);
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("sdk");
    complete
        .upload_id(&id)
        .multipart_upload(parts)
        .send()
        .await
        .unwrap();
    Cost {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu_of(std::process::id()) - before,
        peak_mib: peak_of(std::process::id()),
    }
}

/// User and system time of a process so far, in seconds.
fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // USER_HZ is 100 on every Linux that Rust runs on.
    ticks / 100.0
}

/// The most memory that a process has held so far, in MiB.
fn peak_of(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim()
        .strip_suffix("kB")
        .unwrap()
        .trim()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}
