//! Several addresses of RabbitMQ, and what is said when one can't be used. Nodes that die for real are in
//! `make drill`, `cluster-…`.

use std::time::{Duration, Instant};

use bucket_brigade::{
    broker::{Broker, Link},
    job::{Lane, State},
};

use crate::{
    broker_rabbitmq::until,
    broker_subject::{fresh_prefix, settings, start},
    cli::{run, text},
    proxy::Proxy,
    rabbit::Rabbit,
    stage::{self, Stage},
};

/// An address that refuses connections.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn at(address: &str) -> String {
    format!("amqp://guest:guest@{address}/%2f")
}

fn why(link: &Link) -> &str {
    match link {
        Link::Up => "",
        Link::Down(why) => why,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_passed_over_and_a_node_that_hangs_is_left_for_the_next_address() {
    let rabbit = Rabbit::shared();
    let node = rabbit.url.split(['@', '/']).nth(3).unwrap().to_owned();
    let (first, second) = (Proxy::to(node.clone()).await, Proxy::to(node).await);
    second.black_hole();
    let both = [at(&first.address), at(&second.address)].join(",");
    let mut stage = Stage::on(rabbit)
        .await
        .set("amqp.url", &both)
        .set("amqp.connect_timeout", "500ms")
        .set("amqp.heartbeat", "6s");
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;

    // Its sockets stay open: without a question of ours it would take two heartbeats to notice.
    second.forward_new();
    first.black_hole();
    let began = Instant::now();
    let status = worker.view().broker.status();
    stage::eventually("the worker leaves the node that hangs", async || {
        let status = status.borrow();
        (why(&status.consume).contains("has answered nothing for 3 s")).then_some(())
    })
    .await;
    stage::eventually("it consumes by the other address", async || {
        status.borrow().is_connected().then_some(())
    })
    .await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(12), "two heartbeats: {took:?}");
    stage.until_consuming(&worker).await;
    let jobs = (0..4).map(|n| stage::put(&format!("j{n}"), &format!("k{n}")));
    stage.publish_all(Lane::Upload, jobs.collect()).await;
    stage.until_count(State::Completed, 4).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_that_fails_is_named_with_the_one_that_is_next() {
    // Takes connections and answers nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_listening, silent) = (&silent, silent.local_addr().unwrap().to_string());
    let gone = &nobody();
    let mut settings = settings(&at(gone), &fresh_prefix());
    settings.urls.push(at(&silent).as_str().into());
    settings.connect_timeout = Duration::from_millis(300);
    let broker = start(settings);
    let refused = format!("connection refused at {gone}");
    let no_answer = format!("no answer from {silent} within 0.3 s");
    until(&broker, "the first is said while the next is tried", |it| {
        let why = why(&it.consume);
        why == format!("{refused}, now trying {silent}")
            || why == format!("{no_answer}, now trying {gone}")
    })
    .await;
    let status = until(&broker, "both are said", |it| {
        why(&it.consume).contains("next try in")
    })
    .await;
    let why = why(&status.consume);
    for part in [
        refused.as_str(),
        no_answer.as_str(),
        "(amqp.url from a test), next try in 1 s at ",
    ] {
        assert!(why.contains(part), "{part:?} is not in {why}");
    }
    assert!(!why.contains("guest"), "{why}");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_with_the_address_that_works_and_doctor_names_the_other() {
    let stage = Stage::new().await;
    let (gone, url) = (nobody(), stage.rabbit.url.clone());
    let stage = stage.set("amqp.url", &format!("{},{url}", at(&gone)));
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    // Each draws its first address by lot; four times both have been the first, or nearly always.
    for _ in 0..4 {
        for command in [
            &["topology", "check"][..],
            &["dead", "list"],
            &["enqueue", "put", "s3://b/k", "--text", "x", "--wait"],
        ] {
            let output = run(&stage, command).await;
            assert_eq!(
                output.status.code(),
                Some(0),
                "{command:?}: {}",
                text(&output.stderr)
            );
        }
    }
    let output = run(&stage, &["doctor"]).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let warned = format!("warn  broker address: connection refused at {gone}");
    assert!(said.contains(&warned), "{said}");
    worker.drain(stage::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_url_is_said_with_the_setting_and_where_it_came_from() {
    let stage = Stage::new().await;
    let real = stage.rabbit.url.clone();
    let empty = format!("{}/", real.trim_end_matches("/%2f"));
    let other = format!("{}/nowhere", real.trim_end_matches("/%2f"));
    for (url, said) in [
        (
            empty.as_str(),
            "has no virtual host \"\": a URL that ends in `/` names the empty one",
        ),
        (other.as_str(), "refuses virtual host \"nowhere\""),
        (&at(&nobody()), "connection refused at "),
    ] {
        let stage = Stage::new().await.set("amqp.url", url);
        let output = run(&stage, &["topology", "check"]).await;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(
            error.contains(said) && error.contains("(amqp.url from the command line)"),
            "{error}"
        );
    }
    // Nothing is set, and the default ledger is not there.
    let elsewhere = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_brigade"))
        .env_clear()
        .current_dir(elsewhere.path())
        .args(["jobs", "list"])
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(
        error.contains("(DATABASE_URL is not set, so ledger.url has its default)"),
        "{error}"
    );
}
