//! The promises of the broker seam, as one suite that RabbitMQ and its in-process twin both run.

use bucket_brigade::{
    broker::{Ended, PublishError, Stale, Target},
    job::{Lane, Message, message::header, outcome::ParkDelay},
};

use crate::broker_subject::*;

/// Runs every promise on both brokers.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::memory()).await;
            })*
        }

        mod on_rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let subject = super::rabbitmq().await;
                let broker = std::sync::Arc::clone(&subject.broker);
                super::$promise(subject).await;
                broker.close().await;
            })*
        }
    };
}

promises! {
    prefetch_bounds_what_is_unsettled
    a_new_consumer_has_a_full_window_whatever_is_unsettled
    what_a_deleted_queue_had_handed_out_is_settled_without_a_word
    an_acked_delivery_is_gone
    a_cancel_hands_back_what_was_buffered_and_it_can_still_be_acked
    a_requeue_after_a_cancel_goes_to_the_next_consumer_and_says_so
    what_is_dropped_unsettled_comes_again
    a_subscription_dropped_without_a_cancel_gives_everything_back
    a_message_arrives_as_it_was_sent
    a_parked_copy_waits_in_its_retry_queue_with_its_headers
    a_buried_copy_lies_in_the_dead_queue_with_its_headers
    a_publish_that_no_queue_takes_is_returned
    a_reply_goes_to_its_queue_and_one_to_a_queue_that_is_gone_is_returned
    a_direct_reply_or_an_event_that_nobody_takes_is_no_failure
    a_lost_channel_makes_ackers_stale_and_the_deliveries_come_again
    on_a_dead_tag_nothing_is_published
    a_deleted_queue_cancels_its_consumer_and_no_other
    an_ended_stream_says_so_again_when_asked_again
    the_ready_messages_of_a_queue_can_be_asked_for
}

async fn prefetch_bounds_what_is_unsettled(subject: Subject) {
    for id in ["1", "2", "3", "4", "5"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(2).await;
    let first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    assert_eq!((id(&first), id(&second)), ("1", "2"));
    first.acker.ack().await.unwrap();
    let third = next(&mut *subscription).await;
    assert_eq!(id(&third), "3");
    // Had more been handed over, it would be in the stream by now.
    assert_eq!(subscription.cancel().await.len(), 0);
    assert_eq!(subject.until_ready(2).await.len(), 2);
}

async fn a_new_consumer_has_a_full_window_whatever_is_unsettled(subject: Subject) {
    for id in ["1", "2", "3", "4"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(2).await;
    let held = [
        next(&mut *subscription).await,
        next(&mut *subscription).await,
    ];
    assert_eq!(subscription.cancel().await.len(), 0);
    let mut subscription = subject.subscribe(2).await;
    for expected in ["3", "4"] {
        let delivery = next(&mut *subscription).await;
        assert_eq!((id(&delivery), delivery.redelivered), (expected, false));
        delivery.acker.ack().await.unwrap();
    }
    for delivery in held {
        delivery.acker.ack().await.unwrap();
    }
    subject.until_ready(0).await;
    assert_eq!(subscription.cancel().await.len(), 0);
}

async fn what_a_deleted_queue_had_handed_out_is_settled_without_a_word(subject: Subject) {
    for id in ["1", "2"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(2).await;
    let first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    subject
        .probe
        .delete_queue(&subject.names.lane_queue(LANE))
        .await;
    assert_eq!(ended(&mut *subscription).await, Ended::Cancelled);
    assert!(!first.acker.is_stale());
    first.acker.ack().await.unwrap();
    second.acker.requeue().await.unwrap();
}

async fn an_acked_delivery_is_gone(subject: Subject) {
    subject.publish("1").await;
    let mut subscription = subject.subscribe(1).await;
    let delivery = next(&mut *subscription).await;
    assert!(!delivery.redelivered);
    delivery.acker.ack().await.unwrap();
    assert_eq!(subscription.cancel().await.len(), 0);
    subject.publish("2").await;
    let mut subscription = subject.subscribe(10).await;
    assert_eq!(id(&next(&mut *subscription).await), "2");
    assert_eq!(subscription.cancel().await.len(), 0);
}

async fn a_cancel_hands_back_what_was_buffered_and_it_can_still_be_acked(subject: Subject) {
    for id in ["1", "2", "3"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(3).await;
    let first = next(&mut *subscription).await;
    let buffered = subscription.cancel().await;
    // What the broker had not yet sent when it heard of the cancel stays in the queue.
    let handed_over = 1 + buffered.len();
    subject.until_ready(3 - handed_over).await;
    for delivery in [first].into_iter().chain(buffered) {
        delivery.acker.ack().await.unwrap();
    }
    let mut subscription = subject.subscribe(10).await;
    subject.publish("end").await;
    for _ in handed_over..3 {
        next(&mut *subscription).await;
    }
    assert_eq!(id(&next(&mut *subscription).await), "end");
}

async fn a_requeue_after_a_cancel_goes_to_the_next_consumer_and_says_so(subject: Subject) {
    for id in ["1", "2", "3"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(3).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(next(&mut *subscription).await);
    }
    assert_eq!(subscription.cancel().await.len(), 0);
    for delivery in taken {
        delivery.acker.requeue().await.unwrap();
    }
    let mut subscription = subject.subscribe(3).await;
    let mut again = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut *subscription).await;
        assert!(delivery.redelivered);
        again.push(id(&delivery).to_owned());
        delivery.acker.ack().await.unwrap();
    }
    again.sort();
    assert_eq!(again, ["1", "2", "3"]);
}

async fn what_is_dropped_unsettled_comes_again(subject: Subject) {
    subject.publish("1").await;
    subject.publish("2").await;
    let mut subscription = subject.subscribe(2).await;
    let first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    assert_eq!(subscription.cancel().await.len(), 0);
    drop(first);
    // Its channel lives for as long as there is something to settle.
    second.acker.ack().await.unwrap();
    let mut subscription = subject.subscribe(2).await;
    let again = next(&mut *subscription).await;
    assert_eq!((id(&again), again.redelivered), ("1", true));
}

async fn a_subscription_dropped_without_a_cancel_gives_everything_back(subject: Subject) {
    for id in ["1", "2", "3"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(2).await;
    drop(next(&mut *subscription).await);
    drop(subscription);
    subject.until_ready(3).await;
}

async fn a_message_arrives_as_it_was_sent(subject: Subject) {
    let sent = Message {
        content_type: Some("text/markdown".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("answers".into()),
        timestamp: Some(1_790_000_000),
        kind: Some("k".into()),
        app_id: Some("a".into()),
        body: [0_u8, 159, 146, 150].repeat(100_000).into(),
        ..message("1")
    }
    .with_text(header::JOB, "{}")
    .with_text("x-mine", "ä")
    .with_count(header::REPLAY, 2);
    subject
        .broker
        .publish(&Target::Jobs(LANE), &sent)
        .await
        .unwrap();
    let mut subscription = subject.subscribe(1).await;
    let delivery = next(&mut *subscription).await;
    let mut received = Message::clone(&delivery.message);
    received
        .headers
        .retain(|name, _| !OF_THE_BROKER.contains(&name.as_str()));
    assert!(
        received == sent,
        "{:?}\n{:?}",
        received.headers,
        sent.headers
    );
}

async fn a_parked_copy_waits_in_its_retry_queue_with_its_headers(subject: Subject) {
    subject.publish("1").await;
    let mut subscription = subject.subscribe(1).await;
    let delivery = next(&mut *subscription).await;
    let copy = delivery.message.copy().with_count(header::PARKS, 1);
    let target = Target::Retry(LANE, ParkDelay::TenMinutes);
    delivery
        .acker
        .publish_copy(&target, &copy, |_| {})
        .await
        .unwrap();
    delivery.acker.ack().await.unwrap();
    let queue = subject.names.retry_queue(LANE, ParkDelay::TenMinutes);
    assert_eq!(subject.probe.ready(&queue).await, [copy]);
    assert_eq!(subscription.cancel().await.len(), 0);
}

async fn a_buried_copy_lies_in_the_dead_queue_with_its_headers(subject: Subject) {
    subject.publish("1").await;
    let mut subscription = subject.subscribe(1).await;
    let delivery = next(&mut *subscription).await;
    let copy = delivery
        .message
        .copy()
        .with_text(header::REASON, "permanent");
    delivery
        .acker
        .publish_copy(&Target::Dead(LANE), &copy, |_| {})
        .await
        .unwrap();
    delivery.acker.ack().await.unwrap();
    assert_eq!(
        subject.probe.ready(&subject.names.dead_queue(LANE)).await,
        [copy]
    );
    assert_eq!(subscription.cancel().await.len(), 0);
}

async fn a_publish_that_no_queue_takes_is_returned(subject: Subject) {
    subject
        .probe
        .delete_queue(&subject.names.dead_queue(LANE))
        .await;
    let sent = subject
        .broker
        .publish(&Target::Dead(LANE), &message("1"))
        .await;
    assert!(matches!(sent, Err(PublishError::Returned(_))), "{sent:?}");
    subject
        .broker
        .publish(&Target::Dead(Lane::Read), &message("2"))
        .await
        .unwrap();
    assert_eq!(
        subject.ready(&subject.names.dead_queue(Lane::Read)).await,
        ["2"]
    );
}

async fn a_reply_goes_to_its_queue_and_one_to_a_queue_that_is_gone_is_returned(subject: Subject) {
    let queue = fresh_prefix();
    let target = Target::Reply(queue.clone());
    let sent = subject.broker.publish(&target, &message("1")).await;
    assert!(matches!(sent, Err(PublishError::Returned(_))), "{sent:?}");
    subject.probe.declare_queue(&queue).await;
    subject
        .broker
        .publish(&target, &message("2"))
        .await
        .unwrap();
    assert_eq!(subject.ready(&queue).await, ["2"]);
    subject.probe.delete_queue(&queue).await;
}

async fn a_direct_reply_or_an_event_that_nobody_takes_is_no_failure(subject: Subject) {
    let gone = Target::Reply("amq.rabbitmq.reply-to.g1h2AA5yZXBseUA".to_owned());
    subject.broker.publish(&gone, &message("1")).await.unwrap();
    let event = Target::Event("upload.put_object.completed".to_owned());
    subject.broker.publish(&event, &message("1")).await.unwrap();
}

async fn a_lost_channel_makes_ackers_stale_and_the_deliveries_come_again(subject: Subject) {
    for id in ["1", "2", "3"] {
        subject.publish(id).await;
    }
    let mut subscription = subject.subscribe(2).await;
    let first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    assert!(!first.acker.is_stale());
    subject.probe.lose_connections();
    let end = ended(&mut *subscription).await;
    assert!(matches!(end, Ended::Lost(_)), "{end:?}");
    assert!(first.acker.is_stale());
    assert_eq!(first.acker.ack().await, Err(Stale));
    assert_eq!(second.acker.requeue().await, Err(Stale));
    subject.until_ready(3).await;
    subject.connected().await;
    let mut subscription = subject.subscribe(3).await;
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(id(&next(&mut *subscription).await).to_owned());
    }
    again.sort();
    assert_eq!(again, ["1", "2", "3"]);
}

async fn on_a_dead_tag_nothing_is_published(subject: Subject) {
    subject.publish("1").await;
    let mut subscription = subject.subscribe(1).await;
    let delivery = next(&mut *subscription).await;
    subject.probe.lose_connections();
    ended(&mut *subscription).await;
    subject.connected().await;
    let copy = delivery.message.copy();
    let published = delivery
        .acker
        .publish_copy(&Target::Dead(LANE), &copy, |_| {})
        .await;
    assert_eq!(published, Err(Stale));
    assert_eq!(
        subject.ready(&subject.names.dead_queue(LANE)).await,
        [""; 0]
    );
}

async fn a_deleted_queue_cancels_its_consumer_and_no_other(subject: Subject) {
    let mut other = subject.broker.subscribe(Lane::Read, 1).await.unwrap();
    let mut subscription = subject.subscribe(1).await;
    subject
        .probe
        .delete_queue(&subject.names.lane_queue(LANE))
        .await;
    assert_eq!(ended(&mut *subscription).await, Ended::Cancelled);
    subject
        .broker
        .publish(&Target::Jobs(Lane::Read), &message("1"))
        .await
        .unwrap();
    let delivery = next(&mut *other).await;
    delivery.acker.ack().await.unwrap();
}

async fn an_ended_stream_says_so_again_when_asked_again(subject: Subject) {
    let mut subscription = subject.subscribe(1).await;
    subject.probe.lose_connections();
    let end = ended(&mut *subscription).await;
    assert_eq!(ended(&mut *subscription).await, end);
    assert_eq!(subscription.cancel().await.len(), 0);
}

async fn the_ready_messages_of_a_queue_can_be_asked_for(subject: Subject) {
    subject.publish("1").await;
    subject.publish("2").await;
    // RabbitMQ's count lags by up to a second.
    eventually("two messages are counted", async || {
        (subject.broker.queue_ready(LANE).await == Some(2)).then_some(())
    })
    .await;
    for delay in [ParkDelay::OneMinute, ParkDelay::TenMinutes] {
        let retry = Target::Retry(LANE, delay);
        subject.broker.publish(&retry, &message("3")).await.unwrap();
    }
    eventually("two parked ones are counted", async || {
        (subject.broker.queue_parked(LANE).await == Some(2)).then_some(())
    })
    .await;
    let names = &subject.names;
    for queue in [
        names.lane_queue(LANE),
        names.retry_queue(LANE, ParkDelay::OneMinute),
    ] {
        subject.probe.delete_queue(&queue).await;
    }
    assert_eq!(subject.broker.queue_ready(LANE).await, None);
    assert_eq!(subject.broker.queue_parked(LANE).await, None);
}
