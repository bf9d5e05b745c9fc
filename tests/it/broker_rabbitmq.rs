//! What only a real RabbitMQ can show: topology, returns, restarts, alarms, permissions.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use bucket_brigade::{
    broker::{
        Broker, BrokerError, BrokerStatus, Ended, Link, Names, PublishError, Target,
        rabbitmq::{Producer, RabbitMq, RequestError, TopologyMode, topology},
    },
    job::{HeaderValue, Lane, Message, message::header, outcome::ParkDelay},
    metrics::Metrics,
};
use futures_util::{StreamExt, future::join_all};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use secrecy::SecretString;

use crate::{
    broker_contract::{
        PATIENCE, connected, ended, eventually, fresh_prefix, message, next, settings, start,
    },
    rabbit::Rabbit,
};

const LANE: Lane = Lane::Upload;

async fn raw(rabbit: &Rabbit) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&rabbit.url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn declare_raw(rabbit: &Rabbit, queue: &str, arguments: FieldTable) {
    let (_connection, channel) = raw(rabbit).await;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await
        .unwrap();
}

async fn producer(url: &str, prefix: &str) -> Producer {
    let url = url.into();
    Producer::connect(&url, prefix, Duration::from_secs(10))
        .await
        .unwrap()
}

async fn until(
    broker: &RabbitMq,
    what: &str,
    holds: impl FnMut(&BrokerStatus) -> bool,
) -> BrokerStatus {
    let mut status = broker.status();
    let reached = tokio::time::timeout(PATIENCE, status.wait_for(holds)).await;
    match reached {
        Ok(reached) => reached.unwrap().clone(),
        Err(_) => panic!(
            "not in {PATIENCE:?}: {what}, but {:?}",
            broker.status().borrow()
        ),
    }
}

/// A node of a test's own, which an operator may act on.
struct OwnNode {
    url: String,
    directory: PathBuf,
}

impl OwnNode {
    fn start(name: &str) -> Self {
        let nodes =
            option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = nodes.join(format!("rabbitmq-{name}-{:x}", fastrand::u32(..)));
        let url = script("start", &directory, &[]).trim().to_owned();
        Self { url, directory }
    }

    fn start_again(&self) {
        assert_eq!(script("start", &self.directory, &[]).trim(), self.url);
    }

    fn kill(&self) {
        script("kill", &self.directory, &[]);
    }

    fn ctl(&self, arguments: &[&str]) {
        script("ctl", &self.directory, arguments);
    }

    fn url_of(&self, user: &str, password: &str) -> String {
        self.url
            .replace("guest:guest", &format!("{user}:{password}"))
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        let stopped = Command::new(SCRIPT)
            .arg("stop")
            .arg(&self.directory)
            .output();
        if stopped.is_ok_and(|it| it.status.success()) {
            drop(std::fs::remove_dir_all(&self.directory));
        }
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");

fn script(verb: &str, directory: &PathBuf, arguments: &[&str]) -> String {
    let done = Command::new(SCRIPT)
        .arg(verb)
        .arg(directory)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{verb}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_its_broker_and_consumes_again_after_a_crash() {
    let node = OwnNode::start("restart");
    node.kill();
    let metrics = Arc::new(Metrics::try_new(50).unwrap());
    let prefix = fresh_prefix();
    let broker = RabbitMq::start(settings(&node.url, &prefix), Arc::clone(&metrics));
    let address = node.url.split(['@', '/']).nth(3).unwrap().to_owned();
    let refused = format!("connection refused at {address}, next try in ");
    let is_refused = |link: &Link| matches!(link, Link::Down(why) if why.starts_with(&refused));
    until(&broker, "both links say why", |it| {
        is_refused(&it.consume) && is_refused(&it.publish)
    })
    .await;
    assert!(matches!(
        broker.subscribe(LANE, 1).await.err(),
        Some(BrokerError::NotConnected(_))
    ));

    node.start_again();
    connected(&*broker).await;
    broker
        .publish(&Target::Jobs(LANE), &message("1"))
        .await
        .unwrap();
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    let delivery = next(&mut *subscription).await;

    node.kill();
    assert!(matches!(ended(&mut *subscription).await, Ended::Lost(_)));
    assert!(delivery.acker.is_stale());
    until(&broker, "both links are down", |it| {
        it.consume != Link::Up && it.publish != Link::Up
    })
    .await;
    let sent = broker.publish(&Target::Jobs(LANE), &message("2")).await;
    assert!(
        matches!(sent, Err(PublishError::NotConnected(_))),
        "{sent:?}"
    );

    node.start_again();
    connected(&*broker).await;
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    let again = next(&mut *subscription).await;
    assert_eq!(again.message.message_id.as_deref(), Some("1"));
    again.acker.ack().await.unwrap();
    broker
        .publish(&Target::Jobs(LANE), &message("3"))
        .await
        .unwrap();
    assert_eq!(
        next(&mut *subscription).await.message.message_id.as_deref(),
        Some("3")
    );
    for role in ["consume", "publish"] {
        assert_eq!(
            metrics.amqp_reconnects.with_label_values(&[role]).get(),
            1,
            "{role}"
        );
        assert_eq!(
            metrics.amqp_connected.with_label_values(&[role]).get(),
            1,
            "{role}"
        );
    }
    broker.close().await;
    assert_eq!(
        metrics.amqp_connected.with_label_values(&["publish"]).get(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_without_it_and_recovers_and_a_user_needs_few_rights() {
    let node = OwnNode::start("users");
    let prefix = fresh_prefix();
    let url: SecretString = node.url.as_str().into();
    assert_eq!(topology::apply(&url, &prefix).await.unwrap(), []);
    node.ctl(&["add_user", "worker", "another"]);
    node.ctl(&["set_permissions", "worker", "^$", ".*", ".*"]);
    let mut settings = settings(&node.url_of("worker", "s3cret"), &prefix);
    settings.topology = TopologyMode::Verify;
    let broker = start(settings);
    let status = until(
        &broker,
        "the refusal is said",
        |it| matches!(&it.consume, Link::Down(why) if why.contains("refuses user \"worker\"")),
    )
    .await;
    assert!(!format!("{status:?}").contains("s3cret"), "{status:?}");

    node.ctl(&["change_password", "worker", "s3cret"]);
    connected(&*broker).await;
    assert_eq!(broker.status().borrow().topology, None);
    broker
        .publish(&Target::Jobs(LANE), &message("1"))
        .await
        .unwrap();
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    next(&mut *subscription).await.acker.ack().await.unwrap();
    broker.close().await;

    // What may not be declared is said, and so is the way out.
    let mut settings = self::settings(&node.url_of("worker", "s3cret"), &prefix);
    settings.lanes = vec![LANE];
    let broker = start(settings);
    connected(&*broker).await;
    let problem = broker.subscribe(LANE, 1).await.err();
    assert!(
        matches!(&problem, Some(BrokerError::Queue(why)) if why.contains("set amqp.topology to \"verify\"")),
        "{problem:?}"
    );
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_blocks_publishing_and_not_consuming() {
    let node = OwnNode::start("alarm");
    let prefix = fresh_prefix();
    let mut settings = settings(&node.url, &prefix);
    settings.publish_timeout = Duration::from_secs(2);
    let broker = start(settings);
    connected(&*broker).await;
    for id in ["1", "2"] {
        broker
            .publish(&Target::Jobs(LANE), &message(id))
            .await
            .unwrap();
    }
    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    eventually("a publish is not confirmed", async || {
        let sent = broker.publish(&Target::Jobs(LANE), &message("more")).await;
        (sent == Err(PublishError::TimedOut)).then_some(())
    })
    .await;
    until(&broker, "the alarm is told", |it| it.blocked.is_some()).await;
    assert!(broker.status().borrow().is_connected());
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    for _ in 0..2 {
        next(&mut *subscription).await.acker.ack().await.unwrap();
    }

    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    until(&broker, "the alarm is over", |it| it.blocked.is_none()).await;
    broker
        .publish(&Target::Dead(LANE), &message("3"))
        .await
        .unwrap();
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_definitions_declare_what_apply_declares() {
    let node = OwnNode::start("import");
    let prefix = fresh_prefix();
    let file = node.directory.join("definitions.json");
    std::fs::write(&file, topology::export(&prefix).to_string()).unwrap();
    node.ctl(&["import_definitions", file.to_str().unwrap()]);
    let url: SecretString = node.url.as_str().into();
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
    let (url, prefix): (SecretString, _) = (rabbit.url.as_str().into(), fresh_prefix());
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
    let (url, prefix): (SecretString, _) = (rabbit.url.as_str().into(), fresh_prefix());
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
            let url = rabbit.url.as_str().into();
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
    let url = rabbit.url.as_str().into();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixty_publishes_at_once_exactly_the_unroutable_one_is_returned() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    for round in 0..20 {
        let unroutable = fastrand::usize(0..60);
        let sent = join_all((0..60).map(|index| {
            let broker = &broker;
            async move {
                let target = match index == unroutable {
                    true => Target::Reply("nobody".to_owned()),
                    false => Target::Dead(LANE),
                };
                broker.publish(&target, &message(&index.to_string())).await
            }
        }))
        .await;
        for (index, sent) in sent.into_iter().enumerate() {
            let returned = matches!(sent, Err(PublishError::Returned(_)));
            assert_eq!(
                returned,
                index == unroutable,
                "round {round}, {index}: {sent:?}"
            );
            assert!(returned || sent.is_ok(), "round {round}, {index}: {sent:?}");
        }
    }
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_carries_only_what_it_may() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    let mut headers = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    headers.insert(header::TRACEPARENT.into(), text("00-1-2-01"));
    headers.insert(header::REASON.into(), text("expired"));
    headers.insert("x-delivery-count".into(), AMQPValue::LongInt(49));
    headers.insert("theirs".into(), text("x"));
    let properties = BasicProperties::default()
        .with_message_id("1".into())
        .with_app_id("app".into())
        .with_user_id("guest".into())
        .with_expiration("600000".into())
        .with_priority(3)
        .with_headers(headers);
    let (_connection, channel) = raw(&rabbit).await;
    let exchange = format!("{prefix}.jobs");
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(
            exchange.as_str().into(),
            "upload".into(),
            options,
            b"{}",
            properties,
        )
        .await
        .unwrap();
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    let delivery = next(&mut *subscription).await;
    let copy = delivery.message.copy();
    delivery
        .acker
        .publish_copy(&Target::Dead(LANE), &copy)
        .await
        .unwrap();
    delivery.acker.ack().await.unwrap();

    let queue = Names::new(prefix.as_str()).dead_queue(LANE);
    let options = lapin::options::BasicConsumeOptions::default();
    let mut letters = channel
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let letter = letters.next().await.unwrap().unwrap().properties;
    assert_eq!(
        letter.message_id().as_ref().map(|it| it.as_str()),
        Some("1")
    );
    assert_eq!(letter.app_id().as_ref().map(|it| it.as_str()), Some("app"));
    assert_eq!(*letter.delivery_mode(), Some(2));
    assert_eq!(
        (letter.user_id(), letter.expiration(), letter.priority()),
        (&None, &None, &None)
    );
    let headers = letter.headers().clone().unwrap_or_default();
    let names: Vec<String> = headers.inner().keys().map(ToString::to_string).collect();
    let ours: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|it| *it != "x-delivery-count")
        .collect();
    assert_eq!(ours, [header::TRACEPARENT]);
    assert!(!matches!(
        headers.inner().get("x-delivery-count"),
        Some(AMQPValue::LongInt(49))
    ));
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_gets_its_own_answer_or_says_that_there_is_none() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    let producer = producer(&rabbit.url, &prefix).await;
    let target = Target::Jobs(LANE);
    let answering = async {
        let mut subscription = broker.subscribe(LANE, 2).await.unwrap();
        let first = next(&mut *subscription).await;
        let second = next(&mut *subscription).await;
        for delivery in [second, first] {
            let asked = &delivery.message;
            let answer = Message {
                body: asked.body.clone(),
                correlation_id: asked.message_id.clone(),
                ..Message::default()
            };
            let queue = asked.reply_to.clone().unwrap();
            broker
                .publish(&Target::Reply(queue), &answer)
                .await
                .unwrap();
            delivery.acker.ack().await.unwrap();
        }
        assert_eq!(subscription.cancel().await.len(), 0);
    };
    let ask = |id: &'static str| {
        let asked = Message {
            body: id.into(),
            ..message(id)
        };
        let (producer, target) = (&producer, &target);
        async move {
            producer
                .request(target, &asked, PATIENCE)
                .await
                .unwrap()
                .body
        }
    };
    let (one, two, ()) = tokio::join!(ask("one"), ask("two"), answering);
    assert_eq!((&one[..], &two[..]), (&b"one"[..], &b"two"[..]));

    let silent = producer
        .request(&target, &message("3"), Duration::from_millis(300))
        .await;
    assert_eq!(silent, Err(RequestError::NoAnswer));
    let nobody = Target::Reply("nobody".to_owned());
    let returned = producer.request(&nobody, &message("4"), PATIENCE).await;
    assert!(
        matches!(
            returned,
            Err(RequestError::Publish(PublishError::Returned(_)))
        ),
        "{returned:?}"
    );
    producer.close().await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_too_large_for_a_copy_is_not_read_so_that_its_job_can_be_buried() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    let mut headers = FieldTable::default();
    let huge = "x".repeat(120_000);
    headers.insert(
        header::JOB.into(),
        AMQPValue::LongString(huge.as_str().into()),
    );
    let (_connection, channel) = raw(&rabbit).await;
    let (exchange, options) = (format!("{prefix}.jobs"), BasicPublishOptions::default());
    let properties = BasicProperties::default().with_headers(headers);
    channel
        .basic_publish(
            exchange.as_str().into(),
            "upload".into(),
            options,
            b"{}",
            properties,
        )
        .await
        .unwrap();
    let mut subscription = broker.subscribe(LANE, 1).await.unwrap();
    let delivery = next(&mut *subscription).await;
    assert_eq!(
        delivery.message.headers.get(header::JOB),
        Some(&HeaderValue::Other)
    );
    let copy = delivery
        .message
        .copy()
        .with_text(header::ERROR, "x".repeat(2_000));
    delivery
        .acker
        .publish_copy(&Target::Dead(LANE), &copy)
        .await
        .unwrap();
    delivery.acker.ack().await.unwrap();
    assert!(broker.status().borrow().is_connected());
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_given_up_midway_costs_no_other() {
    let rabbit = Rabbit::shared();
    let prefix = fresh_prefix();
    let broker = start(settings(&rabbit.url, &prefix));
    connected(&*broker).await;
    let nobody = Target::Reply("nobody".to_owned());
    let lost = message("1");
    for _ in 0..50 {
        // Dropped at its first wait: its return may come while the next publish is under way.
        let given_up = broker.publish(&nobody, &lost);
        let soon = Duration::from_micros(fastrand::u64(1..2_000));
        drop(tokio::time::timeout(soon, given_up).await);
        broker
            .publish(&Target::Dead(LANE), &message("2"))
            .await
            .unwrap();
    }
    broker.close().await;
}
