use std::{fs, path::PathBuf};

use secrecy::ExposeSecret;

use super::*;
use crate::job::{Lane, OperationName};

/// The table of CONTRACT.md, section 6.
const CONTRACT: [(&str, &str); 18] = [
    (
        "amqp",
        "url prefix topology consumer_timeout connect_timeout heartbeat",
    ),
    (
        "s3",
        "endpoint region force_path_style attempt_timeout connect_timeout checksums",
    ),
    ("ledger", "url retention migrate commit_wait lease"),
    ("lanes.upload", "concurrency prefetch buckets operations"),
    ("lanes.read", "concurrency prefetch buckets operations"),
    ("lanes.cleanup", "concurrency prefetch buckets operations"),
    ("retry", "max_attempts base_delay multiplier jitter"),
    (
        "circuit",
        "failure_threshold open_base open_max half_open_permits probe_timeout",
    ),
    (
        "upload",
        "multipart_threshold part_size part_concurrency memory_budget",
    ),
    (
        "sources",
        "file_roots url_hosts allow_private_addresses max_bytes",
    ),
    ("destinations", "file_roots"),
    ("cleanup", "batch_keys batch_wait"),
    (
        "limits",
        "max_message_bytes max_reply_bytes max_job_age job_deadline",
    ),
    ("http", "listen admin_token"),
    ("events", "enabled"),
    ("metrics", "max_bucket_labels"),
    ("log", "level format"),
    ("drain", "timeout"),
];

/// The defaults that the contract names.
const CONTRACT_DEFAULTS: [(&str, &str); 29] = [
    ("amqp.url", "amqp://guest:***@127.0.0.1:5672/%2f"),
    ("amqp.prefix", "brigade"),
    ("amqp.topology", "declare"),
    ("amqp.consumer_timeout", "30m"),
    ("s3.attempt_timeout", "10s"),
    ("ledger.url", "sqlite://brigade.db"),
    ("ledger.retention", "14d"),
    ("ledger.migrate", "true"),
    ("ledger.lease", "15s"),
    ("lanes.cleanup.prefetch", "2000"),
    ("retry.max_attempts", "3"),
    ("retry.base_delay", "1s"),
    ("retry.multiplier", "2"),
    ("retry.jitter", "0.2"),
    ("circuit.failure_threshold", "5"),
    ("circuit.open_base", "5s"),
    ("circuit.open_max", "60s"),
    ("circuit.half_open_permits", "1"),
    ("upload.multipart_threshold", "8MiB"),
    ("sources.allow_private_addresses", "false"),
    ("cleanup.batch_keys", "1000"),
    ("limits.max_message_bytes", "1MiB"),
    ("limits.max_reply_bytes", "8MiB"),
    ("limits.max_job_age", "24h"),
    ("http.listen", "127.0.0.1:9464"),
    ("events.enabled", "false"),
    ("metrics.max_bucket_labels", "50"),
    ("log.level", "info"),
    ("drain.timeout", "25s"),
];

/// Sources under construction.
#[derive(Default)]
struct Given(Sources);

fn given() -> Given {
    Given::default()
}

impl Given {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.0.flags.push((key.to_owned(), value.to_owned()));
        self
    }

    fn file(mut self, directory: &tempfile::TempDir, text: &str) -> Self {
        self.0.file = Some(written(directory, "brigade.toml", text));
        self
    }

    fn loaded(&self) -> Loaded {
        load(&self.0).unwrap()
    }

    fn settings(&self) -> Settings {
        self.loaded().settings
    }

    fn problems(&self) -> Vec<String> {
        load(&self.0).unwrap_err().problems().to_vec()
    }

    /// The only problem.
    fn problem(&self) -> String {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.concat()
    }

    fn entry(&self, key: &str) -> Entry {
        self.loaded()
            .entries()
            .into_iter()
            .find(|entry| entry.key == key)
            .unwrap()
    }
}

fn written(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn contract_keys() -> Vec<String> {
    let of_section = |(section, names): &(&str, &str)| {
        let section = (*section).to_owned();
        names
            .split(' ')
            .map(move |name| format!("{section}.{name}"))
            .collect::<Vec<_>>()
    };
    let mut keys: Vec<String> = CONTRACT.iter().flat_map(of_section).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_defaults_are_sound_by_themselves_and_hold_the_contracts_keys() {
    let loaded = given().loaded();
    let keys: Vec<String> = loaded
        .entries()
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    assert_eq!(keys, contract_keys());
    assert!(
        loaded
            .entries()
            .iter()
            .all(|entry| entry.origin == "default")
    );
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    for (key, value) in CONTRACT_DEFAULTS {
        assert_eq!(given().entry(key).value, value, "{key}");
    }
}

#[test]
fn every_default_has_a_reason_beside_it() {
    let mut explained = false;
    for line in raw::DEFAULTS.lines() {
        let has_own_reason = !line.contains("buckets =") && !line.contains("operations =");
        if line.contains(" = ") && !line.starts_with('#') && has_own_reason {
            // The two numbers of the read lane share theirs.
            assert!(
                explained || line == "prefetch = 128",
                "no reason above {line:?}"
            );
        }
        explained = line.starts_with('#');
    }
}

#[test]
fn every_setting_is_read_and_refuses_nonsense() {
    for key in contract_keys() {
        let problem = given().flag(&key, "[ no !").problem();
        assert!(problem.contains(&key), "{problem}");
        assert!(problem.contains("must be"), "{problem}");
        assert!(problem.contains("command line"), "{problem}");
    }
}

#[test]
fn a_bad_value_names_its_key_the_rule_the_value_and_its_origin() {
    for (key, value, rule) in [
        ("amqp.prefix", "a b", "1 to 100 of A-Z a-z 0-9 . _ -"),
        ("amqp.prefix", "amq.x", "not begin with amq."),
        ("amqp.topology", "make", "declare, verify or none"),
        (
            "amqp.consumer_timeout",
            "30",
            "a duration from 1s to 3650d, written like 500ms",
        ),
        ("amqp.heartbeat", "1500ms", "a duration of whole seconds"),
        ("amqp.heartbeat", "0s", "a duration from 1s to 10m"),
        ("s3.endpoint", "localhost:9000", "auto or a URL like"),
        ("s3.endpoint", "ftp://host", "auto or a URL like"),
        ("s3.endpoint", "http://host:99999", "auto or a URL like"),
        ("s3.endpoint", "http://host/?x=1", "without user or query"),
        ("s3.region", "eu central", "auto or the name of a region"),
        ("s3.force_path_style", "yes", "auto or true or false"),
        (
            "s3.checksums",
            "never",
            "auto, when_supported or when_required",
        ),
        ("ledger.migrate", "1", "true or false"),
        ("ledger.lease", "2s", "a duration from 3s to 1h"),
        (
            "lanes.upload.concurrency",
            "many",
            "a whole number from 1 to 2000",
        ),
        ("lanes.read.prefetch", "0", "a whole number from 1 to 2000"),
        (
            "lanes.read.prefetch",
            "2001",
            "a whole number from 1 to 2000",
        ),
        ("retry.max_attempts", "0", "a whole number from 1"),
        ("retry.jitter", "1.1", "a number from 0 to 1"),
        ("retry.jitter", "NaN", "a number from 0 to 1"),
        ("retry.multiplier", "0.5", "a number from 1 to 10"),
        ("circuit.failure_threshold", "0", "a whole number from 1"),
        ("circuit.half_open_permits", "0", "a whole number from 1"),
        (
            "upload.part_size",
            "4MiB",
            "a size from 5MiB to 5GiB, written like 64KiB",
        ),
        ("upload.part_size", "6GiB", "a size from 5MiB to 5GiB"),
        (
            "cleanup.batch_keys",
            "1001",
            "a whole number from 1 to 1000",
        ),
        ("cleanup.batch_keys", "0", "a whole number from 1 to 1000"),
        (
            "limits.max_message_bytes",
            "17MiB",
            "a size from 1 to 16MiB",
        ),
        ("limits.max_reply_bytes", "17MiB", "a size from 1 to 16MiB"),
        ("http.listen", "9464", "an address with a port"),
        ("http.listen", "localhost:9464", "an address with a port"),
        ("log.level", "loud", "error, warn, info, debug or trace"),
        ("log.level", "a=b=c", "or a filter such as"),
        ("log.format", "xml", "auto, json or text"),
        ("drain.timeout", "-1s", "a duration from 0ms to 1d"),
    ] {
        let problem = given().flag(key, value).problem();
        let ending = format!(", but is {value:?} (from command line)");
        assert!(problem.starts_with(&format!("{key} must be ")), "{problem}");
        assert!(problem.contains(rule), "{problem} lacks {rule:?}");
        assert!(problem.ends_with(&ending), "{problem}");
    }
}

#[test]
fn a_bad_item_of_a_list_is_named() {
    for (key, list, rule, item) in [
        (
            "sources.file_roots",
            "/ok,relative",
            "an absolute path",
            "relative",
        ),
        ("sources.file_roots", "/a/../b", "without \"..\"", "/a/../b"),
        ("destinations.file_roots", "out", "an absolute path", "out"),
        (
            "sources.url_hosts",
            "cdn.example.com:8443",
            "an origin like",
            "cdn.example.com:8443",
        ),
        (
            "sources.url_hosts",
            "https://a.example/path",
            "an origin like",
            "https://a.example/path",
        ),
        (
            "lanes.upload.operations",
            "put_object,get_object",
            "of the upload lane",
            "get_object",
        ),
        (
            "lanes.cleanup.operations",
            "delete",
            "(delete_object, delete_objects, delete_prefix)",
            "delete",
        ),
        ("lanes.read.buckets", "good,b@d", "a bucket's name", "b@d"),
    ] {
        let problem = given().flag(key, list).problem();
        assert!(
            problem.starts_with(&format!("each item of {key} must be ")),
            "{problem}"
        );
        assert!(problem.contains(rule), "{problem}");
        assert!(
            problem.ends_with(&format!("but one is {item:?} (from command line)")),
            "{problem}"
        );
    }
}

#[test]
fn a_risky_pair_names_both_settings_their_values_and_origins() {
    for (key, value, relation, other, other_value) in [
        (
            "lanes.upload.prefetch",
            "63",
            "at least",
            "lanes.upload.concurrency",
            "64",
        ),
        (
            "lanes.read.prefetch",
            "1",
            "at least",
            "lanes.read.concurrency",
            "64",
        ),
        (
            "lanes.cleanup.prefetch",
            "999",
            "at least",
            "cleanup.batch_keys",
            "1000",
        ),
        (
            "limits.job_deadline",
            "30m",
            "below",
            "amqp.consumer_timeout",
            "30m",
        ),
        (
            "circuit.probe_timeout",
            "39s",
            "at least 30s more than",
            "s3.attempt_timeout",
            "10s",
        ),
        (
            "circuit.open_base",
            "61s",
            "at most",
            "circuit.open_max",
            "60s",
        ),
        (
            "upload.memory_budget",
            "7MiB",
            "at least",
            "upload.part_size",
            "8MiB",
        ),
    ] {
        let expected = format!(
            "{key} must be {relation} {other}, but is {value:?} (from command line), \
             and that is {other_value:?} (from default)"
        );
        assert_eq!(given().flag(key, value).problem(), expected);
    }
    let edges = given()
        .flag("lanes.upload.concurrency", "128")
        .flag("lanes.cleanup.prefetch", "1000")
        .flag("limits.job_deadline", "1799s")
        .flag("circuit.probe_timeout", "40s")
        .flag("circuit.open_base", "60s")
        .flag("upload.memory_budget", "8MiB");
    assert!(load(&edges.0).is_ok());
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = load(
        &given()
            .flag("log.format", "xml")
            .flag("retry.jitter", "2")
            .flag("a.b", "c")
            .0,
    )
    .unwrap_err();
    assert_eq!(error.problems().len(), 3);
    assert_eq!(error.to_string().lines().count(), 3);
}

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
}

#[test]
fn variables_that_are_not_settings_are_passed_over() {
    let noise = given()
        .env("BRIGADE_CONFIG", "")
        .env("BRIGADE_REVISION", "abc")
        .env("BRIGADE_TEST_KILL_AT", "ack")
        .env("BRIGADE_SERVICE_HOST", "10.0.0.1")
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
        assert_eq!(settings.amqp.url.expose_secret(), "amqp://u:p@host");
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

#[test]
fn lists_are_read_in_every_form() {
    let directory = tempfile::tempdir().unwrap();
    let variable = "BRIGADE_LANES__READ__BUCKETS";
    for list in ["a,b", " a , b ,", "[\"a\", \"b\"]"] {
        assert_eq!(
            given()
                .env(variable, list)
                .settings()
                .lanes
                .of(Lane::Read)
                .buckets,
            ["a", "b"]
        );
    }
    assert!(
        given()
            .env(variable, "")
            .settings()
            .lanes
            .of(Lane::Read)
            .buckets
            .is_empty()
    );
    let file = given().file(&directory, "lanes.read.buckets = [\"a\", \"b\"]");
    assert_eq!(file.settings().lanes.of(Lane::Read).buckets, ["a", "b"]);
    assert_eq!(file.entry("lanes.read.buckets").value, "a,b");
    let operations = given()
        .flag("lanes.read.operations", "head_object,get_object")
        .settings();
    let expected = [OperationName::HeadObject, OperationName::GetObject];
    assert_eq!(operations.lanes.of(Lane::Read).operations, expected);

    let problem = given().env(variable, "[1]").problem();
    assert!(
        problem.starts_with("lanes.read.buckets must be a list like a,b or [\"a\", \"b\"]"),
        "{problem}"
    );
    let problem = given()
        .file(&directory, "log.format = [\"json\"]")
        .problem();
    assert!(
        problem.contains("log.format must be auto, json or text, but is [\"json\"]"),
        "{problem}"
    );
    let problem = given()
        .file(&directory, "http.admin_token = [\"a\"]")
        .problem();
    assert!(
        problem.contains("http.admin_token must be a single value"),
        "{problem}"
    );
}

#[test]
fn a_file_may_write_numbers_and_switches_bare_or_as_text() {
    let directory = tempfile::tempdir().unwrap();
    for text in [
        "retry.multiplier = 2.5\nevents.enabled = true\nlimits.max_reply_bytes = 1048576",
        "retry.multiplier = \"2.5\"\nevents.enabled = \"true\"\nlimits.max_reply_bytes = \"1MiB\"",
    ] {
        let settings = given().file(&directory, text).settings();
        assert_eq!(settings.retry.multiplier, 2.5);
        assert!(settings.events.enabled);
        assert_eq!(settings.limits.max_reply_bytes, 1 << 20);
    }
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

#[test]
fn usual_values_are_accepted() {
    for (key, values) in [
        (
            "amqp.url",
            "amqps://u:p@b-1.mq.eu-west-1.amazonaws.com:5671|amqp://[::1]:5672/v|amqp://h",
        ),
        ("amqp.prefix", "test-00ff|a.b_c"),
        (
            "s3.endpoint",
            "auto|https://s3.example.com|http://127.0.0.1:9000/|http://minio:9000/base",
        ),
        ("s3.region", "auto|us-east-1"),
        (
            "ledger.url",
            "sqlite:///var/lib/brigade.db|sqlite:x.db|postgresql://u:p@h/d|postgres://h/d",
        ),
        (
            "sources.url_hosts",
            "cdn.example.com|http://files.internal:8080|https://[2001:db8::1]:8443",
        ),
        ("http.listen", "0.0.0.0:80|[::]:9464|127.0.0.1:0"),
        (
            "log.level",
            "TRACE|off|info,bucket_brigade::lane=debug|bucket_brigade=debug",
        ),
        ("cleanup.batch_wait", "0ms|1s"),
        ("drain.timeout", "0s|5m"),
    ] {
        for value in values.split('|') {
            assert_eq!(
                load(&given().flag(key, value).0).err(),
                None,
                "{key} = {value}"
            );
        }
    }
}
