//! Dead letters in an operator's hands: looked at, replayed, discarded, and never lost.

use std::process::{Command, Stdio};

use bucket_brigade::{
    broker::Target,
    http::HttpServer,
    job::{Circuit, Lane, Message, State},
    resilience::Mode,
};
use serde_json::json;

use crate::{
    cli::{json, run, text},
    stage::{self, Stage, Totals, circuit_of, eventually},
};

/// A put to a bucket that is not there yet.
fn put_to(bucket: &str, id: &str) -> Message {
    let job = json!({"version": 1, "operation": "put_object", "bucket": bucket, "key": id,
        "body": {"text": "x"}});
    stage::message(id, &job)
}

/// Waits until that many letters lie in the lane's dead queue.
async fn until_dead(stage: &Stage, lane: Lane, count: usize) {
    eventually(&format!("{count} letters are dead"), async || {
        (stage.dead(lane).await.len() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_replayed_once_the_cause_is_mended_and_complete() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    for n in 0..3 {
        let lost = put_to("later", &format!("j{n}"));
        stage.publish(Lane::Upload, lost).await;
    }
    let none = stage::on_key("r1", "get_object", "none");
    stage.publish(Lane::Read, none).await;
    until_dead(&stage, Lane::Upload, 3).await;
    until_dead(&stage, Lane::Read, 1).await;

    let list = json(&run(&stage, &["dead", "list", "--output", "json"]).await);
    assert_eq!(
        list["groups"],
        json!([
            {"lane": "upload", "reason": "permanent", "code": "NoSuchBucket", "count": 3},
            {"lane": "read", "reason": "permanent", "code": "NoSuchKey", "count": 1},
        ])
    );
    assert_eq!(list["letters"].as_array().map(Vec::len), Some(4));
    assert_eq!(list["letters"][0]["error-code"], "NoSuchBucket");
    assert_eq!(list["letters"][0]["lane"], "upload");
    let narrow = [
        "dead",
        "list",
        "--where",
        "bucket=later",
        "--limit",
        "2",
        "--output",
        "json",
    ];
    let narrow = json(&run(&stage, &narrow).await);
    assert_eq!(narrow["groups"][0]["count"], 3);
    assert_eq!(narrow["letters"].as_array().map(Vec::len), Some(2));
    let show = json(&run(&stage, &["dead", "show", "r1", "--output", "json"]).await);
    assert_eq!(
        (&show["lane"], &show["job"]["key"]),
        (&"read".into(), &"none".into())
    );
    let nobody = run(&stage, &["dead", "show", "nobody"]).await;
    assert_eq!(nobody.status.code(), Some(1));

    stage.s3.create_bucket("later");
    let replay = [
        "dead",
        "replay",
        "--where",
        "code=NoSuchBucket",
        "--output",
        "json",
    ];
    let dry: Vec<&str> = replay.iter().copied().chain(["--dry-run"]).collect();
    let dry = json(&run(&stage, &dry).await);
    assert_eq!((&dry["matched"], &dry["replayed"]), (&3.into(), &0.into()));
    assert_eq!(
        stage.dead(Lane::Upload).await.len(),
        3,
        "a dry run took a letter"
    );
    let output = run(&stage, &replay).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(json(&output)["replayed"], 3);
    stage.until_count(State::Completed, 3).await;
    assert_eq!(stage.row("j0").await.unwrap().replay, 1);
    assert!(stage.dead(Lane::Upload).await.is_empty());
    assert_eq!(
        stage.dead(Lane::Read).await.len(),
        1,
        "a letter was taken that was not meant"
    );
    worker.drain(stage::PATIENCE).await;
    let expected = Totals {
        completed: 3,
        dead: 1,
        ..Totals::default()
    };
    assert_eq!(stage.total_queue_check().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_ends_although_its_job_dies_again_and_the_letter_counts_its_replays() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.publish(Lane::Upload, put_to("never", "j1")).await;
    until_dead(&stage, Lane::Upload, 1).await;
    for times in 1..=2 {
        let replay = run(&stage, &["dead", "replay", "j1", "--output", "json"]).await;
        assert_eq!(json(&replay)["replayed"], 1);
        eventually("it is dead again", async || {
            let letters = stage.dead(Lane::Upload).await;
            let letter = letters.first()?;
            (letter.count("brigade-replay") == Some(times)).then_some(())
        })
        .await;
    }
    worker.drain(stage::PATIENCE).await;
    assert_eq!(stage.total_queue_check().await.dead, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_in_the_wrong_queue_is_replayed_to_the_lane_of_its_operation() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    stage.publish(Lane::Read, stage::put("j1", "k1")).await;
    until_dead(&stage, Lane::Read, 1).await;
    let replay = run(&stage, &["dead", "replay", "--where", "reason=wrong_lane"]).await;
    assert_eq!(replay.status.code(), Some(0), "{}", text(&replay.stderr));
    stage.until("j1", State::Completed).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_takes_only_what_is_meant_and_wants_to_be_told_twice() {
    let stage = Stage::new().await;
    stage.declare().await;
    let producer = stage.producer().await;
    for id in ["j1", "j2", "j3"] {
        let letter = put_to("b", id).with_text("brigade-reason", "permanent");
        producer
            .publish(&Target::Dead(Lane::Upload), &letter)
            .await
            .unwrap();
    }
    for refused in [
        &["dead", "discard"][..],
        &["dead", "discard", "--yes"],
        &["dead", "discard", "--all"],
        &["dead", "discard", "j1"],
        &["dead", "replay"],
        &["dead", "replay", "--lane", "upload"],
        &["dead", "replay", "--all", "--rate", "0"],
        &["dead", "list", "--where", "key=k"],
    ] {
        let output = run(&stage, refused).await;
        assert_eq!(output.status.code(), Some(64), "{refused:?}");
    }
    let dry = run(
        &stage,
        &["dead", "discard", "--all", "--dry-run", "--output", "json"],
    )
    .await;
    assert_eq!(json(&dry)["matched"], 3);
    let one = ["dead", "discard", "j2", "j9", "--yes", "--output", "json"];
    let one = run(&stage, &one).await;
    assert_eq!(
        one.status.code(),
        Some(1),
        "an id that is not there went unsaid"
    );
    assert_eq!(json(&one)["discarded"], 1);
    assert_eq!(json(&one)["not_found"], json!(["j9"]));
    let left: Vec<_> = stage
        .dead(Lane::Upload)
        .await
        .into_iter()
        .filter_map(|letter| letter.message_id)
        .collect();
    assert_eq!(left, ["j1", "j3"]);
    let limited = ["dead", "discard", "--all", "--yes", "--limit", "1"];
    assert_eq!(run(&stage, &limited).await.status.code(), Some(0));
    assert_eq!(stage.dead(Lane::Upload).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_while_the_circuit_of_its_lane_is_open() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    stage.publish(Lane::Upload, put_to("later", "j1")).await;
    until_dead(&stage, Lane::Upload, 1).await;
    stage.s3.create_bucket("later");
    let breaker = circuit_of(&worker, Circuit::Upload);
    breaker.force(Mode::ForceOpen);

    let mut stage = stage.set("http.listen", &http.address().to_string());
    let mut replay = start(&stage, &["dead", "replay", "--all"]);
    let said = replay.stderr.take().unwrap();
    // Ends with the first line, which must be that it waits.
    let line = tokio::task::spawn_blocking(move || {
        use std::io::BufRead;
        let mut line = String::new();
        std::io::BufReader::new(said).read_line(&mut line).unwrap();
        line
    });
    let line = line.await.unwrap();
    assert!(
        line.contains("upload circuit") && line.contains("waiting"),
        "{line}"
    );
    assert!(replay.try_wait().unwrap().is_none(), "it did not wait");
    assert_eq!(
        stage.puts(),
        1,
        "S3 was called although the circuit is open"
    );
    breaker.force(Mode::Auto);
    let status = eventually("the replay ends", async || replay.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    stage.until("j1", State::Completed).await;
    stage.published.insert("j1".to_owned());
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_circuit_with_nothing_queued_gets_a_letter_to_probe_with() {
    // A circuit that opened with the last job of its queue, which is too old to park.
    let mut stage = Stage::new()
        .await
        .set("circuit.failure_threshold", "1")
        .set("limits.max_job_age", "1ms");
    stage.s3.faults().add(stage::unavailable());
    let worker = stage.worker().await;
    let http = HttpServer::start(([127, 0, 0, 1], 0).into(), worker.view().clone())
        .await
        .unwrap();
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    until_dead(&stage, Lane::Upload, 1).await;
    stage.s3.faults().clear();

    let stage = stage.set("http.listen", &http.address().to_string());
    let mut replay = start(&stage, &["dead", "replay", "j1"]);
    stage.until("j1", State::Completed).await;
    let status = eventually("the replay ends", async || replay.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    worker.drain(stage::PATIENCE).await;
    http.stop().await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_no_queue_takes_stays_dead() {
    let stage = Stage::new().await;
    stage.declare().await;
    let producer = stage.producer().await;
    let letter = put_to("b", "j1");
    producer
        .publish(&Target::Dead(Lane::Upload), &letter)
        .await
        .unwrap();
    stage
        .rabbit
        .delete_queue(&format!("{}.upload", stage.prefix))
        .await;
    let replay = run(&stage, &["dead", "replay", "j1", "--output", "json"]).await;
    assert_eq!(replay.status.code(), Some(1), "{}", text(&replay.stderr));
    assert_eq!(json(&replay)["replayed"], 0);
    assert_eq!(json(&replay)["failed"][0]["id"], "j1");
    let left = stage.dead(Lane::Upload).await;
    assert_eq!(left.len(), 1, "the letter is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_dead_lettered_shows_the_brokers_reason() {
    let stage = Stage::new().await;
    stage.declare().await;
    let queue = format!("{}.read", stage.prefix);
    stage.rabbit.publish_expiring(&queue, "j1").await;
    until_dead(&stage, Lane::Read, 1).await;
    let list = json(&run(&stage, &["dead", "list", "--output", "json"]).await);
    let expected = json!([{"lane": "read", "reason": "expired", "code": null, "count": 1}]);
    assert_eq!(list["groups"], expected);
    assert_eq!(list["letters"][0]["reason"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_killed_at_any_letter_loses_none() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    let puts = (0..400)
        .map(|n| put_to("later", &format!("j{n}")))
        .collect();
    stage.publish_all(Lane::Upload, puts).await;
    until_dead(&stage, Lane::Upload, 400).await;
    stage.s3.create_bucket("later");
    for enough in [20, 60, 100] {
        // About as fast as letters go, so that most kills come between a publish and its ack.
        let mut replay = start(&stage, &["dead", "replay", "--all", "--rate", "100"]);
        stage.until_count(State::Completed, enough).await;
        replay.kill().unwrap();
        replay.wait().unwrap();
        eventually("no letter is lost", async || {
            let totals = stage.total_queue_check().await;
            totals.lost.is_empty().then_some(())
        })
        .await;
    }
    let left = stage.dead(Lane::Upload).await;
    assert!(!left.is_empty(), "nothing was killed midway");
    let rest = run(&stage, &["dead", "replay", "--all"]).await;
    assert_eq!(rest.status.code(), Some(0), "{}", text(&rest.stderr));
    stage.until_count(State::Completed, 400).await;
    assert_eq!(stage.s3.keys_of("later").len(), 400);
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

/// Starts the command, without waiting for it.
fn start(stage: &Stage, arguments: &[&str]) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.env_clear().args(arguments);
    for (key, value) in stage.pairs() {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
