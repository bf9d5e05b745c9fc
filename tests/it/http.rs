//! What operators and probes see over HTTP.

use std::time::Duration;

use bucket_brigade::{
    http::{HttpServer, client},
    job::{Lane, State},
};
use serde_json::json;

use crate::stage::{self, Stage, unavailable};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_shows_its_state_on_every_page() {
    let mut stage = Stage::new().await.set("http.admin_token", "letmein");
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    let at = http.address().to_string();
    let get = async |path: &str| client::get(&at, path, SOON).await.unwrap();

    assert_eq!(get("/livez").await.code, 200);
    stage::eventually("it is ready", async || {
        (get("/readyz").await.code == 200).then_some(())
    })
    .await;
    assert_eq!(
        get("/readyz").await.json(),
        json!({"ready": true, "reasons": []})
    );
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    stage
        .publish(Lane::Read, stage::on_key("r1", "get_object", "none"))
        .await;
    stage.until("j1", State::Completed).await;
    stage.until("r1", State::DeadLettered).await;
    stage::eventually("the letter is counted", async || {
        (get("/api/status").await.json()["jobs"]["dead_lettered"] == 1).then_some(())
    })
    .await;

    let status = get("/api/status").await.json();
    assert_eq!(status["ready"], true);
    assert_eq!(status["lanes"]["upload"]["state"], "consuming");
    assert_eq!(status["lanes"]["upload"]["concurrency"], 64);
    assert_eq!(status["lanes"]["cleanup"]["queue_ready"], 0);
    let mut circuit = status["circuits"]["download"].clone();
    assert!(circuit["since"].take().is_string(), "{status}");
    assert_eq!(
        circuit,
        json!({"state": "closed", "mode": "auto", "consecutive_failures": 0, "retry_in_seconds": null,
            "since": null, "last_failure": null})
    );
    assert_eq!(status["lanes"]["cleanup"]["parked"], 0);
    assert_eq!(status["jobs"]["completed"], 1);
    assert_eq!(status["recent_failures"][0]["code"], "NoSuchKey");
    let page = get("/").await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains("<title>Bucket Brigade worker</title>"));
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "no external assets"
    );
    let metrics = String::from_utf8(get("/metrics").await.body).unwrap();
    assert!(metrics.contains("# HELP s3_operations_total"));

    worker.view().drain.stop.cancel();
    let draining = get("/readyz").await;
    assert_eq!(draining.code, 503);
    assert_eq!(draining.json()["reasons"][0]["component"], "drain");
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_token_moves_a_circuit() {
    let stage = Stage::new().await.set("http.admin_token", "letmein");
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    let at = http.address().to_string();
    let post = async |name: &str, token: &str, body: &str| {
        client::post(&at, &format!("/api/circuits/{name}"), token, body, SOON)
            .await
            .unwrap()
    };
    let open = r#"{"mode": "force_open"}"#;
    assert_eq!(post("upload", "guess", open).await.code, 401);
    assert_eq!(post("sideways", "guess", "nonsense").await.code, 401);
    assert_eq!(post("sideways", "letmein", open).await.code, 404);
    assert_eq!(
        post("upload", "letmein", r#"{"mode": "ajar"}"#).await.code,
        400
    );
    let forced = post("upload", "letmein", open).await;
    assert_eq!(forced.code, 200);
    assert_eq!(forced.json()["state"], "open");
    assert_eq!(forced.json()["mode"], "force_open");
    assert_eq!(
        post("upload", "letmein", r#"{"mode": "auto"}"#)
            .await
            .json()["state"],
        "closed"
    );
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_in_the_settings_circuits_cannot_be_moved() {
    let stage = Stage::new().await;
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    let at = http.address().to_string();
    let answer = client::post(&at, "/api/circuits/upload", "", r#"{"mode": "auto"}"#, SOON).await;
    assert_eq!(answer.unwrap().code, 404);
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_s3_makes_no_worker_unready() {
    let mut stage = Stage::new()
        .await
        .set("circuit.open_base", "60s")
        .set("circuit.open_max", "60s");
    stage.s3.faults().add(unavailable());
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    let at = http.address().to_string();
    stage.until_consuming(&worker).await;
    let puts = (0..20).map(|n| stage::put(&format!("j{n}"), "k")).collect();
    stage.publish_all(Lane::Upload, puts).await;
    let paused = stage::eventually("the lane pauses", async || {
        let status = client::get(&at, "/api/status", SOON).await.unwrap().json();
        (status["lanes"]["upload"]["state"] == "paused").then_some(status)
    })
    .await;
    assert!(
        paused["lanes"]["upload"]["reason"]
            .as_str()
            .unwrap()
            .contains("breaker"),
        "{paused}"
    );
    assert!(
        paused["circuits"]["upload"]["retry_in_seconds"]
            .as_f64()
            .unwrap()
            > 10.0,
        "{paused}"
    );
    assert_eq!(client::get(&at, "/readyz", SOON).await.unwrap().code, 200);
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
}
