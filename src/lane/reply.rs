//! Replies to producers and outcome events: one try each, and the job goes on whatever becomes of it
//! (RESILIENCE.md, event 16). While the broker takes no publishes there is none: what is lost is counted.

use tokio::time::Instant;

use super::{LaneContext, losses::Lost, resolution::DUPLICATE};
use crate::{
    broker::{PublishError, Target},
    job::{HeaderValue, Job, Message, Report, message::header},
    storage::ReplyBody,
};

/// What somebody who asked is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) report: &'a Report,
    /// The object that was asked for.
    pub(super) body: Option<&'a ReplyBody>,
    /// When it is given up; without it, when the broker does.
    pub(super) until: Option<Instant>,
}

impl Reply<'_> {
    /// Goes to who asked for the job, if anybody did.
    pub(super) async fn send(self, lane: &LaneContext, job: &Job) {
        if let Some(queue) = &job.reply_to {
            let correlation_id = job.correlation_id.as_deref().unwrap_or(job.id.as_str());
            self.send_to(lane, queue, correlation_id).await;
        }
    }

    /// One try: a reply queue that is gone loses the reply, never the job.
    pub(super) async fn send_to(self, lane: &LaneContext, queue: &str, correlation_id: &str) {
        let report = self.report;
        let message = self.message(correlation_id);
        crash_point!("reply.before");
        let target = Target::Reply(queue.to_owned());
        let sending = one_try(lane, &target, &message);
        let sent = match self.until {
            None => sending.await,
            Some(until) => tokio::time::timeout_at(until, sending)
                .await
                .unwrap_or(Err(PublishError::TimedOut)),
        };
        crash_point!("reply.after");
        let result = if sent.is_ok() {
            "sent"
        } else {
            "undeliverable"
        };
        lane.metrics.replies.with_label_values(&[result]).inc();
        if let Err(error) = sent {
            lane.losses.add(Lost::Reply, &error);
            tracing::debug!(job = report.id, lane = %lane.lane, operation = report.operation, bucket = report.bucket, queue, %error, "a reply is lost");
        }
    }

    fn message(self, correlation_id: &str) -> Message {
        let mut message = Message {
            message_id: self.report.id.clone(),
            correlation_id: Some(correlation_id.to_owned()),
            ..Message::default()
        };
        let json = self.report.to_bytes();
        match self.body {
            Some(object) => {
                message.body = object.bytes.clone();
                message.content_type.clone_from(&object.content_type);
                // Not `with_text`: JSON that is cut is no JSON.
                let json = String::from_utf8_lossy(&json).into_owned();
                message
                    .headers
                    .insert(header::RESULT.to_owned(), HeaderValue::Text(json));
            }
            None => {
                message.body = json.into();
                message.content_type = Some("application/json".to_owned());
            }
        }
        message
    }
}

/// A worker that must go waits for nobody's confirm, and nobody waits for one while an alarm blocks the connection.
async fn one_try(
    lane: &LaneContext,
    target: &Target,
    message: &Message,
) -> Result<(), PublishError> {
    let mut status = lane.broker.status();
    let blocked = async {
        let blocked = status.wait_for(|status| status.blocked.is_some()).await;
        match blocked.ok().and_then(|status| status.blocked.clone()) {
            Some(why) => why,
            // The broker is gone; so will the publish be.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        why = blocked => Err(PublishError::Blocked(why)),
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
        lane.metrics.events_lost.inc();
        lane.losses.add(Lost::Event, &error);
        tracing::debug!(job = report.id, lane = %lane.lane, operation = report.operation, bucket = report.bucket, %error, "an event is lost");
    }
}
