//! What a producer's clock may decide, and what it must not.

use super::*;

/// So long after now, as seconds since 1970.
fn ahead(by: Duration) -> u64 {
    let seconds = Timestamp::now().plus(by).as_micros() / 1_000_000;
    u64::try_from(seconds).unwrap()
}

/// A list of these keys, each written so long after now, or before it.
fn list(objects: &[(&str, i64)]) -> Answer {
    let now = Timestamp::now().as_micros();
    let objects = objects.iter().map(|(key, minutes)| {
        let modified = Timestamp::from_micros(now + minutes * 60_000_000);
        format!("<Contents><Key>{key}</Key><LastModified>{modified}</LastModified></Contents>")
    });
    let objects: String = objects.collect();
    let list = format!(
        "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{objects}\
        </ListBucketResult>"
    );
    Answer::body(200, &list)
}

fn delete_prefix() -> Value {
    json!({"version": 1, "operation": "delete_prefix", "bucket": "b", "prefix": "p/"})
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_deletes_nothing_that_came_after_the_job() {
    let objects = [("p/old", -10), ("p/new", 10)];
    // Parked for a minute, so that a second delivery decides.
    let answers = times(3, &ill()).into_iter();
    let answers = answers.chain([list(&objects), Answer::status(204)]);
    let mut rig = Rig::start(Lane::Cleanup, answers);
    rig.publish(Message {
        timestamp: Some(ahead(HOUR)),
        ..asked("j", &delete_prefix())
    })
    .await;
    rig.until_state("j", State::Completed).await;
    rig.until_settled().await;
    let seen = rig.stage.seen();
    let deleted = seen.last().unwrap();
    assert!(deleted.uri.contains("/p/old"), "{}", deleted.uri);
    assert_eq!(rig.replies()[0]["result"]["deleted"], 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_gives_a_job_no_more_time() {
    let mut rig = Rig::start(Lane::Upload, times(1_000, &ill()));
    rig.publish(Message {
        timestamp: Some(ahead(23 * HOUR)),
        ..message("j", &put())
    })
    .await;
    let row = async || {
        rig.until_state("j", State::Retrying).await;
        rig.ledger.row("j").unwrap()
    };
    let enqueued_at = row().await.enqueued_at;
    assert!(enqueued_at <= Timestamp::now(), "{enqueued_at}");
    let parked = rig.parked(ParkDelay::TenSeconds);
    let first_seen = parked[0].text("brigade-first-seen").map(str::to_owned);
    assert_eq!(first_seen, Some(enqueued_at.to_string()));
    rig.end().await;
}
