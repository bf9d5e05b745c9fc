//! Several workers with one PostgreSQL ledger: an id still takes effect once.

use bucket_brigade::job::{Lane, State};

use crate::stage::{self, Stage};

const IDS: usize = 1_000;
const COPIES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_copies_of_each_of_a_thousand_ids_on_two_workers_are_a_thousand_puts() {
    let mut stage = Stage::new().await.on_postgres().await;
    stage.declare().await;
    let workers = [stage.process(), stage.process()];
    let copy = |n: usize| stage::put(&format!("j{}", n % IDS), &format!("k{}", n % IDS));
    stage
        .publish_all(Lane::Upload, (0..COPIES * IDS).map(copy).collect())
        .await;
    stage.until_count(State::Completed, IDS).await;
    // A copy that met the other worker's lease is parked, and comes again.
    stage.until_empty(Lane::Upload).await;
    for mut worker in workers {
        worker.terminate();
        assert_eq!(worker.wait().await, Some(0));
    }

    assert_eq!(stage.puts(), IDS as u64);
    let owners: std::collections::BTreeSet<_> = stage
        .rows()
        .await
        .into_values()
        .map(|row| row.worker)
        .collect();
    assert_eq!(owners.len(), 2, "both took part: {owners:?}");
    stage.assert_all_completed().await;
}
