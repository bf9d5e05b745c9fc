//! The ledger: reachable, of the right schema, writable, with a clock that agrees with ours.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Finding, apart};
use crate::{
    config::Settings,
    job::Timestamp,
    ledger::{self, LedgerError},
    worker::new_owner,
};

/// A clock further away is worth a word; the ledger's own times are all the database's.
const CLOCKS_AGREE: i64 = 5;

pub(super) async fn examine(settings: &Settings, timeout: Duration) -> Vec<Finding> {
    let url = settings.ledger.url.expose_secret();
    let examining = async {
        let for_a_fleet = ledger::is_for_a_fleet(url)?;
        ledger::check_place(url)?;
        let pending = ledger::pending(url).await?;
        if !pending.is_empty() {
            let message = format!("the schema is behind: {}", pending.join(", "));
            let cure = if settings.ledger.migrate {
                "run `brigade migrate`, or start a worker, which does it"
            } else {
                "run `brigade migrate`: ledger.migrate is false, so workers wait for it"
            };
            return Ok(vec![Finding::mend("ledger", message, cure)]);
        }
        let open = ledger::open(url, new_owner(), settings.ledger.lease).await?;
        open.probe().await?;
        drop(open);
        let written = "reachable, schema up to date, can be written";
        let mut findings = vec![Finding::ok("ledger", written)];
        if !for_a_fleet {
            let message = "SQLite: for the workers of one machine; a fleet shares PostgreSQL";
            findings.push(Finding::ok("ledger", message));
        }
        if let Some(theirs) = ledger::clock(url).await? {
            findings.push(clock(Timestamp::now(), theirs));
        }
        Ok::<_, LedgerError>(findings)
    };
    let why = match tokio::time::timeout(timeout, examining).await {
        Ok(Ok(findings)) => return findings,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the ledger did not answer in time".to_owned(),
    };
    let cure = "see that the database runs, that there is room on its disk, and that ledger.url \
                (DATABASE_URL) names it";
    let why = format!("{why} ({})", settings.ledger.url_named);
    vec![Finding::mend("ledger", why, cure)]
}

fn clock(ours: Timestamp, theirs: Timestamp) -> Finding {
    let ahead = (ours.as_micros() - theirs.as_micros()) / 1_000_000;
    let message = format!("this machine is {} the database", apart(ahead));
    if ahead.abs() <= CLOCKS_AGREE {
        return Finding::ok("clock ledger", message);
    }
    let cure = "let NTP set both clocks: ages and waits are counted across machines";
    Finding::warn("clock ledger", message, cure)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn clocks_apart_are_said_with_their_direction() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let far = Duration::from_secs(60);
        assert_eq!(clock(now, now).verdict, Verdict::Ok);
        let behind = clock(now, now.plus(far));
        assert_eq!(behind.verdict, Verdict::Warn);
        assert!(behind.message.contains("60 s behind"), "{}", behind.message);
        assert!(clock(now, now.minus(far)).message.contains("60 s ahead of"));
    }
}
