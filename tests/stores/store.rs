//! One store, the worker's storage on it, and a plain client to look with.

use std::{
    fmt, fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation},
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
};
use bucket_brigade::{
    job::{
        JobId, Lane, Message, OperationName, Timestamp,
        place::{Origins, Roots},
        wire::{self, Rules},
    },
    metrics::Metrics,
    resilience::{RetryPolicy, Slots},
    storage::{
        CallContext, Checksums, Clients, Done, Stop, Storage, StorageSettings, UploadSettings,
        source::{SourceRules, Sources},
    },
};
use serde_json::Value;

use tokio_util::sync::CancellationToken;

use crate::cases::Attempt;

pub(crate) const MIB: u64 = 1 << 20;
/// Where most is tried.
pub(crate) const PLAIN: &str = "brigade-plain";
/// A bucket with object lock, where the store has such.
pub(crate) const LOCKED: &str = "brigade-locked";

/// How one way of a case ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Yes,
    /// Accepted, and not kept.
    Ignored,
    /// With the store's code, or ours.
    Refused(String),
    /// It did something else.
    Odd(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::Ignored => f.write_str("ignored"),
            Self::Refused(code) => write!(f, "refused `{code}`"),
            Self::Odd(what) => f.write_str(what),
        }
    }
}

/// See the module.
pub(crate) struct Store {
    pub(crate) name: String,
    pub(crate) client: Client,
    storage: Storage,
    folder: tempfile::TempDir,
    /// Why there is no bucket with object lock.
    no_locks: Option<String>,
}

impl Store {
    pub(crate) async fn open(name: &str, endpoint: &str, (id, secret): (&str, &str)) -> Self {
        let keys = Credentials::new(id, secret, None, None, "stores");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .endpoint_url(endpoint)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .credentials_provider(keys.clone());
        let client = Client::from_conf(config.build());
        let plain = client.create_bucket().bucket(PLAIN).send().await;
        plain.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let locked = client.create_bucket().bucket(LOCKED);
        let locked = locked.object_lock_enabled_for_bucket(true).send().await;
        let no_locks = locked.err().map(|error| code_of(&error));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("small"), "small").unwrap();
        let large = vec![7; usize::try_from(6 * MIB).unwrap()];
        fs::write(folder.path().join("large"), &large).unwrap();
        for (key, body) in [("source", b"source".to_vec()), ("large-source", large)] {
            let put = client
                .put_object()
                .bucket(PLAIN)
                .key(key)
                .content_type("a/b");
            let put = put
                .cache_control("max-age=1")
                .metadata("who", "me")
                .tagging("t=1");
            put.body(ByteStream::from(body)).send().await.unwrap();
        }
        let settings = StorageSettings {
            endpoint: Some(endpoint.to_owned()),
            region: Some("us-east-1".to_owned()),
            force_path_style: None,
            attempt_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(3),
            checksums: Checksums::Auto,
            require_etag: true,
            put_defaults: Default::default(),
            credentials: Some(keys),
            copy_whole_up_to: 5 * MIB,
        };
        let uploads = UploadSettings {
            multipart_threshold: 5 * MIB,
            part_size: 5 * MIB,
            part_concurrency: 4,
            memory_budget: 64 * MIB,
        };
        let clients = Clients::build(&settings).await;
        let metrics = Arc::new(Metrics::try_new(50).unwrap());
        let roots = |setting| Roots::new(setting, vec![folder.path().to_owned()]);
        let sources = Sources::new(SourceRules {
            file_roots: roots("sources.file_roots"),
            ..SourceRules::nothing()
        });
        let storage = Storage::new(clients, metrics, || 0.5, uploads)
            .with_places(sources, roots("destinations.file_roots"));
        Self {
            name: name.to_owned(),
            client,
            storage,
            folder,
            no_locks,
        }
    }

    /// A file that uploads may read and reads may write.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs one way of a case.
    pub(crate) async fn end(&self, attempt: &Attempt) -> End {
        if let (true, Some(code)) = (attempt.locked, &self.no_locks) {
            return End::Refused(format!("no such bucket: {code}"));
        }
        let end = (attempt.run)(self);
        let end = tokio::time::timeout(Duration::from_secs(60), end).await;
        end.unwrap_or_else(|_| End::Odd("no end within a minute".to_owned()))
    }

    /// The job as a message of it, decoded as the worker does and run on its storage; one attempt a call.
    pub(crate) async fn run(&self, job: &Value) -> Result<Done, String> {
        self.run_as(&JobId::fresh(), job).await
    }

    pub(crate) async fn run_as(&self, id: &JobId, job: &Value) -> Result<Done, String> {
        let lane = job["operation"].as_str().and_then(OperationName::parse);
        let lane = lane.map_or(Lane::Upload, OperationName::lane);
        let message = Message {
            message_id: Some(id.to_string()),
            body: job.to_string().into(),
            ..Message::default()
        };
        let roots = || Roots::new("roots", vec![self.folder.path().to_owned()]);
        let rules = Rules {
            max_message_bytes: 16 * MIB,
            destination_roots: roots(),
            source_roots: roots(),
            source_origins: Origins::new(Vec::new()),
        };
        let job = wire::decode(&message, lane, &rules, Timestamp::now());
        let job = job.unwrap_or_else(|bad| panic!("{bad:?}"));
        match self.storage.run(&job, &context()).await {
            Ok(done) => Ok(done),
            Err(Stop::Failed(failure)) => {
                eprintln!("{}: {failure}", self.name);
                Err(failure.code)
            }
            Err(stop) => panic!("{stop:?}"),
        }
    }
}

/// The SDK's error by its code, or by what is known else.
pub(crate) fn code_of<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    error.code().unwrap_or("no answer of S3").to_owned()
}

fn context() -> CallContext {
    CallContext {
        breaker: None,
        probe: Mutex::new(None),
        slots: Slots::fixed(8),
        retry: RetryPolicy {
            max_attempts: 1,
            base_delay: Duration::from_millis(10),
            multiplier: 1.0,
            jitter: 0.0,
        },
        max_reply_bytes: 16 * MIB,
        calls: Arc::default(),
        failed: Arc::default(),
        lease: None,
        unfinished: 0,
        // The store's clock is this machine's; what is listed a moment later is not newer.
        enqueued_at: Timestamp::now().plus(Duration::from_secs(5)),
        parts: Arc::default(),
        uploads: None,
        draining: CancellationToken::new(),
    }
}
