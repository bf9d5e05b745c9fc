//! A PostgreSQL that falls silent: its sockets stay open and answer nothing, as after a fail-over without a word. The
//! worker says what it waits for, and is back within 15 s of a server that answers (RESILIENCE.md, event 22).

use std::time::Duration;

use bucket_brigade::{
    job::{Lane, State},
    ledger::writer::LedgerStatus,
    worker::Worker,
};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::{
    proxy::Proxy,
    stage::{self, Stage},
};

/// What is promised.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// The worker reaches the ledger through the proxy; the test goes past it.
struct Scene {
    stage: Stage,
    proxy: Proxy,
    past_it: String,
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::new().await.on_postgres().await;
        let past_it = stage.settings().ledger.url.expose_secret().to_owned();
        let address = past_it.split(['@', '/']).nth(3).unwrap().to_owned();
        let proxy = Proxy::to(address.clone()).await;
        let through = past_it.replace(&address, &proxy.address);
        Self {
            stage: stage.set("ledger.url", &through),
            proxy,
            past_it,
        }
    }

    /// Starts a worker; from then on the stage's own looks go past the proxy.
    async fn worker(self) -> (Stage, Proxy, Worker) {
        let worker = self.stage.worker().await;
        (
            self.stage.set("ledger.url", &self.past_it),
            self.proxy,
            worker,
        )
    }
}

/// Waits until the worker says that it waits for this PostgreSQL.
async fn until_down(worker: &Worker, proxy: &Proxy) {
    let mut status = worker.view().ledger.clone();
    let down = status.wait_for(|status| match status {
        LedgerStatus::Down(why) => why.contains(&format!("PostgreSQL at {}", proxy.address)),
        LedgerStatus::Up => false,
    });
    let down = tokio::time::timeout(BACK_WITHIN, down).await;
    assert!(
        down.is_ok(),
        "the worker says: {:?}",
        *worker.view().ledger.borrow()
    );
}

async fn until_up(worker: &Worker) {
    let mut status = worker.view().ledger.clone();
    let up = status.wait_for(|status| *status == LedgerStatus::Up);
    let up = tokio::time::timeout(BACK_WITHIN, up).await;
    assert!(
        up.is_ok(),
        "the worker says: {:?}",
        *worker.view().ledger.borrow()
    );
}

async fn finish(stage: Stage, worker: Worker) {
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_falls_silent_is_named_and_its_successor_is_used_within_15_s() {
    let (mut stage, proxy, worker) = Scene::new().await.worker().await;
    stage.publish(Lane::Upload, stage::put("first", "k")).await;
    stage.until("first", State::Completed).await;
    proxy.black_hole();
    for n in 0..20 {
        let job = stage::put(&format!("j{n}"), &format!("k{n}"));
        stage.publish(Lane::Upload, job).await;
    }
    until_down(&worker, &proxy).await;
    proxy.forward_new();
    let began = Instant::now();
    stage.until_count(State::Completed, 21).await;
    let back = began.elapsed();
    assert!(back < BACK_WITHIN, "back after {back:?}");
    finish(stage, worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_is_there_at_once_is_found_though_the_old_connections_say_nothing() {
    let (mut stage, proxy, worker) = Scene::new().await.worker().await;
    stage.publish(Lane::Upload, stage::put("first", "k")).await;
    stage.until("first", State::Completed).await;
    proxy.forward_new();
    let began = Instant::now();
    stage.publish(Lane::Upload, stage::put("second", "l")).await;
    stage.until("second", State::Completed).await;
    let back = began.elapsed();
    assert!(back < BACK_WITHIN, "back after {back:?}");
    finish(stage, worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_notices_that_its_ledger_fell_silent() {
    let (stage, proxy, worker) = Scene::new().await.worker().await;
    stage.until_consuming(&worker).await;
    proxy.black_hole();
    let silent = Instant::now();
    let mut status = worker.view().ledger.clone();
    let down = status.wait_for(|status| *status != LedgerStatus::Up);
    tokio::time::timeout(stage::PATIENCE, down)
        .await
        .expect("it is noticed")
        .unwrap();
    assert!(
        silent.elapsed() < Duration::from_secs(25),
        "{:?}",
        silent.elapsed()
    );
    proxy.forward_new();
    until_up(&worker).await;
    finish(stage, worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_silent_at_the_start_is_waited_for_and_named() {
    let scene = Scene::new().await;
    scene.proxy.black_hole();
    let (stage, proxy, worker) = scene.worker().await;
    until_down(&worker, &proxy).await;
    proxy.forward_new();
    until_up(&worker).await;
    finish(stage, worker).await;
}
