//! The command line at its edges: standard output that is full or gone, text that is no text, flags that would be
//! ignored, services that hang.

use std::{
    fs::File,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bucket_brigade::job::{Lane, State};
use serde_json::Value;
use sqlx::{ConnectOptions, Connection, Executor};

use crate::{
    cli::{brigade, json, run, text},
    process::ended_within,
    stage::{self, Stage},
};

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// A key that clears the screen, begins a line, and colours what follows: by ESC, and by a C1 control.
const HOSTILE: &str = "a\u{1b}[2Jb\nc\u{9b}31md\u{202e}e\r\u{7f}";

fn command(stage: &Stage, arguments: &[&str]) -> Command {
    let (key, secret) = stage.s3.keys();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", key)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .args(arguments)
        .stderr(Stdio::piped());
    for (key, value) in stage.pairs() {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
}

/// Exit code and standard error.
fn ended(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command.spawn().unwrap();
    let status = ended_within(&mut child, PATIENCE);
    if status.is_none() {
        child.kill().unwrap();
    }
    let said = child.wait_with_output().unwrap();
    (status.and_then(|status| status.code()), text(&said.stderr))
}

/// Commands that print, and need no worker.
const PRINT: [&[&str]; 11] = [
    &["--help"],
    &["--version"],
    &["enqueue", "put", "--help"],
    &["config", "show"],
    &["config", "check"],
    &["topology", "export"],
    &["migrate"],
    &["jobs", "list"],
    &["jobs", "stats", "--output", "json"],
    &["dead", "list"],
    &["enqueue", "put", "s3://b/k", "--text", "x"],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_on_standard_output_is_a_failure() {
    let stage = Stage::new().await;
    stage.declare().await;
    for arguments in PRINT {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, said) =
            tokio::task::block_in_place(|| ended(command(&stage, arguments).stdout(full)));
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output"), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_left_is_no_failure() {
    let stage = Stage::new().await;
    stage.declare().await;
    for arguments in PRINT {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, said) =
            tokio::task::block_in_place(|| ended(command(&stage, arguments).stdout(writer)));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_published_whole_although_the_reader_of_the_ids_left() {
    let stage = Stage::new().await;
    stage.declare().await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..40 {
        std::fs::write(folder.path().join(number.to_string()), "x").unwrap();
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let path = folder.path().to_str().unwrap();
    let arguments = ["enqueue", "upload", path, "s3://b/p"];
    let (code, said) =
        tokio::task::block_in_place(|| ended(command(&stage, &arguments).stdout(writer)));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    stage.until_queued(Lane::Upload, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_holds_beside_files_is_named_and_the_rest_is_published() {
    use std::os::unix::ffi::OsStrExt;

    let stage = Stage::new().await;
    stage.declare().await;
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &[u8]| folder.path().join(std::ffi::OsStr::from_bytes(name));
    std::fs::write(here(b"a"), "a").unwrap();
    std::os::unix::fs::symlink(here(b"a"), here(b"link\x1b[2J")).unwrap();
    let path = folder.path().to_str().unwrap();
    let prefix = format!("s3://b/{}", "p".repeat(1000));
    let upload = |object: &str| {
        let arguments = ["enqueue", "upload", path, object];
        tokio::task::block_in_place(|| ended(command(&stage, &arguments).stdout(Stdio::null())))
    };
    let (code, said) = upload("s3://b/p");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("left out: ") && said.contains("link\\u{1b}[2J: a symbolic link"),
        "{said}"
    );
    stage.until_queued(Lane::Upload, 1).await;

    // Files that were meant are missing: one without a name that a message can carry, one with too long a key.
    std::fs::write(here(b"caf\xe9"), "x").unwrap();
    std::fs::write(here(&[b'x'; 40]), "x").unwrap();
    let (code, said) = upload(&prefix);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("its name is no UTF-8") && said.contains("key"),
        "{said}"
    );
    assert_eq!(said.matches("left out: ").count(), 3, "{said}");
    stage.until_queued(Lane::Upload, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_log_is_full_goes_on() {
    for format in ["json", "text"] {
        let mut stage = Stage::new().await.set("log.format", format);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = command(&stage, &["worker"]);
        let mut worker = command.stdout(Stdio::null()).stderr(full).spawn().unwrap();
        stage.publish(Lane::Upload, stage::put("j1", "k")).await;
        // A line for the log.
        stage
            .publish(Lane::Read, stage::on_key("j2", "get_object", "none"))
            .await;
        stage.until("j1", State::Completed).await;
        stage.until("j2", State::DeadLettered).await;
        let pid = rustix::process::Pid::from_child(&worker);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = tokio::task::block_in_place(|| ended_within(&mut worker, PATIENCE));
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_text_fails_alone() {
    let stage = Stage::new().await;
    stage.declare().await;
    let line = |key: &[u8]| {
        let job = br#"{"version": 1, "operation": "head_object", "bucket": "b", "key": ""#;
        [job, key, b"\"}\r\n"].concat()
    };
    let lines = [
        line(b"a"),
        line(b"b\xff"),
        b"\n".to_vec(),
        line("ä".as_bytes()),
    ]
    .concat();
    let file = stage.file("jobs.jsonl", &lines);
    let batch = run(&stage, &["enqueue", "batch", &file, "--output", "json"]).await;
    assert_eq!(batch.status.code(), Some(1), "{}", text(&batch.stderr));
    let report = json(&batch);
    assert_eq!(
        (&report["published"], &report["rejected"][0]["line"]),
        (&2.into(), &2.into())
    );
    let why = report["rejected"][0]["error"].as_str().unwrap();
    assert!(why.contains("UTF-8") && why.contains("byte 68"), "{why}");
    assert_eq!(report["rejected"].as_array().map(Vec::len), Some(1));
    stage.until_queued(Lane::Read, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_a_command_would_ignore_are_refused() {
    let stage = Stage::new().await;
    let file = stage.file("jobs.jsonl", b"");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "x").unwrap();
    std::fs::write(folder.path().join("b"), "x").unwrap();
    let folder = folder.path().to_str().unwrap();
    let batch = ["enqueue", "batch", &file];
    let upload = ["enqueue", "upload", folder, "s3://b/p"];
    let put = ["enqueue", "put", "s3://b/k", "--text", "x"];
    let cases: [(&[&str], &[&str]); 7] = [
        (&batch, &["--id", "j"]),
        (&batch, &["--wait"]),
        (&batch, &["--wait-timeout", "5s"]),
        (&upload, &["--id", "j"]),
        (&upload, &["--wait"]),
        (&put, &["--wait-timeout", "5s"]),
        (&["dead", "replay", "j"], &["--dry-run", "--rate", "5"]),
    ];
    for (command, flags) in cases {
        let output = brigade(None, &[command, flags].concat());
        let said = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{command:?} {flags:?}: {said}"
        );
        let flag = flags.iter().rfind(|flag| flag.starts_with("--")).unwrap();
        assert!(said.contains(flag), "{command:?} {flags:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_holds_for_everything_that_jobs_asks_the_ledger() {
    let stage = Stage::new().await.on_postgres().await;
    assert_eq!(run(&stage, &["migrate"]).await.status.code(), Some(0));
    let url = stage
        .pairs()
        .into_iter()
        .rfind(|(key, _)| key == "ledger.url")
        .unwrap()
        .1;
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut somebody = options.connect().await.unwrap();
    let mut lock = somebody.begin().await.unwrap();
    (&mut *lock)
        .execute("lock table jobs in access exclusive mode")
        .await
        .unwrap();
    for arguments in [
        &["jobs", "list"][..],
        &["jobs", "list", "--limit", "0"],
        &["jobs", "show", "j1"],
        &["jobs", "stats"],
    ] {
        let arguments = [arguments, &["--timeout", "1s"]].concat();
        let began = Instant::now();
        let mut command = command(&stage, &arguments);
        let (code, said) = tokio::task::block_in_place(|| ended(command.stdout(Stdio::null())));
        assert_eq!(
            code,
            Some(69),
            "{arguments:?} after {:?}: {said}",
            began.elapsed()
        );
        assert!(
            said.contains("ledger") && said.contains("1s"),
            "{arguments:?}: {said}"
        );
    }
    lock.rollback().await.unwrap();
}

#[test]
fn a_worker_that_listens_on_every_address_is_asked_on_loopback() {
    for (listen, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1")] {
        let listen = format!("http.listen={listen}");
        let output = brigade(None, &["healthcheck", "--set", &listen, "--timeout", "2s"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("http://{asked}/livez")), "{said}");
    }
}

/// No character that a terminal obeys, but for the ends of our own lines.
fn assert_plain(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap();
    let obeyed = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    let found: Vec<char> = text.chars().filter(|&c| c != '\n' && obeyed(c)).collect();
    assert!(found.is_empty(), "{what} prints {found:?}: {text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_printed_can_steer_a_terminal() {
    let mut stage = Stage::new().await.set("log.format", "text");
    let mut worker = stage.process();
    let head = serde_json::json!({"version": 1, "operation": "head_object", "bucket": "b", "key": HOSTILE});
    stage.publish(Lane::Read, stage::message("j1", &head)).await;
    stage.until("j1", State::DeadLettered).await;
    let bad =
        serde_json::json!({"version": 1, "operation": HOSTILE, "bucket": HOSTILE, HOSTILE: 1});
    let mut bad = stage::message("j2", &bad);
    bad.correlation_id = Some(HOSTILE.to_owned());
    stage.publish(Lane::Read, bad).await;
    stage::eventually("both letters are there", async || {
        (stage.dead(Lane::Read).await.len() == 2).then_some(())
    })
    .await;
    let line =
        serde_json::to_vec(&serde_json::json!({"version": 1, "operation": HOSTILE})).unwrap();
    let line = String::from_utf8(line)
        .unwrap()
        .replace("\\u001b", "\u{1b}");
    let lines = stage.file("jobs.jsonl", line.as_bytes());
    let object = format!("s3://b/{HOSTILE}");
    let setting = format!("lanes.{HOSTILE}=1");
    let cases: [&[&str]; 13] = [
        &["jobs", "list"],
        &["jobs", "show", "j1"],
        &["jobs", "stats"],
        &["dead", "list"],
        &["dead", "show", "j1"],
        &["dead", "show", "j2"],
        &["dead", "show", HOSTILE],
        &["enqueue", "head", &object, "--wait"],
        &["enqueue", "batch", &lines],
        &["enqueue", "put", &object, "--file", HOSTILE],
        &["config", "show", "--set", &setting],
        &["jobs", "list", "--limit", HOSTILE],
        &["jobs", "list", "--config", HOSTILE],
    ];
    for arguments in cases {
        for output in ["text", "json"] {
            let shown = run(&stage, &[arguments, &["--output", output]].concat()).await;
            assert_plain(&format!("{arguments:?}"), &shown.stdout);
            assert_plain(&format!("{arguments:?}"), &shown.stderr);
        }
    }
    // Escaped for people; for programs the very same text.
    let listed = run(&stage, &["jobs", "list"]).await;
    assert!(
        text(&listed.stdout).contains(r"a\u{1b}[2Jb\nc\u{9b}31md"),
        "{}",
        text(&listed.stdout)
    );
    let listed = json(&run(&stage, &["jobs", "show", "j1", "--output", "json"]).await);
    assert_eq!(listed["key"], Value::from(HOSTILE));
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    let log = worker.log();
    assert_plain("the log", log.as_bytes());
    assert!(
        log.lines()
            .all(|line| line.contains('T') && line.contains('Z')),
        "a line was forged: {log}"
    );
}
