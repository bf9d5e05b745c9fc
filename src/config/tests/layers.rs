//! Which source wins, and what no source may say.

use super::*;
use crate::job::Lane;

#[test]
fn the_later_source_wins_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let key = "lanes.upload.concurrency";
    let variable = "BRIGADE_LANES__UPLOAD__CONCURRENCY";
    let file = || given().file(&directory, "[lanes.upload]\nconcurrency = 10\n");

    assert_eq!(given().entry(key).value, "64");
    let from_file = file();
    assert_eq!(from_file.entry(key).value, "10");
    assert_eq!(
        PathBuf::from(from_file.entry(key).origin),
        directory.path().join("brigade.toml")
    );
    let from_env = file().env(variable, "20");
    assert_eq!(
        (
            from_env.entry(key).value.as_str(),
            from_env.entry(key).origin.as_str()
        ),
        ("20", variable)
    );
    let from_flag = file().env(variable, "20").flag(key, "30").flag(key, "40");
    assert_eq!(from_flag.settings().lanes.of(Lane::Upload).concurrency, 40);
    assert_eq!(from_flag.entry(key).origin, "command line");
    // The rest of the section stays.
    assert_eq!(from_flag.settings().lanes.of(Lane::Upload).prefetch, 128);
}

#[test]
fn a_variable_names_the_file_and_the_flag_wins_over_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, "other.toml", "log.level = \"debug\"\n");
    let by_variable = given().env("BRIGADE_CONFIG", path.to_str().unwrap());
    assert_eq!(by_variable.settings().log.level, "debug");
    let by_both = by_variable.file(&directory, "log.level = \"warn\"\n");
    assert_eq!(by_both.settings().log.level, "warn");
    assert_eq!(
        given().env("BRIGADE_CONFIG", "").settings().log.level,
        "info"
    );
}

#[test]
fn familiar_variables_work_and_ours_win_over_them() {
    for (familiar, own, key, weak, strong) in [
        (
            "AMQP_URL",
            "BRIGADE_AMQP__URL",
            "amqp.url",
            "amqp://weak",
            "amqps://strong",
        ),
        (
            "DATABASE_URL",
            "BRIGADE_LEDGER__URL",
            "ledger.url",
            "sqlite://weak",
            "postgres://strong/x",
        ),
        (
            "RUST_LOG",
            "BRIGADE_LOG__LEVEL",
            "log.level",
            "warn",
            "debug",
        ),
    ] {
        let weak_entry = given().env(familiar, weak).entry(key);
        assert_eq!(
            (weak_entry.value.as_str(), weak_entry.origin.as_str()),
            (weak, familiar)
        );
        let strong_entry = given().env(own, strong).env(familiar, weak).entry(key);
        assert_eq!(
            (strong_entry.value.as_str(), strong_entry.origin.as_str()),
            (strong, own)
        );
    }
    assert_eq!(given().env("RUST_LOG", "").settings().log.level, "info");
}

#[test]
fn a_variable_that_is_a_typing_error_is_refused_with_the_name_that_was_meant() {
    let problem = given()
        .env("BRIGADE_LANES__UPLOAD__CONCURENCY", "1")
        .problem();
    assert_eq!(
        problem,
        "lanes.upload.concurency is not a setting (from BRIGADE_LANES__UPLOAD__CONCURENCY); \
         did you mean lanes.upload.concurrency (BRIGADE_LANES__UPLOAD__CONCURRENCY)?"
    );
    let problem = given()
        .env("BRIGADE_LANES_UPLOAD_CONCURRENCY", "1")
        .problem();
    assert!(
        problem.ends_with("(BRIGADE_LANES__UPLOAD__CONCURRENCY)?"),
        "{problem}"
    );
    let problem = given().env("BRIGADE_HTTP_PORT", "80").problem();
    assert!(
        problem.starts_with("http_port is not a setting"),
        "{problem}"
    );
}

#[test]
fn variables_that_are_not_settings_are_passed_over() {
    let noise = given()
        .env("BRIGADE_CONFIG", "")
        .env("BRIGADE_REVISION", "abc")
        .env("BRIGADE_TEST_KILL_AT", "ack")
        .env("BRIGADE_SERVICE_HOST", "10.0.0.1")
        .env("BRIGADE_PORT", "tcp://10.0.0.1:9464")
        .env("BRIGADE_PORT_9464_TCP", "tcp://10.0.0.1:9464")
        .env("BRIGADE_HTTP_SERVICE_PORT", "9464")
        .env("AWS_SECRET_ACCESS_KEY", "s")
        .env("PATH", "/bin");
    assert_eq!(noise.loaded().entries(), given().loaded().entries());
}

#[test]
fn unknown_keys_of_a_file_and_of_flags_are_refused_with_what_was_meant() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("brigade.toml").display().to_string();
    for (text, problem) in [
        (
            "[ledger]\nurll = \"x\"",
            format!("ledger.urll is not a setting (from {path}); did you mean ledger.url?"),
        ),
        (
            "lanes = 3",
            format!("lanes is a section, not a setting (from {path})"),
        ),
        (
            "[amqp.url]\nhost = \"x\"",
            format!("amqp.url.host is not a setting (from {path}); did you mean amqp.url?"),
        ),
        (
            "qqqqqq = 1",
            format!("qqqqqq is not a setting (from {path}); `brigade config show` lists them all"),
        ),
    ] {
        assert_eq!(given().file(&directory, text).problem(), problem);
    }
    let problem = given().flag("s3.endpiont", "http://x").problem();
    assert_eq!(
        problem,
        "s3.endpiont is not a setting (from command line); did you mean s3.endpoint?"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_with_its_place() {
    let mut missing = given();
    missing.0.file = Some(PathBuf::from("/nowhere/brigade.toml"));
    let problem = missing.problem();
    assert!(
        problem.starts_with("the settings file /nowhere/brigade.toml can't be read: "),
        "{problem}"
    );

    let directory = tempfile::tempdir().unwrap();
    let problem = given()
        .file(&directory, "[amqp]\n\nurl = hunter2://x")
        .problem();
    assert!(
        problem.contains("brigade.toml is not sound TOML: line 3: "),
        "{problem}"
    );
    assert!(!problem.contains("hunter2"), "{problem}");
}

#[test]
fn auto_leaves_s3_to_the_sdk_and_shows_the_variable_that_decides() {
    let settings = given().flag("s3.endpoint", "").settings();
    assert_eq!((settings.s3.endpoint, settings.s3.region), (None, None));
    assert_eq!(settings.s3.force_path_style, None);

    let aws = || {
        given()
            .env("AWS_ENDPOINT_URL", "http://general")
            .env("AWS_ENDPOINT_URL_S3", "http://special")
            .env("AWS_REGION", "")
            .env("AWS_DEFAULT_REGION", "eu-central-1")
    };
    assert_eq!(aws().settings().s3.endpoint, None);
    let endpoint = aws().entry("s3.endpoint");
    assert_eq!(
        (endpoint.value.as_str(), endpoint.origin.as_str()),
        ("http://special", "AWS_ENDPOINT_URL_S3")
    );
    let region = aws().entry("s3.region");
    assert_eq!(
        (region.value.as_str(), region.origin.as_str()),
        ("eu-central-1", "AWS_DEFAULT_REGION")
    );

    let own = aws().env("BRIGADE_S3__ENDPOINT", "http://[::1]:9000");
    assert_eq!(
        own.settings().s3.endpoint.as_deref(),
        Some("http://[::1]:9000")
    );
    assert_eq!(own.entry("s3.endpoint").origin, "BRIGADE_S3__ENDPOINT");
}
