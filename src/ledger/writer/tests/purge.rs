//! The purger on a ledger in which jobs end at a steady rate and a deletion takes its time, on paused time.

use tokio::time::timeout;

use super::*;

/// What a row takes to delete: SQLite's measured cost, generously.
const ROW: Duration = Duration::from_micros(25);
const MINUTE: Duration = Duration::from_secs(60);

fn ending_at(ledger: &Arc<Scripted>, rate: u32) {
    ledger.set(|faults| {
        faults.row = ROW;
        faults.rate = rate;
        faults.began = Some(Instant::now());
    });
}

fn forgetful(ledger: &Arc<Scripted>) -> LedgerWriter {
    let settings = WriterSettings {
        retention: MINUTE,
        ..WriterSettings::default()
    };
    start(ledger, settings)
}

#[tokio::test(start_paused = true)]
async fn old_rows_go_as_fast_as_jobs_end() {
    for apart in [false, true] {
        let ledger = Scripted::new();
        ledger.set(|faults| faults.purges_apart = apart);
        let _writer = forgetful(&ledger);
        ending_at(&ledger, 5_000);
        // The first look is after a tenth of the retention.
        sleep(Duration::from_secs(12)).await;
        for _ in 0..300 {
            sleep(Duration::from_secs(1)).await;
            let due = ledger.due();
            assert!(due < 2_500, "{due} rows are due, apart: {apart}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_worked_off_beside_what_ends_meanwhile() {
    let ledger = Scripted::new();
    ledger.set(|faults| faults.backlog = 500_000);
    let _writer = forgetful(&ledger);
    ending_at(&ledger, 2_000);
    sleep(3 * MINUTE).await;
    assert!(ledger.due() < 2_500, "{} rows are due", ledger.due());
}

#[tokio::test(start_paused = true)]
async fn a_purge_keeps_up_on_a_slow_disk_beside_a_writer_that_never_rests() {
    let ledger = Scripted::new();
    ledger.set(|faults| faults.batch = Duration::from_millis(60));
    let writer = forgetful(&ledger);
    ending_at(&ledger, 5_000);
    ledger.set(|faults| faults.row = 3 * ROW);
    let busy = async {
        for number in 0.. {
            take(&writer, &format!("j{number}")).await;
        }
    };
    assert!(timeout(2 * MINUTE, busy).await.is_err());
    assert!(ledger.due() < 2_500, "{} rows are due", ledger.due());
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_one_slice_at_most_and_beside_it_for_none() {
    for (apart, most) in [(false, 4), (true, 0)] {
        let ledger = Scripted::new();
        ledger.set(|faults| {
            faults.backlog = u64::MAX / 2;
            faults.purges_apart = apart;
        });
        let writer = forgetful(&ledger);
        ending_at(&ledger, 0);
        sleep(Duration::from_secs(10)).await;
        for name in names(99) {
            let began = Instant::now();
            take(&writer, &name).await;
            let waited = began.elapsed();
            assert!(
                waited <= Duration::from_millis(most),
                "{waited:?}, apart: {apart}"
            );
            sleep(Duration::from_micros(1_700)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_purged_while_the_ledger_is_down() {
    let ledger = Scripted::new();
    let writer = forgetful(&ledger);
    ledger.set(|faults| faults.down = true);
    assert!(is_down(writer.claim(request("a")).await));
    ledger.log();
    sleep(MINUTE).await;
    assert!(!ledger.log().iter().any(|call| call.starts_with("purge")));
}
