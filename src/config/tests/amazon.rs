//! Values that can't be a header or a URL, be they ours or the SDK's.

use super::*;

#[test]
fn white_space_at_the_ends_is_left_out_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let url = written(&directory, "url", " postgres://host/db \n");
    let loaded = given()
        .file(
            &directory,
            "s3.region = \" eu-west-1\"\nlog.level = \"info\"",
        )
        .env("AMQP_URL", "amqp://host\n")
        .env("BRIGADE_LEDGER__URL_FILE", url.to_str().unwrap())
        .env("BRIGADE_S3__ENDPOINT", "http://s3:9000\r\n")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2\n")
        .env("AWS_REGION", "\teu-central-1")
        .flag("http.listen", " 127.0.0.1:1")
        .loaded();
    let settings = &loaded.settings;
    assert_eq!(settings.s3.endpoint.as_deref(), Some("http://s3:9000"));
    assert_eq!(settings.s3.region.as_deref(), Some("eu-west-1"));
    let warnings = loaded.warnings();
    for part in [
        "s3.region has white space",
        "(from AMQP_URL)",
        "(from BRIGADE_LEDGER__URL_FILE)",
        "(from BRIGADE_S3__ENDPOINT)",
        "http.listen has white space at its ends, which is left out (from command line)",
        "AWS_SECRET_ACCESS_KEY has white space at its ends, which is left out",
        "AWS_REGION has white space",
    ] {
        assert!(
            warnings.iter().any(|warning| warning.contains(part)),
            "{part}: {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), 7, "{warnings:#?}");
}

#[test]
fn a_secret_files_line_break_is_nothing_to_speak_of() {
    let directory = tempfile::tempdir().unwrap();
    let url = written(&directory, "url", "sqlite://x.db\n");
    let given = given().env("DATABASE_URL_FILE", url.to_str().unwrap());
    assert_eq!(given.entry("ledger.url").value, "sqlite://x.db");
    assert!(given.loaded().warnings().is_empty());
}

#[test]
fn what_no_header_and_no_url_takes_is_refused_with_its_name() {
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "hunter2\nx"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2 x"),
        ("AWS_SESSION_TOKEN", "hunter2\u{e9}"),
        ("AWS_REGION", "eu\ncentral-1"),
        ("AWS_DEFAULT_REGION", "eu central"),
        ("AWS_ENDPOINT_URL", "minio:9000"),
        ("AWS_ENDPOINT_URL_S3", "http://s3\n.test"),
        ("AWS_ENDPOINT_URL_S3", "ftp://s3.test"),
        ("AWS_ENDPOINT_URL_S3", "http://s3.test:port"),
        ("AWS_ENDPOINT_URL_S3", "http://"),
        ("HTTPS_PROXY", "socks5://hunter2@proxy:1080"),
        ("http_proxy", "http://user:hunter2@proxy:port"),
        ("ALL_PROXY", "http://proxy:3128\n"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
        ("AWS_PROFILE", "worker\n"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2\n"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token\n"),
    ] {
        let problem = given().env(name, value).problem();
        assert!(problem.starts_with(&format!("{name} must ")), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    for (name, value, key) in [
        ("DATABASE_URL", "sqlite:///var/ledger\n.db", "ledger.url"),
        ("DATABASE_URL", "postgres://u:p\u{0}@host/db", "ledger.url"),
        ("AMQP_URL", "amqp://ho\nst", "amqp.url"),
        ("BRIGADE_S3__ENDPOINT", "http://s3/\u{7}x", "s3.endpoint"),
        ("BRIGADE_S3__REGION", "eu\ncentral-1", "s3.region"),
    ] {
        let problem = given().env(name, value).problem();
        assert!(problem.contains(key) && problem.contains(name), "{problem}");
    }
}

#[test]
fn what_the_sdk_takes_is_taken() {
    given()
        .env(
            "AWS_ENDPOINT_URL_S3",
            "https://me:hush@s3.test:9000/storage/v1/s3",
        )
        .env("AWS_ENDPOINT_URL", "http://[::1]:4566")
        .env("AWS_ACCESS_KEY_ID", "")
        .env("AWS_SESSION_TOKEN", "a/+=b")
        .env("DATABASE_URL", "sqlite:///var/my data/ledger.db")
        .loaded();
}

#[test]
fn proxies_are_known_and_shown_without_their_password() {
    let loaded = given()
        .env("HTTPS_PROXY", "http://me:hunter2@proxy:3128")
        .env("http_proxy", "proxy")
        .env("NO_PROXY", "10.0.0.0/8,.internal")
        .loaded();
    assert_eq!(
        loaded.proxies(),
        [
            "HTTPS_PROXY=http://me:***@proxy:3128",
            "http_proxy=proxy",
            "NO_PROXY=10.0.0.0/8,.internal"
        ]
    );
    assert!(!format!("{loaded:?}").contains("hunter2"));
}
