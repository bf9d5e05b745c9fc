//! Replies to producers and outcome events: one try each, and the job goes on whatever becomes of it
//! (RESILIENCE.md, event 16).

use super::{LaneContext, resolution::DUPLICATE};
use crate::{
    broker::{PublishError, Target},
    job::{HeaderValue, Job, Message, Report, message::header},
    storage::ReplyBody,
};

pub(super) async fn reply(
    lane: &LaneContext,
    job: &Job,
    report: &Report,
    body: Option<&ReplyBody>,
) {
    if let Some(queue) = &job.reply_to {
        let correlation_id = job.correlation_id.as_deref().unwrap_or(job.id.as_str());
        send_reply(lane, queue, correlation_id, report, body).await;
    }
}

/// One try: a reply queue that is gone loses the reply, never the job.
pub(super) async fn send_reply(
    lane: &LaneContext,
    queue: &str,
    correlation_id: &str,
    report: &Report,
    body: Option<&ReplyBody>,
) {
    let mut message = Message {
        message_id: report.id.clone(),
        correlation_id: Some(correlation_id.to_owned()),
        ..Message::default()
    };
    match body {
        Some(object) => {
            message.body = object.bytes.clone();
            message.content_type.clone_from(&object.content_type);
            // Not `with_text`: JSON that is cut is no JSON.
            let json = String::from_utf8_lossy(&report.to_bytes()).into_owned();
            message
                .headers
                .insert(header::RESULT.to_owned(), HeaderValue::Text(json));
        }
        None => {
            message.body = report.to_bytes().into();
            message.content_type = Some("application/json".to_owned());
        }
    }
    crash_point!("reply.before");
    let sent = one_try(lane, &Target::Reply(queue.to_owned()), &message).await;
    crash_point!("reply.after");
    let result = if sent.is_ok() {
        "sent"
    } else {
        "undeliverable"
    };
    lane.metrics.replies.with_label_values(&[result]).inc();
    if let Err(error) = sent {
        tracing::debug!(job = report.id, lane = %lane.lane, operation = report.operation, bucket = report.bucket, queue, %error, "a reply is lost");
    }
}

/// A worker that must go waits for nobody's confirm.
async fn one_try(
    lane: &LaneContext,
    target: &Target,
    message: &Message,
) -> Result<(), PublishError> {
    tokio::select! {
        biased;
        sent = lane.broker.publish(target, message) => sent,
        () = lane.aborted() => Err(PublishError::TimedOut),
    }
}

pub(super) async fn publish_event(lane: &LaneContext, report: &Report, outcome: &str) {
    if !lane.limits.events || outcome == DUPLICATE {
        return;
    }
    let operation = report.operation.as_deref().unwrap_or("unknown");
    let key = format!("{}.{operation}.{outcome}", lane.lane);
    let message = Message {
        body: report.to_bytes().into(),
        message_id: report.id.clone(),
        content_type: Some("application/json".to_owned()),
        ..Message::default()
    };
    if let Err(error) = one_try(lane, &Target::Event(key), &message).await {
        tracing::debug!(job = report.id, lane = %lane.lane, operation = report.operation, bucket = report.bucket, %error, "an event is lost");
    }
}
