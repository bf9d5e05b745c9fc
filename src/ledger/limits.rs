//! How long a database may take to answer. No wait is without an end: what does not answer is down, and is tried anew
//! (RESILIENCE.md, event 22).
//!
//! The sum is what matters: a database that can be reached again is written again within 15 s. The worst case is a
//! probe that hangs to its end, the longest wait between two probes, and a second probe.

use std::time::Duration;

use super::LedgerError;

/// A batch of claims or endings, or whatever else is written. Below the writer's own limit, whose sentence
/// knows less.
pub(super) const WRITE: Duration = Duration::from_secs(9);
/// A probe.
pub(super) const PROBE: Duration = Duration::from_secs(6);
/// A look at the schema, or another small question.
pub(super) const LOOK: Duration = Duration::from_secs(6);
/// A list or a count for people, which may read many rows.
pub(super) const READ: Duration = Duration::from_secs(30);
/// The turn to migrate, while another process does.
pub(super) const MIGRATION_TURN: Duration = Duration::from_secs(10);

/// Does the work within a limit; past it the ledger is down. `place` names the database for people.
pub(super) async fn within<T>(
    limit: Duration,
    place: &str,
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    match tokio::time::timeout(limit, work).await {
        Ok(Err(LedgerError::Down(why))) => Err(LedgerError::Down(format!("{place}: {why}"))),
        Ok(answer) => answer,
        Err(_) => Err(LedgerError::Down(format!(
            "{place} gives no answer within {limit:?}"
        ))),
    }
}
