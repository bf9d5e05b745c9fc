//! The S3 calls of a lane now: those that wait in `send()`, and those that are on their way.

use prometheus::IntGauge;

use crate::{job::Lane, metrics::Metrics};

/// The two numbers of one lane, which are its gauges.
#[derive(Debug)]
pub(super) struct Traffic {
    held: IntGauge,
    sent: IntGauge,
}

/// A call that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a IntGauge);

impl Traffic {
    pub(super) fn of(lane: Lane, metrics: &Metrics) -> Self {
        let gauge = |state| {
            let labels = [lane.as_str(), state];
            metrics.s3_calls.with_label_values(&labels)
        };
        Self {
            held: gauge("held"),
            sent: gauge("sent"),
        }
    }

    /// A call that is not sent yet: the rate limiter or missing credentials hold it back.
    pub(super) fn held(&self) -> Counted<'_> {
        Counted::new(&self.held)
    }

    /// A call that is on its way.
    pub(super) fn sent(&self) -> Counted<'_> {
        Counted::new(&self.sent)
    }

    /// Whether it is what holds calls back that the lane's slots wait for, and not S3.
    pub(super) fn is_held_back(&self) -> bool {
        self.held.get() > self.sent.get()
    }
}

impl<'a> Counted<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
