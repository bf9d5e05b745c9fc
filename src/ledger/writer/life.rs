//! Whether the writer's task still runs, and how it ended. A task that ends unasked would leave a worker that looks
//! ready and can't record a thing, so its end is a state that everyone can see (RESILIENCE.md, event 21).

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;

use super::LedgerStatus;
use crate::{metrics::Metrics, watch};

/// The life of the writer's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// It takes requests.
    Running,
    /// It was asked to end, and has.
    Closed,
    /// It ended unasked, and why. Nothing will be written any more.
    Ended(String),
}

/// Where the task's end is announced.
#[derive(Debug)]
pub(super) struct Announcer {
    pub(super) life: watch::Sender<Life>,
    pub(super) status: watch::Sender<LedgerStatus>,
    pub(super) metrics: Arc<Metrics>,
}

impl Announcer {
    /// Runs the task and announces its end. A panic is an end unasked: it is caught here, for nobody joins the
    /// task before the writer is closed.
    pub(super) async fn supervise(self, task: impl Future<Output = ()>) {
        let Err(panic) = AssertUnwindSafe(task).catch_unwind().await else {
            self.life.send_replace(Life::Closed);
            return;
        };
        let why = panic_message(&*panic);
        tracing::error!(
            why,
            "the ledger's writer ended: this is a bug, please report it"
        );
        self.metrics.ledger_up.set(0);
        // The lanes look at the status: they take nothing more.
        let down = format!("the ledger's writer ended: {why}");
        self.status.send_replace(LedgerStatus::Down(down));
        self.life.send_replace(Life::Ended(why));
    }
}

/// Why the task ended unasked; waits for as long as it has not.
pub(super) async fn ended(mut life: watch::Receiver<Life>) -> String {
    let end = match life.wait_for(|life| *life != Life::Running).await {
        Ok(life) => life.clone(),
        Err(_) => Life::Ended("its task was dropped".to_owned()),
    };
    match end {
        Life::Ended(why) => why,
        Life::Running | Life::Closed => std::future::pending().await,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
