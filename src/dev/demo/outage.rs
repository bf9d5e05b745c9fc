//! The act in which S3 refuses uploads: the circuit opens, the queue holds every job, reads go on, and when
//! S3 is well again the backlog drains.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    screen::Act,
    tour::{BUCKET, FRAME, Played, Tour, job, objects, put},
};
use crate::{
    dev::s3_server::{Class, Fault, Rule, S3Operation},
    job::{Operation, operation::HeadObject},
};

const UPLOADS: usize = 400;
const READS: usize = 300;
/// From the outage's end until the last job is done, parked jobs included.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) async fn play(
    tour: &mut Tour,
    files: &BTreeMap<String, Bytes>,
    outage: Duration,
) -> anyhow::Result<()> {
    let objects = objects("outage", files, UPLOADS);
    let headline = format!(
        "Outage: S3 answers 503 to uploads for {} s",
        outage.as_secs()
    );
    let mut act = tour.screen.act(&headline, objects.len() + READS);
    let before = tour.completed().await?;
    let began = Instant::now();
    let refusal = Rule::new(Fault::status(503, "ServiceUnavailable")).class(Class::Upload);
    let mut refusal = Some(tour.s3.faults().add(refusal));
    let uploads = tour
        .publish(objects.iter().map(|(key, bytes)| put(key, bytes)).collect())
        .await?;
    let heads = files.keys().cycle().take(READS).map(|name| {
        let (bucket, key) = (BUCKET.to_owned(), format!("files/0/{name}"));
        job(Operation::HeadObject(HeadObject {
            bucket,
            key,
            version_id: None,
        }))
    });
    let reads = tour.publish(heads.collect()).await?;

    let mut story = Story {
        last: "closed".to_owned(),
        puts_at_opening: None,
        calls_while_open: 0,
    };
    let mut reads_took = None;
    loop {
        let done = tour.completed().await? - before;
        let status = tour.worker.status().await?;
        if done >= READS && reads_took.is_none() {
            reads_took = Some(began.elapsed());
            act.note(&format!(
                "all {READS} reads are done: their lane does not care"
            ));
        }
        let puts = tour.s3.journal().count(S3Operation::PutObject);
        story.watch(&act, &status, puts);
        act.update(done, &live(&status));
        if began.elapsed() >= outage
            && let Some(refusal) = refusal.take()
        {
            refusal.remove();
            act.note("S3 is well again");
        }
        if done >= uploads.len() + reads.len() {
            break;
        }
        ensure!(
            began.elapsed() < outage + PATIENCE,
            "the backlog does not drain; the worker's log ends with:\n{}",
            tour.worker.log_tail()
        );
        tokio::time::sleep(FRAME).await;
    }
    let total = uploads.len() + reads.len();
    let took = act.close(&format!(
        "{total} jobs done. Upload calls to S3 while the circuit was open: {}, one a probe.",
        story.calls_while_open
    ));
    tour.compare(&objects);
    tour.played(Played {
        name: "reads meanwhile",
        jobs: reads,
        took: reads_took.unwrap_or(took),
    });
    tour.played(Played {
        name: "outage",
        jobs: uploads,
        took,
    });
    Ok(())
}

fn live(status: &Value) -> String {
    let circuit = &status["circuits"]["upload"];
    let state = circuit["state"].as_str().unwrap_or("?").replace('_', "-");
    let probe = match circuit["retry_in_seconds"].as_f64() {
        Some(seconds) => format!(", next probe in {seconds:.0} s"),
        None => String::new(),
    };
    let waiting = status["lanes"]["upload"]["queue_ready"]
        .as_u64()
        .unwrap_or(0);
    format!("upload circuit {state}{probe}; {waiting} uploads wait in the queue")
}

/// Notes what changes, once each.
struct Story {
    last: String,
    puts_at_opening: Option<u64>,
    calls_while_open: u64,
}

impl Story {
    fn watch(&mut self, act: &Act, status: &Value, puts: u64) {
        let state = status["circuits"]["upload"]["state"]
            .as_str()
            .unwrap_or("?")
            .to_owned();
        if let Some(at_opening) = self.puts_at_opening.filter(|_| state != "closed") {
            self.calls_while_open = puts - at_opening;
        }
        if state == self.last {
            return;
        }
        match (self.last.as_str(), state.as_str()) {
            ("closed", "open") => {
                self.puts_at_opening = Some(puts);
                act.note("five operations in a row failed: the upload circuit is OPEN");
                act.note("the lane cancels its consumer, every held job goes back to the queue");
            }
            (_, "closed") => {
                act.note("a probe succeeded: the upload circuit is CLOSED, the backlog drains")
            }
            ("half_open", "open") => act.note("a probe failed: open again, for longer"),
            _ => {}
        }
        self.last = state;
    }
}
