//! Secrets: read from files, shown nowhere.

use secrecy::ExposeSecret;

use super::*;

#[test]
fn secrets_are_read_from_files_without_the_last_line_break() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| written(&directory, name, text).display().to_string();
    let amqp = file("amqp", "amqp://u:p@host\n");
    let ledger = file("ledger", "postgres://u:p@host/db\r\n");
    let token = file("token", "hunter2\n");
    for (amqp_name, ledger_name) in [
        ("AMQP_URL_FILE", "DATABASE_URL_FILE"),
        ("BRIGADE_AMQP__URL_FILE", "BRIGADE_LEDGER__URL_FILE"),
    ] {
        let all = given()
            .env(amqp_name, &amqp)
            .env(ledger_name, &ledger)
            .env("BRIGADE_HTTP__ADMIN_TOKEN_FILE", &token);
        let settings = all.settings();
        assert_eq!(settings.amqp.url[0].expose_secret(), "amqp://u:p@host");
        assert_eq!(
            settings.ledger.url.expose_secret(),
            "postgres://u:p@host/db"
        );
        assert_eq!(
            settings.http.admin_token.unwrap().expose_secret(),
            "hunter2"
        );
        assert_eq!(all.entry("amqp.url").origin, amqp_name);
    }
}

#[test]
fn a_secret_file_with_a_rival_empty_or_missing_is_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    let empty = written(&directory, "empty", "\n").display().to_string();
    for name in [
        "AMQP_URL",
        "DATABASE_URL",
        "BRIGADE_AMQP__URL",
        "BRIGADE_HTTP__ADMIN_TOKEN",
    ] {
        let file_name = format!("{name}_FILE");
        let value = given().entry("ledger.url").value;
        let problems = given().env(name, &value).env(&file_name, &empty).problems();
        let expected = format!("{name} and {file_name} are both set, but only one of them may be");
        assert!(problems.contains(&expected), "{problems:?}");
        assert_eq!(
            given().env(&file_name, &empty).problem(),
            format!("{file_name}: {empty} is empty")
        );
        let problem = given().env(&file_name, "/nowhere/x").problem();
        assert!(
            problem.starts_with(&format!("{file_name}: /nowhere/x can't be read: ")),
            "{problem}"
        );
    }
    let problem = given().env("BRIGADE_LOG__LEVEL_FILE", "/x").problem();
    assert!(
        problem.starts_with("log.level_file is not a setting"),
        "{problem}"
    );
}

#[test]
fn no_secret_is_shown_anywhere() {
    let sources = given()
        .env("AMQP_URL", "amqp://user:hunter2@host")
        .env("DATABASE_URL", "postgres://host/db?password=hunter2")
        .env("BRIGADE_HTTP__ADMIN_TOKEN", "hunter2")
        .env("AWS_ENDPOINT_URL_S3", "http://user:hunter2@host")
        .flag("amqp.prefix", "hunter3");
    let loaded = sources.loaded();
    let json = serde_json::to_string(&loaded.entries()).unwrap();
    for shown in [format!("{loaded:?}"), format!("{:?}", sources.0), json] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert!(
        format!("{loaded:?}").contains("hunter3"),
        "what is no secret is shown"
    );
    assert_eq!(sources.entry("amqp.url").value, "amqp://user:***@host");
    assert_eq!(
        sources.entry("ledger.url").value,
        "postgres://host/db?password=***"
    );
    assert_eq!(sources.entry("http.admin_token").value, "***");

    for (key, value) in [
        ("amqp.url", "http://user:hunter2@host"),
        ("amqp.url", "hunter2"),
        ("amqp.url", "amqp://user:hunter2@"),
        ("amqp.url", "amqp://user:hunter2/x@host"),
        ("ledger.url", "mysql://user:hunter2@host/db"),
        ("ledger.url", "sqlite://"),
        ("http.admin_token", "hunter2 with spaces"),
        ("s3.endpoint", "http://user:hunter2@host"),
        ("sources.url_hosts", "http://user:hunter2@host"),
        ("amqp.ulr", "hunter2"),
    ] {
        let error = load(&given().flag(key, value).0).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(shown.contains(key), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
