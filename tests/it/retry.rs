//! Attempts, backoff and parking, seen from outside: HTTP requests, ledger rows, queues.

use bucket_brigade::{
    dev::s3_server::S3Operation,
    job::{Circuit, Lane, State, outcome::ParkDelay},
};

use crate::stage::{self, Stage, Totals, unavailable};

#[tokio::test(flavor = "multi_thread")]
async fn two_503_and_then_success_are_three_requests_and_one_completed_job() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(unavailable().first(2));
    let worker = stage.worker().await;
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    let row = stage.until("j1", State::Completed).await;
    worker.drain(stage::PATIENCE).await;

    assert_eq!(row.attempts, 3);
    assert_eq!(stage.puts(), 3);
    assert_eq!(
        stage.s3.object("b", "k1").as_deref(),
        Some(&b"text of k1"[..])
    );
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn used_up_attempts_park_the_job_and_its_copy_remembers() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(unavailable());
    let worker = stage.worker().await;
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    let row = stage.until("j1", State::Retrying).await;
    worker.drain(stage::PATIENCE).await;

    assert_eq!(stage.puts(), 3);
    assert_eq!((row.attempts, row.parks), (3, 1));
    let failed: Vec<_> = (row.failed.iter())
        .map(|attempt| (attempt.call.as_str(), attempt.code.as_str()))
        .collect();
    assert_eq!(failed, [("put_object", "ServiceUnavailable"); 3]);
    assert!(
        row.failed
            .iter()
            .all(|attempt| attempt.request_id.is_some())
    );
    assert_eq!(
        row.error.map(|error| error.class).as_deref(),
        Some("unavailable")
    );
    let parked = stage.parked(Lane::Upload, ParkDelay::TenSeconds).await;
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].message_id.as_deref(), Some("j1"));
    assert_eq!(parked[0].count("brigade-attempts"), Some(3));
    assert_eq!(parked[0].count("brigade-parks"), Some(1));
    assert_eq!(
        parked[0].text("brigade-error-code"),
        Some("ServiceUnavailable")
    );
    let totals = stage.total_queue_check().await;
    assert_eq!(
        totals,
        Totals {
            queued: 1,
            ..Totals::default()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_job_comes_back_and_completes() {
    let mut stage = Stage::new().await;
    stage.s3.faults().add(unavailable().first(3));
    let worker = stage.worker().await;
    stage
        .publish(Lane::Read, stage::put("wrong-lane-is-not-this-test", "k"))
        .await;
    stage.published.clear();
    stage.publish(Lane::Upload, stage::put("j1", "k1")).await;
    let row = stage.until("j1", State::Completed).await;
    worker.drain(stage::PATIENCE).await;

    assert_eq!((row.attempts, row.parks), (4, 1));
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_answer_is_one_request_no_verdict_against_s3_and_a_letter() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    let upload = stage::circuit_of(&worker, Circuit::Upload);
    let download = stage::circuit_of(&worker, Circuit::Download);
    for n in 0..6 {
        let get = stage::on_key(&format!("get-{n}"), "get_object", "no-such-key");
        stage.publish(Lane::Read, get).await;
        let put = stage::message(
            &format!("put-{n}"),
            &serde_json::json!({"version": 1, "operation": "put_object", "bucket": "no-such-bucket",
                "key": "k", "body": {"text": "x"}}),
        );
        stage.publish(Lane::Upload, put).await;
    }
    stage.until_count(State::DeadLettered, 12).await;
    worker.drain(stage::PATIENCE).await;

    assert_eq!(stage.s3.journal().count(S3Operation::GetObject), 6);
    assert_eq!(stage.puts(), 6);
    for circuit in [upload, download] {
        let snapshot = circuit.snapshot();
        assert!(
            snapshot.is_closed() && snapshot.consecutive_failures == 0,
            "{snapshot:?}"
        );
    }
    for (lane, code) in [(Lane::Read, "NoSuchKey"), (Lane::Upload, "NoSuchBucket")] {
        let letters = stage.dead(lane).await;
        assert_eq!(letters.len(), 6);
        for letter in letters {
            assert_eq!(letter.text("brigade-reason"), Some("permanent"));
            assert_eq!(letter.text("brigade-error-code"), Some(code));
            assert_eq!(letter.count("brigade-attempts"), Some(1));
        }
    }
    let totals = stage.total_queue_check().await;
    assert_eq!(
        totals,
        Totals {
            dead: 12,
            ..Totals::default()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_pauses_the_lane_and_never_fills_the_dead_letters() {
    let mut stage = Stage::new().await;
    let expired = stage::answer(403, "InvalidAccessKeyId");
    stage.s3.faults().add(expired);
    let worker = stage.worker().await;
    let circuit = stage::circuit_of(&worker, Circuit::Upload);
    let jobs = (0..40)
        .map(|n| stage::put(&format!("j{n}"), &format!("k{n}")))
        .collect();
    stage.publish_all(Lane::Upload, jobs).await;
    stage::eventually("the circuit opens", async || {
        (!circuit.snapshot().is_closed()).then_some(())
    })
    .await;
    assert_eq!(stage.dead(Lane::Upload).await.len(), 0);
    stage.s3.faults().clear();
    stage.until_count(State::Completed, 40).await;
    worker.drain(stage::PATIENCE).await;

    assert_eq!(stage.dead(Lane::Upload).await.len(), 0);
    stage.assert_all_completed().await;
}
