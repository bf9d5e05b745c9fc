//! The writer on a ledger that does as it is told, on paused time.

use std::collections::{HashMap, HashSet};

use futures_util::{FutureExt, future::join_all};
use tokio::time::{advance, sleep};

mod purge;
mod scripted;

use scripted::{OPEN, Scripted};

use super::*;
use crate::job::{AttemptLog, Lane, OperationName, RequestDigest, State, Timestamp};

fn start(ledger: &Arc<Scripted>, settings: WriterSettings) -> LedgerWriter {
    let metrics = Arc::new(Metrics::try_new(1).unwrap());
    LedgerWriter::start(Arc::clone(ledger) as Arc<dyn Ledger>, settings, metrics)
}

fn writer(ledger: &Arc<Scripted>) -> LedgerWriter {
    start(ledger, WriterSettings::default())
}

fn id(name: &str) -> JobId {
    JobId::parse(name).unwrap()
}

fn request(name: &str) -> ClaimRequest {
    ClaimRequest {
        id: id(name),
        lane: Lane::Upload,
        operation: OperationName::PutObject,
        bucket: "b".to_owned(),
        key: None,
        digest: RequestDigest::from_bytes(&[1; RequestDigest::LEN]).unwrap(),
        ignored: Vec::new(),
        enqueued_at: Timestamp::from_micros(1),
        replay: 0,
        replayed_at: None,
        attempts: 0,
        parks: 0,
    }
}

fn ending(name: &str, fence: Fence) -> Ending {
    Ending {
        id: id(name),
        fence,
        state: State::Completed,
        attempts: 1,
        parks: 0,
        panics: 0,
        failure: None,
        result: None,
        failed: AttemptLog::default(),
    }
}

async fn take(writer: &LedgerWriter, name: &str) -> Fence {
    match writer.claim(request(name)).await.unwrap() {
        Claim::Taken(taken) => taken.fence,
        other => panic!("{other:?}"),
    }
}

/// Claims many jobs at once.
async fn take_all(writer: &LedgerWriter, names: &[String]) -> HashMap<String, Fence> {
    let fences = join_all(names.iter().map(|name| take(writer, name))).await;
    names.iter().cloned().zip(fences).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("j{number:02}")).collect()
}

/// Lets the task do all that it can do now.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn is_down<T: std::fmt::Debug>(answer: Result<T, LedgerError>) -> bool {
    matches!(answer, Err(LedgerError::Down(_)))
}

#[tokio::test(start_paused = true)]
async fn a_lone_job_waits_for_nobody() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let began = Instant::now();
    for name in names(20) {
        let fence = take(&writer, &name).await;
        writer.commit(ending(&name, fence)).await.unwrap();
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(ledger.log().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_while_a_batch_is_written_makes_the_next_one() {
    let ledger = Scripted::new();
    ledger.gate.forget_permits(OPEN);
    let writer = writer(&ledger);
    let claims = ["m", "c", "a", "b"].map(|name| writer.claim(request(name)));
    let mut claims = Box::pin(join_all(claims));
    assert!(claims.as_mut().now_or_never().is_none());
    settle().await;
    assert_eq!(ledger.log(), ["claim a b c m"]);
    let mut later = Box::pin(join_all(["z", "y"].map(|name| writer.claim(request(name)))));
    assert!(later.as_mut().now_or_never().is_none());
    settle().await;
    assert_eq!(ledger.log(), [""; 0]);
    ledger.gate.add_permits(2);
    claims.await;
    later.await;
    assert_eq!(ledger.log(), ["claim y z"]);
}

#[tokio::test(start_paused = true)]
async fn with_many_jobs_in_flight_batches_keep_their_distance() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let names = names(COMPANY_AND_MORE);
    let fences = take_all(&writer, &names).await;
    ledger.log();
    let began = Instant::now();
    let commit = async |name: &String, after: u64| {
        sleep(Duration::from_millis(after)).await;
        writer.commit(ending(name, fences[name])).await.unwrap();
    };
    tokio::join!(
        commit(&names[3], 0),
        commit(&names[2], 1),
        commit(&names[1], 4)
    );
    assert_eq!(ledger.log(), ["commit j01 j02 j03"]);
    assert_eq!(began.elapsed(), Duration::from_millis(5));
}

/// As many jobs as make waiting worth while.
const COMPANY_AND_MORE: usize = 20;

#[tokio::test(start_paused = true)]
async fn a_full_batch_waits_no_longer() {
    let ledger = Scripted::new();
    let settings = WriterSettings {
        batch_rows: COMPANY_AND_MORE,
        ..WriterSettings::default()
    };
    let writer = start(&ledger, settings);
    let names = names(COMPANY_AND_MORE);
    let fences = take_all(&writer, &names).await;
    let began = Instant::now();
    join_all(
        names
            .iter()
            .map(|name| writer.commit(ending(name, fences[name]))),
    )
    .await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_its_bound_and_no_id_twice() {
    let ledger = Scripted::new();
    let settings = WriterSettings {
        batch_rows: 3,
        ..WriterSettings::default()
    };
    let writer = start(&ledger, settings);
    let endings = ["a", "b", "a", "c", "d", "a"].map(|name| writer.commit(ending(name, Fence(1))));
    join_all(endings).await;
    assert_eq!(ledger.log(), ["commit a b c", "commit a d", "commit a"]);
}

#[tokio::test(start_paused = true)]
async fn endings_are_written_before_claims() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let (claimed, committed) = tokio::join!(
        writer.claim(request("a")),
        writer.commit(ending("a", Fence(1)))
    );
    claimed.unwrap();
    committed.unwrap();
    assert_eq!(ledger.log(), ["commit a", "claim a"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_hurts_only_itself() {
    let ledger = Scripted::new();
    ledger.set(|faults| faults.refused = HashSet::from(["b"]));
    let writer = writer(&ledger);
    let claims = ["a", "b", "c"].map(|name| writer.claim(request(name)));
    let claims = join_all(claims).await;
    assert!(matches!(claims[0], Ok(Claim::Taken(_))), "{:?}", claims[0]);
    assert_eq!(claims[1], Err(LedgerError::Refused("b".to_owned())));
    assert!(matches!(claims[2], Ok(Claim::Taken(_))), "{:?}", claims[2]);
    let expected = ["claim a b c", "claim a", "claim b", "claim c"];
    assert_eq!(ledger.log(), expected);
    assert_eq!(*writer.status().borrow(), LedgerStatus::Up);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_down_answers_at_once_and_is_probed_until_it_is_up() {
    let ledger = Scripted::new();
    let metrics = Arc::new(Metrics::try_new(1).unwrap());
    let writer = LedgerWriter::start(
        Arc::clone(&ledger) as Arc<dyn Ledger>,
        WriterSettings::default(),
        Arc::clone(&metrics),
    );
    let fence = take(&writer, "held").await;
    assert_eq!(metrics.ledger_up.get(), 1);
    ledger.set(|faults| faults.down = true);
    assert!(is_down(writer.claim(request("a")).await));
    assert_eq!(metrics.ledger_up.get(), 0);
    let mut status = writer.status();
    let down = LedgerStatus::Down("unplugged".to_owned());
    assert_eq!(*status.borrow_and_update(), down);
    ledger.log();

    // Nothing is tried but the probe: after 0.5 s, then 1 s, 2 s, 4 s, 4 s, 4 s later.
    let began = Instant::now();
    assert!(is_down(writer.claim(request("b")).await));
    assert!(is_down(writer.commit(ending("held", fence)).await));
    assert!(is_down(writer.note_buried(id("held"), fence).await));
    assert_eq!(began.elapsed(), Duration::ZERO);
    sleep(Duration::from_millis(15_400)).await;
    assert_eq!(ledger.log(), ["probe"; 5]);
    assert!(!status.has_changed().unwrap());

    ledger.set(|faults| faults.down = false);
    status.changed().await.unwrap();
    assert_eq!(*status.borrow(), LedgerStatus::Up);
    assert_eq!(metrics.ledger_up.get(), 1);
    assert_eq!(began.elapsed(), Duration::from_millis(15_500));
    // First of all, what was held all the time is renewed.
    settle().await;
    assert_eq!(ledger.log(), ["probe", "renew held"]);
    writer.commit(ending("held", fence)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_hangs_is_down() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    ledger.set(|faults| faults.hangs = true);
    let began = Instant::now();
    let late = LedgerError::Down("no answer within 10s".to_owned());
    assert_eq!(writer.claim(request("a")).await, Err(late));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert!(is_down(writer.claim(request("b")).await));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_renewed_and_holding_costs_no_call() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let fences = take_all(&writer, &names(3)).await;
    ledger.log();
    for _ in 0..300 {
        sleep(Duration::from_millis(1_700)).await;
        for (name, fence) in &fences {
            let before = ledger.log.lock().unwrap().len();
            assert_eq!(writer.hold(&id(name), *fence).await, Ok(true));
            assert_eq!(ledger.log.lock().unwrap().len(), before);
        }
    }
    let renewals = ledger.log().into_iter().filter(|call| call != "purge");
    let renewals: Vec<_> = renewals.collect();
    // 510 s, a renewal of all of it every 5 s.
    assert!((101..=102).contains(&renewals.len()), "{}", renewals.len());
    assert!(
        renewals.iter().all(|call| call == "renew j00 j01 j02"),
        "{renewals:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_short_job_is_never_renewed() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    sleep(Duration::from_millis(2_600)).await;
    let fence = take(&writer, "a").await;
    sleep(Duration::from_millis(2_500)).await;
    writer.commit(ending("a", fence)).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(ledger.log(), ["claim a", "commit a"]);
}

#[tokio::test(start_paused = true)]
async fn a_stale_lease_is_renewed_once_before_it_is_relied_upon() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let fence = take(&writer, "a").await;
    ledger.log();
    // Nobody turns the task meanwhile, as when the process was stopped for a while.
    advance(Duration::from_secs(8)).await;
    let holds = (0..10).map(|_| writer.hold(&JOB, fence));
    for held in join_all(holds).await {
        assert_eq!(held, Ok(true));
    }
    assert_eq!(ledger.log(), ["renew a"]);
}

static JOB: std::sync::LazyLock<JobId> = std::sync::LazyLock::new(|| id("a"));

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_not_held() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let fence = take(&writer, "a").await;
    ledger.set(|faults| faults.lost = HashSet::from(["a"]));
    assert_eq!(writer.hold(&JOB, fence).await, Ok(true));
    sleep(Duration::from_secs(6)).await;
    assert_eq!(writer.hold(&JOB, fence).await, Ok(false));
    ledger.log();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(ledger.log(), [""; 0], "and not renewed again");
    // A newer claim is another matter.
    let newer = take(&writer, "a").await;
    assert_eq!(writer.hold(&JOB, fence).await, Ok(false));
    assert_eq!(writer.hold(&JOB, newer).await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_relied_upon_while_the_ledger_is_down() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let fence = take(&writer, "a").await;
    ledger.set(|faults| faults.down = true);
    assert_eq!(writer.hold(&JOB, fence).await, Ok(true));
    sleep(Duration::from_secs(8)).await;
    assert!(is_down(writer.hold(&JOB, fence).await));
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_or_is_forgotten_is_renewed_no_more() {
    let ledger = Scripted::new();
    let writer = writer(&ledger);
    let fences = take_all(&writer, &names(3)).await;
    writer.commit(ending("j00", fences["j00"])).await.unwrap();
    writer.forget(&id("j01"), fences["j01"]);
    writer.forget(&id("j02"), Fence(99));
    ledger.log();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(ledger.log(), ["renew j02"]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_waits_for_is_not_made_or_given_back() {
    let ledger = Scripted::new();
    ledger.gate.forget_permits(OPEN);
    let writer = writer(&ledger);
    // One is being written when its asker goes, one has not begun, one stays.
    let mut gone = Box::pin(writer.claim(request("written")));
    assert!(gone.as_mut().now_or_never().is_none());
    settle().await;
    let mut also_gone = Box::pin(writer.claim(request("waiting")));
    let stays = writer.claim(request("stays"));
    assert!(also_gone.as_mut().now_or_never().is_none());
    drop((gone, also_gone));
    ledger.gate.add_permits(OPEN);
    stays.await.unwrap();
    settle().await;
    let log = ledger.log();
    assert_eq!(log, ["claim written", "interrupt written", "claim stays"]);
    // Answered, but the answer was never read.
    let mut gone = Box::pin(writer.claim(request("answered")));
    assert!(gone.as_mut().now_or_never().is_none());
    settle().await;
    drop(gone);
    settle().await;
    assert_eq!(ledger.log(), ["claim answered", "interrupt answered"]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_ends_unasked_says_so_at_once_to_everyone() {
    let ledger = Scripted::new();
    let metrics = Arc::new(Metrics::try_new(1).unwrap());
    let writer = LedgerWriter::start(
        Arc::clone(&ledger) as Arc<dyn Ledger>,
        WriterSettings::default(),
        Arc::clone(&metrics),
    );
    let fence = take(&writer, "held").await;
    let mut ended = Box::pin(writer.ended());
    assert!(ended.as_mut().now_or_never().is_none());
    ledger.set(|faults| faults.panics = true);
    let began = Instant::now();
    let gone = LedgerError::Ended("as scripted".to_owned());
    // One is being written when the task ends, one waits behind it, the others come later.
    let (written, waits) = tokio::join!(
        writer.commit(ending("held", fence)),
        writer.claim(request("waits"))
    );
    assert_eq!((written, waits), (Err(gone.clone()), Err(gone.clone())));
    assert_eq!(writer.claim(request("later")).await, Err(gone.clone()));
    assert_eq!(writer.note_buried(id("held"), fence).await, Err(gone));
    assert_eq!(ended.await, "as scripted");
    assert_eq!(writer.ended().await, "as scripted");
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The lanes look at the status; nothing that waits for `Up` goes on.
    let mut status = writer.status();
    assert!(matches!(&*status.borrow(), LedgerStatus::Down(why) if why.contains("as scripted")));
    let up = status.wait_for(|status| *status == LedgerStatus::Up).await;
    assert!(up.is_err());
    assert_eq!(metrics.ledger_up.get(), 0);
    writer.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_closed_has_not_ended_unasked() {
    let writer = writer(&Scripted::new());
    let mut ended = Box::pin(writer.ended());
    writer.close().await;
    sleep(Duration::from_secs(3600)).await;
    assert!(ended.as_mut().now_or_never().is_none());
    assert!(is_down(writer.claim(request("later")).await));
}

#[tokio::test(start_paused = true)]
async fn closing_writes_what_was_accepted_and_nothing_more() {
    let ledger = Scripted::new();
    ledger.gate.forget_permits(OPEN);
    let writer = writer(&ledger);
    let endings = ["a", "b"].map(|name| writer.commit(ending(name, Fence(1))));
    let mut endings = Box::pin(join_all(endings));
    assert!(endings.as_mut().now_or_never().is_none());
    settle().await;
    let mut close = Box::pin(writer.close());
    assert!(close.as_mut().now_or_never().is_none());
    assert!(endings.as_mut().now_or_never().is_none());
    ledger.gate.add_permits(OPEN);
    close.await;
    assert_eq!(ledger.log(), ["commit a b"]);
    for committed in endings.await {
        assert_eq!(committed, Ok(Committed::Superseded));
    }
    writer.close().await;
    assert!(is_down(writer.claim(request("later")).await));
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_ledger_that_is_down() {
    let ledger = Scripted::new();
    ledger.set(|faults| faults.down = true);
    let writer = writer(&ledger);
    assert!(is_down(writer.claim(request("a")).await));
    let began = Instant::now();
    writer.close().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn old_rows_are_purged_every_minute_and_in_haste_while_there_are_many() {
    let ledger = Scripted::new();
    ledger.set(|faults| faults.old = 3);
    let _writer = writer(&ledger);
    sleep(Duration::from_secs(59)).await;
    assert_eq!(ledger.log(), [""; 0]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(ledger.log(), ["purge"; 4]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ledger.log(), ["purge"]);
}

#[tokio::test(start_paused = true)]
async fn transactions_are_measured() {
    let ledger = Scripted::new();
    let metrics = Arc::new(Metrics::try_new(1).unwrap());
    let shared = Arc::clone(&ledger) as Arc<dyn Ledger>;
    let writer = LedgerWriter::start(shared, WriterSettings::default(), Arc::clone(&metrics));
    take_all(&writer, &names(3)).await;
    assert_eq!(metrics.ledger_commit.get_sample_count(), 1);
    assert_eq!(metrics.ledger_batch_rows.get_sample_count(), 1);
    assert!((metrics.ledger_batch_rows.get_sample_sum() - 3.0).abs() < f64::EPSILON);
}
