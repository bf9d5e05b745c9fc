//! What a lane's limit learns from a call that was sent: how it ended, or that it was cut off.

use tokio::time::Instant;

use super::{door::Door, guard::Caller};
use crate::{
    job::{CallName, Failure, FailureClass},
    resilience::{CallEnd, CallKind, CircuitBreaker, EndedCall},
};

/// A call that is on its way.
pub(super) struct SentCall<'a> {
    caller: Caller<'a>,
    name: CallName,
    door: &'a Door,
    since: Instant,
    /// Of the slots, when it was sent.
    epoch: u32,
    has_ended: bool,
}

impl<'a> SentCall<'a> {
    /// One that is sent now.
    pub(super) fn new(caller: Caller<'a>, name: CallName, door: &'a Door) -> Self {
        Self {
            caller,
            name,
            door,
            since: Instant::now(),
            epoch: caller.context.slots.epoch(),
            has_ended: false,
        }
    }

    /// The call has ended.
    pub(super) fn ended(mut self, failure: Option<&Failure>) {
        self.has_ended = true;
        let end = match failure.map(|failure| failure.class) {
            None
            | Some(
                FailureClass::Permanent
                | FailureClass::Conflict
                | FailureClass::Unreadable
                | FailureClass::JobLocal,
            ) => CallEnd::Answered,
            Some(FailureClass::Throttled) => CallEnd::Throttled,
            Some(FailureClass::TimedOut) => CallEnd::TimedOut,
            Some(
                FailureClass::Unavailable
                | FailureClass::Credentials
                | FailureClass::Misrouted
                | FailureClass::Cancelled,
            ) => return,
        };
        self.tell(end, failure.is_some());
    }

    /// Only while the circuit is closed: what ends later says nothing of the store as it is.
    fn tell(&self, end: CallEnd, failed: bool) {
        let context = self.caller.context;
        let slots = &context.slots;
        let is_closed = |breaker: &CircuitBreaker| breaker.snapshot().is_closed();
        if !slots.is_adaptive() || !context.breaker.as_deref().is_none_or(is_closed) {
            return;
        }
        let bytes = self.door.progress().map_or(0, |progress| progress.bytes());
        let traffic = self.caller.storage.traffic(self.caller.lane);
        slots.saw(&EndedCall {
            kind: CallKind::new(self.name.as_str(), bytes, failed),
            epoch: self.epoch,
            took: self.since.elapsed(),
            // Not when the slots wait for something else than S3.
            full: slots.available() == 0 && !traffic.is_held_back(),
            end,
        });
    }
}

impl Drop for SentCall<'_> {
    /// A call that moves until its job's deadline cuts it off is one of too many, as one that stands still is. A short one
    /// was cut off by something else, a drain or a lost lease.
    fn drop(&mut self) {
        let is_long = self.since.elapsed() > self.caller.storage.clients.attempt_timeout;
        if !self.has_ended && is_long && !self.caller.context.draining.is_cancelled() {
            self.tell(CallEnd::TimedOut, true);
        }
    }
}
