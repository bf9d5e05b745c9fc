//! Tells the broker, once, what became of a delivery: reply first, then ack, park, bury or requeue
//! (RESILIENCE.md, "Order of every ending"). The ledger has it already.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    LaneContext, RecentFailure,
    panics::Fault,
    reply::{Reply, publish_event},
    resolution::{DUPLICATE, Resolution, Standing},
    running::Attached,
};
use crate::{
    broker::{Acker, PublishError, Target},
    job::{
        Job, JobId, Message, Report, Settlement, State, Timestamp,
        message::header,
        outcome::{DeadReason, MAX_PANICS},
        wire::{self, BadJob},
    },
    ledger::Fence,
};

/// The one error code with a counter of its own: it alone says that a replay will cure what was buried.
const ACCESS_DENIED: &str = "AccessDenied";
/// How long the replies to those that attached to a job may take together; chosen, as long as one may take alone.
const ATTACHED_REPLIES: Duration = Duration::from_secs(10);
/// The longest bucket name that a job may have.
const LONGEST_BUCKET: usize = 255;
/// The longest key or sentence on the status page, in characters; no key of S3 is longer.
const LONGEST_TEXT: usize = 1024;

/// Settles the delivery and those that attached to it.
pub(super) async fn settle(
    lane: &LaneContext,
    job: &Job,
    acker: Acker,
    attached: Vec<Attached>,
    mut resolution: Resolution,
) {
    if resolution.outcome == DUPLICATE {
        count_duplicate(lane, job);
    } else {
        lane.count(job.operation.name().as_str(), resolution.outcome);
    }
    if resolution.outcome == State::Abandoned.as_str() {
        lane.metrics.cleanup_abandoned.inc();
    }
    log(lane, job, &resolution);
    let standing = resolution.standing;
    let (strangers, attached): (Vec<_>, Vec<_>) = attached.into_iter().partition(|other| {
        is_strange(job, standing, &other.job) || wants_bytes(&resolution, &other.job)
    });
    answer(lane, job, &mut resolution).await;
    if attached.is_empty() {
        resolution.forget_answer();
    }
    let about = About::job(job);
    let mut stands = settle_one(lane, acker, &resolution, about).await;
    for Attached { lane, job, acker } in strangers {
        // Its own lane's queues, consumer and counts: an id may have come by two.
        let lane = &*lane;
        count_duplicate(lane, &job);
        let resolution = match resolution.settlement {
            Settlement::Requeue(reason) => Resolution::unclaimed(reason),
            _ => Resolution::leased_elsewhere(&job, Timestamp::now()),
        };
        settle_one(lane, acker, &resolution, about).await;
    }
    answer_attached(&attached, &mut resolution).await;
    resolution.forget_answer();
    for Attached {
        lane,
        job: other,
        acker,
    } in attached
    {
        let lane = &*lane;
        count_duplicate(lane, &other);
        if other.digest != job.digest {
            // Answered above. Its content is not the job's, so no copy of it stands for the job.
            ack(lane, acker).await;
            continue;
        }
        let job = other;
        // A letter or a parked copy stands for all deliveries of the id, once there is one: the job's own
        // delivery may have died before. And a parked copy can answer only its own `reply_to`.
        let own_way = !stands
            || match resolution.settlement {
                Settlement::Park(..) => job.reply_to.is_some(),
                Settlement::Requeue(_) => true,
                Settlement::Ack | Settlement::Bury(_) => false,
            };
        if own_way {
            stands |= settle_one(lane, acker, &resolution, about).await;
        } else {
            ack(lane, acker).await;
        }
    }
}

/// Whether a delivery that attached is no part of this ending: it asks for something else, and either the job of its
/// id has not ended, or this delivery is the one that differs from it. It comes again, to be judged by itself.
fn is_strange(job: &Job, standing: Standing, attached: &Job) -> bool {
    attached.digest != job.digest && (!standing.is_an_end() || standing.differs_from(job))
}

/// Whether a delivery that attached to a repeat asks for bytes that the row does not have: it comes again, and is run
/// for its answer.
fn wants_bytes(resolution: &Resolution, attached: &Job) -> bool {
    let completed = |report: &Report| report.outcome == State::Completed.as_str();
    matches!(resolution.standing, Standing::Repeated(_))
        && resolution.body.is_none()
        && resolution.report.as_ref().is_some_and(completed)
        && attached.reply_to.is_some()
        && attached.operation.is_rerun_for_reply()
}

/// Tells who asked, and the listeners to events, how the job ended, if it did.
async fn answer(lane: &LaneContext, job: &Job, resolution: &mut Resolution) {
    let repeated = matches!(resolution.standing, Standing::Repeated(_));
    let body = resolution.body.as_ref();
    if let Some(report) = &mut resolution.report {
        address(report, lane, job, resolution.standing, repeated);
        let reply = Reply {
            report,
            body,
            until: None,
        };
        reply.send(lane, job).await;
        publish_event(lane, report, resolution.outcome).await;
    }
}

/// Tells the others who asked, one after the other, in [`ATTACHED_REPLIES`] together: they may be many, and the broker
/// may confirm none.
async fn answer_attached(attached: &[Attached], resolution: &mut Resolution) {
    let standing = resolution.standing;
    let body = resolution.body.as_ref();
    let Some(report) = &mut resolution.report else {
        return;
    };
    let until = Some(Instant::now() + ATTACHED_REPLIES);
    for Attached { lane, job, .. } in attached {
        address(report, lane, job, standing, standing.is_an_end());
        let reply = Reply {
            report,
            body,
            until,
        };
        reply.send(lane, job).await;
    }
}

/// Makes a report one for that asker.
fn address(
    report: &mut Report,
    lane: &LaneContext,
    asked: &Job,
    standing: Standing,
    repeated: bool,
) {
    report.repeated = repeated;
    report.differs = standing.differs_from(asked);
    report.ignored.clone_from(&asked.ignored);
    if report.differs || standing == Standing::Refused {
        note_difference(lane, asked);
    }
}

/// Somebody uses an id twice: the second request is not done.
fn note_difference(lane: &LaneContext, job: &Job) {
    let differ = &lane.metrics.repeats_differ;
    differ.with_label_values(&[lane.lane.as_str()]).inc();
    tracing::warn!(job = %job.id, lane = %lane.lane, operation = job.operation.name().as_str(), bucket = job.operation.bucket(), "a repeat asks for something else than the job of its id: it is not done");
}

fn count_duplicate(lane: &LaneContext, job: &Job) {
    lane.count(job.operation.name().as_str(), DUPLICATE);
    let duplicates = &lane.metrics.duplicates;
    duplicates.with_label_values(&[lane.lane.as_str()]).inc();
}

/// What every line about a job carries beside its lane; a bad job may lack any of it.
#[derive(Debug, Clone, Copy)]
struct About<'a> {
    id: Option<&'a str>,
    operation: Option<&'static str>,
    bucket: Option<&'a str>,
}

impl<'a> About<'a> {
    fn job(job: &'a Job) -> Self {
        Self {
            id: Some(job.id.as_str()),
            operation: Some(job.operation.name().as_str()),
            bucket: Some(job.operation.bucket()),
        }
    }
}

/// `false` when a copy was to be published and the delivery died before that: its redelivery decides.
async fn settle_one(
    lane: &LaneContext,
    acker: Acker,
    resolution: &Resolution,
    about: About<'_>,
) -> bool {
    let facts = &resolution.facts;
    match resolution.settlement {
        Settlement::Ack => ack(lane, acker).await,
        Settlement::Requeue(_) => lane.give_back(acker),
        Settlement::Park(delay, reason) => {
            let copy = facts.parked(acker.message());
            crash_point!("park.before");
            let target = Target::Retry(lane.lane, delay);
            let Some(acker) = published(lane, acker, &target, &copy, about).await else {
                return false;
            };
            crash_point!("park.confirmed");
            let labels = [lane.lane.as_str(), reason.as_str()];
            lane.metrics.parked.with_label_values(&labels).inc();
            ack(lane, acker).await;
        }
        Settlement::Bury(reason) => {
            let copy = facts.dead(acker.message(), reason, Timestamp::now());
            crash_point!("bury.before");
            let target = Target::Dead(lane.lane);
            let Some(acker) = published(lane, acker, &target, &copy, about).await else {
                return false;
            };
            crash_point!("bury.confirmed");
            let labels = [lane.lane.as_str(), reason.as_str()];
            lane.metrics.dead_lettered.with_label_values(&labels).inc();
            if facts.code.as_deref() == Some(ACCESS_DENIED) {
                let denied = &lane.metrics.access_denied;
                denied.with_label_values(&[lane.lane.as_str()]).inc();
            }
            note_buried(lane, &acker, resolution.row, about).await;
            crash_point!("bury.noted");
            ack(lane, acker).await;
        }
    }
    true
}

/// Publishes the copy and gives the acker back to be acked; `None` when there is nothing to ack: the delivery
/// died, or the worker must go and the job is requeued.
async fn published(
    lane: &LaneContext,
    acker: Acker,
    target: &Target,
    copy: &Message,
    about: About<'_>,
) -> Option<Acker> {
    let mut stuck = lane
        .status
        .copies()
        .copy_to(lane.broker.names().queue(target));
    let failed = |error: &PublishError| {
        if stuck.failed(error) {
            let About {
                id,
                operation,
                bucket,
            } = about;
            tracing::warn!(job = id, lane = %lane.lane, operation, bucket, %error, "a copy can't be published: the job is held and it is tried again");
        }
    };
    tokio::select! {
        biased;
        published = acker.publish_copy(target, copy, failed) => match published {
            Ok(()) => Some(acker),
            Err(_) => {
                lost(lane);
                None
            }
        },
        // The row is in the ledger: who gets the job next writes the copy.
        () = lane.aborted() => {
            lane.give_back(acker);
            None
        }
    }
}

/// Settles a delivery that its task let go of in a panic outside the job's run, where no row counts it: its
/// header does (RESILIENCE.md, event 20).
pub(super) async fn settle_panicked(lane: &LaneContext, acker: Acker) {
    let message = Arc::clone(acker.message());
    let id = message.message_id.as_deref();
    let text = "the worker panicked over this message";
    let fault = lane
        .panics
        .panicked(id.unwrap_or_default(), text, Instant::now());
    let panics = message.count(header::PANICS).unwrap_or(0) + u32::from(fault == Fault::Job);
    // It may be the reading of the message that panics.
    let known = catch_unwind(AssertUnwindSafe(|| wire::glance(&message))).unwrap_or_default();
    let about = About {
        id,
        operation: known.operation.map(|name| name.as_str()),
        bucket: known.bucket.as_deref(),
    };
    let (operation, bucket) = (about.operation, about.bucket);
    tracing::error!(job = id, lane = %lane.lane, operation, bucket, panics, "a task let go of its delivery in a panic: this is a bug, please report it");
    if panics >= MAX_PANICS {
        let poison = BadJob {
            reason: DeadReason::Poison,
            message: text.to_owned(),
            known,
        };
        return bury_bad_job(lane, acker, poison, Timestamp::now()).await;
    }
    settle_one(lane, acker, &Resolution::panicked(&message, panics), about).await;
}

/// Buries a message that is no job: no ledger row, no breaker, no retry (RESILIENCE.md, event 3).
pub(super) async fn bury_bad_job(lane: &LaneContext, acker: Acker, bad: BadJob, now: Timestamp) {
    let operation = bad.known.operation.map(|name| name.as_str());
    lane.count(operation.unwrap_or("unknown"), State::DeadLettered.as_str());
    let reason = bad.reason;
    let id = bad.known.id.as_ref().map(|id| id.as_str());
    // As sent, so it may be anything, of any length.
    let bucket = bad.known.bucket.as_deref();
    let bucket = bucket.filter(|bucket| bucket.len() <= LONGEST_BUCKET);
    tracing::warn!(job = id, lane = %lane.lane, operation, bucket, reason = reason.as_str(), error = bad.message, "a bad job is buried");
    let message = Arc::clone(acker.message());
    let resolution = Resolution::bad_job(lane, &bad, &message, now);
    let queue = message
        .reply_to
        .as_deref()
        .filter(|queue| !queue.is_empty());
    if let (Some(queue), Some(report)) = (queue, &resolution.report) {
        let correlation_id = message.correlation_id.as_deref().or(id).unwrap_or_default();
        let reply = Reply {
            report,
            body: None,
            until: None,
        };
        reply.send_to(lane, queue, correlation_id).await;
    }
    let about = About {
        id,
        operation,
        bucket,
    };
    remember(lane, about, bad.known.key.as_deref(), &resolution);
    settle_one(lane, acker, &resolution, about).await;
}

async fn ack(lane: &LaneContext, acker: Acker) {
    crash_point!("ack.before");
    match acker.ack().await {
        Ok(()) => {
            crash_point!("ack.after");
        }
        Err(_) => lost(lane),
    }
}

/// Not acked: the redelivery meets the ledger.
fn lost(lane: &LaneContext) {
    lane.metrics
        .acks_lost
        .with_label_values(&[lane.lane.as_str()])
        .inc();
}

/// Best effort: without the note a redelivery buries once more, which an operator can see and discard.
async fn note_buried(lane: &LaneContext, acker: &Acker, row: Option<Fence>, about: About<'_>) {
    let id = acker
        .message()
        .message_id
        .as_deref()
        .and_then(|id| JobId::parse(id).ok());
    let (Some(id), Some(fence)) = (id, row) else {
        return;
    };
    let noted = tokio::select! {
        biased;
        noted = lane.ledger.note_buried(id.clone(), fence) => noted,
        () = lane.aborted() => return,
    };
    if let Err(error) = noted {
        let About {
            operation, bucket, ..
        } = about;
        tracing::debug!(job = %id, lane = %lane.lane, operation, bucket, %error, "the burial is not noted");
    }
}

/// One line for each ending that an operator may want to see; none for a success.
fn log(lane: &LaneContext, job: &Job, resolution: &Resolution) {
    let (code, error) = (
        resolution.facts.code.as_deref(),
        resolution.facts.error.as_deref(),
    );
    let operation = job.operation.name().as_str();
    let bucket = job.operation.bucket();
    match resolution.settlement {
        Settlement::Ack if resolution.outcome == State::Abandoned.as_str() => {
            remember(lane, About::job(job), job.operation.key(), resolution);
            tracing::warn!(job = %job.id, lane = %lane.lane, operation, bucket, code, error, "a cleanup job is abandoned");
        }
        Settlement::Ack => {
            tracing::debug!(job = %job.id, lane = %lane.lane, operation, bucket, outcome = resolution.outcome, "done");
        }
        Settlement::Requeue(reason) => {
            tracing::debug!(job = %job.id, lane = %lane.lane, operation, bucket, reason = reason.as_str(), "requeued");
        }
        Settlement::Park(delay, reason) => {
            tracing::info!(job = %job.id, lane = %lane.lane, operation, bucket, reason = reason.as_str(), code, error, delay_ms = delay.millis(), attempts = resolution.facts.attempts, "parked");
        }
        Settlement::Bury(reason) => {
            remember(lane, About::job(job), job.operation.key(), resolution);
            tracing::warn!(job = %job.id, lane = %lane.lane, operation, bucket, reason = reason.as_str(), code, error, attempts = resolution.facts.attempts, "buried");
        }
    }
}

/// For the status page. What it says of a bad job is as sent, so it may be anything, of any length.
fn remember(lane: &LaneContext, about: About<'_>, key: Option<&str>, resolution: &Resolution) {
    let facts = &resolution.facts;
    let short = |text: &str| text.chars().take(LONGEST_TEXT).collect::<String>();
    lane.failures.add(RecentFailure {
        id: about.id.map(str::to_owned),
        lane: lane.lane.as_str(),
        operation: about.operation,
        bucket: about.bucket.map(str::to_owned),
        key: key.map(short),
        outcome: resolution.outcome,
        code: short(facts.code.as_deref().unwrap_or_default()),
        message: short(facts.error.as_deref().unwrap_or_default()),
        at: Timestamp::now(),
    });
}
