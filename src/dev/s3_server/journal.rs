//! Every request that arrived, for tests to look at afterwards.
//!
//! Owns counts, entries and the number of calls in flight. A call is counted when its head arrives, so
//! that one which hangs, is reset or given up on is seen too.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::call::{Call, Class, S3Operation};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked.
    pub call: Call,
    /// When its head arrived.
    pub at: Instant,
    /// The status answered; `None` while there is no answer, and for good when it was lost.
    pub status: Option<u16>,
    /// From arrival to the answer's head.
    pub took: Option<Duration>,
    /// Whether a rule struck it.
    pub faulted: bool,
}

/// The requests of one server.
#[derive(Debug, Default)]
pub struct Journal {
    /// Nothing awaits under it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts_only: bool,
    entries: VecDeque<Entry>,
    /// The number of the first entry that is still kept.
    first: u64,
    counts: BTreeMap<S3Operation, u64>,
    in_flight: BTreeMap<Class, InFlight>,
}

#[derive(Debug, Default, Clone, Copy)]
struct InFlight {
    now: usize,
    most: usize,
}

impl Journal {
    /// From now on keeps counts only: bounded memory, for a server that runs long.
    pub fn keep_counts_only(&self) {
        let mut state = self.lock();
        state.counts_only = true;
        state.take();
    }

    /// Calls of this operation so far.
    pub fn count(&self, operation: S3Operation) -> u64 {
        self.lock()
            .counts
            .get(&operation)
            .copied()
            .unwrap_or_default()
    }

    /// Calls of this class so far.
    pub fn count_class(&self, class: Class) -> u64 {
        let state = self.lock();
        let of_class = state
            .counts
            .iter()
            .filter(|(operation, _)| operation.class() == class);
        of_class.map(|(_, count)| count).sum()
    }

    /// All calls so far.
    pub fn total(&self) -> u64 {
        self.lock().counts.values().sum()
    }

    /// A copy of the entries, in the order of arrival.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    /// The entries in the order of arrival; the journal forgets them, but not the counts.
    pub fn take(&self) -> Vec<Entry> {
        self.lock().take()
    }

    /// Calls of this class that have not been answered in full.
    pub fn in_flight(&self, class: Class) -> usize {
        self.lock()
            .in_flight
            .get(&class)
            .map_or(0, |calls| calls.now)
    }

    /// The most calls of this class that were in flight at one time.
    pub fn max_in_flight(&self, class: Class) -> usize {
        self.lock()
            .in_flight
            .get(&class)
            .map_or(0, |calls| calls.most)
    }

    /// Forgets entries, counts and maxima.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.take();
        state.counts.clear();
        for calls in state.in_flight.values_mut() {
            calls.most = calls.now;
        }
    }

    /// Notes a call that has arrived. It is in flight until the recording is dropped.
    pub(super) fn arrived(self: &Arc<Self>, call: &Call, faulted: bool) -> Recording {
        let mut state = self.lock();
        let class = call.operation.class();
        *state.counts.entry(call.operation).or_default() += 1;
        let calls = state.in_flight.entry(class).or_default();
        calls.now += 1;
        calls.most = calls.most.max(calls.now);
        let at = Instant::now();
        let number = state.first + state.entries.len() as u64;
        if !state.counts_only {
            state.entries.push_back(Entry {
                call: call.clone(),
                at,
                status: None,
                took: None,
                faulted,
            });
        }
        Recording {
            journal: Arc::clone(self),
            number,
            at,
            class,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Vec<Entry> {
        self.first += self.entries.len() as u64;
        self.entries.drain(..).collect()
    }
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Recording {
    journal: Arc<Journal>,
    number: u64,
    at: Instant,
    class: Class,
}

impl Recording {
    /// Notes the answer, unless the entry was taken meanwhile.
    pub(super) fn answered(&self, status: u16) {
        let mut state = self.journal.lock();
        let Some(index) = self.number.checked_sub(state.first) else {
            return;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(entry) = state.entries.get_mut(index) {
            entry.status = Some(status);
            entry.took = Some(self.at.elapsed());
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(calls) = self.journal.lock().in_flight.get_mut(&self.class) {
            calls.now -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: S3Operation) -> Call {
        Call {
            operation,
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            part_number: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_there_from_arrival_and_learns_its_answer() {
        let journal = Arc::new(Journal::default());
        let put = journal.arrived(&call(S3Operation::PutObject), true);
        let get = journal.arrived(&call(S3Operation::GetObject), false);
        tokio::time::advance(Duration::from_secs(2)).await;
        get.answered(200);
        let [first, second] = journal.entries().try_into().unwrap();
        assert_eq!((first.status, first.faulted), (None, true));
        assert_eq!(second.status, Some(200));
        assert_eq!(second.took, Some(Duration::from_secs(2)));
        assert_eq!(journal.in_flight(Class::Upload), 1);
        drop(put);
        assert_eq!(journal.in_flight(Class::Upload), 0);
    }

    #[test]
    fn an_answer_after_take_is_not_noted_on_another_call() {
        let journal = Arc::new(Journal::default());
        let old = journal.arrived(&call(S3Operation::PutObject), false);
        assert_eq!(journal.take().len(), 1);
        let _new = journal.arrived(&call(S3Operation::GetObject), false);
        old.answered(500);
        assert_eq!(journal.entries()[0].status, None);
        assert_eq!(journal.count(S3Operation::PutObject), 1);
        assert_eq!(journal.total(), 2);
    }

    #[test]
    fn counts_alone_keep_no_entries() {
        let journal = Arc::new(Journal::default());
        journal.keep_counts_only();
        let calls = [
            S3Operation::PutObject,
            S3Operation::CopyObject,
            S3Operation::PutObject,
        ];
        let held = calls.map(|operation| journal.arrived(&call(operation), false));
        held[2].answered(200);
        assert_eq!(journal.entries(), []);
        assert_eq!(journal.count(S3Operation::PutObject), 2);
        assert_eq!(journal.count_class(Class::Upload), 3);
        assert_eq!(journal.max_in_flight(Class::Upload), 3);
        drop(held);
        journal.reset();
        assert_eq!(
            (journal.total(), journal.max_in_flight(Class::Upload)),
            (0, 0)
        );
    }
}
