//! Aborts outside of jobs.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::job::options::NO_HEADERS;

#[tokio::test(start_paused = true)]
async fn an_answer_that_trickles_for_ever_does_not_hold_the_sweeper() {
    for answers in [vec![Answer::Trickles], vec![aborted(), Answer::Trickles]] {
        let stage = Stage::new(answers);
        let calls = AtomicU32::new(0);
        let abort = stage
            .storage
            .abort_upload(("b", "k"), "u1", &NO_HEADERS, &calls);
        let end = tokio::time::timeout(Duration::from_secs(3600), abort).await;
        let failure = end.expect("it must end").unwrap_err();
        assert_eq!(failure.class, FailureClass::TimedOut, "{failure}");
        assert_eq!(failure.code, "attempt_timeout");
    }
}
