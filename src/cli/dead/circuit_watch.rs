//! Holds a replay back while the circuit of a letter's lane is not closed, as far as a worker can be asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::{http::client, job::Lane};

/// How long an answer is good for: a circuit takes several failures to open.
const FRESH: Duration = Duration::from_millis(200);
/// How often a circuit that is not closed is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A worker on this machine answers at once, or is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nobody is asked again after no answer.
const SILENCE: Duration = Duration::from_secs(5);

/// Asks the worker on one address.
#[derive(Debug)]
pub(super) struct CircuitWatch {
    authority: String,
    /// The last answer, if there was one, and until when it is good.
    known: Option<(Option<serde_json::Value>, Instant)>,
    told_unreachable: bool,
}

impl CircuitWatch {
    pub(super) fn new(authority: String) -> Self {
        Self {
            authority,
            known: None,
            told_unreachable: false,
        }
    }

    /// Returns when the lane's circuit is closed, the lane has none, or no worker can say; says on
    /// standard error that it waits.
    pub(super) async fn until_closed(&mut self, lane: Lane) {
        let Some(circuit) = lane.circuit() else {
            return;
        };
        let mut waits = false;
        loop {
            let state = self.status().await.and_then(|status| {
                let state = status["circuits"][circuit.as_str()]["state"].as_str()?;
                Some(state.to_owned())
            });
            match state.as_deref() {
                None | Some("closed") => {
                    if waits {
                        eprintln!(
                            "brigade: the {} circuit is closed, going on",
                            circuit.as_str()
                        );
                    }
                    return;
                }
                Some(state) if !waits => {
                    waits = true;
                    let (circuit, authority) = (circuit.as_str(), &self.authority);
                    eprintln!(
                        "brigade: the {circuit} circuit of the worker at {authority} is {state}: \
                         waiting until it closes"
                    );
                }
                Some(_) => {}
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
                eprintln!("brigade: no worker answers at {authority}, so circuits are not watched");
            }
            let good = if status.is_some() { FRESH } else { SILENCE };
            self.known = Some((status.map(|answer| answer.json()), Instant::now() + good));
        }
        self.known.as_ref().and_then(|(status, _)| status.as_ref())
    }
}
