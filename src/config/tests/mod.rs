//! The promises of the settings; `Given` builds sources for them.

mod amazon;
mod brokers;
mod layers;
mod reference;
mod secrets;
mod values;

use std::{fs, path::PathBuf};

use super::*;

/// The table of CONTRACT.md, section 6.
const CONTRACT: [(&str, &str); 19] = [
    (
        "amqp",
        "url prefix topology consumer_timeout connect_timeout heartbeat",
    ),
    (
        "s3",
        "endpoint region force_path_style attempt_timeout connect_timeout checksums require_etag",
    ),
    (
        "s3.put_defaults",
        "server_side_encryption key_id bucket_key storage_class",
    ),
    ("ledger", "url retention migrate commit_wait lease"),
    (
        "lanes.upload",
        "concurrency adaptive prefetch buckets operations",
    ),
    (
        "lanes.read",
        "concurrency adaptive prefetch buckets operations",
    ),
    (
        "lanes.cleanup",
        "concurrency adaptive prefetch buckets operations",
    ),
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

/// A key, a value that is too risky for it, the relation, and the other setting with its default.
const RISKY_PAIRS: [(&str, &str, &str, &str, &str); 8] = [
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
        "ledger.retention",
        "23h",
        "at least",
        "limits.max_job_age",
        "24h",
    ),
    (
        "upload.memory_budget",
        "7MiB",
        "at least",
        "upload.part_size",
        "8MiB",
    ),
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
