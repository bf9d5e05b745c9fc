//! At every step between delivery and ack, in every lane and on the way to every ending, a task panics instead of
//! the process dying (`crash.rs`): the worker goes on and finishes its jobs, or ends with 70 if it can't; nothing is
//! lost or done twice.

use std::collections::BTreeMap;

use bucket_brigade::{dev::s3_server::Rule, job::Lane};
use futures_util::future::join_all;

use crate::{
    crash::{
        Case,
        Ending::{self, BadJob, Buried, Completed, Parked, Requeued},
        LOOK_EVERY, STARTING, points,
    },
    stage::{self, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_the_way_to_completion_loses_nothing_and_the_worker_goes_on() {
    panic_everywhere(Completed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_the_way_to_a_retry_queue_or_the_dead_letters_loses_nothing() {
    panic_everywhere(Parked).await;
    panic_everywhere(Buried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_bad_jobs_or_in_a_drain_loses_nothing() {
    panic_everywhere(BadJob).await;
    panic_everywhere(Requeued).await;
}

/// What the writer of the ledger, or a lane itself, does there is more than one job's: the process ends.
const ENDS_THE_PROCESS: [&str; 3] = ["claims.written", "endings.written", "burials.written"];

/// The same with a panic instead.
async fn panic_everywhere(ending: Ending) {
    let points: Vec<_> = points()
        .filter(|(_, _, endings)| endings.contains(&ending))
        .collect();
    let cases = points.iter().flat_map(|&(point, hits, _)| {
        Lane::ALL.map(|lane| async move {
            Case::new(lane, ending, point)
                .await
                .run_panicking(hits)
                .await;
        })
    });
    join_all(cases).await;
}

impl Case {
    async fn run_panicking(mut self, hits: u32) {
        let turn = STARTING.acquire().await.unwrap();
        if let Some(fault) = self.fault() {
            let rule = Rule::new(fault).class(self.class());
            self.stage.s3.faults().add(rule);
        }
        self.stage.rabbit.declare_plain_queue(&self.replies).await;
        let panic_at = format!("{}:{hits}", self.point);
        let mut worker = self.stage.panicking_process(self.lane, &panic_at);
        self.publish(&worker).await;
        let says = format!("crash point {}", self.point);
        eventually(&format!("{}: the panic", self.name()), async || {
            tokio::time::sleep(LOOK_EVERY).await;
            worker.log().contains(&says).then_some(())
        })
        .await;
        drop(turn);
        if self.ending != Buried {
            self.stage.s3.faults().clear();
        }
        let ends = ENDS_THE_PROCESS.contains(&self.point);
        if ends || self.ending == Requeued {
            let code = if ends && self.ending != Requeued {
                70
            } else {
                0
            };
            let ended = worker.wait().await;
            assert!(
                ended == Some(code) || ended == Some(70),
                "{}: {ended:?}",
                self.name()
            );
            let next = self.survivor().await;
            self.until_done().await;
            next.drain(stage::PATIENCE).await;
        } else {
            self.until_done().await;
            assert!(worker.is_running(), "{}", self.name());
            worker.terminate();
            assert_eq!(worker.wait().await, Some(0), "{}", self.name());
        }
        self.check(&BTreeMap::new()).await;
    }
}
