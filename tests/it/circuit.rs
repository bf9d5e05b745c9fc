//! The open circuit, end to end: silence, no lost job, no hot loop, the other lanes go on.

use std::time::Duration;

use bucket_brigade::{
    job::{Circuit, Lane, State},
    lane::LaneState,
    resilience::{Mode, circuit_breaker::CircuitState},
};

use crate::stage::{self, Stage, metric, unavailable};

const JOBS: usize = 300;
const PREFETCH: usize = 32;

fn puts(count: usize) -> Vec<bucket_brigade::job::Message> {
    (0..count)
        .map(|n| stage::put(&format!("put-{n}"), &format!("k{n}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_deliveries_only_for_prefetch_and_probes_and_loses_nothing() {
    let mut stage = Stage::new()
        .await
        .set("lanes.upload.concurrency", "16")
        .set("lanes.upload.prefetch", &PREFETCH.to_string());
    stage.declare().await;
    stage.publish_all(Lane::Upload, puts(JOBS)).await;
    let outage = stage.s3.faults().add(unavailable());
    let worker = stage.worker().await;
    let circuit = stage::circuit_of(&worker, Circuit::Upload);
    stage::eventually("the circuit opens", async || {
        (!circuit.snapshot().is_closed()).then_some(())
    })
    .await;
    stage::eventually("no call is under way", async || {
        (worker.view().lanes[0].status.in_flight() == 0).then_some(())
    })
    .await;

    // Open: reads go on, and nothing but probes leaves for S3.
    let (calls, probes) = (stage.puts() as f64, openings(&worker));
    let heads = (0..30)
        .map(|n| stage::on_key(&format!("head-{n}"), "list_objects", ""))
        .collect();
    stage.publish_all(Lane::Read, heads).await;
    stage.until_count(State::Completed, 30).await;
    let (calls_then, probes_then) = (stage.puts() as f64, openings(&worker));
    assert!(
        calls_then - calls <= probes_then - probes + 1.0,
        "{} calls but {} probes while open",
        calls_then - calls,
        probes_then - probes
    );
    assert!(stage.dead(Lane::Upload).await.is_empty());

    outage.remove();
    stage.until_count(State::Completed, 30 + JOBS).await;
    let probes = openings(&worker) + 1.0;
    let page = worker.view().metrics.render().unwrap();
    let redelivered = metric(&page, "brigade_redeliveries_total{lane=\"upload\"}");
    let parked = metric(
        &page,
        "brigade_parked_total{lane=\"upload\",reason=\"unavailable\"}",
    );
    worker.drain(stage::PATIENCE).await;

    assert!(
        redelivered <= PREFETCH as f64 + probes,
        "{redelivered} redeliveries with a prefetch of {PREFETCH} and {probes} probes"
    );
    assert!(parked <= PREFETCH as f64 + probes, "{parked} jobs parked");
    for n in 0..JOBS {
        let key = format!("k{n}");
        assert!(stage.s3.object("b", &key).is_some(), "{key} is missing");
        let stored = stage.stored(&key);
        assert_eq!(stored, 1, "{key} was stored {stored} times");
    }
    stage.assert_all_completed().await;
}

fn openings(worker: &bucket_brigade::worker::Worker) -> f64 {
    let page = worker.view().metrics.render().unwrap();
    metric(
        &page,
        "brigade_circuit_transitions_total{circuit=\"upload\",from=\"open\",to=\"half_open\"}",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_leaves_no_consumer_and_burns_no_cpu() {
    let mut stage = Stage::new()
        .await
        .set("circuit.open_base", "60s")
        .set("circuit.open_max", "60s");
    stage.declare().await;
    stage.publish_all(Lane::Upload, puts(JOBS)).await;
    stage.s3.faults().add(unavailable());
    let mut worker = stage.process();
    let queue = format!("{}.upload", stage.prefix);
    stage::eventually("the lane has cancelled its consumer", async || {
        let opened = stage.puts() >= 5;
        let (ready, consumers) = stage.rabbit.counts(&queue).await;
        (opened && consumers == 0 && ready >= 200).then_some(())
    })
    .await;
    let (calls, cpu) = (stage.puts(), worker.cpu());
    // The one place where time itself is what is measured.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let burnt = worker.cpu() - cpu;
    assert!(
        // A loop that polls would burn all three; a slow machine takes its time for a heartbeat.
        burnt <= Duration::from_millis(500),
        "{burnt:?} of CPU in 3 s of open circuit"
    );
    assert_eq!(stage.puts(), calls, "a call left while open");
    assert_eq!(
        stage.rabbit.counts(&queue).await.1,
        0,
        "a consumer while open"
    );
    worker.terminate();
    assert_eq!(worker.wait().await, Some(0));
    let totals = stage.total_queue_check().await;
    assert_eq!(
        (totals.queued, totals.lost.len(), totals.dead),
        (JOBS, 0, 0),
        "{totals:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_word_pauses_and_resumes_a_lane_without_losing_a_job() {
    let mut stage = Stage::new().await;
    let worker = stage.worker().await;
    let lane = std::sync::Arc::clone(&worker.view().lanes[0].status);
    stage.until_consuming(&worker).await;
    let circuit = stage::circuit_of(&worker, Circuit::Upload);
    circuit.force(Mode::ForceOpen);
    stage::eventually("the lane pauses", async || {
        matches!(lane.state(), LaneState::Paused(..)).then_some(())
    })
    .await;
    stage.publish_all(Lane::Upload, puts(20)).await;
    assert_eq!(stage.puts(), 0);
    circuit.force(Mode::Auto);
    stage.until_count(State::Completed, 20).await;
    assert_eq!(circuit.snapshot().state, CircuitState::Closed);
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}
