//! The managed transfer end to end: in parts, through faults, drains, deadlines and `kill -9`, and what is left
//! of uploads that nobody goes on with.

use std::{collections::BTreeMap, time::Duration};

use bucket_brigade::{
    dev::s3_server::{Fault, Rule, S3Operation},
    job::{Circuit, Lane, Message, State, outcome::ParkDelay},
    resilience::Mode,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::stage::{self, Stage, circuit_of, eventually, metric};

const MIB: usize = 1024 * 1024;
const PART: usize = 5 * MIB;

/// Bytes of which no two parts are the same.
fn bytes(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut random = fastrand::Rng::with_seed(seed);
    for chunk in bytes.chunks_mut(64 * 1024) {
        let end = chunk.len().min(32);
        random.fill(&mut chunk[..end]);
    }
    bytes
}

fn upload(id: &str, file: &str) -> Message {
    upload_with(id, file, &json!({}))
}

fn upload_with(id: &str, file: &str, options: &Value) -> Message {
    let mut job = json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k",
        "source": {"file": file}});
    let fields = job.as_object_mut().unwrap();
    fields.extend(options.as_object().unwrap().clone());
    stage::message(id, &job)
}

async fn ask(stage: &Stage, message: Message) -> Value {
    let answer = stage.request(Lane::Upload, message).await;
    serde_json::from_slice(&answer.body).unwrap()
}

/// How often S3 has taken each part of key `k`.
fn parts(stage: &Stage) -> BTreeMap<u32, usize> {
    let mut parts = BTreeMap::new();
    for entry in stage.s3.journal().entries() {
        if entry.call.operation == S3Operation::UploadPart && entry.status == Some(200) {
            *parts.entry(entry.call.part_number.unwrap()).or_default() += 1;
        }
    }
    parts
}

fn on_parts(fault: Fault) -> Rule {
    Rule::new(fault).operation(S3Operation::UploadPart)
}

fn assert_stored(stage: &Stage, key: &str, expected: &[u8]) {
    let stored = stage.s3.object("b", key).expect("the object is there");
    assert_eq!(stored.len(), expected.len());
    assert!(stored == expected, "the object is not the file");
    assert_eq!(stage.s3.uploads_of("b"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_arrives_byte_for_byte_in_parts_that_are_counted_one_by_one() {
    let stage = Stage::new().await.uploading();
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let content = bytes(64 * MIB + 12_345, 1);
    let file = stage.file("large", &content);
    let options = json!({"content_type": "x/y", "metadata": {"who": "me"},
        "sha256": hex(&content)});
    let report = ask(&stage, upload_with("j", &file, &options)).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["result"]["size"], content.len());
    // Beginning, 13 parts, completion and the look at the object.
    assert_eq!(report["attempts"], 16);
    assert_stored(&stage, "k", &content);
    let view = std::sync::Arc::clone(worker.view());
    worker.drain(stage::PATIENCE).await;
    let page = view.metrics.render().unwrap();
    for (operation, count) in [
        ("upload_fileobj", 1.0),
        ("create_multipart_upload", 1.0),
        ("upload_part", 13.0),
        ("complete_multipart_upload", 1.0),
    ] {
        let name = format!(
            r#"s3_operations_total{{bucket="b",operation="{operation}",result="success"}}"#
        );
        assert_eq!(metric(&page, &name), count, "{name} in\n{page}");
    }
    let out = metric(&page, r#"brigade_s3_bytes_total{direction="out"}"#);
    assert_eq!(out, content.len() as f64);
}

fn hex(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_twice_is_sent_again_alone() {
    let stage = Stage::new().await.uploading();
    let second = |call: &bucket_brigade::dev::s3_server::Call| call.part_number == Some(2);
    let fault = on_parts(Fault::status(503, "ServiceUnavailable"));
    stage.s3.faults().add(fault.matching(second).first(2));
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let content = bytes(4 * PART, 2);
    let file = stage.file("file", &content);
    let report = ask(&stage, upload("j", &file)).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(stage.s3.journal().count(S3Operation::UploadPart), 4 + 2);
    assert_eq!(parts(&stage), (1..=4).map(|part| (part, 1)).collect());
    assert_stored(&stage, "k", &content);
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_meets_an_open_circuit_is_requeued_and_sends_no_part_twice() {
    let mut stage = Stage::new()
        .await
        .uploading()
        .set("upload.part_concurrency", "2");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let content = bytes(8 * PART, 3);
    let file = stage.file("file", &content);
    let held = stage.s3.faults().add(on_parts(Fault::Hang).after(3));
    stage.publish(Lane::Upload, upload("j", &file)).await;
    eventually("three parts are there and two on their way", async || {
        (parts(&stage).len() == 3 && stage.s3.journal().count(S3Operation::UploadPart) >= 5)
            .then_some(())
    })
    .await;
    let circuit = circuit_of(&worker, Circuit::Upload);
    circuit.force(Mode::ForceOpen);
    held.remove();
    stage.until("j", State::Requeued).await;
    assert_eq!(stage.s3.uploads_of("b"), ["k"], "it waits for the next run");
    let before = parts(&stage);
    assert_eq!(
        before.len(),
        5,
        "what was on its way has arrived: {before:?}"
    );
    circuit.force(Mode::Auto);
    stage.until("j", State::Completed).await;
    assert_eq!(parts(&stage), (1..=8).map(|part| (part, 1)).collect());
    assert_stored(&stage, "k", &content);
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_outlasts_the_drain_goes_on_from_its_finished_parts() {
    let mut stage = Stage::new()
        .await
        .uploading()
        .set("drain.timeout", "100ms")
        .set("upload.part_concurrency", "2");
    let content = bytes(6 * PART, 4);
    let file = stage.file("file", &content);
    stage.s3.faults().add(on_parts(Fault::Hang).after(3));
    let mut worker = stage.process();
    stage.publish(Lane::Upload, upload("j", &file)).await;
    eventually("three parts are there and two on their way", async || {
        (parts(&stage).len() == 3 && stage.s3.journal().count(S3Operation::UploadPart) >= 5)
            .then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    stage.until("j", State::Interrupted).await;
    stage.s3.faults().clear();
    let worker = stage.worker().await;
    stage.until("j", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    let sent = parts(&stage);
    assert!((1..=3).all(|part| sent[&part] == 1), "{sent:?}");
    assert!(sent.values().sum::<usize>() <= 6 + 2, "{sent:?}");
    assert_stored(&stage, "k", &content);
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_deadline_an_upload_is_parked_however_old_it_is_and_then_goes_on() {
    let mut stage = Stage::new()
        .await
        .uploading()
        // Time for two parts, also on a machine that is slow.
        .set("limits.job_deadline", "6s")
        .set("limits.max_job_age", "1ms")
        .set("upload.part_concurrency", "1");
    let content = bytes(4 * PART, 5);
    let file = stage.file("file", &content);
    stage.s3.faults().add(on_parts(Fault::Hang).after(2));
    let worker = stage.worker().await;
    stage.publish(Lane::Upload, upload("j", &file)).await;
    let row = stage.until("j", State::Retrying).await;
    assert_eq!(row.error.unwrap().code, "deadline");
    stage.s3.faults().clear();
    let parked = format!(
        "{}.upload.retry.{}",
        stage.prefix,
        ParkDelay::TenSeconds.millis()
    );
    eventually("it is parked", async || {
        let parked = stage.parked(Lane::Upload, ParkDelay::TenSeconds).await;
        (!parked.is_empty()).then_some(())
    })
    .await;
    // The next run has all the time it wants.
    worker.drain(stage::PATIENCE).await;
    let stage = stage.set("limits.job_deadline", "10m");
    let worker = stage.worker().await;
    let queue = format!("{}.upload", stage.prefix);
    stage.rabbit.move_all(&parked, &queue).await;
    stage.until("j", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    let sent = parts(&stage);
    assert_eq!((sent[&1], sent[&2]), (1, 1), "{sent:?}");
    assert_stored(&stage, "k", &content);
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_between_runs_is_uploaded_anew() {
    let mut stage = Stage::new()
        .await
        .uploading()
        .set("drain.timeout", "100ms")
        .set("upload.part_concurrency", "1");
    let file = stage.file("file", &bytes(3 * PART, 6));
    stage.s3.faults().add(on_parts(Fault::Hang).after(2));
    let worker = stage.worker().await;
    stage.publish(Lane::Upload, upload("j", &file)).await;
    eventually("two parts are there", async || {
        (parts(&stage).len() == 2).then_some(())
    })
    .await;
    worker.drain(Duration::from_millis(100)).await;
    stage.s3.faults().clear();
    let content = bytes(3 * PART, 7);
    stage.file("file", &content);
    let worker = stage.worker().await;
    stage.until("j", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    assert_stored(&stage, "k", &content);
    let sent = parts(&stage);
    assert_eq!((sent[&1], sent[&2]), (2, 2), "{sent:?}");
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_sha256_leave_neither_object_nor_upload() {
    let stage = Stage::new().await.uploading();
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    for (id, size) in [("small", 10), ("large", 2 * PART + 1)] {
        let file = stage.file(id, &bytes(size, 8));
        let options = json!({"sha256": "00".repeat(32)});
        let report = ask(&stage, upload_with(id, &file, &options)).await;
        assert_eq!(report["outcome"], "dead_lettered", "{report}");
        assert_eq!(report["error"]["code"], "checksum_mismatch");
        assert_eq!(report["error"]["class"], "job_local");
        assert_eq!(stage.s3.object("b", "k"), None);
        assert_eq!(stage.s3.uploads_of("b"), Vec::<String>::new());
    }
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_upload_knows_its_own_object_and_leaves_a_foreign_one_alone() {
    let stage = Stage::new().await.uploading();
    let lost = Rule::new(Fault::LoseAnswer).operation(S3Operation::CompleteMultipartUpload);
    stage.s3.faults().add(lost.first(1));
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    let content = bytes(PART + 1, 9);
    let file = stage.file("file", &content);
    let options = json!({"if_none_match": "*"});
    let report = ask(&stage, upload_with("mine", &file, &options)).await;
    assert_eq!(report["outcome"], "completed", "{report}");
    let report = ask(&stage, upload_with("other", &file, &options)).await;
    assert_eq!(report["error"]["code"], "PreconditionFailed", "{report}");
    assert_stored(&stage, "k", &content);
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_share_a_budget_of_one_part_and_small_ones_get_through() {
    let mut stage = Stage::new()
        .await
        .uploading()
        .set("upload.memory_budget", "5MiB")
        .set("upload.part_concurrency", "2")
        .set("lanes.upload.concurrency", "1");
    let worker = stage.worker().await;
    let mut files = BTreeMap::new();
    for n in 0..6 {
        let size = if n % 2 == 0 { 3 * PART } else { 1000 };
        files.insert(format!("f{n}"), bytes(size, n));
    }
    let jobs = files.iter().map(|(key, content)| {
        let file = stage.file(key, content);
        upload_with(key, &file, &json!({"key": key}))
    });
    let jobs = jobs.collect();
    stage.publish_all(Lane::Upload, jobs).await;
    stage.until_count(State::Completed, 6).await;
    worker.drain(stage::PATIENCE).await;
    for (key, content) in &files {
        assert_stored(&stage, key, content);
    }
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upload_of_a_job_that_expired_is_swept_and_that_of_a_stranger_is_not() {
    let mut stage = Stage::new()
        .await
        .uploading()
        .set("limits.max_job_age", "1ms")
        .set("circuit.failure_threshold", "1000");
    stage
        .s3
        .faults()
        .add(on_parts(Fault::status(503, "ServiceUnavailable")));
    let stranger = stage.client().create_multipart_upload().bucket("b");
    stranger.key("strangers").send().await.unwrap();
    let worker = stage.worker().await;
    let file = stage.file("file", &bytes(2 * PART, 10));
    stage.publish(Lane::Upload, upload("j", &file)).await;
    stage.until("j", State::DeadLettered).await;
    worker.drain(stage::PATIENCE).await;
    assert_eq!(stage.s3.uploads_of("b"), ["k", "strangers"]);

    let worker = stage.worker().await;
    eventually("the upload is swept", async || {
        (stage.s3.uploads_of("b") == ["strangers"]).then_some(())
    })
    .await;
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_say_how_long_it_is_is_one_put_or_as_many_parts_as_it_takes() {
    let stage = Stage::new().await;
    let sizes = [0, 10, PART - 1, PART, 2 * PART + 1];
    let contents: Vec<Vec<u8>> = (11..).zip(sizes).map(|(seed, n)| bytes(n, seed)).collect();
    let origin = Origin::start(contents.clone()).await;
    let stage = stage
        .uploading()
        .set("sources.url_hosts", &origin.address)
        .set("sources.allow_private_addresses", "true");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    for (n, content) in contents.iter().enumerate() {
        let (id, key) = (format!("j{n}"), format!("k{n}"));
        let source = json!({"url": format!("{}/{n}", origin.address)});
        let mut fields = json!({"key": key, "source": source});
        // What the origin says holds where the job says nothing.
        let kind = if n == 0 { "x/y" } else { "text/css" };
        if n == 0 {
            fields["content_type"] = kind.into();
        }
        let message = upload_with(&id, "", &fields);
        let report = ask(&stage, message).await;
        assert_eq!(report["outcome"], "completed", "{report}");
        assert_eq!(report["result"]["size"], content.len(), "{report}");
        assert_stored(&stage, &key, content);
        let head = stage.client().head_object().bucket("b").key(&key);
        let head = head.send().await.unwrap();
        assert_eq!(head.content_type(), Some(kind));
        assert_eq!(head.content_encoding(), Some("gzip"));
    }
    let count = |operation| stage.s3.journal().count(operation);
    assert_eq!(count(S3Operation::PutObject), 3);
    assert_eq!(count(S3Operation::UploadPart), 1 + 3);
    worker.drain(stage::PATIENCE).await;
}

/// A web server whose answers end when the connection does, or with their last chunk.
struct Origin {
    address: String,
    _task: tokio::task::JoinSet<()>,
}

impl Origin {
    /// `/0` is the first of `contents`, and so on.
    async fn start(contents: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or("/0");
                let content = &contents[path[1..].parse::<usize>().unwrap()];
                let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
                    content-type: text/css\r\ncontent-encoding: gzip\r\n\r\n"
                    .to_vec();
                for chunk in content.chunks(1_000_000) {
                    answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    answer.extend(chunk);
                    answer.extend(b"\r\n");
                }
                answer.extend(b"0\r\n\r\n");
                // Whoever asked may have gone.
                drop(stream.write_all(&answer).await);
            }
        });
        Self {
            address,
            _task: task,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_points_of_an_upload_costs_no_more_than_the_parts_on_their_way() {
    const PARTS: usize = 20;
    const AT_A_TIME: usize = 4;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stage = Stage::new()
        .await
        .uploading()
        .set("ledger.lease", "3s")
        .set("upload.part_concurrency", &AT_A_TIME.to_string());
    // Slow enough that every point of the upload can be hit.
    let slow = Duration::from_millis(20);
    stage.s3.faults().add(on_parts(Fault::Delay(slow)));
    let content = bytes(PARTS * PART - 17, seed);
    let file = stage.file("file", &content);
    let mut points: Vec<usize> = (0..3).map(|_| random.usize(1..PARTS)).collect();
    points.sort_unstable();
    stage.declare().await;
    stage.publish(Lane::Upload, upload("j", &file)).await;
    for point in &points {
        let mut worker = stage.process();
        eventually("the next point is reached", async || {
            (parts(&stage).len() >= *point).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
        worker.kill();
        // A lease that has not run out parks the job for longer than it lasts.
        tokio::time::sleep(Duration::from_millis(3_200)).await;
    }
    let worker = stage.worker().await;
    stage.until("j", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    // Those that a kill interrupted count, too.
    let arrived = stage.s3.journal().count(S3Operation::UploadPart);
    let again = usize::try_from(arrived).unwrap() - PARTS;
    let sent = parts(&stage);
    assert!(
        again <= points.len() * AT_A_TIME,
        "seed {seed}, killed at {points:?}: {again} again, {sent:?}"
    );
    assert_stored(&stage, "k", &content);
    stage.assert_all_completed().await;
}
