//! A real worker process dies at every step between delivery and ack, in every lane and on the way to
//! every ending; the next worker finishes its jobs, and nothing is lost or done twice.
//!
//! The steps are the `crash_point!`s of the source. The table below says on the way to which endings each
//! is met; a test fails when it and the source differ, so a step can't be added without being crashed at.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use bucket_brigade::{
    dev::s3_server::{Class, Entry, Fault, Rule},
    job::{Lane, Message, State, message::header, outcome::ParkDelay},
    worker::{Worker, storage_settings},
};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use self::Ending::{BadJob, Buried, Completed, Parked, Requeued};
use crate::{
    architecture::sources,
    process::WorkerProcess,
    stage::{self, Stage, eventually},
};

/// The jobs of a case.
pub(crate) const JOBS: usize = 5;
/// How often a case that waits looks whether its jobs have ended.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Cases whose worker starts and dies at a time: more only wait for a core.
pub(crate) static STARTING: Semaphore = Semaphore::const_new(6);

/// What the jobs of a case are on their way to when the worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Completed,
    /// S3 is away, until the worker has died.
    Parked,
    /// S3 refuses for good.
    Buried,
    /// S3 hangs, and the worker is told to drain.
    Requeued,
    /// The messages are no jobs.
    BadJob,
}

/// Every crash point, at which of its hits the worker dies, and the endings it is on the way to. What
/// writes a batch is hit once a batch, which may hold all jobs; at the others one job has got past it.
const POINTS: [(&str, u32, &[Ending]); 19] = [
    ("job.decoded", 2, &[Completed]),
    ("claims.written", 1, &[Completed]),
    ("job.claimed", 2, &[Completed]),
    ("call.before", 2, &[Completed]),
    ("call.after", 2, &[Completed]),
    (
        "outcome.unrecorded",
        2,
        &[Completed, Parked, Buried, Requeued],
    ),
    ("endings.written", 1, &[Completed, Parked, Buried, Requeued]),
    (
        "outcome.recorded",
        2,
        &[Completed, Parked, Buried, Requeued],
    ),
    ("reply.before", 2, &[Completed, Buried, BadJob]),
    ("reply.after", 2, &[Completed, Buried, BadJob]),
    ("park.before", 2, &[Parked]),
    ("park.confirmed", 2, &[Parked]),
    ("bury.before", 2, &[Buried, BadJob]),
    ("bury.confirmed", 2, &[Buried, BadJob]),
    ("burials.written", 1, &[Buried]),
    ("bury.noted", 2, &[Buried]),
    ("ack.before", 2, &[Completed, Parked, Buried, BadJob]),
    ("ack.after", 2, &[Completed, Parked, Buried, BadJob]),
    ("requeue.before", 2, &[Requeued]),
];
/// Of a requeue the process can't die after the last one only: it may be the whole drain.
const AFTER_REQUEUE: (&str, u32, &[Ending]) = ("requeue.after", 1, &[Requeued]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_on_the_way_to_completion_loses_nothing_and_nothing_finished_runs_again() {
    crash_everywhere(Completed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_on_the_way_to_a_retry_queue_loses_nothing() {
    crash_everywhere(Parked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_on_the_way_to_the_dead_letters_leaves_every_letter() {
    crash_everywhere(Buried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_a_drain_loses_nothing() {
    crash_everywhere(Requeued).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_over_bad_jobs_leaves_every_letter() {
    crash_everywhere(BadJob).await;
}

#[test]
fn every_crash_point_of_the_source_is_in_the_table_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut in_source = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let points = text.split("crash_point!(\"").skip(1);
        in_source.extend(points.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    in_source.sort_unstable();
    let mut in_table: Vec<String> = points().map(|(name, ..)| name.to_owned()).collect();
    in_table.sort_unstable();
    assert_eq!(
        in_source, in_table,
        "left: in the source; right: in the table"
    );
    assert!(points().all(|(_, _, endings)| !endings.is_empty()));
}

pub(crate) fn points() -> impl Iterator<Item = (&'static str, u32, &'static [Ending])> {
    POINTS.into_iter().chain([AFTER_REQUEUE])
}

/// One case for each lane and each point on the way to the ending, all at a time.
async fn crash_everywhere(ending: Ending) {
    let points: Vec<_> = points()
        .filter(|(_, _, endings)| endings.contains(&ending))
        .collect();
    let cases = points.iter().flat_map(|&(point, hits, _)| {
        Lane::ALL.map(|lane| async move {
            Case::new(lane, ending, point).await.run(hits).await;
        })
    });
    join_all(cases).await;
}

/// Five jobs of one lane, a worker that dies at one point, and one that lives.
pub(crate) struct Case {
    pub(crate) stage: Stage,
    pub(crate) lane: Lane,
    pub(crate) ending: Ending,
    pub(crate) point: &'static str,
    pub(crate) replies: String,
}

impl Case {
    pub(crate) async fn new(lane: Lane, ending: Ending, point: &'static str) -> Self {
        let stage = Stage::new()
            .await
            .set("ledger.lease", "3s")
            .set("retry.max_attempts", "1")
            .set("circuit.failure_threshold", "1000")
            .set("drain.timeout", "100ms");
        // A batch is one call: at these points the jobs are to call by themselves.
        let by_themselves = point.starts_with("call.") || ending == Requeued;
        let stage = match by_themselves {
            true => stage.set("cleanup.batch_keys", "1"),
            false => stage,
        };
        if lane != Lane::Upload {
            let objects = (0..JOBS).map(|n| (key(n), text(n)));
            stage.store(objects).await;
        }
        let replies = format!("{}.replies", stage.prefix);
        Self {
            stage,
            lane,
            ending,
            point,
            replies,
        }
    }

    async fn run(mut self, hits: u32) {
        let turn = STARTING.acquire().await.unwrap();
        if let Some(fault) = self.fault() {
            self.stage
                .s3
                .faults()
                .add(Rule::new(fault).class(self.class()));
        }
        self.stage.rabbit.declare_plain_queue(&self.replies).await;
        self.die(hits).await;
        drop(turn);
        let before = self.finished().await;
        if self.ending != Buried {
            self.stage.s3.faults().clear();
        }
        let worker = self.survivor().await;
        self.until_done().await;
        worker.drain(stage::PATIENCE).await;
        self.check(&before).await;
    }

    pub(crate) async fn publish(&mut self, worker: &WorkerProcess) {
        let messages = (0..JOBS).map(|n| self.message(n)).collect();
        self.stage.publish_all(self.lane, messages).await;
        if self.ending == Requeued {
            eventually(
                &format!("{}: calls are under way", self.name()),
                async || (self.stage.s3.journal().in_flight(self.class()) >= 2).then_some(()),
            )
            .await;
            worker.terminate();
        }
    }

    /// Runs a worker until the point kills it.
    async fn die(&mut self, hits: u32) {
        let crash_at = format!("{}:{hits}", self.point);
        let mut worker = self.stage.armed_process(self.lane, &crash_at);
        self.publish(&worker).await;
        let signal = worker.wait_for_signal().await;
        // SIGABRT, and by this point: a worker that ended otherwise met no crash.
        assert_eq!(signal, Some(6), "{}\n{}", self.name(), worker.log());
        let says = format!("crash point {}", self.point);
        assert!(worker.log().contains(&says), "{}", self.name());
    }

    /// A worker in this process, on the case's lane.
    pub(crate) async fn survivor(&self) -> Worker {
        let settings = self.stage.settings();
        let mut storage = storage_settings(&settings);
        storage.credentials = Some(self.stage.s3.credentials());
        Worker::start_with_storage(&settings, &[self.lane], storage)
            .await
            .unwrap()
    }

    /// The S3 calls that each job had when its end was in the ledger.
    async fn finished(&self) -> BTreeMap<String, usize> {
        let rows = self.stage.rows().await;
        let finished = rows.values().filter(|row| row.state.is_final());
        finished
            .filter_map(|row| row.key.clone())
            .map(|key| {
                let calls = self.calls(&key);
                (key, calls)
            })
            .collect()
    }

    pub(crate) async fn until_done(&self) {
        let (name, lane) = (self.name(), self.lane);
        if self.ending == BadJob {
            eventually(&format!("{name}: all letters are there"), async || {
                (self.letters().await.len() == JOBS).then_some(())
            })
            .await;
        } else {
            let state = match self.ending {
                Buried => State::DeadLettered,
                _ => State::Completed,
            };
            eventually(&format!("{name}: all jobs end"), async || {
                // Forty cases wait like this at a time: a look every 20 ms would take all of a core.
                tokio::time::sleep(LOOK_EVERY).await;
                if lane == Lane::Cleanup {
                    self.end_minute().await;
                }
                let rows = self.stage.rows().await;
                let ended = rows.values().filter(|row| row.state == state).count();
                (ended == JOBS).then_some(())
            })
            .await;
        }
        self.stage.until_empty(lane).await;
    }

    /// A cleanup job is parked for a minute: the test is its clock.
    async fn end_minute(&self) {
        let (prefix, lane) = (&self.stage.prefix, self.lane);
        let minute = ParkDelay::OneMinute.millis();
        let parked = format!("{prefix}.{lane}.retry.{minute}");
        let queue = format!("{prefix}.{lane}");
        self.stage.rabbit.move_all(&parked, &queue).await;
    }

    pub(crate) async fn check(&self, before: &BTreeMap<String, usize>) {
        let name = self.name();
        let ids: BTreeSet<String> = (0..JOBS).map(id).collect();

        // Every job has ended, and as it must.
        let rows = self.stage.rows().await;
        let expected = match self.ending {
            BadJob => BTreeMap::new(),
            Buried => ids
                .iter()
                .map(|id| (id.as_str(), State::DeadLettered))
                .collect(),
            _ => ids
                .iter()
                .map(|id| (id.as_str(), State::Completed))
                .collect(),
        };
        let states: BTreeMap<&str, State> = rows
            .iter()
            .map(|(id, row)| (id.as_str(), row.state))
            .collect();
        assert_eq!(states, expected, "{name}: the rows");

        // A letter for each job that is dead, once more at most for a crash before its note; none else.
        let letters = self.letters().await;
        let dead = matches!(self.ending, Buried | BadJob);
        let expected = if dead { ids.clone() } else { BTreeSet::new() };
        assert_eq!(
            letters.keys().cloned().collect::<BTreeSet<_>>(),
            expected,
            "{name}: the letters"
        );
        assert!(
            letters.values().all(|count| *count <= JOBS.min(2)),
            "{name}: {letters:?}"
        );

        // An answer to each at least.
        let replies = self.stage.rabbit.peek(&self.replies).await;
        let answered: BTreeSet<String> = replies
            .iter()
            .filter_map(|reply| reply.correlation_id.clone())
            .collect();
        assert_eq!(answered, ids, "{name}: the answers");
        if self.lane == Lane::Read && !dead {
            for n in 0..JOBS {
                let reply = replies
                    .iter()
                    .find(|reply| reply.correlation_id == Some(id(n)));
                assert_eq!(
                    reply.unwrap().body,
                    text(n),
                    "{name}: the object in the answer"
                );
            }
        }

        // The effect is there, and the same bytes at most went to the same key again.
        let stored = self.stage.s3.keys_of("b");
        let expected: Vec<String> = match (self.lane, dead) {
            (Lane::Upload, true) | (Lane::Cleanup, false) => Vec::new(),
            _ => (0..JOBS).map(key).collect(),
        };
        assert_eq!(stored, expected, "{name}: the objects");
        for n in (0..JOBS).filter(|n| stored.contains(&key(*n))) {
            let bytes = self.stage.s3.object("b", &key(n)).unwrap();
            assert_eq!(bytes, text(n).as_bytes(), "{name}: the bytes of {}", key(n));
        }
        for n in 0..JOBS {
            let calls = self.calls(&key(n));
            let most = if self.ending == BadJob { 0 } else { 2 };
            assert!(calls <= most, "{name}: {calls} calls for {}", key(n));
        }
        // What had ended in the ledger did not run again. Reads do, for the bytes of a second answer.
        if self.lane != Lane::Read {
            for (key, calls) in before {
                assert_eq!(
                    self.calls(key),
                    *calls,
                    "{name}: {key} had ended and ran again"
                );
            }
        }
    }

    fn message(&self, n: usize) -> Message {
        let mut message = match self.lane {
            Lane::Upload => stage::put(&id(n), &key(n)),
            Lane::Read => stage::on_key(&id(n), "get_object", &key(n)),
            Lane::Cleanup => stage::on_key(&id(n), "delete_object", &key(n)),
        };
        if self.ending == BadJob {
            message.body = "no job".into();
        }
        message.reply_to = Some(self.replies.clone());
        message
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.ending {
            Parked => Some(Fault::status(503, "ServiceUnavailable")),
            Buried => Some(Fault::status(403, "AccessDenied")),
            Requeued => Some(Fault::Hang),
            Completed | BadJob => None,
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self.lane {
            Lane::Upload => Class::Upload,
            Lane::Read => Class::Read,
            Lane::Cleanup => Class::Delete,
        }
    }

    /// S3 calls for a key that may have had an effect: those that no fault struck.
    fn calls(&self, key: &str) -> usize {
        let entries = self.stage.s3.journal().entries();
        let effective = |entry: &&Entry| entry.call.key == key && !entry.faulted;
        entries.iter().filter(effective).count()
    }

    /// How many letters there are of each job; each says why.
    async fn letters(&self) -> BTreeMap<String, usize> {
        let mut letters = BTreeMap::new();
        for letter in self.stage.dead(self.lane).await {
            assert!(letter.text(header::REASON).is_some(), "{letter:?}");
            *letters.entry(letter.message_id.unwrap()).or_default() += 1;
        }
        letters
    }

    pub(crate) fn name(&self) -> String {
        format!(
            "{} lane, {:?}, crash at {}",
            self.lane, self.ending, self.point
        )
    }
}

fn id(n: usize) -> String {
    format!("j{n}")
}

fn key(n: usize) -> String {
    format!("k{n}")
}

fn text(n: usize) -> String {
    format!("text of {}", key(n))
}
