use aws_sdk_s3::config::retry::RetryMode;
use aws_types::service_config::LoadServiceConfig;

use super::*;
use crate::job::{Operation, operation::PutOptions};
use crate::storage::script::{Answer, Stage, keys, op, settings, shared};

fn built(settings: &StorageSettings) -> Clients {
    Clients::from_shared(
        &shared(keys()),
        settings,
        aws_smithy_http_client::Builder::new().build_http(),
    )
}

#[tokio::test]
async fn every_setting_is_made_in_code() {
    let clients = built(&settings());
    let mut partitions = Vec::new();
    for lane in Lane::ALL {
        let config = clients.of(lane).config();
        let retry = config.retry_config().unwrap();
        assert_eq!(
            (retry.mode(), retry.max_attempts()),
            (RetryMode::Adaptive, 1)
        );
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.read_timeout(), Some(Duration::from_secs(10)));
        assert_eq!(timeouts.operation_attempt_timeout(), None);
        assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(3)));
        assert!(!config.stalled_stream_protection().unwrap().is_enabled());
        partitions.push(config.retry_partition().unwrap().to_string());
    }
    assert_eq!(partitions, ["upload", "read", "cleanup"]);
}

#[test]
fn people_see_the_endpoint_that_is_called_and_never_a_password() {
    let of = |endpoint: &str| {
        built(&StorageSettings {
            endpoint: Some(endpoint.to_owned()),
            ..settings()
        })
        .endpoint
    };
    assert_eq!(&*of("http://s3.test:9000"), "http://s3.test:9000");
    assert_eq!(&*of("https://me:hush@s3.test/a@b"), "https://s3.test/a@b");
    let aws = StorageSettings {
        endpoint: None,
        ..settings()
    };
    let fips = shared(keys()).into_builder().use_fips(true).build();
    for (shared, url) in [
        (shared(keys()), "https://s3.us-east-1.amazonaws.com"),
        (fips, "https://s3-fips.us-east-1.amazonaws.com"),
    ] {
        let http = aws_smithy_http_client::Builder::new().build_http();
        assert_eq!(&*Clients::from_shared(&shared, &aws, http).endpoint, url);
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_endpoint_gets_path_style_and_no_extra_checksums_and_aws_gets_both_otherwise() {
    let custom = settings();
    let aws = StorageSettings {
        endpoint: None,
        ..settings()
    };
    let forced = StorageSettings {
        force_path_style: Some(false),
        checksums: Checksums::WhenSupported,
        ..settings()
    };
    for (settings, uri, has_checksum) in [
        (
            custom,
            "http://s3.test:9000/reports/k?x-id=PutObject",
            false,
        ),
        (
            aws,
            "https://reports.s3.us-east-1.amazonaws.com/k?x-id=PutObject",
            true,
        ),
        (forced, "http://reports.s3.test:9000/k?x-id=PutObject", true),
    ] {
        let stage = Stage::with([Answer::status(200)], &settings, &shared(keys()));
        let mut operation = op::put(PutOptions::default());
        if let Operation::PutObject(put) = &mut operation {
            put.bucket = "reports".to_owned();
        }
        stage.run(operation).await.unwrap();
        let seen = &stage.seen()[0];
        assert_eq!(seen.uri, uri);
        assert_eq!(
            seen.headers.contains_key("x-amz-checksum-crc32"),
            has_checksum,
            "{uri}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_region_jobs_wait_for_the_operator() {
    let shared = shared(keys()).into_builder().region(None).build();
    let aws = StorageSettings {
        endpoint: None,
        ..settings()
    };
    let stage = Stage::with([Answer::status(200)], &aws, &shared);
    let failure = stage.failure(op::head()).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Credentials, "region_missing")
    );
    assert_eq!(stage.requests(), 0);
}

/// Real chain, real files, no keys: on a machine that has some, they would be found, and nothing is proved.
#[tokio::test]
async fn a_store_on_this_machine_needs_no_region_and_misses_its_keys_at_once() {
    let settings = StorageSettings {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        region: None,
        ..settings()
    };
    let began = tokio::time::Instant::now();
    let clients = Clients::build(&settings).await;
    assert_eq!(clients.misconfigured, None);
    let client = clients.of(Lane::Read);
    assert!(client.config().region().is_some());
    let failure = client
        .head_bucket()
        .bucket("b")
        .send()
        .await
        .map_err(super::super::error::failure);
    let failure = failure.unwrap_err();
    assert!(
        ["credentials_missing", "connection_failed"].contains(&failure.code.as_str()),
        "{failure:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn loopback_is_told_from_the_rest() {
    for local in [
        "http://127.0.0.1:9000",
        "http://localhost",
        "https://[::1]:1/x",
        "http://127.1",
    ] {
        assert!(is_loopback(local), "{local}");
    }
    for other in [
        "https://s3.eu-central-1.amazonaws.com",
        "http://minio:9000",
        "http://10.0.0.1",
    ] {
        assert!(!is_loopback(other), "{other}");
    }
}

#[tokio::test]
async fn only_a_web_url_is_an_endpoint() {
    for (endpoint, good) in [
        ("http://minio:9000", true),
        ("https://s3.example.com/base", true),
        ("minio:9000", false),
        ("ftp://minio", false),
        ("http://", false),
        ("http://a b", false),
    ] {
        let settings = StorageSettings {
            endpoint: Some(endpoint.to_owned()),
            ..settings()
        };
        assert_eq!(built(&settings).misconfigured.is_none(), good, "{endpoint}");
    }
}

/// The environment and the files of AWS, as far as they speak of checksums.
#[derive(Debug)]
struct Said(&'static [(&'static str, &'static str)]);

impl LoadServiceConfig for Said {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let said = self.0.iter().find(|(name, _)| *name == key.env());
        said.map(|(_, value)| (*value).to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn aws_s_own_variables_decide_on_checksums_unless_the_setting_does() {
    let aws = || StorageSettings {
        endpoint: None,
        ..settings()
    };
    let forced = StorageSettings {
        checksums: Checksums::WhenRequired,
        ..settings()
    };
    let sent = "AWS_REQUEST_CHECKSUM_CALCULATION";
    let checked = "AWS_RESPONSE_CHECKSUM_VALIDATION";
    let cases: [(&'static [_], StorageSettings, bool, bool); 5] = [
        (&[], aws(), true, true),
        (
            &[("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")],
            aws(),
            false,
            true,
        ),
        (
            &[("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")],
            aws(),
            true,
            false,
        ),
        (
            &[("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")],
            settings(),
            true,
            true,
        ),
        (
            &[("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")],
            forced,
            false,
            false,
        ),
    ];
    for (said, settings, sends, checks) in cases {
        assert!(said.iter().all(|(name, _)| [sent, checked].contains(name)));
        let shared = shared(keys()).into_builder();
        let shared = shared.service_config(Said(said)).build();
        let stage = Stage::with([Answer::status(200)], &settings, &shared);
        stage.run(op::put(PutOptions::default())).await.unwrap();
        let headers = &stage.seen()[0].headers;
        assert_eq!(
            headers.contains_key("x-amz-checksum-crc32"),
            sends,
            "{said:?}"
        );
        let http = aws_smithy_http_client::Builder::new().build_http();
        let clients = Clients::from_shared(&shared, &settings, http);
        assert_eq!(clients.checksums_supported, sends);
        assert_eq!(clients.checks_answers, checks, "{said:?}");
    }
}
