//! Publishing on a real RabbitMQ: returns, requests, copies and headers.

use std::time::Duration;

use bucket_brigade::{
    broker::{Broker, Names, PublishError, Target, rabbitmq::RequestError},
    job::{HeaderValue, Message, message::header},
};
use futures_util::{StreamExt, future::join_all};
use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable},
};

use crate::{
    broker_subject::{PATIENCE, connected, fresh_prefix, message, next, settings, start},
    rabbit::Rabbit,
};

use crate::broker_rabbitmq::*;

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
        .publish_copy(&Target::Dead(LANE), &copy, |_| {})
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
        .publish_copy(&Target::Dead(LANE), &copy, |_| {})
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
