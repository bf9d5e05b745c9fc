use tokio::sync::oneshot;

use super::*;
use crate::{
    job::{
        JobResult, Operation,
        operation::{DeleteObject, DeleteObjects},
    },
    ledger::Fence,
    storage::script::{Answer, Stage, job},
};

const WAIT: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// A gatherer on a script.
struct Lane {
    stage: Stage,
    gathering: Arc<Gathering>,
    stop: CancellationToken,
    tasks: JoinSet<Option<Result<Done, Stop>>>,
    _gatherer: JoinSet<()>,
}

impl Lane {
    /// One that takes three keys a call.
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::of(3, answers)
    }

    fn of(keys: usize, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::within(HOUR, keys, answers)
    }

    /// The same, where no batch may take longer than `deadline`.
    fn within(deadline: Duration, keys: usize, answers: impl IntoIterator<Item = Answer>) -> Self {
        let stage = Stage::new(answers);
        let limits = BatchLimits { keys, wait: WAIT };
        let retry = stage.context().retry;
        let stop = CancellationToken::new();
        let (gathering, gatherer) =
            Gatherer::new(&stage.storage, &stage.slots, retry, limits, deadline, &stop);
        let mut tasks = JoinSet::new();
        tasks.spawn(gatherer.run(stop.clone()));
        Self {
            stage,
            gathering: Arc::new(gathering),
            stop,
            tasks: JoinSet::new(),
            _gatherer: tasks,
        }
    }

    fn delete(&mut self, bucket: &str, key: &str) {
        self.delete_taken(bucket, key, taken());
    }

    fn delete_taken(&mut self, bucket: &str, key: &str, taken: Taken) {
        let delete = DeleteObject {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id: None,
        };
        self.run(Operation::DeleteObject(delete), taken);
    }

    fn delete_keys(&mut self, bucket: &str, keys: &[&str]) {
        let delete = DeleteObjects {
            bucket: bucket.to_owned(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        };
        self.run(Operation::DeleteObjects(delete), taken());
    }

    fn run(&mut self, operation: Operation, taken: Taken) {
        let (gathering, storage) = (Arc::clone(&self.gathering), Arc::clone(&self.stage.storage));
        let (context, job) = (self.stage.context(), job(operation));
        self.tasks
            .spawn(async move { gathering.delete(&job, &context, &storage, taken).await });
    }

    /// How long it takes until all jobs have their ends, each of them done.
    async fn until_done(&mut self) -> Duration {
        let began = Instant::now();
        while let Some(end) = self.tasks.join_next().await {
            let end = end.unwrap();
            assert!(matches!(end, Some(Ok(_))), "{end:?}");
        }
        began.elapsed()
    }

    /// Takes both slots, until what it gives is dropped.
    async fn hold_slots(&mut self) -> oneshot::Sender<()> {
        let slots = Arc::clone(&self.stage.slots);
        let (held, dropped) = oneshot::channel::<()>();
        self.tasks.spawn(async move {
            let _both = (slots.acquire().await, slots.acquire().await);
            assert!(dropped.await.is_err());
            Some(Ok(JobResult::Deleted { deleted: 0 }.into()))
        });
        while self.stage.slots.available() > 0 {
            tokio::task::yield_now().await;
        }
        held
    }
}

fn taken() -> Taken {
    let epoch = crate::job::Timestamp::from_micros(0);
    Taken {
        fence: Fence(1),
        attempts: 0,
        parks: 0,
        panics: 0,
        unfinished: 0,
        enqueued_at: epoch,
        started_at: epoch,
        age_from: epoch,
        replaces: false,
    }
}

fn gone(keys: &[&str]) -> Answer {
    Answer::deletes(keys, &[])
}

#[tokio::test(start_paused = true)]
async fn a_full_group_is_sent_at_once_and_the_rest_when_its_wait_is_over() {
    let mut lane = Lane::new([gone(&["a", "b", "c"]), gone(&["d", "e"])]);
    for key in ["a", "b", "c", "d", "e"] {
        lane.delete("b", key);
    }
    assert_eq!(lane.until_done().await, WAIT);
    let at: Vec<_> = lane.stage.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 2);
    assert_eq!(at[1] - at[0], WAIT);
}

#[tokio::test(start_paused = true)]
async fn two_keys_a_call_are_enough_to_share_it() {
    let mut lane = Lane::of(2, [gone(&["a", "b"])]);
    lane.delete("b", "a");
    lane.delete("b", "b");
    assert_eq!(lane.until_done().await, Duration::ZERO);
    assert_eq!(lane.stage.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_fit_any_more_sends_the_group_and_begins_the_next() {
    let mut lane = Lane::new([Answer::status(204), gone(&["b", "c", "d"])]);
    lane.delete("b", "a");
    lane.delete_keys("b", &["b", "c", "d"]);
    assert_eq!(lane.until_done().await, Duration::ZERO);
    assert_eq!(lane.stage.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_due_takes_no_other_with_it() {
    let mut lane = Lane::new([Answer::status(204)]);
    lane.delete("one", "k");
    tokio::time::sleep(WAIT / 2).await;
    lane.delete("two", "k");
    assert_eq!(lane.until_done().await, WAIT);
    let at: Vec<_> = lane.stage.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(at[1] - at[0], WAIT / 2);
}

#[tokio::test(start_paused = true)]
async fn each_bucket_has_its_own_call() {
    let mut lane = Lane::new([Answer::status(204)]);
    lane.delete("one", "k");
    lane.delete("two", "k");
    assert_eq!(lane.until_done().await, WAIT);
    assert_eq!(lane.stage.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_no_group_to_fill() {
    let mut lane = Lane::new([gone(&["a", "b"]), Answer::status(204)]);
    lane.delete("b", "a");
    lane.delete("b", "b");
    tokio::task::yield_now().await;
    lane.stop.cancel();
    assert_eq!(lane.until_done().await, Duration::ZERO);
    lane.delete("b", "c");
    assert_eq!(lane.until_done().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_group_grows_on_while_every_slot_is_taken() {
    let mut lane = Lane::new([gone(&["a", "b"])]);
    let slots = lane.hold_slots().await;
    lane.delete("b", "a");
    tokio::time::sleep(WAIT + MOST_WAIT_FOR_SLOT / 2).await;
    lane.delete("b", "b");
    tokio::task::yield_now().await;
    drop(slots);
    assert!(lane.until_done().await <= WAIT_FOR_SLOT);
    assert_eq!(lane.stage.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_group_gets_its_turn_although_no_slot_is_ever_seen_free() {
    let mut lane = Lane::new([Answer::status(204)]);
    // Six that want a slot: two have one, and another one gets it next.
    let mut busy = JoinSet::new();
    for _ in 0..6 {
        let slots = Arc::clone(&lane.stage.slots);
        busy.spawn(async move {
            loop {
                let held = slots.acquire().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(held);
            }
        });
    }
    tokio::task::yield_now().await;
    lane.delete("b", "a");
    let most = WAIT + MOST_WAIT_FOR_SLOT + Duration::from_millis(500);
    let took = tokio::time::timeout(most, lane.until_done()).await;
    assert!(took.is_ok(), "it starves");
}

#[tokio::test(start_paused = true)]
async fn a_job_with_a_panic_or_an_unfinished_claim_is_not_batched_again() {
    let mut lane = Lane::new([Answer::status(204)]);
    for (panics, unfinished) in [(1, 0), (0, 1)] {
        let taken = Taken {
            panics,
            unfinished,
            ..taken()
        };
        lane.delete_taken("b", "k", taken);
        let end = lane.tasks.join_next().await.unwrap().unwrap();
        assert!(end.is_none(), "{end:?}");
    }
    assert!(lane.stage.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_takes_too_long_is_given_up_and_its_jobs_run_by_themselves() {
    let slow = Answer::After(Duration::from_secs(8), Box::new(gone(&["a", "b"])));
    let mut lane = Lane::within(Duration::from_secs(6), 2, [slow]);
    lane.delete("b", "a");
    lane.delete("b", "b");
    while let Some(end) = lane.tasks.join_next().await {
        assert!(end.unwrap().is_none(), "it has an end of its own");
    }
    assert_eq!(lane.stage.slots.available(), 2);
}
