//! Builds the S3 clients: one a lane, every setting of it written down here.
//!
//! Nothing is left to the SDK's defaults that may change behaviour (facts: s3.md, 1): `AWS_RETRY_MODE` and
//! `AWS_MAX_ATTEMPTS` have no say, since retries are ours (`guard.rs`) and the SDK only limits the rate.
//! Credentials, region and endpoint come from where every AWS tool looks for them.

use std::{sync::Arc, time::Duration};

use aws_config::{
    SdkConfig,
    default_provider::credentials::DefaultCredentialsChain,
    ecs::EcsCredentialsProvider,
    environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider},
    imds::region::ImdsRegionProvider,
    meta::{credentials::CredentialsProviderChain, region::RegionProviderChain},
    profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider},
    web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_sdk_s3::{
    Client,
    config::{
        self, BehaviorVersion, Credentials, HttpClient, IdentityCache, Region,
        RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
        SharedHttpClient, StalledStreamProtectionConfig,
        endpoint::{self, ResolveEndpoint},
        http::HttpRequest,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_types::service_config::ServiceConfigKey;
use futures_util::FutureExt;

use super::{
    door::DoorClient,
    identity::{self, Identity},
    proxy,
    reader::AnswerReader,
    region::{ByBucket, Regions},
    said::JobHeaders,
    trust,
};
use crate::job::{Failure, FailureClass, Headers, Lane};

/// S3 closes idle connections after 5 to 20 s; a stale one costs an attempt.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Bytes that S3 copies or joins in a second, at least.
const SECONDS_WORK: f64 = 1024.0 * 1024.0;
/// What a store of one's own wants in signatures when it has no regions.
const NO_REGION: &str = "us-east-1";

/// When the SDK computes and checks checksums that S3 does not insist on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Checked whenever there is one. Sent to AWS itself whenever supported; to a custom endpoint when required, as
    /// many stores refuse them.
    Auto,
    /// Always.
    WhenSupported,
    /// Only where S3 insists.
    WhenRequired,
}

/// What the operator says about S3. `None` leaves it to the standard `AWS_*` variables and files.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// `http://` or `https://` URL of a store other than AWS.
    pub endpoint: Option<String>,
    /// Region of all buckets.
    pub region: Option<String>,
    /// Bucket in the path instead of the host; by default for custom endpoints.
    pub force_path_style: Option<bool>,
    /// How long a request may stand still: no byte up or down, no answer.
    pub attempt_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// See [`Checksums`].
    pub checksums: Checksums,
    /// Whether a put or a copy without an `ETag` in its answer has failed; false for a store that never gives one.
    pub require_etag: bool,
    /// What is said of an object of which its job says nothing: encryption, storage class.
    pub put_defaults: Headers,
    /// Fixed credentials, for tests and the demo.
    pub credentials: Option<Credentials>,
    /// Larger objects are copied in parts; S3 allows 5 GiB, tests less. In bytes, at least a part's 5 MiB.
    pub copy_whole_up_to: u64,
}

/// One client a lane, each with a rate limiter of its own. Cheap to share, built once.
#[derive(Debug)]
pub struct Clients {
    /// By [`Lane::index`].
    lanes: [Client; 3],
    /// What they sign with.
    identity: Identity,
    pub(super) attempt_timeout: Duration,
    connect_timeout: Duration,
    pub(super) copy_whole_up_to: u64,
    /// Whether S3 is given checksums that it does not insist on.
    pub(super) checksums_supported: bool,
    /// Whether S3 is asked for the checksums of objects that are read.
    pub(super) checks_answers: bool,
    /// Where S3 is looked for, as people may see it.
    pub(super) endpoint: Arc<str>,
    /// Whether S3 is reached over TLS.
    pub(super) over_tls: bool,
    /// See [`StorageSettings::require_etag`].
    pub(super) require_etag: bool,
    /// See [`StorageSettings::put_defaults`].
    pub(super) put_defaults: Headers,
    /// Why no call can be made at all.
    pub(super) misconfigured: Option<Failure>,
}

impl Clients {
    /// Reads what the environment and AWS's files say, and builds the clients. Asks the network for
    /// nothing but a missing region of AWS itself. What is wrong shows in each operation as class
    /// `credentials`: the worker's settings are at fault, and its jobs must wait.
    pub async fn build(settings: &StorageSettings) -> Self {
        let shared = read_files(settings).await;
        // A bundle that can't be used is reported below, and then no call is made.
        let trusted = trust::tls_context(&shared).unwrap_or_default();
        let http = proxy::http_client(trusted, ProxyConfig::from_env(), POOL_IDLE);
        let endpoint = endpoint_of(&shared, settings);
        let region = match (shared.region(), &endpoint) {
            (Some(region), _) => Some(tidy_region(region)),
            (None, Some(_)) => Some(Region::new(NO_REGION)),
            (None, None) => {
                RegionProviderChain::first_try(ImdsRegionProvider::builder().build())
                    .region()
                    .await
            }
        };
        let identity = match &settings.credentials {
            Some(fixed) => Identity::over(SharedCredentialsProvider::new(fixed.clone())),
            None => {
                let (endpoint, region) = (endpoint.clone(), region.clone());
                Identity::new(Box::new(move || {
                    credentials_of(endpoint.clone(), region.clone()).boxed()
                }))
            }
        };
        let shared = shared.into_builder().region(region).build();
        Self::from_parts(&shared, settings, identity, http)
    }

    /// Builds the clients from what was found, credentials included.
    #[cfg(test)]
    pub(super) fn from_shared(
        shared: &SdkConfig,
        settings: &StorageSettings,
        http: impl HttpClient + 'static,
    ) -> Self {
        let provider = shared.credentials_provider();
        let provider = provider.unwrap_or_else(|| {
            use aws_credential_types::{credential_fn, provider::error::CredentialsError};
            SharedCredentialsProvider::new(credential_fn::provide_credentials_fn(|| async {
                Err(CredentialsError::not_loaded_no_source())
            }))
        });
        Self::from_parts(shared, settings, Identity::over(provider), http)
    }

    /// The endpoint is looked up in both `shared` and `settings`.
    fn from_parts(
        shared: &SdkConfig,
        settings: &StorageSettings,
        identity: Identity,
        http: impl HttpClient + 'static,
    ) -> Self {
        let endpoint = endpoint_of(shared, settings);
        let custom = endpoint.is_some();
        let path_style = settings.force_path_style.unwrap_or(custom);
        let checksums = |variable, profile, default| match settings.checksums {
            Checksums::Auto => said_of_checksums(shared, variable, profile).unwrap_or(default),
            explicit => explicit,
        };
        let sent = checksums(
            "AWS_REQUEST_CHECKSUM_CALCULATION",
            "request_checksum_calculation",
            if custom {
                Checksums::WhenRequired
            } else {
                Checksums::WhenSupported
            },
        );
        // To ask for one does no harm: what has none gives none.
        let checked = checksums(
            "AWS_RESPONSE_CHECKSUM_VALIDATION",
            "response_checksum_validation",
            Checksums::WhenSupported,
        );
        let misconfigured = misconfigured(shared, endpoint.as_deref());
        if let Some(failure) = &misconfigured {
            tracing::error!(
                code = failure.code,
                why = failure.message,
                "S3 can't be called"
            );
        }
        tracing::info!(
            endpoint = endpoint.as_deref().unwrap_or("aws"),
            region = shared.region().map_or("none", AsRef::as_ref),
            path_style,
            checksums_sent = ?sent,
            checksums_checked = ?checked,
            attempt_timeout_s = settings.attempt_timeout.as_secs_f64(),
            connect_timeout_s = settings.connect_timeout.as_secs_f64(),
            retries = "adaptive limiter, 1 attempt a call",
            "S3 settings"
        );
        let http = SharedHttpClient::new(DoorClient {
            inner: SharedHttpClient::new(http),
            patience: settings.attempt_timeout,
        });
        let regions = Arc::new(Regions::default());
        let timeouts = timeouts(settings.attempt_timeout, settings.connect_timeout);
        let client = |lane: Lane| {
            let mut builder = config::Builder::from(shared)
                .http_client(http.clone())
                // It keeps them itself.
                .credentials_provider(identity.clone())
                .identity_cache(IdentityCache::no_cache())
                .endpoint_resolver(ByBucket::new(Arc::clone(&regions)))
                .interceptor(AnswerReader::new(Arc::clone(&regions)))
                .interceptor(JobHeaders)
                // The limiter is asked before the attempt and told after it; one attempt, so that ours don't multiply.
                .retry_config(RetryConfig::adaptive().with_max_attempts(1))
                // Else all clients of a region share one limiter, and cleanup would slow uploads down.
                .retry_partition(RetryPartition::custom(lane.as_str()).build())
                .timeout_config(timeouts.clone())
                // What does not move is given up by `progress.rs`, in both directions.
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                .force_path_style(path_style)
                // One request a call: a bucket's name must not make the SDK ask for a session first.
                .disable_s3_express_session_auth(true)
                .behavior_version(BehaviorVersion::v2026_01_12());
            builder.set_endpoint_url(endpoint.as_deref().map(with_slash));
            builder
                .request_checksum_calculation(match sent {
                    Checksums::WhenRequired => RequestChecksumCalculation::WhenRequired,
                    _ => RequestChecksumCalculation::WhenSupported,
                })
                // It would check against what is no checksum of these bytes: see `checksum.rs`.
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        };
        Self {
            lanes: Lane::ALL.map(|lane| Client::from_conf(client(lane).build())),
            identity: identity.clone(),
            attempt_timeout: settings.attempt_timeout,
            connect_timeout: settings.connect_timeout,
            copy_whole_up_to: settings.copy_whole_up_to,
            checksums_supported: sent != Checksums::WhenRequired,
            checks_answers: checked != Checksums::WhenRequired,
            endpoint: shown_endpoint(shared, endpoint.as_deref()).into(),
            over_tls: endpoint.is_none_or(|url| url.starts_with("https://")),
            require_etag: settings.require_etag,
            put_defaults: settings.put_defaults.clone(),
            misconfigured,
        }
    }

    /// The lane's client.
    pub(super) const fn of(&self, lane: Lane) -> &Client {
        &self.lanes[lane.index()]
    }

    /// S3 refused what a request was signed with: the next one is signed with what is found then.
    pub(super) fn credentials_refused(&self) {
        self.identity.refused();
    }

    /// Time-outs for one call for which S3 works on `size` bytes that nobody sees: one second more for each mebibyte.
    pub(super) fn timeouts_for(&self, size: u64) -> TimeoutConfig {
        let more = Duration::from_secs_f64(size as f64 / SECONDS_WORK);
        timeouts(self.attempt_timeout + more, self.connect_timeout)
    }
}

/// Bytes that S3 works on for as long, at least.
pub(super) fn worked_on(time: Duration) -> u64 {
    (time.as_secs_f64() * SECONDS_WORK) as u64
}

/// The patience is read in `door.rs`. It is none of the SDK's attempt time-outs, which end calls that move, nor a
/// timer around `send()`: the rate limiter waits inside, and a timer there failed healthy calls in measurement
/// (facts: s3.md, 3).
fn timeouts(patience: Duration, connect: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(connect)
        .read_timeout(patience)
        .disable_operation_attempt_timeout()
        .disable_operation_timeout()
        .build()
}

/// What the environment and AWS's files say; without credentials, since their chain depends on the endpoint, which
/// is only known after this. Asks the network for nothing.
async fn read_files(settings: &StorageSettings) -> SdkConfig {
    let region = settings.region.clone().map(Region::new);
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(
            RegionProviderChain::first_try(region)
                .or_else(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new()),
        )
        .no_credentials()
        .load()
        .await
}

/// Why no call could be made with these settings, as far as that can be seen without asking anybody: a region that
/// is missing may still be known to the machine's metadata service.
pub async fn misconfiguration(settings: &StorageSettings) -> Option<Failure> {
    let shared = read_files(settings).await;
    let endpoint = endpoint_of(&shared, settings);
    let region = shared.region().map(tidy_region);
    let region = region.unwrap_or_else(|| Region::new(NO_REGION));
    let shared = shared.into_builder().region(region).build();
    misconfigured(&shared, endpoint.as_deref()).or_else(|| {
        // In a worker no reason to give up: the file may be rewritten while it runs.
        // Set to nothing is not set.
        let said = |variable, profile| {
            let said = said_to_sdk(&shared, variable, profile);
            said.filter(|value| !value.is_empty())
                .unwrap_or_else(|| "none".to_owned())
        };
        let unfit = identity::unfit(
            &said("AWS_ACCESS_KEY_ID", "aws_access_key_id"),
            &said("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"),
            Some(&said("AWS_SESSION_TOKEN", "aws_session_token")),
        )?;
        let class = FailureClass::Credentials;
        Some(Failure::ours(class, "credentials_invalid", unfit))
    })
}

/// What the SDK's own variable or profile says of checksums. It is asked here, since the SDK's word for it is the same
/// for a default and for an order.
fn said_of_checksums(shared: &SdkConfig, variable: &str, profile: &str) -> Option<Checksums> {
    let said = said_to_sdk(shared, variable, profile)?;
    match said.trim().to_ascii_lowercase().as_str() {
        "when_supported" => Some(Checksums::WhenSupported),
        "when_required" => Some(Checksums::WhenRequired),
        _ => None,
    }
}

/// The variable's value, or else the profile's.
fn said_to_sdk(shared: &SdkConfig, variable: &str, profile: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env(variable)
        .profile(profile)
        .build();
    shared.service_config()?.load_config(key.ok()?)
}

/// The custom endpoint: the setting, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or their like in a profile.
fn endpoint_of(shared: &SdkConfig, settings: &StorageSettings) -> Option<String> {
    let for_s3 = || said_to_sdk(shared, "AWS_ENDPOINT_URL", "endpoint_url");
    let for_all = || shared.endpoint_url().map(str::to_owned);
    let found = settings.endpoint.clone().or_else(for_s3).or_else(for_all)?;
    Some(found.trim().to_owned())
}

/// The SDK puts the bucket's name right behind a path.
fn with_slash(endpoint: &str) -> String {
    let rest = endpoint.split_once("://").map_or("", |(_, rest)| rest);
    let slash = if rest.contains('/') && !rest.ends_with('/') {
        "/"
    } else {
        ""
    };
    format!("{endpoint}{slash}")
}

fn tidy_region(region: &Region) -> Region {
    Region::new(region.as_ref().trim().to_owned())
}

/// The endpoint without user and password; AWS's own is worked out as the SDK does it, before the bucket's name
/// goes into the host.
fn shown_endpoint(shared: &SdkConfig, custom: Option<&str>) -> String {
    if let Some(url) = custom {
        return match url.split_once("://") {
            Some((scheme, rest)) => {
                let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let user = rest[..authority].rfind('@').map_or(0, |at| at + 1);
                format!("{scheme}://{}", &rest[user..])
            }
            None => url.to_owned(),
        };
    }
    let params = endpoint::Params::builder()
        .set_region(shared.region().map(ToString::to_string))
        .use_fips(shared.use_fips().unwrap_or(false))
        .use_dual_stack(shared.use_dual_stack().unwrap_or(false))
        .build();
    let found = params.ok().and_then(|params| {
        let resolver = endpoint::DefaultResolver::new();
        let found = ResolveEndpoint::resolve_endpoint(&resolver, &params).now_or_never();
        Some(found?.ok()?.url().to_owned())
    });
    found.unwrap_or_else(|| "aws".to_owned())
}

/// The standard chain. A store on this very machine is no reason to ask EC2's metadata service, which
/// takes seconds to fail elsewhere.
async fn credentials_of(
    endpoint: Option<String>,
    region: Option<Region>,
) -> SharedCredentialsProvider {
    if endpoint.as_deref().is_some_and(is_loopback) {
        let chain = CredentialsProviderChain::first_try(
            "Environment",
            EnvironmentVariableCredentialsProvider::new(),
        )
        .or_else("Profile", ProfileFileCredentialsProvider::builder().build())
        .or_else(
            "WebIdentityToken",
            WebIdentityTokenCredentialsProvider::builder().build(),
        )
        .or_else("EcsContainer", EcsCredentialsProvider::builder().build());
        return SharedCredentialsProvider::new(chain);
    }
    let chain = DefaultCredentialsChain::builder()
        .region(region)
        .build()
        .await;
    SharedCredentialsProvider::new(chain)
}

fn is_loopback(endpoint: &str) -> bool {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    ["localhost", "127.", "[::1]"]
        .iter()
        .any(|local| authority.starts_with(local))
}

/// Refuses bucket names that would change the URL's host or path: directory buckets and outposts, which the
/// SDK gives a host of their own even with path style, and the names of folders. Else a message could
/// steer the worker to hosts that don't exist, and open the circuit for everybody.
pub(super) fn check_bucket(bucket: &str) -> Result<(), Failure> {
    let special = ["--x-s3", "--xa-s3", "--op-s3"];
    if matches!(bucket, "." | "..") || special.iter().any(|suffix| bucket.ends_with(suffix)) {
        let message = format!("bucket {bucket} is of a kind that is not supported");
        return Err(Failure::ours(
            FailureClass::Permanent,
            "unsupported_bucket",
            message,
        ));
    }
    Ok(())
}

/// Why no job can be done, if that can be seen now. Such a fault must not reach the classifier as a
/// fault of each job: it would bury the whole queue.
fn misconfigured(shared: &SdkConfig, endpoint: Option<&str>) -> Option<Failure> {
    let failure = |code, message: String| {
        let failure = Failure::ours(FailureClass::Credentials, code, message);
        Some(Failure {
            called: true,
            ..failure
        })
    };
    if let Err(message) = trust::tls_context(shared) {
        return failure("ca_bundle_invalid", message);
    }
    let Some(region) = shared.region().map(AsRef::as_ref) else {
        let message = "no region: set s3.region or AWS_REGION";
        return failure("region_missing", message.to_owned());
    };
    // It goes into the host and into a header, and the SDK panics over what can't.
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if region.is_empty() || !region.chars().all(is_word) {
        let message = format!(
            "the region {region:?} is none: correct s3.region, AWS_REGION or the profile's region"
        );
        return failure("region_invalid", message);
    }
    let endpoint = endpoint?;
    let is_web = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    let is_visible = endpoint.bytes().all(|byte| byte.is_ascii_graphic());
    if is_web && is_visible && HttpRequest::empty().set_uri(endpoint).is_ok() {
        return None;
    }
    let shown = shown_endpoint(shared, Some(endpoint));
    let message = format!("the endpoint {shown:?} is not an http:// or https:// URL");
    failure("endpoint_invalid", message)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
