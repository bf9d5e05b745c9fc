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

/// What each service reads of the secrets, beneath `/run/brigade` there.
const SECRETS: [(&str, &[&str]); 6] = [
    ("grafana", &["grafana.password"]),
    ("postgres", &["postgres.password"]),
    ("producer", &["amqp.url"]),
    (
        "rabbitmq",
        &["rabbitmq/10-users.json", "rabbitmq/20-topology.json"],
    ),
    ("s3", &["s3.env"]),
    (
        "worker",
        &[
            "admin.token",
            "amqp.url",
            "ledger-postgres.url",
            "ledger-sqlite.url",
            "s3.credentials",
        ],
    ),
];

/// The services of the compose file by name, each with the lines of its block.
fn services() -> BTreeMap<String, Vec<String>> {
    let compose = compose();
    let services = compose.split("\nservices:\n").nth(1).unwrap();
    let services = services
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with(' '));
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in services {
        match line
            .strip_prefix("  ")
            .and_then(|line| line.strip_suffix(':'))
        {
            Some(service) if !service.starts_with(' ') => service.clone_into(&mut name),
            _ => found
                .entry(name.clone())
                .or_default()
                .push(line.trim().to_owned()),
        }
    }
    found
}

/// The volumes and folders that a service mounts, as `NAME:PLACE…`.
fn mounts(service: &[String]) -> Vec<&str> {
    let is_mount = |line: &&str| line.contains(":/");
    let lines = service.iter().filter_map(|line| line.strip_prefix("- "));
    lines
        .filter(is_mount)
        .filter(|line| !line.contains('"'))
        .collect()
}

#[test]
fn each_service_sees_its_own_secrets_and_no_other() {
    let services = services();
    assert!(
        services.len() >= 8,
        "the test reads too little: {services:?}"
    );
    let maker = mounts(&services["secrets"]);
    assert!(maker.contains(&"secrets:/run/brigade"), "{maker:?}");
    for (name, lines) in services.iter().filter(|(name, _)| *name != "secrets") {
        let own = SECRETS.iter().find(|(service, _)| service == name);
        let mounted: Vec<&str> = mounts(lines);
        let secret: Vec<&&str> = mounted
            .iter()
            .filter(|it| it.starts_with("secrets"))
            .collect();
        let Some((_, files)) = own else {
            assert!(secret.is_empty(), "{name} needs no secrets: {secret:?}");
            continue;
        };
        assert_eq!(
            secret,
            [&format!("secrets-{name}:/run/brigade:ro")],
            "{name}"
        );
        let filled = format!("secrets-{name}:/run/brigade/for/{name}");
        assert!(
            maker.contains(&filled.as_str()),
            "{filled} is missing: {maker:?}"
        );
        for (at, _) in lines.join(" ").match_indices("/run/brigade/") {
            let rest = &lines.join(" ")[at + "/run/brigade/".len()..];
            let file = rest.split([' ', ';', '"', ':']).next().unwrap();
            let file = file.replace("${LEDGER", "sqlite.url");
            assert!(
                files
                    .iter()
                    .any(|it| it.starts_with(file.trim_end_matches("sqlite.url"))),
                "{name} reads {file}"
            );
        }
    }
}

#[test]
fn every_secret_is_copied_for_those_who_read_it_and_again_for_a_volume_that_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let copies = directory.path().join("for");
    let make = || {
        let made = Command::new("sh")
            .arg(root().join("deploy/compose/secrets.sh"))
            .arg(directory.path())
            .env("TOPOLOGY", root().join("deploy/rabbitmq/topology.json"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        let mut found = BTreeMap::new();
        let mut folders = vec![copies.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path
                        .strip_prefix(&copies)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned();
                    found.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
        found
    };
    let first = make();
    let expected: BTreeSet<String> = SECRETS
        .iter()
        .flat_map(|(service, files)| files.iter().map(move |file| format!("{service}/{file}")))
        .collect();
    assert_eq!(first.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (name, copy) in &first {
        let (_, file) = name.split_once('/').unwrap();
        assert_eq!(
            copy,
            &std::fs::read(directory.path().join(file)).unwrap(),
            "{name}"
        );
    }
    // Passwords that an earlier version made stay, and reach the new volumes.
    std::fs::remove_dir_all(&copies).unwrap();
    assert_eq!(make(), first);
}

#[test]
fn only_the_worker_shares_a_network_with_the_store() {
    for (name, lines) in services() {
        let networks = lines
            .iter()
            .find_map(|line| line.strip_prefix("networks: "));
        let expected = match name.as_str() {
            "s3" => Some("[storage]"),
            "worker" => Some("[default, storage]"),
            _ => None,
        };
        assert_eq!(networks, expected, "{name}");
    }
    // `scripts/compose-store`, part of `make test`, tries what that script opens.
    let store = services().remove("s3").unwrap();
    assert!(
        mounts(&store).contains(&"./deploy/compose/s3.sh:/s3.sh:ro"),
        "{store:?}"
    );
    assert!(
        store.contains(&r#"entrypoint: ["/bin/sh", "/s3.sh"]"#.to_owned()),
        "{store:?}"
    );
    assert!(read("deploy/compose/s3.sh").contains(" -ip.bind=127.0.0.1 "));
}
