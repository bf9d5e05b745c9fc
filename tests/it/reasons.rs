//! Why nothing happens, as people see it who are woken at night: while S3 is away, while a job waits for its
//! next try, and when an answer does not come.

use std::time::Duration;

use bucket_brigade::{
    broker::{Target, rabbitmq::RequestError},
    dev::s3_server::{Class, Fault, Rule},
    http::{HttpServer, client},
    job::{Lane, State, Timestamp},
    worker::Worker,
};
use serde_json::{Value, json};

use crate::{
    cli::{json, run, text},
    stage::{self, Stage, eventually},
};

const SOON: Duration = Duration::from_secs(20);

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
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_tried_again_names_its_next_try_and_why() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(stage::unavailable());
    let worker = stage.worker().await;
    stage.publish(Lane::Upload, stage::put("late", "k")).await;
    stage.until("late", State::Retrying).await;
    let now = Timestamp::now();
    let show = json(&run(&stage, &["jobs", "show", "late", "--output", "json"]).await);
    let next = time(&show["next_try_at"]);
    assert!(next.since(now) <= Duration::from_secs(10), "{show}");
    assert!(next.plus(SOON) > now, "{show}");
    assert_eq!(
        (&show["retry_reason"], &show["parks"]),
        (&json!("unavailable"), &json!(1))
    );
    let show = text(&run(&stage, &["jobs", "show", "late"]).await.stdout);
    says(&show, &["next_try_at", "unavailable", "ServiceUnavailable"]);
    let list = json(&run(&stage, &["jobs", "list", "--output", "json"]).await);
    assert_eq!(time(&list["jobs"][0]["next_try_at"]), next);
    assert_eq!(list["jobs"][0]["retry_reason"], "unavailable");
    let list = text(&run(&stage, &["jobs", "list"]).await.stdout);
    says(&list, &["next try", "unavailable"]);

    stage.s3.faults().clear();
    stage.until("late", State::Completed).await;
    let show = json(&run(&stage, &["jobs", "show", "late", "--output", "json"]).await);
    assert_eq!(
        (&show["next_try_at"], &show["retry_reason"]),
        (&Value::Null, &Value::Null)
    );
    worker.drain(stage::PATIENCE).await;
}

/// Enqueues a put and waits a moment; what standard error says of it.
async fn waited(stage: &Stage, id: &str) -> String {
    let arguments = [
        "enqueue",
        "put",
        "s3://b/k",
        "--text",
        "x",
        "--id",
        id,
        "--wait",
        "--wait-timeout",
        "1500ms",
    ];
    let output = run(stage, &arguments).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    says(&said, &[id, "1s 500ms"]);
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_without_an_answer_says_that_nobody_consumes_the_queue() {
    let stage = Stage::new().await;
    stage.declare().await;
    let said = waited(&stage, "j1").await;
    says(
        &said,
        &[
            &format!("{}.upload", stage.prefix),
            "no worker",
            "brigade circuit show",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_without_an_answer_tells_the_jobs_last_error_and_its_next_try() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(stage::unavailable());
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let said = waited(&stage, "j1").await;
    says(&said, &["ServiceUnavailable", "unavailable", "next try"]);
    stage.published.insert("j1".to_owned());
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_without_an_answer_tells_what_runs_and_how_many_wait_before() {
    let mut stage = Stage::new()
        .await
        .set("lanes.upload.concurrency", "1")
        .set("lanes.upload.prefetch", "1");
    let hang = Rule::new(Fault::Hang).class(Class::Upload);
    stage.s3.faults().add(hang);
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let said = waited(&stage, "j1").await;
    says(&said, &["running", worker.view().worker.as_ref()]);
    let puts = (0..3).map(|n| stage::put(&format!("k{n}"), "k")).collect();
    stage.publish_all(Lane::Upload, puts).await;
    stage.until_queued(Lane::Upload, 3).await;
    let said = waited(&stage, "j2").await;
    says(&said, &["queued", "behind about 3 others"]);
    stage.s3.faults().clear();
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_leads_to_a_ledger_that_is_down_and_not_to_circuits() {
    let stage = Stage::new().await;
    stage.declare().await;
    let producer = stage.producer().await;
    let target = Target::Jobs(Lane::Upload);
    producer
        .publish(&target, &stage::put("j1", "k"))
        .await
        .unwrap();
    stage.until_queued(Lane::Upload, 1).await;
    let stage = stage.set("ledger.url", "sqlite:///no/such/ledger.db");
    let report = json(&run(&stage, &["doctor", "--output", "json"]).await);
    let findings = report["findings"].as_array().unwrap();
    let queue = findings
        .iter()
        .find(|finding| finding["check"] == "queue upload")
        .unwrap();
    let cure = queue["cure"].as_str().unwrap();
    says(cure, &["ledger"]);
    assert!(!cure.contains("circuit"), "{cure}");
    let at = |check: &str| {
        findings
            .iter()
            .position(|finding| finding["check"] == check)
    };
    assert!(
        at("ledger") < at("queue upload"),
        "the cause comes first: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_connection_is_lost_ends_at_once_and_says_so() {
    let (stage, proxy) = Stage::new().await.behind_a_proxy().await;
    stage.declare().await;
    let producer = stage.producer().await;
    let (target, message) = (Target::Jobs(Lane::Upload), stage::put("j1", "k"));
    let asking = producer.request(&target, &message, stage::PATIENCE);
    let cutting = async {
        stage.until_queued(Lane::Upload, 1).await;
        proxy.cut();
    };
    let (answer, ()) = tokio::join!(asking, cutting);
    assert_eq!(answer, Err(RequestError::Lost));
}
