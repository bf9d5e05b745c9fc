//! Each value by its rule, and each pair by its relation.

use super::*;
use crate::job::{Lane, OperationName};

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
    for (key, value, relation, other, other_value) in RISKY_PAIRS {
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
        .flag("ledger.retention", "24h")
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
