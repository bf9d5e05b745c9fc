//! What goes wrong, for which calls, and how often.
//!
//! Owns the rules and their counts. It refuses to know how a fault is played on a connection: that is
//! `answer.rs`. Rules may be added and taken away while the server runs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::call::{Call, Class, S3Operation};

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An answer with this status and an XML error in its body, instead of the call. A HEAD gets the
    /// status only, as from S3.
    Status {
        /// The HTTP status.
        status: u16,
        /// The S3 error code, e.g. `SlowDown`.
        code: String,
        /// The header `Retry-After`, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// An answer with this status and no body, instead of the call.
    BareStatus(u16),
    /// A 200 with an XML error of this code in its body, instead of the call.
    ErrorIn200(String),
    /// The call waits this long before it takes effect. Other rules may strike the same call.
    Delay(Duration),
    /// The call waits before it takes effect, until its rule is released, removed or cleared. Other rules may strike
    /// the same call.
    Hang,
    /// The connection is reset instead of the call.
    Reset,
    /// The call takes effect, then the connection is reset instead of an answer.
    LoseAnswer,
    /// `DeleteObjects` answers 200 with an error of this code for every key that begins so, and leaves
    /// those alone. Other operations are not touched by it.
    RefuseKeys {
        /// How the keys begin.
        prefix: String,
        /// The S3 error code for each.
        code: String,
    },
    /// The answer's head and this many bytes of its body arrive, then the connection ends. A body that
    /// is not longer arrives whole.
    CutBody(u64),
}

impl Fault {
    /// A status with an S3 error code: `Fault::status(503, "SlowDown")`.
    pub fn status(status: u16, code: &str) -> Self {
        Self::Status {
            status,
            code: code.to_owned(),
            retry_after: None,
        }
    }
}

type Predicate = Box<dyn Fn(&Call) -> bool + Send + Sync>;

/// A fault, the calls it is for (all, unless narrowed) and how often it strikes (always, unless limited).
/// Each narrowing word adds to the others.
#[must_use = "a rule does nothing until it is added"]
pub struct Rule {
    fault: Fault,
    class: Option<Class>,
    operation: Option<S3Operation>,
    bucket: Option<String>,
    key_prefix: Option<String>,
    predicate: Option<Predicate>,
    skipped: u64,
    often: Often,
}

enum Often {
    Always,
    First(u64),
    Every(u64),
    Chance(f64, fastrand::Rng),
}

impl Rule {
    /// For every call, always.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            class: None,
            operation: None,
            bucket: None,
            key_prefix: None,
            predicate: None,
            skipped: 0,
            often: Often::Always,
        }
    }

    /// Only for calls of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    /// Only for this operation.
    pub fn operation(mut self, operation: S3Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only for calls on this bucket.
    pub fn bucket(mut self, bucket: &str) -> Self {
        self.bucket = Some(bucket.to_owned());
        self
    }

    /// Only for calls on a key that begins so.
    pub fn key_prefix(mut self, prefix: &str) -> Self {
        self.key_prefix = Some(prefix.to_owned());
        self
    }

    /// Only for calls that this function picks.
    pub fn matching(mut self, predicate: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.predicate = Some(Box::new(predicate));
        self
    }

    /// Lets that many matching calls pass first; the limits below count from there.
    pub fn after(mut self, calls: u64) -> Self {
        self.skipped = calls;
        self
    }

    /// Strikes the first `calls` matching calls, then never again.
    pub fn first(mut self, calls: u64) -> Self {
        self.often = Often::First(calls);
        self
    }

    /// Strikes every `nth` matching call, the nth first.
    pub fn every(mut self, nth: u64) -> Self {
        self.often = Often::Every(nth.max(1));
        self
    }

    /// Strikes with this probability (0 to 1); the same seed gives the same sequence.
    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        self.often = Often::Chance(probability, fastrand::Rng::with_seed(seed));
        self
    }

    /// With the header `Retry-After`; only for a `Fault::Status`.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        if let Fault::Status { retry_after, .. } = &mut self.fault {
            *retry_after = Some(wait);
        }
        self
    }

    fn is_for(&self, call: &Call) -> bool {
        let key_prefix = self.key_prefix.as_deref();
        self.class
            .is_none_or(|class| class == call.operation.class())
            && self
                .operation
                .is_none_or(|operation| operation == call.operation)
            && self
                .bucket
                .as_deref()
                .is_none_or(|bucket| bucket == call.bucket)
            && key_prefix.is_none_or(|prefix| call.key.starts_with(prefix))
            && self.predicate.as_ref().is_none_or(|picks| picks(call))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// The rules of one server; a clone is the same set.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Nothing awaits under it.
    rules: Arc<Mutex<Vec<Arc<Active>>>>,
}

impl Faults {
    /// Adds a rule, behind those that are there. The rule stays until it is removed, also when the
    /// handle is dropped.
    pub fn add(&self, rule: Rule) -> RuleHandle {
        let active = Arc::new(Active::new(rule));
        self.lock().push(Arc::clone(&active));
        RuleHandle {
            faults: self.clone(),
            active,
        }
    }

    /// Removes every rule and releases what they hold.
    pub fn clear(&self) {
        for active in self.lock().drain(..) {
            active.released.cancel();
        }
    }

    /// What strikes this call, in the order of the rules: any number of waits, and at most one fault
    /// of another kind.
    pub(super) fn strike(&self, call: &Call) -> Vec<Strike> {
        let mut strikes = Vec::new();
        for active in self.lock().iter() {
            if !active.strikes(call) {
                continue;
            }
            let fault = active.fault.clone();
            let last = !matches!(fault, Fault::Delay(_) | Fault::Hang);
            strikes.push(Strike {
                fault,
                released: active.released.clone(),
            });
            if last {
                break;
            }
        }
        strikes
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Active>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One fault on one call.
#[derive(Debug)]
pub(super) struct Strike {
    pub(super) fault: Fault,
    pub(super) released: CancellationToken,
}

#[derive(Debug)]
struct Active {
    fault: Fault,
    /// Nothing awaits under it.
    state: Mutex<State>,
    fired: watch::Sender<u64>,
    released: CancellationToken,
}

#[derive(Debug)]
struct State {
    rule: Rule,
    matched: u64,
}

impl Active {
    fn new(rule: Rule) -> Self {
        Self {
            fault: rule.fault.clone(),
            state: Mutex::new(State { rule, matched: 0 }),
            fired: watch::Sender::new(0),
            released: CancellationToken::new(),
        }
    }

    fn strikes(&self, call: &Call) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.released.is_cancelled() && self.fault == Fault::Hang || !state.rule.is_for(call) {
            return false;
        }
        state.matched += 1;
        let Some(nth @ 1..) = state.matched.checked_sub(state.rule.skipped) else {
            return false;
        };
        let strikes = match &mut state.rule.often {
            Often::Always => true,
            Often::First(calls) => nth <= *calls,
            Often::Every(every) => nth.is_multiple_of(*every),
            Often::Chance(probability, random) => random.f64() < *probability,
        };
        if strikes {
            self.fired.send_modify(|fired| *fired += 1);
        }
        strikes
    }
}

/// The hand on one rule.
#[derive(Debug, Clone)]
pub struct RuleHandle {
    faults: Faults,
    active: Arc<Active>,
}

impl RuleHandle {
    /// How many calls the rule has struck.
    pub fn fired(&self) -> u64 {
        *self.active.fired.borrow()
    }

    /// Waits until the rule has struck that many calls.
    pub async fn until_fired(&self, calls: u64) {
        let mut fired = self.active.fired.subscribe();
        // The sender lives in `self`, so that the wait ends only with the condition.
        drop(fired.wait_for(|fired| *fired >= calls).await);
    }

    /// Lets go of every call that hangs on this rule; it holds no further one.
    pub fn release(&self) {
        self.active.released.cancel();
    }

    /// Takes the rule away and releases what it holds.
    pub fn remove(&self) {
        self.faults
            .lock()
            .retain(|active| !Arc::ptr_eq(active, &self.active));
        self.active.released.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: S3Operation, key: &str) -> Call {
        Call {
            operation,
            bucket: "b".to_owned(),
            key: key.to_owned(),
            part_number: None,
        }
    }

    fn put(key: &str) -> Call {
        call(S3Operation::PutObject, key)
    }

    /// Which of that many equal calls are struck.
    fn pattern(faults: &Faults, calls: usize) -> String {
        let mark = |_| {
            if faults.strike(&put("k")).is_empty() {
                '.'
            } else {
                'x'
            }
        };
        (0..calls).map(mark).collect()
    }

    #[test]
    fn a_rule_strikes_as_often_as_it_says() {
        let rule = || Rule::new(Fault::Reset);
        let rows = [
            (rule(), "xxxxxx"),
            (rule().first(2), "xx...."),
            (rule().every(3), "..x..x"),
            (rule().after(2), "..xxxx"),
            (rule().after(1).first(2), ".xx..."),
            (rule().after(1).every(2), "..x.x."),
            (rule().chance(0.0, 1), "......"),
            (rule().chance(1.0, 1), "xxxxxx"),
        ];
        for (rule, expected) in rows {
            let faults = Faults::default();
            let handle = faults.add(rule);
            assert_eq!(pattern(&faults, 6), expected);
            assert_eq!(
                handle.fired(),
                expected.matches('x').count() as u64,
                "{expected}"
            );
        }
    }

    #[test]
    fn the_same_seed_strikes_the_same_calls() {
        let run = |seed| {
            let faults = Faults::default();
            let _handle = faults.add(Rule::new(Fault::Reset).chance(0.5, seed));
            pattern(&faults, 64)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_rule_strikes_only_the_calls_it_is_for() {
        let rule = || Rule::new(Fault::Reset);
        let get = call(S3Operation::GetObject, "a/1");
        let rows = [
            (rule().class(Class::Read), [true, false]),
            (rule().class(Class::Upload), [false, true]),
            (rule().operation(S3Operation::GetObject), [true, false]),
            (rule().bucket("b"), [true, true]),
            (rule().bucket("c"), [false, false]),
            (rule().key_prefix("a/"), [true, false]),
            (
                rule().matching(|call| call.key.ends_with('2')),
                [false, true],
            ),
            (rule().class(Class::Read).key_prefix("z/"), [false, false]),
        ];
        for (index, (rule, expected)) in rows.into_iter().enumerate() {
            let faults = Faults::default();
            let _handle = faults.add(rule);
            let struck = [&get, &put("z/2")].map(|call| !faults.strike(call).is_empty());
            assert_eq!(struck, expected, "row {index}");
        }
    }

    #[test]
    fn delays_add_up_and_the_first_other_fault_ends_it() {
        let faults = Faults::default();
        let delay = Fault::Delay(Duration::from_secs(1));
        let rules = [delay.clone(), Fault::status(503, "SlowDown"), Fault::Reset];
        let handles = rules.map(|fault| faults.add(Rule::new(fault)));
        let struck = faults.strike(&put("k"));
        let struck: Vec<&Fault> = struck.iter().map(|strike| &strike.fault).collect();
        assert_eq!(struck, [&delay, &Fault::status(503, "SlowDown")]);
        assert_eq!(handles.map(|handle| handle.fired()), [1, 1, 0]);
    }

    #[test]
    fn a_removed_rule_strikes_no_more_and_leaves_the_others() {
        let faults = Faults::default();
        let first = faults.add(Rule::new(Fault::Reset).key_prefix("a"));
        let _second = faults.add(Rule::new(Fault::Reset).key_prefix("b"));
        first.remove();
        assert!(faults.strike(&put("a")).is_empty());
        assert_eq!(faults.strike(&put("b")).len(), 1);
        faults.clear();
        assert!(faults.strike(&put("b")).is_empty());
    }
}
