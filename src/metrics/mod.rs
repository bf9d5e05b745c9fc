//! Every metric of CONTRACT.md section 5, in one struct. The doc comment of a field is its help text.
//!
//! Labels come from enums; closed label sets start at 0, so that `rate()` sees the first event. The
//! `bucket` label is bounded (`bucket_names.rs`), and no two label sets share a series (`family.rs`).

mod bucket_names;
mod family;

use std::time::Duration;

use bucket_names::BucketNames;
pub use family::{Child, Family};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder,
};

use crate::{
    job::{
        CallName, Circuit, FailureClass, Lane, OperationName,
        outcome::{DeadReason, ParkReason, RequeueReason},
    },
    resilience::circuit_breaker::CircuitState,
};

/// Buckets for jobs and queue waits, in seconds.
const JOB_BUCKETS: [f64; 15] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 120., 300., 600., 1800.,
];
/// Buckets for calls to S3 and to the ledger, in seconds.
const CALL_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30.,
];
/// Buckets for batch sizes.
const COUNT_BUCKETS: [f64; 10] = [1., 2., 5., 10., 20., 50., 100., 200., 500., 1000.];

// `…Vec` in the table is a `Family` with one label for each name in brackets.
macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident: $kind:ident = $name:literal $([$($label:literal),*])? $(in $buckets:ident)? ;)*) => {
        /// All metrics of one process; cheap to share, never global.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            buckets: BucketNames,
            $( $(#[doc = $help])+ pub $field: metrics!(@type $kind $([$($label),*])?), )*
        }

        /// Name, labels and help text of every metric.
        #[cfg(test)]
        const TABLE: &[(&str, &[&str], &str)] =
            &[$( ($name, &[$($($label),*)?], concat!($($help),+)), )*];

        impl Metrics {
            /// A registry of its own with every closed label set at 0. `max_bucket_labels` bounds the
            /// `bucket` label.
            pub fn try_new(max_bucket_labels: usize) -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                $(
                    let opts = Opts::new($name, concat!($($help),+).trim());
                    let $field = metrics!(@new $kind, opts $([$($label),*])? $(in $buckets)?);
                    registry.register(Box::new($field.clone()))?;
                )*
                let metrics = Self { registry, buckets: BucketNames::new(max_bucket_labels), $($field,)* };
                metrics.initialise();
                Ok(metrics)
            }
        }
    };
    (@type IntCounterVec [$($label:literal),*]) => { Family<IntCounter, { [$($label),*].len() }> };
    (@type IntGaugeVec [$($label:literal),*]) => { Family<IntGauge, { [$($label),*].len() }> };
    (@type HistogramVec [$($label:literal),*]) => { Family<Histogram, { [$($label),*].len() }> };
    (@type $kind:ident) => { $kind };
    (@new Histogram, $opts:ident in $buckets:ident) => {
        Histogram::with_opts(HistogramOpts::from($opts).buckets($buckets.to_vec()))?
    };
    (@new HistogramVec, $opts:ident [$($label:literal),*] in $buckets:ident) => {
        Family::try_new($opts, [$($label),*], &$buckets)?
    };
    (@new $kind:ident, $opts:ident [$($label:literal),*]) => { Family::try_new($opts, [$($label),*], &[])? };
    (@new $kind:ident, $opts:ident) => { $kind::with_opts($opts)? };
}

metrics! {
    /// S3 operations by their end, after all retries: success, error or refused by an open circuit.
    s3_operations: IntCounterVec = "s3_operations_total" ["operation", "bucket", "result"];
    /// Duration of successful S3 operations in seconds, waits between attempts included.
    s3_operation_duration: HistogramVec = "s3_operation_duration_seconds" ["operation", "bucket"] in CALL_BUCKETS;
    /// Deliveries by their outcome.
    jobs: IntCounterVec = "brigade_jobs_total" ["lane", "operation", "outcome"];
    /// Time from the start of a job's run to its outcome, in seconds.
    job_duration: HistogramVec = "brigade_job_duration_seconds" ["lane"] in JOB_BUCKETS;
    /// Time from a job's publishing to its first start, in seconds.
    job_queue_wait: HistogramVec = "brigade_job_queue_wait_seconds" ["lane"] in JOB_BUCKETS;
    /// Jobs that run now.
    jobs_in_flight: IntGaugeVec = "brigade_jobs_in_flight" ["lane"];
    /// 1 while the lane consumes its queue at full prefetch, else 0; absent for lanes that this worker does not run.
    lane_consuming: IntGaugeVec = "brigade_lane_consuming" ["lane"];
    /// S3 calls that the lane makes at a time; at most lanes.<lane>.concurrency, below which it adapts.
    lane_concurrency_limit: IntGaugeVec = "brigade_lane_concurrency_limit" ["lane"];
    /// 1 for the circuit's state, 0 for its other states.
    circuit_state: IntGaugeVec = "brigade_circuit_state" ["circuit", "state"];
    /// Transitions of circuits.
    circuit_transitions: IntCounterVec = "brigade_circuit_transitions_total" ["circuit", "from", "to"];
    /// Operations that an open circuit refused.
    circuit_rejections: IntCounterVec = "brigade_circuit_rejections_total" ["circuit"];
    /// Attempts after the first, by the failure before them.
    s3_retries: IntCounterVec = "brigade_s3_retries_total" ["operation", "class"];
    /// S3 calls now: held = they wait for the rate limiter or for credentials, sent = they are on their way.
    s3_calls: IntGaugeVec = "brigade_s3_calls" ["lane", "state"];
    /// Duration of single S3 calls in seconds, by their end; from when they are sent.
    s3_attempt_duration: HistogramVec = "brigade_s3_attempt_duration_seconds" ["operation", "class"] in CALL_BUCKETS;
    /// Deliveries given back to their queue.
    requeued: IntCounterVec = "brigade_requeued_total" ["lane", "reason"];
    /// Deliveries parked in a retry queue.
    parked: IntCounterVec = "brigade_parked_total" ["lane", "reason"];
    /// Deliveries buried in a dead queue.
    dead_lettered: IntCounterVec = "brigade_dead_lettered_total" ["lane", "reason"];
    /// Dead letters because S3 denied access: a policy mistake empties a queue this way.
    access_denied: IntCounterVec = "brigade_access_denied_total" ["lane"];
    /// Deliveries of jobs that had finished before.
    duplicates: IntCounterVec = "brigade_duplicates_total" ["lane"];
    /// Deliveries that asked for something else than the job of their id: it was not done.
    repeats_differ: IntCounterVec = "brigade_repeats_differ_total" ["lane"];
    /// Deliveries that the broker marked as redelivered.
    redeliveries: IntCounterVec = "brigade_redeliveries_total" ["lane"];
    /// Acknowledgements that could not be sent; the redelivery meets the ledger.
    acks_lost: IntCounterVec = "brigade_acks_lost_total" ["lane"];
    /// Replies to producers.
    replies: IntCounterVec = "brigade_replies_total" ["result"];
    /// Outcome events that the broker did not take.
    events_lost: IntCounter = "brigade_events_lost_total";
    /// Object bytes: in = read from S3, out = written to S3.
    s3_bytes: IntCounterVec = "brigade_s3_bytes_total" ["direction"];
    /// Keys in one delete call.
    cleanup_batch_keys: Histogram = "brigade_cleanup_batch_keys" in COUNT_BUCKETS;
    /// Cleanup jobs given up on, by design.
    cleanup_abandoned: IntCounter = "brigade_cleanup_abandoned_total";
    /// 1 while the AMQP connection of that role stands.
    amqp_connected: IntGaugeVec = "brigade_amqp_connected" ["role"];
    /// AMQP connections rebuilt after the first.
    amqp_reconnects: IntCounterVec = "brigade_amqp_reconnects_total" ["role"];
    /// 1 while the ledger can be written.
    ledger_up: IntGauge = "brigade_ledger_up";
    /// Duration of ledger transactions in seconds.
    ledger_commit: Histogram = "brigade_ledger_commit_seconds" in CALL_BUCKETS;
    /// Rows in one ledger transaction.
    ledger_batch_rows: Histogram = "brigade_ledger_batch_rows" in COUNT_BUCKETS;
    /// Lines of the log that were dropped because standard error did not take them in time.
    log_lines_dropped: IntCounter = "brigade_log_lines_dropped_total";
    /// 1; the labels say which build runs.
    build_info: IntGaugeVec = "brigade_build_info" ["version", "revision"];
}

/// How an S3 operation ended, for `s3_operations_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationResult {
    /// The service did it.
    Success,
    /// It failed, for good or after all attempts.
    Error,
    /// The breaker refused it.
    CircuitOpen,
}

impl OperationResult {
    const ALL: [Self; 3] = [Self::Success, Self::Error, Self::CircuitOpen];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// The two AMQP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives deliveries and acks them.
    Consume,
    /// Publishes copies, replies and events.
    Publish,
}

impl Role {
    /// As in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Publish => "publish",
        }
    }
}

impl Metrics {
    /// One S3 operation ended; `took` is observed for successes.
    pub fn s3_operation(
        &self,
        operation: impl Into<CallName>,
        bucket: &str,
        result: OperationResult,
        took: Duration,
    ) {
        let bucket = self.buckets.label(bucket, result);
        let (operation, result_label) = (operation.into().as_str(), result.as_str());
        let count = self
            .s3_operations
            .with_label_values(&[operation, bucket, result_label]);
        count.inc();
        if count.get() == 1 {
            // Buckets are no closed set, so this is the first chance to show the other results at 0.
            for other in OperationResult::ALL {
                self.s3_operations
                    .with_label_values(&[operation, bucket, other.as_str()]);
            }
        }
        if result == OperationResult::Success {
            let seconds = took.as_secs_f64();
            self.s3_operation_duration
                .with_label_values(&[operation, bucket])
                .observe(seconds);
        }
    }

    /// One S3 call ended; `None` is a success.
    pub fn s3_attempt(&self, call: CallName, end: Option<FailureClass>, took: Duration) {
        let class = end.map_or("ok", FailureClass::as_str);
        let labels = [call.as_str(), class];
        self.s3_attempt_duration
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// A circuit changed its state.
    pub fn circuit_changed(&self, circuit: Circuit, from: CircuitState, to: CircuitState) {
        let labels = [circuit.as_str(), from.as_str(), to.as_str()];
        self.circuit_transitions.with_label_values(&labels).inc();
        self.show_circuit(circuit, to);
    }

    /// The page for `/metrics`, in Prometheus' text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    }

    fn show_circuit(&self, circuit: Circuit, state: CircuitState) {
        for each in CircuitState::ALL {
            let gauge = self
                .circuit_state
                .with_label_values(&[circuit.as_str(), each.as_str()]);
            gauge.set(i64::from(each == state));
        }
    }

    fn initialise(&self) {
        for lane in Lane::ALL {
            let lane_label = lane.as_str();
            self.job_duration.with_label_values(&[lane_label]);
            self.job_queue_wait.with_label_values(&[lane_label]);
            self.jobs_in_flight.with_label_values(&[lane_label]);
            for counter in [
                &self.duplicates,
                &self.repeats_differ,
                &self.redeliveries,
                &self.acks_lost,
                &self.access_denied,
            ] {
                counter.with_label_values(&[lane_label]);
            }
            for reason in RequeueReason::ALL {
                self.requeued
                    .with_label_values(&[lane_label, reason.as_str()]);
            }
            for reason in ParkReason::all() {
                self.parked
                    .with_label_values(&[lane_label, reason.as_str()]);
            }
            for reason in DeadReason::ALL {
                self.dead_lettered
                    .with_label_values(&[lane_label, reason.as_str()]);
            }
            self.jobs
                .with_label_values(&[lane_label, "unknown", "dead_lettered"]);
            for operation in OperationName::ALL
                .into_iter()
                .filter(|name| name.lane() == lane)
            {
                for outcome in [
                    "completed",
                    "dead_lettered",
                    "retrying",
                    "requeued",
                    "interrupted",
                    "duplicate",
                ] {
                    self.jobs
                        .with_label_values(&[lane_label, operation.as_str(), outcome]);
                }
            }
        }
        for operation in OperationName::ALL
            .into_iter()
            .filter(|name| name.lane() == Lane::Cleanup)
        {
            self.jobs
                .with_label_values(&["cleanup", operation.as_str(), "abandoned"]);
        }
        for operation in OperationName::ALL {
            for class in FailureClass::ALL.into_iter().filter(|it| it.is_retried()) {
                self.s3_retries
                    .with_label_values(&[operation.as_str(), class.as_str()]);
            }
        }
        for circuit in Circuit::ALL {
            self.show_circuit(circuit, CircuitState::Closed);
            self.circuit_rejections
                .with_label_values(&[circuit.as_str()]);
            for (from, to) in [
                ("closed", "open"),
                ("open", "half_open"),
                ("half_open", "closed"),
                ("half_open", "open"),
            ] {
                self.circuit_transitions
                    .with_label_values(&[circuit.as_str(), from, to]);
            }
        }
        for result in ["sent", "undeliverable"] {
            self.replies.with_label_values(&[result]);
        }
        for direction in ["in", "out"] {
            self.s3_bytes.with_label_values(&[direction]);
        }
        for role in [Role::Consume, Role::Publish] {
            self.amqp_connected.with_label_values(&[role.as_str()]);
            self.amqp_reconnects.with_label_values(&[role.as_str()]);
        }
        let revision = option_env!("BRIGADE_REVISION").unwrap_or("unknown");
        self.build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision])
            .set(1);
        // CPU, memory and file descriptors of this process; Linux only, so a failure is no fault.
        let process = prometheus::process_collector::ProcessCollector::for_self();
        if let Err(error) = self.registry.register(Box::new(process)) {
            tracing::warn!(%error, "no process metrics");
        }
    }
}

#[cfg(test)]
mod tests;
