//! Event 2 where messages are large: what a lane takes by their bytes. The stage's budget is 32 MiB, and half of it is
//! for the messages of uploads.

use std::cell::Cell;

use super::*;
use crate::job::{HeaderValue, message::header};

const MIB: u64 = 1 << 20;

fn allow_large(limits: &mut LaneLimits) {
    limits.rules.max_message_bytes = 6 * MIB;
}

/// A put of 5 MiB that come with the message.
fn large(id: &str) -> Message {
    let job = r#"{"version": 1, "bucket": "b", "key": "k"}"#;
    let mut message = Message {
        message_id: Some(id.to_owned()),
        body: vec![b'x'; 5 << 20].into(),
        ..Message::default()
    };
    let job = HeaderValue::Text(job.to_owned());
    message.headers.insert(header::JOB.to_owned(), job);
    message
}

impl Rig {
    async fn publish_large(&mut self, count: usize) {
        for number in 0..count {
            self.publish(large(&format!("large{number}"))).await;
        }
    }

    /// Waits until so many puts are completed and settled; the most bytes in hand meanwhile.
    async fn until_completed(&self, count: u64) -> u64 {
        let most = Cell::new(0);
        self.until("all are completed", |rig| {
            most.set(most.get().max(rig.stage.storage.budget().in_use()));
            rig.jobs("put_object", "completed") == count
        })
        .await;
        self.until_settled().await;
        self.until("nothing is in hand", |rig| {
            rig.stage.storage.budget().in_use() == 0
        })
        .await;
        most.get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_takes_as_many_large_messages_as_their_share_holds() {
    let mut rig = Rig::with(Lane::Upload, [after(SECOND, stored())], allow_large);
    rig.publish_large(6).await;
    rig.until("two run", |rig| rig.calls() == 2).await;
    assert_eq!(rig.broker.deliveries(), 2, "it may get 6 MiB each");
    let most = rig.until_completed(6).await;
    assert!(most < 11 * MIB, "{most}");
    assert_eq!((rig.broker.deliveries(), rig.redeliveries()), (6, 0));
    assert_eq!(rig.broker.subscriptions(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_messages_become_large_keeps_what_it_has_and_takes_fewer() {
    let mut rig = Rig::with(Lane::Upload, [after(SECOND, stored())], allow_large);
    for number in 0..8 {
        rig.publish(message(&format!("small{number}"), &put()))
            .await;
    }
    rig.until_completed(8).await;
    assert_eq!(
        rig.broker.subscriptions(),
        2,
        "small ones get the whole prefetch"
    );
    rig.publish_large(8).await;
    let most = rig.until_completed(16).await;
    assert!(
        (20 * MIB..21 * MIB).contains(&most),
        "four, then fewer: {most}"
    );
    assert_eq!((rig.broker.deliveries(), rig.redeliveries()), (16, 0));
    let subscriptions = rig.broker.subscriptions();
    assert!(subscriptions <= 4, "{subscriptions}");
    rig.end().await;
}
