//! What only a real RabbitMQ can show: topology, returns, restarts, alarms, permissions.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use bucket_brigade::{
    broker::{
        Broker, BrokerError, BrokerStatus, Ended, Link, PublishError, Target,
        rabbitmq::{Producer, RabbitMq, TopologyMode, topology},
    },
    job::Lane,
    metrics::Metrics,
};
use lapin::{
    Channel, Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable,
};
use secrecy::SecretString;

use crate::{
    broker_subject::{
        PATIENCE, connected, ended, eventually, fresh_prefix, message, next, settings, start,
    },
    rabbit::Rabbit,
};

pub(crate) const LANE: Lane = Lane::Upload;

pub(crate) async fn raw(rabbit: &Rabbit) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&rabbit.url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub(crate) async fn declare_raw(rabbit: &Rabbit, queue: &str, arguments: FieldTable) {
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

pub(crate) async fn producer(url: &str, prefix: &str) -> Producer {
    let url = [url.into()];
    Producer::connect(&url, prefix, Duration::from_secs(10))
        .await
        .unwrap()
}

pub(crate) async fn until(
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
pub(crate) struct OwnNode {
    pub(crate) url: String,
    pub(crate) directory: PathBuf,
}

impl OwnNode {
    pub(crate) fn start(name: &str) -> Self {
        let nodes =
            option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = nodes.join(format!("rabbitmq-{name}-{:x}", fastrand::u32(..)));
        let url = script("start", &directory, &[]).trim().to_owned();
        Self { url, directory }
    }

    pub(crate) fn start_again(&self) {
        assert_eq!(script("start", &self.directory, &[]).trim(), self.url);
    }

    pub(crate) fn kill(&self) {
        script("kill", &self.directory, &[]);
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) {
        script("ctl", &self.directory, arguments);
    }

    pub(crate) fn url_of(&self, user: &str, password: &str) -> String {
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

pub(crate) fn script(verb: &str, directory: &PathBuf, arguments: &[&str]) -> String {
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
    let refused = format!("connection refused at {address} (amqp.url from a test), next try in ");
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
    let url: [SecretString; 1] = [node.url.as_str().into()];
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
