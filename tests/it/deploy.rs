//! What an operator starts agrees with what it is said to be: the compose file with `.env.example`, the image with its
//! context, RabbitMQ's definitions with the program. Read line by line; the files are ours, and plain.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use base64::Engine;
use bucket_brigade::config::{self, Sources};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cli::{brigade, text};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The file without its comments.
fn compose() -> String {
    let file = read("docker-compose.yml");
    let lines = file
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

/// Names and defaults of every `${NAME:-default}`; another form is a failure.
fn variables(compose: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, _) in compose.match_indices("${") {
        let inside = compose[at + 2..].split('}').next().unwrap();
        let (name, default) = inside
            .split_once(":-")
            .unwrap_or_else(|| panic!("{inside} has no default, so `up` alone would not do"));
        let before = found.insert(name.to_owned(), default.to_owned());
        assert!(
            before.is_none_or(|before| before == default),
            "{name} has two defaults"
        );
    }
    found
}

#[test]
fn every_variable_of_the_compose_file_is_explained_with_its_default_and_no_other() {
    let example = read(".env.example");
    let mut explained = BTreeMap::new();
    let mut commented = false;
    for line in example.lines() {
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            assert!(commented, "{name} needs a line above it that explains it");
            explained.insert(name.to_owned(), value.to_owned());
        }
        // A name below another one may share its comment.
        commented = line.starts_with('#') || (commented && !line.is_empty());
    }
    assert_eq!(variables(&compose()), explained);
}

#[test]
fn every_port_is_published_on_loopback_by_a_variable() {
    let compose = compose();
    let ports: Vec<&str> = compose
        .lines()
        .filter(|line| line.contains("- \"127.0.0.1:"))
        .collect();
    let published = compose.matches("ports:").count();
    assert!(ports.len() >= published && published >= 5, "{ports:?}");
    for port in &ports {
        assert!(
            port.contains("${"),
            "{port}: .env.example can't explain a bare number"
        );
    }
    assert!(
        !compose.contains("0.0.0.0:"),
        "a port is published to everybody"
    );
}

#[test]
fn every_volume_is_explained() {
    let compose = compose();
    let volumes: BTreeSet<&str> = compose
        .rsplit("\nvolumes:\n")
        .next()
        .unwrap()
        .lines()
        .map(|line| line.trim().trim_end_matches(':'))
        .collect();
    let example = read(".env.example");
    let explained = example.split("# --- Volumes").nth(1).unwrap();
    let explained: BTreeSet<&str> = explained
        .lines()
        .skip(1)
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .collect();
    assert_eq!(volumes, explained);
}

#[test]
fn every_image_is_pinned_and_every_secret_comes_from_a_file() {
    let compose = compose();
    let mut images = 0;
    for line in compose.lines().map(str::trim) {
        if let Some(image) = line.strip_prefix("image: ") {
            images += 1;
            let tag = image
                .trim_start_matches("${BRIGADE_IMAGE:-")
                .trim_end_matches('}')
                .split_once(':');
            assert!(
                tag.is_some_and(|(_, tag)| !tag.is_empty() && !tag.contains("latest")),
                "{image} is not pinned"
            );
        }
        let name = line.split(':').next().unwrap().to_ascii_uppercase();
        let secret = [
            "PASSWORD",
            "TOKEN",
            "SECRET_",
            "ACCESS_KEY",
            "AMQP_URL",
            "DATABASE_URL",
        ]
        .iter()
        .any(|word| name.contains(word));
        let plain = secret && !name.ends_with("_FILE") && name.starts_with(char::is_alphabetic);
        assert!(
            !plain || line.ends_with(':'),
            "{line}: a secret belongs into a file"
        );
        assert!(
            !line.contains("guest"),
            "{line}: RabbitMQ's first user is for tests"
        );
    }
    assert!(images >= 7, "the test reads too little: {images} images");
}

#[test]
fn compose_waits_longer_for_a_worker_than_its_drain_takes() {
    let compose = compose();
    let worker = compose.split("\n  worker:\n").nth(1).unwrap();
    let grace = worker.split("stop_grace_period: ").nth(1).unwrap();
    let grace = grace.lines().next().unwrap().trim_end_matches('s');
    let grace = Duration::from_secs(grace.parse().unwrap());
    let sources = Sources::default();
    let drain = config::load(&sources).unwrap().settings.drain.timeout;
    assert!(
        grace >= drain + Duration::from_secs(10),
        "{grace:?} for a drain of {drain:?}"
    );
}

#[test]
fn the_definitions_are_those_that_the_program_exports() {
    let exported = brigade(None, &["topology", "export"]);
    let exported: Value = serde_json::from_str(&text(&exported.stdout)).unwrap();
    let kept: Value = serde_json::from_str(&read("deploy/rabbitmq/topology.json")).unwrap();
    assert_eq!(
        kept, exported,
        "run: brigade topology export > deploy/rabbitmq/topology.json"
    );
}

#[test]
fn passwords_are_made_once_and_rabbitmq_knows_them_by_their_hash() {
    let directory = tempfile::tempdir().unwrap();
    let make = || {
        let made = Command::new("sh")
            .arg(root().join("deploy/compose/secrets.sh"))
            .arg(directory.path())
            .env("TOPOLOGY", root().join("deploy/rabbitmq/topology.json"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        [read("amqp.url"), read("rabbitmq/10-users.json")]
    };
    let first = make();
    assert_eq!(first, make(), "a second run changed a password");

    let [url, users] = first;
    let users: Value = serde_json::from_str(&users).unwrap();
    let user = &users["users"][0];
    let password = url
        .trim()
        .strip_prefix("amqp://brigade:")
        .and_then(|rest| rest.strip_suffix("@rabbitmq:5672/%2f"))
        .unwrap();
    assert_eq!(password.len(), 48);
    assert!(
        !users.to_string().contains(password),
        "only the hash is for RabbitMQ"
    );
    let hash = user["password_hash"].as_str().unwrap();
    let hash = base64::engine::general_purpose::STANDARD
        .decode(hash)
        .unwrap();
    let (salt, digest) = hash.split_at(4);
    let expected = Sha256::new()
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    assert_eq!(digest, expected.as_slice());
}

#[test]
fn what_the_dockerfile_copies_reaches_the_build() {
    let ignore = read(".dockerignore");
    let let_through: BTreeSet<&str> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let dockerfile = read("Dockerfile");
    let copies = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"));
    let mut copied = BTreeSet::new();
    for copy in copies {
        let mut words: Vec<&str> = copy.split_whitespace().collect();
        words.pop();
        copied.extend(words);
    }
    assert_eq!(copied, let_through);
    for path in copied {
        assert!(root().join(path).exists(), "{path} is not there");
    }
}
