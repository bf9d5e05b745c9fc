//! Exchanges and queues on a real RabbitMQ: declared, compared, exported, missing, different, mended.

use std::time::Duration;

use bucket_brigade::{
    broker::{
        Broker, BrokerError, Ended, Names, PublishError, Target,
        rabbitmq::{TopologyMode, topology},
    },
    job::{Lane, outcome::ParkDelay},
};
use lapin::{
    options::{ExchangeDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use secrecy::SecretString;

use crate::{
    broker_subject::{connected, ended, eventually, fresh_prefix, message, next, settings, start},
    rabbit::Rabbit,
};

use crate::broker_rabbitmq::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_definitions_declare_what_apply_declares() {
    let node = OwnNode::start("import");
    let prefix = fresh_prefix();
    let file = node.directory.join("definitions.json");
    std::fs::write(&file, topology::export(&prefix).to_string()).unwrap();
    node.ctl(&["import_definitions", file.to_str().unwrap()]);
    let url: [SecretString; 1] = [node.url.as_str().into()];
    assert_eq!(topology::check(&url, &prefix).await.unwrap(), []);
    // Bindings can't be compared, so they are tried.
    let producer = producer(&node.url, &prefix).await;
    for lane in Lane::ALL {
        producer
            .publish(&Target::Jobs(lane), &message("1"))
            .await
            .unwrap();
        producer
            .publish(&Target::Dead(lane), &message("1"))
            .await
            .unwrap();
        for delay in ParkDelay::ALL {
            producer
                .publish(&Target::Retry(lane, delay), &message("1"))
                .await
                .unwrap();
        }
    }
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_is_missing_and_creates_nothing() {
    let rabbit = Rabbit::shared();
    let url: [SecretString; 1] = [rabbit.url.as_str().into()];
    let prefix = fresh_prefix();
    let missing = topology::check(&url, &prefix).await.unwrap();
    // Four exchanges; per lane its queue, dead queue and three retry queues.
    assert_eq!(missing.len(), 4 + 3 * 5);
    assert!(
        missing.iter().all(|it| it.problem.starts_with("missing")),
        "{missing:?}"
    );
    assert_eq!(topology::check(&url, &prefix).await.unwrap(), missing);
    assert_eq!(topology::apply(&url, &prefix).await.unwrap(), []);
    assert_eq!(topology::check(&url, &prefix).await.unwrap(), []);
    assert_eq!(topology::apply(&url, &prefix).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_named_and_left_alone() {
    let rabbit = Rabbit::shared();
    let url: [SecretString; 1] = [rabbit.url.as_str().into()];
    let prefix = fresh_prefix();
    let names = Names::new(prefix.as_str());
    let queue = names.retry_queue(LANE, ParkDelay::TenSeconds);
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1));
    declare_raw(&rabbit, &queue, arguments).await;
    for differences in [
        topology::apply(&url, &prefix).await.unwrap(),
        topology::check(&url, &prefix).await.unwrap(),
    ] {
        let [difference] = &differences[..] else {
            panic!("{differences:?}")
        };
        assert_eq!(difference.object, format!("queue {queue}"));
        for part in ["x-dead-letter-exchange", &names.jobs(), "delete it"] {
            assert!(difference.problem.contains(part), "{difference:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_whose_queue_differs_does_not_stop_the_others() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let queue = Names::new(prefix.as_str()).lane_queue(Lane::Read);
    declare_raw(&rabbit, &queue, FieldTable::default()).await;
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    let problem = broker.subscribe(Lane::Read, 1).await.err();
    assert!(
        matches!(&problem, Some(BrokerError::Queue(why)) if why.contains(&queue)),
        "{problem:?}"
    );
    let told = broker.status().borrow().topology.clone().unwrap();
    assert!(
        told.contains(&queue) && told.contains("delete it"),
        "{told}"
    );
    for lane in [Lane::Upload, Lane::Cleanup] {
        broker
            .publish(&Target::Jobs(lane), &message("1"))
            .await
            .unwrap();
        let mut subscription = broker.subscribe(lane, 1).await.unwrap();
        next(&mut *subscription).await.acker.ack().await.unwrap();
    }
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_exchange_for_events_stops_no_lane() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let (_connection, channel) = raw(&rabbit).await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = format!("{prefix}.events");
    let other = lapin::ExchangeKind::Fanout;
    channel
        .exchange_declare(name.as_str().into(), other, options, FieldTable::default())
        .await
        .unwrap();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    assert!(
        broker
            .status()
            .borrow()
            .topology
            .as_ref()
            .is_some_and(|it| it.contains(&name))
    );
    assert!(broker.subscribe(LANE, 1).await.is_ok());
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_is_said_and_verify_creates_none() {
    let rabbit = Rabbit::shared();
    for mode in [TopologyMode::Verify, TopologyMode::None] {
        let prefix = fresh_prefix();
        let mut settings = settings(&rabbit.url, &prefix);
        settings.topology = mode;
        let broker = start(settings);
        connected(&*broker).await;
        for _ in 0..2 {
            let problem = broker.subscribe(LANE, 1).await.err();
            assert!(
                matches!(&problem, Some(BrokerError::Queue(why)) if why.contains("brigade topology apply")),
                "{problem:?}"
            );
        }
        assert!(broker.status().borrow().topology.is_some(), "{mode:?}");
        let sent = broker.publish(&Target::Jobs(LANE), &message("1")).await;
        assert!(matches!(sent, Err(PublishError::Returned(_))), "{sent:?}");
        if mode == TopologyMode::None {
            let url = [rabbit.url.as_str().into()];
            topology::apply(&url, &prefix).await.unwrap();
            assert!(broker.subscribe(LANE, 1).await.is_ok());
            assert_eq!(broker.status().borrow().topology, None);
        }
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_problem_that_an_operator_mended_is_noticed_without_a_restart() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let mut settings = settings(&rabbit.url, &prefix);
    settings.topology = TopologyMode::Verify;
    settings.topology_recheck = Duration::from_millis(100);
    let broker = start(settings);
    connected(&*broker).await;
    let url = [rabbit.url.as_str().into()];
    assert!(broker.status().borrow().topology.is_some());
    topology::apply(&url, &prefix).await.unwrap();
    until(&broker, "nothing is wrong any more", |it| {
        it.topology.is_none()
    })
    .await;
    assert!(broker.subscribe(LANE, 1).await.is_ok());
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_declared_again_and_consumed() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    let (_connection, channel) = raw(&rabbit).await;
    let queue = Names::new(prefix.as_str()).lane_queue(LANE);
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(ended(&mut *subscription).await, Ended::Cancelled);
    let mut subscription = eventually("the lane consumes again", async || {
        broker.subscribe(LANE, 1).await.ok()
    })
    .await;
    // It is bound right after it is declared, which the consumer need not wait for.
    eventually("the queue is bound again", async || {
        broker
            .publish(&Target::Jobs(LANE), &message("1"))
            .await
            .ok()
    })
    .await;
    next(&mut *subscription).await;
    broker.close().await;
}
