//! How many calls a lane makes at a time: a limit that follows what store and line can take. Pure: no clock, no
//! lock. [`Slots`](super::Slots) is what a lane holds.
//!
//! It works in rounds: of about as many calls as the limit allows at a time, or twice as many. Calls of one kind
//! (operation and size) are compared with the calls of the same kind when the limit was low. `slowdown` is the mean
//! of that: 1 while each call takes as long as if it were alone, 2 when it takes twice as long. With `limit` calls in
//! flight the store then does the work of `limit / slowdown` undisturbed ones at a time, so a slowdown that grows as
//! the limit does says that more calls in flight bring no more throughput (Little's law).
//!
//! * Up: doubled at first; after the first trouble by its square root in a round.
//! * Down, when calls slow down: to a little more than the work that is done at a time. Between the two it stays, and is
//!   raised by half now and then. Both are trials: if the calls did not become faster or slower by it, it is not our
//!   load that slows them. Then the higher limit is taken, and what is normal for a call is learnt anew.
//! * Down, on a time-out: by half. On a throttled call: by a third. Both once for all calls that were on their way
//!   then. The limit at which it happened becomes a barrier, which is tried again later each time that it fails.
//! * Neither up nor down while it is not the limit that holds calls back.

use std::time::Duration;

/// The first limit: four puts of half a MiB take two seconds over 1 MiB/s, eight of them four.
const FIRST: usize = 8;
/// Calls in a round, at least: while the limit doubles, and later.
const SHORT_ROUND: usize = 8;
const ROUND: usize = 16;
/// Calls in the round of a trial, at least: it decides alone. A raised limit is longer on trial, since that is rare.
const TRIAL_ROUND: usize = 32;
const LONG_TRIAL: usize = 2 * TRIAL_ROUND;
/// Calls of a kind from which it is known how long one takes.
const KNOWN_AFTER: u32 = 8;
/// Kinds that are told apart, at most. A new one takes the place of the one that was not seen for longest.
const MOST_KINDS: usize = 64;
/// Up to this slowdown the limit grows.
const GOOD: f64 = 1.5;
/// From this one on it falls.
const BAD: f64 = 2.5;
/// Below this one store or line have become better.
const BETTER: f64 = 0.5;
/// After a fall so many calls are in flight for each one's work that was done at a time.
const SPARE: f64 = 1.5;
/// What a time-out and a throttled call leave of the limit.
const AFTER_TIMEOUT: f64 = 0.5;
const AFTER_THROTTLE: f64 = 0.7;
/// The share by which a kind's normal time follows a round that was faster.
const LEARN: f64 = 0.1;
/// Rounds that pass before the limit is raised for a try, at first and at most; doubled each time that it fails.
const FIRST_WAIT: u32 = 16;
const LONGEST_WAIT: u32 = 256;

/// What kind of call it is: those of a kind take about as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallKind {
    /// The operation.
    name: &'static str,
    /// Whether the store answered with an error.
    failed: bool,
    /// Power of two of the bytes that moved.
    size: u32,
}

impl CallKind {
    /// Calls that moved less than this are all of one size.
    const SMALL: u64 = 16 * 1024;

    /// A call of that name that moved so many bytes, and whether it failed all the same.
    pub fn new(name: &'static str, bytes: u64, failed: bool) -> Self {
        let size = bytes.max(Self::SMALL).ilog2();
        Self { name, failed, size }
    }
}

/// How a call ended, as far as the limit is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// The store answered; how long it took tells something.
    Answered,
    /// The store asked for fewer calls.
    Throttled,
    /// Nothing moved for too long.
    TimedOut,
}

/// One call that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedCall {
    /// What it is compared with.
    pub kind: CallKind,
    /// [`AdaptiveLimit::epoch`] when it was sent.
    pub epoch: u32,
    /// From sending to its end.
    pub took: Duration,
    /// Whether the limit held others back when it ended.
    pub full: bool,
    /// See [`CallEnd`].
    pub end: CallEnd,
}

/// See the module.
#[derive(Debug)]
pub struct AdaptiveLimit {
    ceiling: usize,
    /// After so long a call that is not seen to move is given up.
    patience: Duration,
    limit: usize,
    /// Grows with each step after which older calls tell nothing.
    epoch: u32,
    /// Whether the limit still doubles.
    doubles: bool,
    round: Round,
    trial: Option<Trial>,
    barrier: Option<Barrier>,
    /// Rounds that the limit was left as it is, the sum of their slowdowns, and after how many it is raised for a try.
    stayed: u32,
    slowdowns: f64,
    wait: u32,
    kinds: Vec<Known>,
    /// Calls that were compared so far.
    compared: u64,
}

/// What has been seen since the last step.
#[derive(Debug, Default)]
struct Round {
    calls: usize,
    full: usize,
    /// Of the logarithms of the slowdowns.
    sum: f64,
    /// Of the durations, in seconds.
    took: f64,
    /// Throttled calls that are not minded: what was on its way before the last one may have left the store no room.
    spared: usize,
}

/// The limit and the slowdown before a step, to see what it changes.
#[derive(Debug)]
struct Trial {
    limit: usize,
    slowdown: f64,
}

/// A limit at which there were time-outs or throttled calls.
#[derive(Debug)]
struct Barrier {
    limit: usize,
    /// Rounds still to pass at it before it is tried.
    rounds: u32,
    /// With how many it began.
    patience: u32,
    /// How far the next try goes.
    step: usize,
}

/// How long the calls of a kind take.
#[derive(Debug)]
struct Known {
    kind: CallKind,
    /// [`AdaptiveLimit::compared`] when it was last seen.
    seen: u64,
    /// Calls that `normal` was learnt from, up to [`KNOWN_AFTER`].
    learnt: u32,
    /// Mean logarithm of their seconds.
    normal: f64,
    /// The same in the present round.
    calls: u32,
    sum: f64,
}

impl AdaptiveLimit {
    /// A limit below `ceiling` calls, at least 1, of which one that is not seen to move is given up after `patience`.
    pub fn new(ceiling: usize, patience: Duration) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            patience,
            limit: FIRST.min(ceiling),
            epoch: 0,
            doubles: true,
            round: Round::default(),
            trial: None,
            barrier: None,
            stayed: 0,
            slowdowns: 0.0,
            wait: FIRST_WAIT,
            kinds: Vec::new(),
            compared: 0,
        }
    }

    /// Calls at a time, from 1 to the ceiling.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// What a call is given when it is sent, and brings back.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Learns from a call.
    pub fn saw(&mut self, call: &EndedCall) {
        if call.epoch != self.epoch {
            return;
        }
        match call.end {
            CallEnd::Throttled if self.round.spared > 0 => self.round.spared -= 1,
            CallEnd::Throttled if call.full => {
                self.lost(AFTER_THROTTLE);
                self.round.spared = self.limit;
            }
            CallEnd::TimedOut if call.full => self.lost(AFTER_TIMEOUT),
            CallEnd::Throttled | CallEnd::TimedOut => {}
            CallEnd::Answered => self.answered(call),
        }
    }

    fn answered(&mut self, call: &EndedCall) {
        let seconds = call.took.as_secs_f64().max(1e-6);
        let slowdown = self.compare(call.kind, seconds.ln());
        self.round.calls += 1;
        self.round.full += usize::from(call.full);
        self.round.sum += slowdown;
        self.round.took += seconds;
        if self.round.calls >= self.calls_in_round() {
            self.end_round();
        }
    }

    /// The logarithm of how much slower a call was than its kind is; 0 while that is being learnt.
    fn compare(&mut self, kind: CallKind, took: f64) -> f64 {
        self.compared += 1;
        let found = self.kinds.iter_mut().find(|known| known.kind == kind);
        let Some(known) = found else {
            self.meet(kind, took);
            return 0.0;
        };
        known.seen = self.compared;
        if known.learnt < KNOWN_AFTER {
            known.learnt += 1;
            known.normal += (took - known.normal) / f64::from(known.learnt);
            return 0.0;
        }
        known.calls += 1;
        known.sum += took;
        took - known.normal
    }

    /// The first call of a kind.
    fn meet(&mut self, kind: CallKind, took: f64) {
        let new = Known {
            kind,
            seen: self.compared,
            learnt: 1,
            normal: took,
            calls: 0,
            sum: 0.0,
        };
        if self.kinds.len() < MOST_KINDS {
            self.kinds.push(new);
        } else if let Some(oldest) = self.kinds.iter_mut().min_by_key(|known| known.seen) {
            *oldest = new;
        }
    }

    fn calls_in_round(&self) -> usize {
        if let Some(trial) = &self.trial {
            match self.limit < trial.limit {
                true => (2 * self.limit).max(TRIAL_ROUND),
                false => (4 * self.limit).max(LONG_TRIAL),
            }
        } else if self.doubles {
            self.limit.max(SHORT_ROUND)
        } else {
            (2 * self.limit).max(ROUND)
        }
    }

    fn end_round(&mut self) {
        let round = std::mem::take(&mut self.round);
        let slowdown = (round.sum / round.calls as f64).exp();
        // Whoever holds the calls back, it is not the limit: nothing is learnt about it.
        let is_told = 4 * round.full >= 3 * round.calls;
        if is_told {
            match self.trial.take() {
                Some(trial) => self.judge(&trial, slowdown),
                None => self.step(slowdown, round.took / round.calls as f64),
            }
        }
        for known in &mut self.kinds {
            if known.calls >= 4 {
                let mean = known.sum / f64::from(known.calls);
                known.normal += LEARN * (mean - known.normal).min(0.0);
            }
            (known.calls, known.sum) = (0, 0.0);
        }
    }

    /// A round without trouble of the other kinds. `mean` is how long its calls took, in seconds.
    fn step(&mut self, slowdown: f64, mean: f64) {
        if slowdown > BAD && self.limit > 1 {
            let at_a_time = self.limit as f64 / slowdown;
            let (least, most) = (self.limit.div_ceil(4), self.limit * 3 / 4);
            self.doubles = false;
            self.attempt(
                whole(at_a_time * SPARE).clamp(least, most.max(least)),
                slowdown,
            );
        } else if slowdown > GOOD && self.limit > 1 {
            self.stay(slowdown, mean);
        } else {
            if slowdown > GOOD {
                // One call at a time is no load that could slow itself.
                self.relearn(slowdown);
            }
            if slowdown < BETTER {
                self.relearn(slowdown);
                (self.doubles, self.barrier) = (true, None);
            }
            self.grow(mean);
        }
    }

    /// Leaves the limit as it is, and raises it for a try now and then.
    fn stay(&mut self, slowdown: f64, mean: f64) {
        self.doubles = false;
        self.stayed += 1;
        self.slowdowns += slowdown;
        if self.stayed < self.wait {
            return;
        }
        let half = self.limit.div_ceil(2).min(self.room(mean));
        let mut most = self.ceiling;
        if let Some(barrier) = &mut self.barrier {
            if self.limit >= barrier.limit {
                barrier.hold(self.stayed);
            }
            most = most.min(barrier.limit);
        }
        let slowdown = self.slowdowns / f64::from(self.stayed);
        self.attempt((self.limit + half).min(most).max(self.limit), slowdown);
    }

    /// Another limit, to see what it changes.
    fn attempt(&mut self, next: usize, slowdown: f64) {
        (self.stayed, self.slowdowns) = (0, 0.0);
        if next != self.limit {
            self.trial = Some(Trial {
                limit: self.limit,
                slowdown,
            });
            self.turn(next);
        }
    }

    /// How many more calls there may be: were all of their time our load, they should still end in half of it.
    fn room(&self, mean: f64) -> usize {
        let room = self.patience.as_secs_f64() / 2.0 / mean - 1.0;
        whole(self.limit as f64 * room.clamp(0.0, 1.0)).max(1)
    }

    fn grow(&mut self, mean: f64) {
        let root = whole((self.limit as f64).sqrt()).max(1);
        let step = if self.doubles { self.limit } else { root };
        let mut next = self.limit + step.min(self.room(mean));
        if let Some(barrier) = &mut self.barrier {
            if next > barrier.limit {
                next = barrier.limit;
                if self.limit >= barrier.limit {
                    barrier.hold(1);
                    next = barrier.limit;
                }
            }
            if barrier.limit >= self.ceiling {
                self.barrier = None;
            }
        }
        let next = next.min(self.ceiling);
        if next > self.limit && self.doubles {
            self.turn(next);
        } else {
            // What is on its way still tells about so small a step.
            self.limit = next.max(self.limit);
        }
    }

    /// The round after another limit was tried: whether calls became slower or faster with it.
    fn judge(&mut self, trial: &Trial, slowdown: f64) {
        let (before, now) = (trial.limit as f64, self.limit as f64);
        let is_our_load = (slowdown / trial.slowdown).ln() / (now / before).ln() >= 0.5;
        let best = if is_our_load {
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
            self.limit.min(trial.limit)
        } else {
            self.relearn(slowdown);
            self.limit.max(trial.limit)
        };
        self.turn(best);
    }

    /// What a call takes now is normal.
    fn relearn(&mut self, slowdown: f64) {
        self.wait = FIRST_WAIT;
        for known in &mut self.kinds {
            known.normal += slowdown.ln();
        }
    }

    /// A call timed out or was throttled.
    fn lost(&mut self, left: f64) {
        let next = whole(self.limit as f64 * left).max(1);
        let below = self.limit - (self.limit / 8).max(1);
        let at = below.max(next).max(1);
        let patience = match &self.barrier {
            // It was tried, and held.
            Some(barrier) if self.limit >= barrier.limit => {
                (barrier.patience * 2).min(LONGEST_WAIT)
            }
            _ => FIRST_WAIT,
        };
        self.barrier = Some(Barrier {
            limit: at,
            rounds: patience,
            patience,
            step: 1,
        });
        self.doubles = false;
        self.trial = None;
        self.turn(next);
    }

    fn turn(&mut self, limit: usize) {
        self.limit = limit;
        self.epoch = self.epoch.wrapping_add(1);
        self.round = Round::default();
        for known in &mut self.kinds {
            (known.calls, known.sum) = (0, 0.0);
        }
    }
}

impl Barrier {
    /// So many rounds more have passed at it.
    fn hold(&mut self, rounds: u32) {
        self.rounds = self.rounds.saturating_sub(rounds);
        if self.rounds == 0 {
            self.pass();
        }
    }

    fn pass(&mut self) {
        self.patience = match self.step {
            1 => self.patience,
            // The try before this one went well.
            _ => FIRST_WAIT,
        };
        self.limit += self.step;
        self.step *= 2;
        self.rounds = FIRST_WAIT;
    }
}

fn whole(calls: f64) -> usize {
    calls.round() as usize
}

#[cfg(test)]
#[path = "adaptive_calls_tests.rs"]
mod calls_tests;
#[cfg(test)]
#[path = "adaptive_tests.rs"]
mod tests;
