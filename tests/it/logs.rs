//! What a real worker process says, line by line, and that `docs/reference/logs.md` lists it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use bucket_brigade::job::{Lane, State};
use serde_json::{Value, json};

use crate::{
    architecture::sources,
    process::WorkerProcess,
    stage::{self, Stage, deletes_unavailable, eventually, unavailable},
};

const PAGE: &str = include_str!("../../docs/reference/logs.md");
/// Text of an object that no line may hold.
const BYTES: &str = "bytes-that-nobody-may-log";

/// The log so far, each line an object of JSON.
fn lines(worker: &WorkerProcess) -> Vec<Value> {
    let log = worker.log();
    // The last line may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line: {line}"))
    };
    whole.lines().map(parse).collect()
}

pub(crate) async fn until_said(worker: &WorkerProcess, message: &str, fields: Value) -> Value {
    let what = format!("the log says {message:?} with {fields}");
    let fields = fields.as_object().unwrap();
    eventually(&what, async || {
        lines(worker).into_iter().find(|line| {
            line["message"] == message
                && fields.iter().all(|(name, value)| match value.as_str() {
                    Some(part) => line[name].as_str().is_some_and(|text| text.contains(part)),
                    None => line[name] == *value,
                })
        })
    })
    .await
}

/// Every line is whole, and every line about a job says which, in which lane, what it does and where.
fn check(lines: &[Value]) {
    for line in lines {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "{field} is missing in {line}");
        }
        if line.get("job").is_some() {
            for field in ["lane", "operation", "bucket"] {
                assert!(line[field].is_string(), "{field} is missing in {line}");
            }
        }
    }
}

fn put(id: &str, bucket: &str) -> bucket_brigade::job::Message {
    let job = json!({"version": 1, "operation": "put_object", "bucket": bucket, "key": "k",
        "body": {"text": BYTES}});
    stage::message(id, &job)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_but_success_is_one_line_with_the_jobs_fields_and_no_secret() {
    let mut stage = Stage::new()
        .await
        .set("limits.max_job_age", "1h")
        .set("http.admin_token", "token-that-nobody-may-log");
    let mut worker = stage.process();
    until_said(&worker, "started", json!({"lanes": "upload,read,cleanup"})).await;
    until_said(
        &worker,
        "settings",
        json!({"changed": "http.admin_token=*** (command line)"}),
    )
    .await;

    stage.publish(Lane::Upload, put("good", "b")).await;
    stage.until("good", State::Completed).await;
    stage.publish(Lane::Upload, put("lost", "no-bucket")).await;
    let bad =
        json!({"version": 1, "operation": "put_object", "bucket": "b", "key": "k", "body": BYTES});
    stage
        .publish(Lane::Upload, stage::message("bad", &bad))
        .await;
    stage.s3.faults().add(deletes_unavailable());
    let mut old = stage::on_key("old", "delete_object", "k");
    old.timestamp = Some(1_700_000_000);
    stage.publish(Lane::Cleanup, old).await;
    stage.s3.faults().add(unavailable().first(3));
    stage.publish(Lane::Upload, put("late", "b")).await;

    let of = |id: &str| json!({"job": id, "bucket": "b"});
    let buried = until_said(&worker, "buried", json!({"job": "lost"})).await;
    assert_eq!(
        (&buried["code"], &buried["reason"], &buried["attempts"]),
        (&"NoSuchBucket".into(), &"permanent".into(), &1.into())
    );
    let bad = until_said(&worker, "a bad job is buried", of("bad")).await;
    assert_eq!(bad["reason"], "malformed");
    until_said(&worker, "a cleanup job is abandoned", of("old")).await;
    let parked = until_said(&worker, "parked", of("late")).await;
    assert_eq!(
        (&parked["delay_ms"], &parked["attempts"]),
        (&10_000.into(), &3.into())
    );

    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    let lines = lines(&worker);
    check(&lines);
    let about = |id: &str| lines.iter().filter(|line| line["job"] == id).count();
    assert_eq!(
        ["good", "lost", "bad", "old", "late"].map(about),
        [0, 1, 1, 1, 1]
    );
    assert_eq!(lines.last().unwrap()["message"], "drained");
    let (_, secret_key) = stage.s3.keys();
    let log = worker.log();
    for secret in [BYTES, secret_key, "token-that-nobody", "guest:guest"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_s3_reads_as_circuit_and_lane_with_their_reasons() {
    let mut stage = Stage::new().await.set("circuit.failure_threshold", "2");
    stage.s3.faults().add(unavailable());
    let worker = stage.process();
    for id in ["j1", "j2"] {
        stage.publish(Lane::Upload, put(id, "b")).await;
    }

    let circuit = |from: &str, to: &str, why: &str| json!({"circuit": "upload", "from": from, "to": to, "why": why});
    let changed = "the circuit changed";
    let opened = circuit("closed", "open", "2 operations in a row failed");
    let opened = until_said(&worker, changed, opened).await;
    let told =
        ["class", "code", "endpoint", "operation", "bucket"].map(|name| opened[name].clone());
    let endpoint = stage.s3.endpoint();
    assert_eq!(
        told,
        [
            "unavailable",
            "ServiceUnavailable",
            &endpoint,
            "put_object",
            "b"
        ]
    );
    for name in ["error", "since", "next_probe_s", "queue_ready", "parked"] {
        assert!(!opened[name].is_null(), "no {name}: {opened}");
    }
    until_said(
        &worker,
        "lane state",
        json!({"lane": "upload", "state": "paused", "reason": "breaker"}),
    )
    .await;
    let due = circuit("open", "half_open", "the open time has passed");
    until_said(&worker, changed, due).await;
    stage.s3.faults().clear();
    stage.publish(Lane::Upload, put("j3", "b")).await;
    let closed = circuit("half_open", "closed", "a probe succeeded");
    let closed = until_said(&worker, changed, closed).await;
    assert_eq!(closed["since"], opened["since"], "{closed}");
    assert!(closed["code"].is_null(), "{closed}");
    until_said(
        &worker,
        "lane state",
        json!({"lane": "upload", "state": "consuming"}),
    )
    .await;
    check(&lines(&worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_told_once_a_role_and_so_is_its_return() {
    let (stage, proxy) = Stage::new().await.behind_a_proxy().await;
    let worker = stage.process();
    let count = |message: &str| {
        let lines = lines(&worker);
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .count()
    };
    let connected = "connected to RabbitMQ";
    eventually("both roles are connected", async || {
        (count(connected) >= 2).then_some(())
    })
    .await;
    until_said(
        &worker,
        "lane state",
        json!({"lane": "read", "state": "consuming"}),
    )
    .await;
    proxy.cut();
    eventually("both roles are connected again", async || {
        (count(connected) >= 4).then_some(())
    })
    .await;
    assert_eq!(count("no connection to RabbitMQ"), 2, "{}", worker.log());
    check(&lines(&worker));
}

/// Level and message of every call of `tracing` above `debug` in a source; job lines' fields are checked.
fn events(source: &str, found: &mut BTreeMap<String, String>) {
    for (at, _) in source.match_indices("tracing::") {
        let rest = &source[at + "tracing::".len()..];
        let Some((level, call)) = rest.split_once("!(") else {
            continue;
        };
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            continue;
        }
        let call = &call[..call.find(");").or(call.find("),")).unwrap()];
        if call.contains("job = ") {
            for field in ["lane = ", "operation", "bucket"] {
                assert!(
                    call.contains(field),
                    "{field} is missing in tracing::{level}!({call})"
                );
            }
        }
        let texts: Vec<&str> = call.split('"').collect();
        let message = texts[texts.len() - 2];
        if matches!(level, "error" | "warn" | "info") {
            found.insert(message.to_owned(), level.to_owned());
        }
    }
}

#[test]
fn the_reference_page_lists_every_event_with_its_level_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut said = BTreeMap::new();
    for file in files {
        let ours = file.strip_prefix(&root).unwrap();
        // The embedded server is no part of a worker.
        if !ours.starts_with("dev") {
            events(&std::fs::read_to_string(&file).unwrap(), &mut said);
        }
    }
    assert!(said.len() > 30, "the test reads too little: {said:?}");
    let rows = PAGE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let message = cells.next()?.trim_end_matches('`').to_owned();
        Some((message, cells.next()?.to_owned()))
    });
    let listed: BTreeMap<String, String> = rows.collect();
    let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<BTreeSet<_>>();
    let (missing, stale): (Vec<_>, Vec<_>) = (
        names(&said).difference(&names(&listed)).cloned().collect(),
        names(&listed).difference(&names(&said)).cloned().collect(),
    );
    assert!(
        missing.is_empty() && stale.is_empty(),
        "missing in the page: {missing:?}; not in the source: {stale:?}"
    );
    assert_eq!(listed, said);
}
