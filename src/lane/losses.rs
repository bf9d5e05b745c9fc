//! Replies and events of a lane that were lost: one line of the log for each kind a minute, however many there are.
//!
//! The first one is told at once. Which jobs they were of is a matter for the log's debug level.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{broker::PublishError, job::Lane};

/// From one line to the next of its kind.
const APART: Duration = Duration::from_secs(60);

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// A reply to a producer.
    Reply,
    /// An outcome event.
    Event,
}

/// What was lost and has not been told of.
#[derive(Debug)]
pub(super) struct Losses {
    lane: Lane,
    /// Nothing awaits under it.
    kinds: Mutex<[Untold; 2]>,
    more: Notify,
}

/// What was lost, how often, and why the last time.
type Line = (Lost, u64, String);

#[derive(Debug, Clone, Default)]
struct Untold {
    count: u64,
    last: String,
    /// When the next line may be written.
    due: Option<Instant>,
}

impl Losses {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            kinds: Mutex::default(),
            more: Notify::new(),
        }
    }

    /// One more was lost, for that reason.
    pub(super) fn add(&self, what: Lost, why: &PublishError) {
        let mut kinds = self.lock();
        let untold = &mut kinds[what as usize];
        untold.count += 1;
        untold.last = why.to_string();
        drop(kinds);
        self.more.notify_one();
    }

    /// Tells of what is lost, as the module says. Never ends; what is untold when it is dropped is for
    /// [`Self::tell_the_rest`].
    pub(super) async fn tell(&self) {
        loop {
            let (lines, next) = self.due(Instant::now());
            lines.into_iter().for_each(|line| self.write(line));
            let later = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = later => {}
                () = self.more.notified() => {}
            }
        }
    }

    /// Tells of everything that is untold.
    pub(super) fn tell_the_rest(&self) {
        for untold in self.lock().iter_mut() {
            untold.due = None;
        }
        let (lines, _) = self.due(Instant::now());
        lines.into_iter().for_each(|line| self.write(line));
    }

    /// The lines to be written now, and when the next one is due, if anything is untold.
    fn due(&self, now: Instant) -> (Vec<Line>, Option<Instant>) {
        let mut kinds = self.lock();
        let (mut lines, mut next) = (Vec::new(), None::<Instant>);
        for what in [Lost::Reply, Lost::Event] {
            let untold = &mut kinds[what as usize];
            match untold.due {
                _ if untold.count == 0 => {}
                Some(due) if due > now => next = Some(next.map_or(due, |next| due.min(next))),
                Some(_) | None => {
                    untold.due = Some(now + APART);
                    let count = std::mem::take(&mut untold.count);
                    lines.push((what, count, std::mem::take(&mut untold.last)));
                }
            }
        }
        (lines, next)
    }

    fn write(&self, (what, lost, error): Line) {
        let lane = self.lane;
        match what {
            Lost::Reply => {
                tracing::warn!(%lane, lost, error, "replies are lost");
            }
            Lost::Event => {
                tracing::warn!(%lane, lost, error, "events are lost");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Untold; 2]> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_loss_is_told_at_once_and_those_after_it_once_a_minute() {
        let losses = Losses::new(Lane::Upload);
        let second = Duration::from_secs(1);
        let nacked = PublishError::Nacked;
        let gone = PublishError::Returned("gone".to_owned());
        let line = |what, count, why: &PublishError| (what, count, why.to_string());

        assert_eq!(losses.due(Instant::now()), (vec![], None));
        losses.add(Lost::Reply, &gone);
        let (lines, _) = losses.due(Instant::now());
        assert_eq!(lines, [line(Lost::Reply, 1, &gone)]);

        let due = Instant::now() + APART;
        for why in [&gone, &gone, &nacked] {
            tokio::time::advance(second).await;
            losses.add(Lost::Reply, why);
            assert_eq!(losses.due(Instant::now()), (vec![], Some(due)));
        }
        // Another kind has a minute of its own.
        losses.add(Lost::Event, &gone);
        let (lines, next) = losses.due(Instant::now());
        assert_eq!(
            (lines, next),
            (vec![line(Lost::Event, 1, &gone)], Some(due))
        );

        tokio::time::advance(APART).await;
        let (lines, _) = losses.due(Instant::now());
        assert_eq!(lines, [line(Lost::Reply, 3, &nacked)]);
        // Nothing since: the next loss after a quiet minute is told at once.
        tokio::time::advance(APART).await;
        losses.add(Lost::Reply, &gone);
        let (lines, next) = losses.due(Instant::now());
        assert_eq!((lines.len(), next), (1, None));
    }
}
