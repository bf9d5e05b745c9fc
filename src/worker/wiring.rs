//! Validated settings become the parts' own settings: the one place that knows both sides.

use std::time::Duration;

use crate::{
    broker::rabbitmq::{RabbitSettings, TopologyMode},
    config::{self, Settings},
    job::{
        Lane,
        place::{Origin, Origins, Roots},
        wire,
    },
    lane::{AllowList, BatchLimits, LaneLimits},
    resilience::RetryPolicy,
    storage::{
        COPY_WHOLE_UP_TO, Checksums, StorageSettings, UploadSettings,
        source::{SourceRules, Sources},
    },
};

/// Jobs a lane may have started at a time, as a multiple of its concurrency: those that wait between
/// attempts hold no S3 slot, and others use it.
const ADMISSION: usize = 4;
/// How long a publish may wait for its confirm; chosen, far above what a loaded broker takes.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a queue that is not as it should be is looked at again.
const TOPOLOGY_RECHECK: Duration = Duration::from_secs(30);

/// How S3 is reached; credentials come from the usual `AWS_*` places.
pub fn storage_settings(settings: &Settings) -> StorageSettings {
    let s3 = &settings.s3;
    StorageSettings {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        force_path_style: s3.force_path_style,
        attempt_timeout: s3.attempt_timeout,
        connect_timeout: s3.connect_timeout,
        checksums: match s3.checksums {
            config::Checksums::Auto => Checksums::Auto,
            config::Checksums::WhenSupported => Checksums::WhenSupported,
            config::Checksums::WhenRequired => Checksums::WhenRequired,
        },
        require_etag: s3.require_etag,
        put_defaults: s3.put_defaults.clone(),
        credentials: None,
        copy_whole_up_to: COPY_WHOLE_UP_TO,
    }
}

pub(super) fn upload_settings(settings: &Settings) -> UploadSettings {
    let config::UploadSettings {
        multipart_threshold,
        part_size,
        part_concurrency,
        memory_budget,
    } = settings.upload;
    UploadSettings {
        multipart_threshold,
        part_size,
        part_concurrency,
        memory_budget,
    }
}

pub(super) fn rabbit_settings(settings: &Settings, lanes: &[Lane]) -> RabbitSettings {
    let amqp = &settings.amqp;
    RabbitSettings {
        urls: amqp.url.clone(),
        setting: amqp.url_named.clone(),
        prefix: amqp.prefix.clone(),
        lanes: lanes.to_vec(),
        topology: match amqp.topology {
            config::TopologyMode::Declare => TopologyMode::Declare,
            config::TopologyMode::Verify => TopologyMode::Verify,
            config::TopologyMode::None => TopologyMode::None,
        },
        connect_timeout: amqp.connect_timeout,
        heartbeat: amqp.heartbeat,
        topology_recheck: TOPOLOGY_RECHECK,
        publish_timeout: PUBLISH_TIMEOUT,
    }
}

pub(super) fn lane_limits(lane: Lane, settings: &Settings) -> LaneLimits {
    let numbers = settings.lanes.of(lane);
    let retry = &settings.retry;
    let batch = (lane == Lane::Cleanup).then_some(BatchLimits {
        keys: settings.cleanup.batch_keys,
        wait: settings.cleanup.batch_wait,
    });
    let admission = match batch {
        // All that is in hand, or no batch could fill.
        Some(limits) if limits.keys > 1 => usize::from(numbers.prefetch),
        Some(_) | None => (numbers.concurrency * ADMISSION).min(usize::from(numbers.prefetch)),
    };
    LaneLimits {
        concurrency: numbers.concurrency,
        adaptive: numbers.adaptive,
        admission,
        rules: message_rules(settings),
        allow: AllowList {
            buckets: numbers.buckets.iter().cloned().collect(),
            operations: numbers.operations.iter().copied().collect(),
        },
        retry: RetryPolicy {
            max_attempts: retry.max_attempts,
            base_delay: retry.base_delay,
            multiplier: retry.multiplier,
            jitter: retry.jitter,
        },
        max_job_age: settings.limits.max_job_age,
        job_deadline: settings.limits.job_deadline,
        max_reply_bytes: settings.limits.max_reply_bytes,
        events: settings.events.enabled,
        batch,
    }
}

/// What a message may ask for under these settings.
pub fn message_rules(settings: &Settings) -> wire::Rules {
    wire::Rules {
        max_message_bytes: settings.limits.max_message_bytes,
        destination_roots: destination_roots(settings),
        source_roots: source_roots(settings),
        source_origins: source_origins(settings),
    }
}

/// Where the bytes of uploads may come from.
pub(super) fn sources(settings: &Settings) -> Sources {
    Sources::new(SourceRules {
        file_roots: source_roots(settings),
        url_hosts: source_origins(settings),
        allow_private_addresses: settings.sources.allow_private_addresses,
        max_bytes: settings.sources.max_bytes,
    })
}

pub(super) fn destination_roots(settings: &Settings) -> Roots {
    Roots::new(
        "destinations.file_roots",
        settings.destinations.file_roots.clone(),
    )
}

fn source_roots(settings: &Settings) -> Roots {
    Roots::new("sources.file_roots", settings.sources.file_roots.clone())
}

/// Those that are no origins were refused with the settings.
fn source_origins(settings: &Settings) -> Origins {
    let origins = settings.sources.url_hosts.iter();
    Origins::new(
        origins
            .filter_map(|text| Origin::parse(text).ok())
            .collect(),
    )
}
