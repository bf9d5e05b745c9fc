//! Holds a replay back while the circuit of a letter's lane is not closed, as far as a worker can be asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    cli::output::say,
    http::client,
    job::{Circuit, Lane},
};

/// How long an answer is good for: a circuit takes several failures to open.
const FRESH: Duration = Duration::from_millis(200);
/// How often a circuit that is not closed is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A worker on this machine answers at once, or is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nobody is asked again after no answer.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a letter that was let through as a probe has, before another may try.
const PROBE: Duration = Duration::from_secs(5);

/// Asks the worker on one address.
#[derive(Debug)]
pub(super) struct CircuitWatch {
    authority: String,
    /// The last answer, if there was one, and until when it is good.
    known: Option<(Option<serde_json::Value>, Instant)>,
    told_unreachable: bool,
    /// No probe is let through before.
    next_probe: Option<Instant>,
}

impl CircuitWatch {
    pub(super) fn new(authority: String) -> Self {
        Self {
            authority,
            known: None,
            told_unreachable: false,
            next_probe: None,
        }
    }

    /// Returns when the lane's circuit is closed, the lane has none, or no worker can say; says on
    /// standard error that it waits. A half-open circuit whose queue is empty waits for a job to probe
    /// with: now and then a letter may go and be that job, else both would wait for ever.
    pub(super) async fn until_closed(&mut self, lane: Lane) {
        let Some(circuit) = lane.circuit().map(Circuit::as_str) else {
            return;
        };
        let mut waits = false;
        loop {
            let (mut state, mut wants_probe, mut last) = (None, false, String::new());
            if let Some(status) = self.status().await {
                let shown = status["circuits"][circuit]["state"].as_str();
                state = shown.map(str::to_owned);
                last = cause(&status["circuits"][circuit]["last_failure"]);
                wants_probe = shown == Some("half_open")
                    && status["lanes"][lane.as_str()]["queue_ready"] == 0;
            }
            let Some(state) = state.filter(|state| state != "closed") else {
                if waits {
                    say(format!("the {circuit} circuit is closed, going on"));
                }
                return;
            };
            let now = Instant::now();
            if wants_probe && self.next_probe.is_none_or(|at| at <= now) {
                self.next_probe = Some(now + PROBE);
                self.known = None;
                return;
            }
            if !waits {
                waits = true;
                let authority = &self.authority;
                say(format!(
                    "the {circuit} circuit of the worker at {authority} is {state}{last}: waiting until it closes"
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn status(&mut self) -> Option<&serde_json::Value> {
        let now = Instant::now();
        if self.known.as_ref().is_none_or(|(_, until)| *until <= now) {
            let answer = client::get(&self.authority, "/api/status", ANSWER_TIMEOUT).await;
            let status = answer.ok().filter(|answer| answer.code == 200);
            if status.is_none() && !self.told_unreachable {
                self.told_unreachable = true;
                let authority = &self.authority;
                say(format!(
                    "no worker answers at {authority}, so circuits are not watched"
                ));
            }
            let good = if status.is_some() { FRESH } else { SILENCE };
            self.known = Some((status.map(|answer| answer.json()), Instant::now() + good));
        }
        self.known.as_ref().and_then(|(status, _)| status.as_ref())
    }
}

/// What S3 answered last, in brackets; nothing for a circuit that an operator holds open from the start.
fn cause(last: &serde_json::Value) -> String {
    let text = |name: &str| last[name].as_str();
    match (text("class"), text("code"), text("endpoint")) {
        (Some(class), Some(code), Some(endpoint)) => format!(" ({class}, {code} at {endpoint})"),
        _ => String::new(),
    }
}
