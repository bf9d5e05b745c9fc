//! Why nothing happens, as people see it who are woken at night: while S3 is away, while a job waits for its
//! next try, and when an answer does not come.

use std::time::Duration;

use bucket_brigade::{
    http::{HttpServer, client},
    job::{Lane, Timestamp},
    worker::Worker,
};
use serde_json::{Value, json};

use crate::{
    cli::{json, run, text},
    stage::{self, Stage, eventually},
};

const SOON: Duration = Duration::from_secs(5);

/// Uploads are answered 503, and a circuit that opens stays open.
async fn with_uploads_away() -> Stage {
    let stage = Stage::new()
        .await
        .set("circuit.open_base", "60s")
        .set("circuit.open_max", "60s");
    stage.s3.faults().add(stage::unavailable());
    stage
}

async fn shown(worker: &Worker) -> HttpServer {
    HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap()
}

async fn get(http: &HttpServer, path: &str) -> Value {
    let answer = client::get(&http.address().to_string(), path, SOON).await;
    answer.unwrap().json()
}

fn time(value: &Value) -> Timestamp {
    Timestamp::parse_rfc3339(value.as_str().unwrap()).unwrap()
}

/// All of the parts are in the text.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_s3_is_away_every_place_says_what_it_answered_since_when_and_what_waits() {
    let mut stage = with_uploads_away().await;
    let worker = stage.worker().await;
    let http = shown(&worker).await;
    stage.until_consuming(&worker).await;
    let healthy = get(&http, "/api/status").await;
    let before = &healthy["circuits"]["upload"];
    assert_eq!(before["last_failure"], Value::Null);
    assert_eq!(healthy["lanes"]["upload"]["parked"], 0);
    let began = time(&before["since"]);

    let puts = (0..20).map(|n| stage::put(&format!("j{n}"), "k")).collect();
    stage.publish_all(Lane::Upload, puts).await;
    let away = eventually(
        "the lane pauses and its parked jobs are counted",
        async || {
            let status = get(&http, "/api/status").await;
            let lane = &status["lanes"]["upload"];
            (lane["state"] == "paused" && lane["parked"].as_u64() >= Some(5)).then_some(status)
        },
    )
    .await;
    let circuit = &away["circuits"]["upload"];
    assert!(
        circuit["consecutive_failures"].as_u64() >= Some(5),
        "{circuit}"
    );
    assert!(time(&circuit["since"]) > began, "{circuit}");
    let mut failure = circuit["last_failure"].clone();
    assert!(time(&failure["at"].take()) > began, "{circuit}");
    assert!(!failure["message"].take().as_str().unwrap().is_empty());
    let expected = json!({"at": null, "class": "unavailable", "code": "ServiceUnavailable", "message": null,
        "endpoint": stage.s3.endpoint(), "operation": "put_object", "bucket": "b"});
    assert_eq!(failure, expected);
    assert_eq!(away["circuits"]["download"]["last_failure"], Value::Null);

    for reasons in [&away, &get(&http, "/readyz").await] {
        assert_eq!(reasons["ready"], true, "{reasons}");
        let [reason] = reasons["reasons"].as_array().unwrap().as_slice() else {
            panic!("one reason: {reasons}");
        };
        assert_eq!(
            (&reason["component"], &reason["level"]),
            (&json!("s3"), &json!("info"))
        );
        says(
            reason["message"].as_str().unwrap(),
            &[
                "paused: S3",
                "upload",
                "ServiceUnavailable",
                &stage.s3.endpoint(),
            ],
        );
    }

    let url = format!("http://{}", http.address());
    let show = run(&stage, &["circuit", "show", "--url", &url]).await;
    says(
        &text(&show.stdout),
        &[
            "since",
            "parked",
            "unavailable",
            "ServiceUnavailable",
            &stage.s3.endpoint(),
            "put_object",
            "bucket b",
        ],
    );
    let show = json(
        &run(
            &stage,
            &["circuit", "show", "--url", &url, "--output", "json"],
        )
        .await,
    );
    let seen = &show["workers"][0];
    assert_eq!(
        seen["circuits"]["upload"]["last_failure"],
        circuit["last_failure"]
    );
    assert!(
        seen["lanes"]["upload"]["parked"].as_u64() >= Some(5),
        "{seen}"
    );
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_that_an_operator_holds_open_is_not_laid_at_the_stores_door() {
    let stage = Stage::new().await.set("http.admin_token", "letmein");
    let worker = stage.worker().await;
    let http = shown(&worker).await;
    stage.until_consuming(&worker).await;
    let at = http.address().to_string();
    let open = r#"{"mode": "force_open"}"#;
    let forced = client::post(&at, "/api/circuits/download", "letmein", open, SOON).await;
    assert_eq!(forced.unwrap().json()["last_failure"], Value::Null);
    let paused = get(&http, "/readyz").await;
    assert_eq!(paused["ready"], true, "{paused}");
    let reason = paused["reasons"][0]["message"].as_str().unwrap();
    says(reason, &["paused: S3", "download", "an operator"]);
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_and_refused_jobs_are_among_the_recent_failures() {
    let mut stage = Stage::new().await.set("lanes.upload.buckets", "b");
    let worker = stage.worker().await;
    let http = shown(&worker).await;
    stage.until_consuming(&worker).await;
    let malformed = stage::message(
        "bad",
        &json!({"version": 1, "operation": "put_object", "bucket": "b"}),
    );
    let mut nameless = stage::put("x", "k");
    nameless.message_id = None;
    let refused = json!({"version": 1, "operation": "put_object", "bucket": "other", "key": "k", "body": {"text": "x"}});
    let file = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k", "source": {"file": "/etc/passwd"}});
    for message in [
        malformed,
        nameless,
        stage::message("refused", &refused),
        stage::message("file", &file),
    ] {
        stage.publish(Lane::Upload, message).await;
    }
    let failures = eventually("all four are shown", async || {
        let failures = get(&http, "/api/status").await["recent_failures"].take();
        (failures.as_array().map(Vec::len) == Some(4)).then_some(failures)
    })
    .await;
    let of = |id: Value| {
        let all = failures.as_array().unwrap();
        let found = all.iter().find(|failure| failure["id"] == id);
        found.unwrap_or_else(|| panic!("no {id} in {failures}"))
    };
    for (id, code, names) in [
        (json!("bad"), "malformed", "key"),
        (Value::Null, "malformed", "message_id"),
        (json!("refused"), "not_allowed", "lanes.upload.buckets"),
        (json!("file"), "forbidden_source", "sources.file_roots"),
    ] {
        let failure = of(id);
        assert_eq!(
            (&failure["code"], &failure["outcome"]),
            (&json!(code), &json!("dead_lettered"))
        );
        says(failure["message"].as_str().unwrap(), &[names]);
    }
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}
