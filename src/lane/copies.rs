//! The parks and burials of a lane that the broker does not take for now (RESILIENCE.md, event 16).
//!
//! Each keeps its delivery unacked and held. The lane goes on with what needs no copy, and pauses only when its
//! hands are full of jobs that wait for one. Other lanes are not affected.

use crate::{broker::PublishError, watch};

/// The copies of one lane that wait to be published.
#[derive(Debug)]
pub struct StuckCopies(watch::Sender<Stuck>);

/// How many wait, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stuck {
    /// Copies that wait; each has been refused at least once.
    pub count: usize,
    /// Which queue takes none, and why: of the last refusal. `None` while none waits.
    pub problem: Option<String>,
}

impl Default for StuckCopies {
    fn default() -> Self {
        Self(watch::channel(Stuck::default()).0)
    }
}

impl StuckCopies {
    /// As of now.
    pub fn now(&self) -> Stuck {
        self.0.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Stuck> {
        self.0.subscribe()
    }

    /// For one copy to `queue`.
    pub(super) fn copy_to(&self, queue: String) -> StuckCopy<'_> {
        StuckCopy {
            copies: self,
            queue,
            is_stuck: false,
        }
    }
}

/// One copy on its way. However that ends, it is stuck no longer.
#[derive(Debug)]
pub(super) struct StuckCopy<'a> {
    copies: &'a StuckCopies,
    queue: String,
    is_stuck: bool,
}

impl StuckCopy<'_> {
    /// A try failed. `true` for the first one.
    pub(super) fn failed(&mut self, error: &PublishError) -> bool {
        let problem = format!("{} takes no copies: {error}", self.queue);
        let is_first = !std::mem::replace(&mut self.is_stuck, true);
        self.copies.0.send_if_modified(|stuck| {
            let changed = is_first || stuck.problem.as_ref() != Some(&problem);
            stuck.count += usize::from(is_first);
            stuck.problem = Some(problem);
            changed
        });
        is_first
    }
}

impl Drop for StuckCopy<'_> {
    fn drop(&mut self) {
        if self.is_stuck {
            self.copies.0.send_modify(|stuck| {
                stuck.count -= 1;
                if stuck.count == 0 {
                    stuck.problem = None;
                }
            });
        }
    }
}
