//! The command line as scripts see it: output, JSON, exit codes of the contract.

use std::process::{Command, Output};

use bucket_brigade::job::{Lane, State};
use serde_json::Value;

use crate::stage::{self, Stage};

pub(crate) fn brigade(stage: Option<&Stage>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.env_clear().args(arguments);
    if let Some(stage) = stage {
        let (key, secret) = stage.s3.keys();
        command.env("AWS_ACCESS_KEY_ID", key);
        command.env("AWS_SECRET_ACCESS_KEY", secret);
    }
    for (key, value) in stage.map(Stage::pairs).unwrap_or_default() {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.output().unwrap()
}

pub(crate) async fn run(stage: &Stage, arguments: &[&str]) -> Output {
    // The commands block; the worker of the test must go on meanwhile.
    tokio::task::block_in_place(|| brigade(Some(stage), arguments))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_enqueued_waited_for_and_looked_up() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;

    let put = run(
        &stage,
        &[
            "enqueue",
            "put",
            "s3://b/d/hello.md",
            "--text",
            "# hello",
            "--id",
            "j1",
            "--wait",
        ],
    )
    .await;
    assert_eq!(put.status.code(), Some(0), "{}", text(&put.stderr));
    let get = run(&stage, &["enqueue", "get", "s3://b/d/hello.md", "--wait"]).await;
    assert_eq!(text(&get.stdout), "# hello");
    let list = run(
        &stage,
        &["enqueue", "list", "s3://b/d/", "--wait", "--output", "json"],
    )
    .await;
    assert_eq!(json(&list)["result"]["keys"][0]["key"], "d/hello.md");
    let none = run(&stage, &["enqueue", "head", "s3://b/none", "--wait"]).await;
    assert_eq!(none.status.code(), Some(1));
    assert!(
        text(&none.stderr).contains("dead_lettered"),
        "{}",
        text(&none.stderr)
    );
    let delete = run(
        &stage,
        &[
            "enqueue",
            "delete",
            "s3://b/d/hello.md",
            "s3://b/other",
            "--wait",
            "--output",
            "json",
        ],
    )
    .await;
    assert_eq!(json(&delete)["operation"], "delete_objects");
    let fire = run(
        &stage,
        &["enqueue", "put", "s3://b/k", "--text", "x", "--id", "j2"],
    )
    .await;
    assert_eq!(text(&fire.stdout), "j2");
    stage.until("j2", State::Completed).await;

    let show = run(&stage, &["jobs", "show", "j1", "--output", "json"]).await;
    assert_eq!(
        (&json(&show)["state"], &json(&show)["attempts"]),
        (&"completed".into(), &1.into())
    );
    let unknown = run(&stage, &["jobs", "show", "nobody"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    let list = run(
        &stage,
        &[
            "jobs",
            "list",
            "--state",
            "completed",
            "--limit",
            "2",
            "--output",
            "json",
        ],
    )
    .await;
    let list = json(&list);
    assert_eq!(list["jobs"].as_array().map(Vec::len), Some(2));
    let cursor = list["next"].as_str().unwrap();
    let next = run(
        &stage,
        &["jobs", "list", "--after", cursor, "--output", "json"],
    )
    .await;
    assert!(
        json(&next)["jobs"]
            .as_array()
            .is_some_and(|jobs| !jobs.is_empty())
    );
    let stats = run(&stage, &["jobs", "stats", "--output", "json"]).await;
    assert!(
        json(&stats).to_string().contains("NoSuchKey")
            || json(&stats).to_string().contains("NotFound")
    );
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_publishes_good_lines_reports_bad_ones_and_repeats_its_ids() {
    let stage = Stage::new().await;
    stage.declare().await;
    let lines = [
        r#"{"version": 1, "operation": "put_object", "bucket": "b", "key": "a", "body": {"text": "x"}}"#,
        r#"{"version": 1, "operation": "put_object", "bucket": "b"}"#,
        r#"{"id": "mine", "version": 1, "operation": "delete_object", "bucket": "b", "key": "z"}"#,
        "nonsense",
        r#"{"version": 1, "operation": "put_object", "bucket": "b", "key": "a", "body": {"txet": "x"}}"#,
        r#"{"version": 1, "operation": "delete_object", "bucket": "b", "key": "z", "versionId": "v"}"#,
    ];
    let file = stage.file("jobs.jsonl", lines.join("\n").as_bytes());
    for _ in 0..2 {
        let batch = run(&stage, &["enqueue", "batch", &file, "--output", "json"]).await;
        assert_eq!(batch.status.code(), Some(1));
        assert_eq!(json(&batch)["published"], 2);
        let rejected: Vec<_> = json(&batch)["rejected"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["line"].clone())
            .collect();
        assert_eq!(rejected, [2, 4, 5, 6]);
        let why = json(&batch)["rejected"][3]["error"].clone();
        assert_eq!(
            why,
            "field versionId is not known; did you mean version_id?"
        );
    }
    let queued = stage.queued(Lane::Upload).await;
    assert_eq!(queued.len(), 2);
    assert_eq!(queued[0].message_id, queued[1].message_id);
    assert_eq!(
        stage.queued(Lane::Cleanup).await[0].message_id.as_deref(),
        Some("mine")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_the_contracts() {
    let stage = Stage::new().await;
    let nobody = [
        "--set",
        "amqp.url=amqp://guest:secret@127.0.0.1:1/%2f",
        "--timeout",
        "2s",
    ];
    let cases: [(&[&str], i32, &str); 12] = [
        (&["--version"], 0, ""),
        (&["--help"], 0, ""),
        (&["fly"], 64, "fly"),
        (
            &["config", "check", "--set", "lanes.upload.concurrency=many"],
            64,
            "lanes.upload.concurrency",
        ),
        (
            &["config", "check", "--set", "lanes.upload.concurency=1"],
            64,
            "concurency",
        ),
        (
            &["config", "check", "--set", "cleanup.batch_keys=2000"],
            64,
            "cleanup.batch_keys",
        ),
        (
            &["config", "check", "--config", "/no/such/file.toml"],
            64,
            "/no/such/file.toml",
        ),
        (&["worker", "--lanes", "sideways"], 64, "sideways"),
        (
            &["enqueue", "put", "b/k", "--text", "x"],
            64,
            "s3://BUCKET/KEY",
        ),
        (
            &[
                "enqueue",
                "put",
                "s3://b/k",
                "--text",
                "x",
                "--id",
                "not an id",
            ],
            64,
            "message_id",
        ),
        (&["jobs", "list", "--state", "sad"], 64, "completed"),
        (
            &[
                "jobs",
                "list",
                "--set",
                "ledger.url=sqlite:///no/such/ledger.db",
            ],
            69,
            "/no/such/ledger.db",
        ),
    ];
    for (arguments, code, says) in cases {
        let output = brigade(None, arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(
            error.contains(says),
            "{arguments:?} does not say {says}: {error}"
        );
    }
    for arguments in [
        vec!["enqueue", "put", "s3://b/k", "--text", "x"],
        vec!["topology", "check"],
    ] {
        let output = brigade(None, &[arguments, nobody.to_vec()].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    // A prefix that no worker has served: no queue to take it.
    let lonely = run(&stage, &["enqueue", "put", "s3://b/k", "--text", "x"]).await;
    assert_eq!(lonely.status.code(), Some(1), "{}", text(&lonely.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_is_checked_without_a_change_and_applied_once() {
    let stage = Stage::new().await;
    let check = run(&stage, &["topology", "check", "--output", "json"]).await;
    assert_eq!(check.status.code(), Some(1));
    let missing = json(&check)["differences"].as_array().unwrap().len();
    assert_eq!(missing, 4 + 3 * 5, "{}", text(&check.stdout));
    let again = run(&stage, &["topology", "check", "--output", "json"]).await;
    assert_eq!(
        json(&again)["differences"].as_array().unwrap().len(),
        missing,
        "check created something"
    );
    assert_eq!(
        run(&stage, &["topology", "apply"]).await.status.code(),
        Some(0)
    );
    assert_eq!(
        run(&stage, &["topology", "check"]).await.status.code(),
        Some(0)
    );
    assert_eq!(
        run(&stage, &["topology", "apply"]).await.status.code(),
        Some(0)
    );
    let exported = json(&run(&stage, &["topology", "export"]).await);
    assert_eq!(exported["queues"].as_array().map(Vec::len), Some(3 * 5));
    assert_eq!(exported["exchanges"].as_array().map(Vec::len), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_checked_applied_and_reported() {
    let stage = Stage::new().await;
    let check = run(&stage, &["migrate", "--check", "--output", "json"]).await;
    assert_eq!(check.status.code(), Some(1), "{}", text(&check.stderr));
    assert!(!json(&check)["pending"].as_array().unwrap().is_empty());
    assert_eq!(run(&stage, &["migrate"]).await.status.code(), Some(0));
    assert_eq!(
        run(&stage, &["migrate", "--check"]).await.status.code(),
        Some(0)
    );
}

#[test]
fn effective_settings_are_shown_with_their_origin_and_without_secrets() {
    let output = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .env_clear()
        .env("AMQP_URL", "amqp://me:hush@broker/%2f")
        .env("BRIGADE_LANES__READ__CONCURRENCY", "7")
        .args([
            "config",
            "show",
            "--output",
            "json",
            "--set",
            "drain.timeout=9s",
        ])
        .output()
        .unwrap();
    let shown = json(&output);
    let entry = |key: &str| {
        let entries = shown.as_array().unwrap();
        entries
            .iter()
            .find(|entry| entry["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(entry("lanes.read.concurrency")["value"], "7");
    assert!(
        entry("lanes.read.concurrency")["origin"]
            .to_string()
            .contains("BRIGADE_LANES__READ__CONCURRENCY")
    );
    assert!(entry("amqp.url")["origin"].to_string().contains("AMQP_URL"));
    assert!(entry("amqp.url")["value"].to_string().contains("broker"));
    assert_eq!(entry("drain.timeout")["value"], "9s");
    assert!(!text(&output.stdout).contains("hush"));
}

#[test]
fn every_command_explains_itself() {
    let help = text(&brigade(None, &["--help"]).stdout);
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let commands: Vec<String> = listed
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(commands.len() >= 9, "{help}");
    for command in commands.iter().filter(|command| *command != "help") {
        let output = brigade(None, &[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Usage: brigade"), "{command}");
    }
}
