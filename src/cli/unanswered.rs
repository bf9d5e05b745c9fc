//! What is known of a job whose answer did not come: from its row in the ledger, if that can be read, and from
//! its queue. For whoever waited, in a sentence or two.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Shared, jobs::until};
use crate::{
    broker::rabbitmq::{Producer, QueueLook},
    config::Settings,
    job::{JobId, Lane, State, Timestamp},
    ledger::{self, JobRecord},
    worker::new_owner,
};

/// Whoever waited in vain is not kept much longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known, as sentences; empty when nothing is.
pub(super) async fn known(
    shared: &Shared,
    settings: &Settings,
    producer: &Producer,
    id: &JobId,
    lane: Lane,
) -> String {
    let patience = shared.timeout.min(PATIENCE);
    let (row, look) = tokio::join!(
        tokio::time::timeout(patience, row(settings, id)),
        tokio::time::timeout(patience, producer.look(lane)),
    );
    let (row, look) = (row.ok().flatten(), look.ok());
    let look = look.as_ref().map(|(queue, look)| (queue.as_str(), *look));
    say(row.as_ref(), look, Timestamp::now())
}

/// A producer need not have the ledger: without it there is less to say, and nothing is wrong.
async fn row(settings: &Settings, id: &JobId) -> Option<JobRecord> {
    let url = settings.ledger.url.expose_secret();
    let opened = ledger::open_existing(url, new_owner(), settings.ledger.lease).await;
    opened.ok()?.get(id).await.ok()?
}

fn say(row: Option<&JobRecord>, look: Option<(&str, Option<QueueLook>)>, now: Timestamp) -> String {
    let mut said: Vec<String> = Vec::new();
    said.extend(row.map(|row| of_row(row, now)));
    // A job that runs, or has ended, is in no queue.
    let waits = row.is_none_or(|row| row.state != State::Running && !row.state.is_final());
    match look {
        Some((queue, Some(look))) if waits && look.consumers == 0 => said.push(format!(
            "no worker consumes {queue}, where {} jobs wait: start one for this lane; if one runs, `brigade \
             circuit show` says what it waits for",
            look.ready
        )),
        Some((queue, Some(look))) if row.is_none() => said.push(match look.ready {
            // It has left the queue, or the count lags.
            0 => format!("a worker has it in hand, or it is about to: {queue} is empty"),
            1 => format!("it is queued in {queue}, with nothing before it"),
            ready => format!("it is queued in {queue}, behind about {} others", ready - 1),
        }),
        _ => {}
    }
    said.join("; ")
}

fn of_row(row: &JobRecord, now: Timestamp) -> String {
    let error = row.error.as_ref().map_or_else(String::new, |error| {
        format!(
            ", its last error was {}, {}: {}",
            error.class, error.code, error.message
        )
    });
    let calls = row.attempts;
    match (row.state, row.next_try()) {
        (State::Retrying, Some(next)) => format!(
            "it failed after {calls} S3 calls{error}; next try {}",
            until(next.at, now)
        ),
        (State::Running, _) => format!(
            "it is running on worker {}{error}",
            row.worker.as_deref().unwrap_or("unknown")
        ),
        (state, _) if state.is_final() => format!(
            "it ended as {}{error}, but its answer did not come here",
            state.as_str()
        ),
        (state, _) => format!("it is {} and waits in its queue{error}", state.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::report::ReportedError;

    fn row(state: State, error: bool) -> JobRecord {
        JobRecord {
            id: JobId::parse("j").unwrap(),
            lane: Lane::Upload,
            operation: "put_object".to_owned(),
            bucket: "b".to_owned(),
            key: None,
            state,
            attempts: 3,
            parks: 1,
            replay: 0,
            error: error.then(|| ReportedError {
                class: "throttled".to_owned(),
                code: "SlowDown".to_owned(),
                message: "slower".to_owned(),
                request_id: None,
            }),
            result: None,
            enqueued_at: Timestamp::from_micros(0),
            started_at: None,
            finished_at: None,
            leased_until: Some(Timestamp::from_micros(0)),
            worker: Some("host-7".to_owned()),
            failed: Vec::new(),
            digest: None,
            ignored: Vec::new(),
        }
    }

    fn queue(ready: u32, consumers: u32) -> Option<(&'static str, Option<QueueLook>)> {
        Some(("p.upload", Some(QueueLook { ready, consumers })))
    }

    #[test]
    fn what_is_known_is_said_and_nothing_is_made_up() {
        let now = Timestamp::from_micros(2_000_000);
        let said = |row: Option<JobRecord>, look| say(row.as_ref(), look, now);
        assert_eq!(said(None, None), "");
        assert_eq!(said(None, Some(("p.upload", None))), "");
        assert!(said(None, queue(4, 0)).starts_with("no worker consumes p.upload"));
        assert_eq!(
            said(None, queue(4, 1)),
            "it is queued in p.upload, behind about 3 others"
        );
        assert_eq!(
            said(Some(row(State::Retrying, true)), queue(4, 1)),
            "it failed after 3 S3 calls, its last error was throttled, SlowDown: slower; next try in 8s"
        );
        let running = said(Some(row(State::Running, false)), queue(0, 0));
        assert_eq!(running, "it is running on worker host-7");
        let paused = said(Some(row(State::Requeued, true)), queue(4, 0));
        assert!(
            paused.contains("SlowDown") && paused.contains("no worker consumes"),
            "{paused}"
        );
        let ended = said(Some(row(State::Completed, false)), queue(0, 0));
        assert!(ended.starts_with("it ended as completed"), "{ended}");
    }
}
