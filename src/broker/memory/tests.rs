use super::*;
use crate::broker::Delivery;

const LANE: Lane = Lane::Upload;

fn message(id: &str) -> Message {
    Message {
        message_id: Some(id.to_owned()),
        ..Message::default()
    }
}

/// A broker with one job, in a consumer's hands.
async fn delivered() -> (MemoryBroker, Box<dyn Subscription>, Delivery) {
    let broker = MemoryBroker::new("p");
    let job = Target::Jobs(LANE);
    broker.publish(&job, &message("j")).await.unwrap();
    let mut consumer = broker.subscribe(LANE, 1).await.unwrap();
    let delivery = consumer.next().await.unwrap();
    (broker, consumer, delivery)
}

#[tokio::test(start_paused = true)]
async fn a_parked_copy_comes_back_after_its_delay_and_not_before() {
    let broker = MemoryBroker::new("p");
    let mut consumer = broker.subscribe(LANE, 1).await.unwrap();
    let target = Target::Retry(LANE, ParkDelay::TenSeconds);
    let copy = message("j").with_count("brigade-parks", 1);
    broker.publish(&target, &copy).await.unwrap();
    let parked_at = tokio::time::Instant::now();
    assert_eq!(broker.parked(LANE, ParkDelay::TenSeconds).len(), 1);
    let early = tokio::time::timeout(Duration::from_millis(9_999), consumer.next()).await;
    assert!(early.is_err());
    let delivery = consumer.next().await.unwrap();
    assert_eq!(parked_at.elapsed(), Duration::from_secs(10));
    assert_eq!(*delivery.message, copy);
    assert!(!delivery.redelivered);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_publish_times_out_and_goes_nowhere() {
    let broker = MemoryBroker::new("p");
    broker.stall_publishes(true);
    let sent = broker.publish(&Target::Dead(LANE), &message("j")).await;
    assert_eq!(sent, Err(PublishError::TimedOut));
    assert!(broker.status().borrow().blocked.is_some());
    broker.stall_publishes(false);
    assert!(broker.dead(LANE).is_empty());
    broker
        .publish(&Target::Dead(LANE), &message("j"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_published_as_soon_as_the_broker_takes_it() {
    let (broker, _consumer, delivery) = delivered().await;
    let gone = PublishError::Returned("gone".into());
    broker.fail_next_publish(PublishError::Nacked);
    broker.fail_next_publish(gone.clone());
    let mut heard = Vec::new();
    delivery
        .acker
        .publish_copy(&Target::Dead(LANE), &delivery.message, |error| {
            heard.push(error.clone());
        })
        .await
        .unwrap();
    assert_eq!(heard, [PublishError::Nacked, gone]);
    assert_eq!(broker.dead(LANE).len(), 1);
    assert!(!delivery.acker.is_stale());
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_dropped_unsettled_comes_home() {
    let (broker, _consumer, mut delivery) = delivered().await;
    let (home, mut returned) = tokio::sync::mpsc::unbounded_channel();
    delivery.acker.returns_to(home.clone());
    let since = delivery.acker.since();
    drop(delivery.acker);
    let acker = returned.try_recv().unwrap();
    assert_eq!((acker.message(), acker.since()), (&delivery.message, since));
    acker.ack().await.unwrap();
    assert!(returned.try_recv().is_err(), "settled");
    assert_eq!(broker.depth(&broker.inner.names.lane_queue(LANE)), 0);

    let (broker, _consumer, mut delivery) = self::delivered().await;
    delivery.acker.returns_to(home);
    broker.lose_channels();
    drop(delivery.acker);
    assert!(returned.try_recv().is_err(), "its redelivery decides");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_refused_is_tried_ever_later() {
    let (broker, mut consumer, delivery) = delivered().await;
    for _ in 0..8 {
        broker.fail_next_publish(PublishError::Nacked);
    }
    let told = std::cell::Cell::new(0);
    let began = tokio::time::Instant::now();
    let acker = delivery.acker;
    acker
        .publish_copy(&Target::Dead(LANE), &delivery.message, |_| {
            told.set(told.get() + 1);
        })
        .await
        .unwrap();
    // 0.1 s, doubled each time, and never more than 5 s.
    let waited = Duration::from_millis(100 + 200 + 400 + 800 + 1_600 + 3_200 + 5_000 + 5_000);
    assert_eq!((began.elapsed(), told.get()), (waited, 8));
    assert_eq!(broker.depth(&broker.inner.names.lane_queue(LANE)), 1);
    acker.requeue().await.unwrap();
    assert_eq!(
        broker.ready(&broker.inner.names.lane_queue(LANE)).len(),
        0,
        "it came back at once"
    );
    assert!(consumer.next().await.unwrap().redelivered);
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_nothing_is_taken_or_handed_out() {
    let (broker, mut consumer, delivery) = delivered().await;
    broker.disconnect("power cut");
    assert!(delivery.acker.is_stale());
    assert_eq!(
        consumer.next().await.unwrap_err(),
        crate::broker::Ended::Lost("power cut".into())
    );
    let error = broker.subscribe(LANE, 1).await.err();
    assert_eq!(error, Some(BrokerError::NotConnected("power cut".into())));
    broker.reconnect();
    let mut consumer = broker.subscribe(LANE, 1).await.unwrap();
    assert!(consumer.next().await.unwrap().redelivered);
}

#[tokio::test(start_paused = true)]
async fn a_client_loses_its_own_connections_and_no_others() {
    let (broker, mut consumer, delivery) = delivered().await;
    let other = broker.for_client();
    let mut others = other.subscribe(Lane::Read, 1).await.unwrap();
    broker.disconnect("power cut");
    assert!(consumer.next().await.is_err() && delivery.acker.is_stale());
    assert!(!broker.status().borrow().is_connected());
    assert!(other.status().borrow().is_connected());
    let read = Target::Jobs(Lane::Read);
    assert!(broker.publish(&read, &message("r")).await.is_err());
    other.publish(&read, &message("r")).await.unwrap();
    let taken = others.next().await.unwrap();
    let queue = other.names().lane_queue(Lane::Read);
    let held = (other.unsettled(&queue), broker.unsettled(&queue));
    assert_eq!((held, other.copies("r")), ((1, 0), 1));
    assert!(other.is_consuming(&queue) && !broker.is_consuming(&queue));
    taken.acker.ack().await.unwrap();
    assert_eq!(other.copies("r"), 0);
    assert_eq!(other.copies("j"), 1, "it is in its queue again");
}

#[tokio::test(start_paused = true)]
async fn what_a_deleted_queue_held_can_be_kept() {
    let (broker, mut consumer, _delivery) = delivered().await;
    let queue = broker.names().lane_queue(LANE);
    broker
        .publish(&Target::Jobs(LANE), &message("k"))
        .await
        .unwrap();
    let held = broker.take_queue(&queue);
    let ids: Vec<_> = held.iter().map(|it| it.message_id.as_deref()).collect();
    assert_eq!(ids, [Some("j"), Some("k")]);
    assert_eq!(
        consumer.next().await.unwrap_err(),
        crate::broker::Ended::Cancelled
    );
}
