//! The settings after validation: every value within its rule, every unit in its type.
//!
//! `config/default.toml` says what each one is for and why its default is what it is; the bounds are here.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;

use super::{
    reader::Reader,
    rules::{
        address, amqp_url, auto, bucket, duration, folder, header_option, http_url, ledger_url,
        log_filter, number, one_of, operation_of, origin, prefix, region, seconds, size, switch,
        token, whole,
    },
};
use crate::job::{Headers, Lane, OperationName, options::PUT_DEFAULTS};

const INSTANT: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// RabbitMQ 4 closes the channel on a larger message as it is installed (facts: rabbitmq.md, section 8).
const LARGEST_MESSAGE: u64 = 16 * MIB;
/// What a quorum queue hands out at most (facts: rabbitmq.md, section 4).
const LARGEST_PREFETCH: u64 = 2000;
/// S3's bounds of a part but the last, and the upper one of a single PUT (facts: s3.md, section 6).
const PART_SIZES: std::ops::RangeInclusive<u64> = 5 * MIB..=5 * GIB;

/// All settings of a process. Clones share nothing; `Debug` shows no secrets.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is a section of config/default.toml")]
pub struct Settings {
    pub amqp: AmqpSettings,
    pub s3: S3Settings,
    pub ledger: LedgerSettings,
    pub lanes: LanesSettings,
    pub retry: RetrySettings,
    pub circuit: CircuitSettings,
    pub upload: UploadSettings,
    pub sources: SourcesSettings,
    pub destinations: DestinationsSettings,
    pub cleanup: CleanupSettings,
    pub limits: LimitsSettings,
    pub http: HttpSettings,
    pub events: EventsSettings,
    pub metrics: MetricsSettings,
    pub log: LogSettings,
    pub drain: DrainSettings,
}

impl Settings {
    /// Reads every key; the problems are with the reader.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            amqp: AmqpSettings::read(reader),
            s3: S3Settings::read(reader),
            ledger: LedgerSettings::read(reader),
            lanes: LanesSettings {
                upload: LaneSettings::read(reader, Lane::Upload),
                read: LaneSettings::read(reader, Lane::Read),
                cleanup: LaneSettings::read(reader, Lane::Cleanup),
            },
            retry: RetrySettings {
                max_attempts: reader.one("retry.max_attempts", whole(1..=100)),
                base_delay: reader.one("retry.base_delay", duration(MILLISECOND..=2 * MINUTE)),
                multiplier: reader.one("retry.multiplier", number(1.0..=10.0)),
                jitter: reader.one("retry.jitter", number(0.0..=1.0)),
            },
            circuit: CircuitSettings {
                failure_threshold: reader.one("circuit.failure_threshold", whole(1..=1000)),
                open_base: reader.one("circuit.open_base", duration(MILLISECOND..=HOUR)),
                open_max: reader.one("circuit.open_max", duration(MILLISECOND..=HOUR)),
                half_open_permits: reader.one("circuit.half_open_permits", whole(1..=100)),
                probe_timeout: reader.one("circuit.probe_timeout", duration(SECOND..=HOUR)),
            },
            upload: UploadSettings {
                multipart_threshold: reader.one("upload.multipart_threshold", size(PART_SIZES)),
                part_size: reader.one("upload.part_size", size(PART_SIZES)),
                part_concurrency: reader.one("upload.part_concurrency", whole(1..=1000)),
                memory_budget: reader.one("upload.memory_budget", size(5 * MIB..=TIB)),
            },
            sources: SourcesSettings {
                file_roots: reader.many("sources.file_roots", folder),
                url_hosts: reader.many("sources.url_hosts", origin),
                allow_private_addresses: reader.one("sources.allow_private_addresses", switch),
                max_bytes: reader.one("sources.max_bytes", size(1..=50 * TIB)),
            },
            destinations: DestinationsSettings {
                file_roots: reader.many("destinations.file_roots", folder),
            },
            cleanup: CleanupSettings {
                batch_keys: reader.one("cleanup.batch_keys", whole(1..=1000)),
                batch_wait: reader.one("cleanup.batch_wait", duration(INSTANT..=MINUTE)),
            },
            limits: LimitsSettings {
                max_message_bytes: reader
                    .one("limits.max_message_bytes", size(1..=LARGEST_MESSAGE)),
                max_reply_bytes: reader.one("limits.max_reply_bytes", size(1..=LARGEST_MESSAGE)),
                max_job_age: reader.one("limits.max_job_age", duration(MILLISECOND..=3650 * DAY)),
                job_deadline: reader.one("limits.job_deadline", duration(MILLISECOND..=365 * DAY)),
            },
            http: HttpSettings {
                listen: reader.one("http.listen", address).unwrap_or(UNREAD_ADDRESS),
                admin_token: reader.one("http.admin_token", token),
            },
            events: EventsSettings {
                enabled: reader.one("events.enabled", switch),
            },
            metrics: MetricsSettings {
                max_bucket_labels: reader.one("metrics.max_bucket_labels", whole(0..=100_000)),
            },
            log: LogSettings {
                level: reader.one("log.level", log_filter),
                format: reader.one("log.format", one_of(&LogFormat::NAMES)),
            },
            drain: DrainSettings {
                timeout: reader.one("drain.timeout", duration(INSTANT..=DAY)),
            },
        }
    }
}

/// Stands in for an address that could not be read; never seen, as that is a problem.
const UNREAD_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Section `amqp`.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// `amqp` or `amqps`, with a host; may hold a password. At least one: the nodes of one cluster, in no order.
    pub url: Vec<SecretString>,
    /// Names `url` and where it came from, for messages about the connection.
    pub url_named: String,
    /// 1 to 100 of `A-Z a-z 0-9 . _ -`.
    pub prefix: String,
    /// What to do about exchanges and queues.
    pub topology: TopologyMode,
    /// The broker's; longer than `limits.job_deadline`.
    pub consumer_timeout: Duration,
    /// For one try to connect.
    pub connect_timeout: Duration,
    /// Whole seconds, at least one.
    pub heartbeat: Duration,
}

impl AmqpSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.secrets("amqp.url", amqp_url),
            url_named: reader.named("amqp.url", "AMQP_URL"),
            prefix: reader.one("amqp.prefix", prefix),
            topology: reader.one("amqp.topology", one_of(&TopologyMode::NAMES)),
            consumer_timeout: reader.one("amqp.consumer_timeout", duration(SECOND..=3650 * DAY)),
            connect_timeout: reader
                .one("amqp.connect_timeout", duration(MILLISECOND..=10 * MINUTE)),
            heartbeat: reader.one("amqp.heartbeat", seconds(SECOND..=10 * MINUTE)),
        }
    }
}

/// `amqp.topology`: what to do about exchanges and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopologyMode {
    /// Make what is missing.
    #[default]
    Declare,
    /// Look whether they exist.
    Verify,
    /// Nothing.
    None,
}

impl TopologyMode {
    const NAMES: [(&'static str, Self); 3] = [
        ("declare", Self::Declare),
        ("verify", Self::Verify),
        ("none", Self::None),
    ];
}

/// Section `s3`. `None` leaves it to the AWS SDK, or to what the endpoint suggests.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// An `http` or `https` URL without user and query.
    pub endpoint: Option<String>,
    /// A region's name.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub force_path_style: Option<bool>,
    /// For one attempt of a small request.
    pub attempt_timeout: Duration,
    /// For the connection alone.
    pub connect_timeout: Duration,
    /// When the SDK adds checksums.
    pub checksums: Checksums,
    /// Whether a put without an `ETag` in its answer has failed.
    pub require_etag: bool,
    /// What is said of objects of which their jobs say nothing.
    pub put_defaults: Headers,
}

impl S3Settings {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            endpoint: reader.one("s3.endpoint", auto(http_url)),
            region: reader.one("s3.region", auto(region)),
            force_path_style: reader.one("s3.force_path_style", auto(switch)),
            attempt_timeout: reader.one("s3.attempt_timeout", duration(MILLISECOND..=30 * MINUTE)),
            connect_timeout: reader.one("s3.connect_timeout", duration(MILLISECOND..=10 * MINUTE)),
            checksums: reader.one("s3.checksums", one_of(&Checksums::NAMES)),
            require_etag: reader.one("s3.require_etag", switch),
            put_defaults: put_defaults(reader),
        }
    }
}

fn put_defaults(reader: &mut Reader<'_>) -> Headers {
    let mut headers = Headers::default();
    for (key, header) in PUT_DEFAULTS {
        if let Some(value) = reader.one(key, header_option(header)) {
            headers = headers.with(header, value);
        }
    }
    headers
}

/// `s3.checksums`: when the SDK adds checksums to requests and checks those of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// As suits the endpoint.
    #[default]
    Auto,
    /// Wherever S3 can.
    WhenSupported,
    /// Only where S3 insists.
    WhenRequired,
}

impl Checksums {
    const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("when_supported", Self::WhenSupported),
        ("when_required", Self::WhenRequired),
    ];
}

/// Section `ledger`.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// `sqlite` or `postgres`; may hold a password.
    pub url: SecretString,
    /// Names `url` and where it came from, for messages about the ledger.
    pub url_named: String,
    /// How long finished jobs are remembered, and unfinished ones that nobody has asked for since.
    pub retention: Duration,
    /// Whether a worker applies pending migrations.
    pub migrate: bool,
    /// How long a commit waits for company.
    pub commit_wait: Duration,
    /// At least 3 s, of which a third is the time between renewals.
    pub lease: Duration,
}

impl LedgerSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.one("ledger.url", ledger_url),
            url_named: reader.named("ledger.url", "DATABASE_URL"),
            retention: reader.one("ledger.retention", duration(SECOND..=3650 * DAY)),
            migrate: reader.one("ledger.migrate", switch),
            commit_wait: reader.one("ledger.commit_wait", duration(INSTANT..=SECOND)),
            lease: reader.one("ledger.lease", duration(3 * SECOND..=HOUR)),
        }
    }
}

/// Section `lanes`.
#[derive(Debug, Clone)]
pub struct LanesSettings {
    upload: LaneSettings,
    read: LaneSettings,
    cleanup: LaneSettings,
}

impl LanesSettings {
    /// The settings of one lane.
    pub fn of(&self, lane: Lane) -> &LaneSettings {
        match lane {
            Lane::Upload => &self.upload,
            Lane::Read => &self.read,
            Lane::Cleanup => &self.cleanup,
        }
    }

    /// The same, to be changed.
    #[cfg(test)]
    pub(crate) const fn of_mut(&mut self, lane: Lane) -> &mut LaneSettings {
        match lane {
            Lane::Upload => &mut self.upload,
            Lane::Read => &mut self.read,
            Lane::Cleanup => &mut self.cleanup,
        }
    }
}

/// One section below `lanes`.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// S3 calls at a time, at least 1 and at most this.
    pub concurrency: usize,
    /// Whether the lane finds by itself how many of them are good.
    pub adaptive: bool,
    /// Unsettled deliveries at a time, 1 to 2,000, at least `concurrency`.
    pub prefetch: u16,
    /// The only buckets allowed; empty: all.
    pub buckets: Vec<String>,
    /// The only operations allowed, all of this lane; empty: all.
    pub operations: Vec<OperationName>,
}

impl LaneSettings {
    fn read(reader: &mut Reader<'_>, lane: Lane) -> Self {
        let key = |name: &str| format!("lanes.{lane}.{name}");
        Self {
            concurrency: reader.one(&key("concurrency"), whole(1..=LARGEST_PREFETCH)),
            adaptive: reader.one(&key("adaptive"), switch),
            prefetch: reader.one(&key("prefetch"), whole(1..=LARGEST_PREFETCH)),
            buckets: reader.many(&key("buckets"), bucket),
            operations: reader.many(&key("operations"), operation_of(lane)),
        }
    }
}

/// Section `retry`: attempts in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrySettings {
    /// Calls in all, at least 1.
    pub max_attempts: u32,
    /// The first wait.
    pub base_delay: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub multiplier: f64,
    /// The share by which a wait may deviate, 0 to 1.
    pub jitter: f64,
}

/// Section `circuit`: the numbers of both circuits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitSettings {
    /// Failed operations in a row that trip it, at least 1.
    pub failure_threshold: u32,
    /// The first pause, at most `open_max`.
    pub open_base: Duration,
    /// The longest pause.
    pub open_max: Duration,
    /// Probes at a time, at least 1.
    pub half_open_permits: u32,
    /// At least 30 s more than `s3.attempt_timeout`.
    pub probe_timeout: Duration,
}

/// Section `upload`. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadSettings {
    /// Objects from this size on go up in parts.
    pub multipart_threshold: u64,
    /// 5 MiB to 5 GiB.
    pub part_size: u64,
    /// Parts at a time over all jobs, at least 1.
    pub part_concurrency: usize,
    /// Parts in memory over all jobs, at least `part_size`.
    pub memory_budget: u64,
}

/// Section `sources`: where upload bytes may come from.
#[derive(Debug, Clone)]
pub struct SourcesSettings {
    /// Absolute folders without `..`; empty: no files.
    pub file_roots: Vec<PathBuf>,
    /// `host`, or `scheme://host[:port]`; empty: no URLs.
    pub url_hosts: Vec<String>,
    /// Whether a URL may lead to an address that is not public.
    pub allow_private_addresses: bool,
    /// The largest file or download.
    pub max_bytes: u64,
}

/// Section `destinations`: where read bytes may go to.
#[derive(Debug, Clone)]
pub struct DestinationsSettings {
    /// Absolute folders without `..`; empty: no files.
    pub file_roots: Vec<PathBuf>,
}

/// Section `cleanup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupSettings {
    /// Keys in one call, 1 to 1,000, at most the cleanup lane's prefetch.
    pub batch_keys: usize,
    /// How long a batch that is not full waits.
    pub batch_wait: Duration,
}

/// Section `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsSettings {
    /// At most 16 MiB.
    pub max_message_bytes: u64,
    /// At most 16 MiB.
    pub max_reply_bytes: u64,
    /// How long a job is tried again for passing reasons.
    pub max_job_age: Duration,
    /// How long a job may run; below `amqp.consumer_timeout`.
    pub job_deadline: Duration,
}

/// Section `http`.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Visible ASCII; `None`: circuits can't be forced.
    pub admin_token: Option<SecretString>,
}

/// Section `events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsSettings {
    /// Whether outcomes are published.
    pub enabled: bool,
}

/// Section `metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Bucket names as labels before `other`.
    pub max_bucket_labels: usize,
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or a filter that `EnvFilter` reads.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("json", Self::Json),
        ("text", Self::Text),
    ];
}

/// Section `drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long running jobs may finish.
    pub timeout: Duration,
}
