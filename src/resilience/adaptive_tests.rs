//! The limit against stores that are simulated: in steps of time, without a clock.

use std::collections::VecDeque;

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const PATIENCE: f64 = 10.0;
/// So many calls that time ends first.
const ALL: u64 = u64::MAX / 2;

/// Random numbers, the same in each run.
struct Dice(u64);

impl Dice {
    /// From 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal, roughly.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.roll()).sum::<f64>() - 6.0
    }
}

/// A store and the way to it.
#[derive(Clone, Copy)]
struct Store {
    /// Seconds that a call takes beside its bytes.
    latency: f64,
    /// How much that varies: the deviation of its logarithm.
    spread: f64,
    /// Bytes a second, over all calls.
    line: f64,
    /// So many calls at a time go on at full speed.
    hands: f64,
    /// Calls a second that are not throttled, with a burst of a tenth of a second.
    rate: f64,
    /// The end of a call's bytes that is not seen to move: what fits the buffers on the way.
    unseen: f64,
}

const FAR: Store = Store {
    latency: 0.02,
    spread: 0.0,
    line: f64::INFINITY,
    hands: f64::INFINITY,
    rate: f64::INFINITY,
    unseen: 400.0 * 1024.0,
};

struct Call {
    size: u64,
    tries: u32,
    epoch: u32,
    age: f64,
    /// Seconds in which it was seen to move, and since then.
    moved: f64,
    still: f64,
    latency: f64,
    bytes: f64,
    throttled: bool,
}

/// A lane with calls to make.
struct Lane {
    dice: Dice,
    limit: AdaptiveLimit,
    /// Does not follow the limit but this.
    fixed: Option<usize>,
    /// Sizes of the calls; each is drawn.
    sizes: Vec<u64>,
    /// Calls a second that come, if there are not enough at once.
    demand: f64,
    now: f64,
    tokens: f64,
    waiting: f64,
    /// When they may be made again, and their sizes; after one try and after two.
    again: [VecDeque<(f64, u64)>; 2],
    flying: Vec<Call>,
    done: u64,
    moved: u64,
    throttled: u64,
    timed_out: u64,
    /// Operations that failed three times.
    failed: u64,
    most: usize,
}

impl Lane {
    fn new(ceiling: usize, sizes: &[u64]) -> Self {
        Self {
            dice: Dice(0x9E37_79B9_7F4A_7C15),
            limit: AdaptiveLimit::new(ceiling, Duration::from_secs_f64(PATIENCE)),
            fixed: None,
            sizes: sizes.to_vec(),
            demand: f64::INFINITY,
            now: 0.0,
            tokens: 10.0,
            waiting: 0.0,
            again: Default::default(),
            flying: Vec::new(),
            done: 0,
            moved: 0,
            throttled: 0,
            timed_out: 0,
            failed: 0,
            most: 0,
        }
    }

    fn fixed(limit: usize, sizes: &[u64]) -> Self {
        Self {
            fixed: Some(limit),
            ..Self::new(limit, sizes)
        }
    }

    fn allowed(&self) -> usize {
        self.fixed.unwrap_or_else(|| self.limit.limit())
    }

    fn has_more(&self) -> bool {
        self.demand.is_infinite() || self.waiting >= 1.0
    }

    fn send(&mut self, store: Store, size: u64, tries: u32) {
        let latency = store.latency * (store.spread * self.dice.normal()).exp();
        let throttled = self.tokens < 1.0;
        if !throttled {
            self.tokens -= 1.0;
        }
        self.flying.push(Call {
            size,
            tries,
            epoch: self.limit.epoch(),
            age: 0.0,
            moved: 0.0,
            still: 0.0,
            latency: if throttled { store.latency } else { latency },
            bytes: if throttled || store.line.is_infinite() {
                0.0
            } else {
                size as f64
            },
            throttled,
        });
    }

    /// Runs for so many seconds, or until so many are done.
    fn run(&mut self, store: Store, seconds: f64, calls: u64) -> f64 {
        let step = (store.latency / 8.0).clamp(0.000_25, 0.01);
        let began = self.now;
        let until = self.done + calls;
        while self.now < began + seconds && self.done < until {
            self.tick(store, step);
        }
        self.now - began
    }

    fn tick(&mut self, store: Store, step: f64) {
        self.now += step;
        let burst = (store.rate / 10.0).max(1.0);
        self.tokens = (self.tokens + store.rate * step).min(burst);
        if store.rate.is_infinite() {
            self.tokens = f64::MAX;
        }
        if self.demand.is_finite() {
            self.waiting += self.demand * step;
        }
        while self.flying.len() < self.allowed() {
            let now = self.now;
            let due =
                |again: &VecDeque<(f64, u64)>| again.front().is_some_and(|(at, _)| *at <= now);
            if let Some(tried) = self.again.iter().position(due) {
                let (_, size) = self.again[tried].pop_front().unwrap();
                self.send(store, size, tried as u32 + 2);
            } else if self.has_more() {
                self.waiting -= 1.0;
                let index = (self.dice.roll() * self.sizes.len() as f64) as usize;
                self.send(store, self.sizes[index], 1);
            } else {
                break;
            }
        }
        let speed = (store.hands / self.flying.len() as f64).min(1.0);
        let on_line = self
            .flying
            .iter()
            .filter(|call| call.bytes > 0.0 && call.latency <= 0.0)
            .count();
        let share = if store.line.is_infinite() {
            0.0
        } else {
            store.line * step / on_line.max(1) as f64
        };
        for call in &mut self.flying {
            call.age += step;
            if call.latency > 0.0 {
                call.latency -= step * speed;
            } else if call.bytes > 0.0 {
                call.bytes -= share;
            }
            if call.bytes > store.unseen {
                call.moved += step;
            } else {
                call.still += step;
            }
        }
        let full = self.flying.len() >= self.allowed() && self.has_more();
        let mut index = 0;
        while index < self.flying.len() {
            let call = &self.flying[index];
            let over = call.latency <= 0.0 && call.bytes <= 0.0;
            let late = call.still > PATIENCE + call.moved;
            if !over && !late {
                index += 1;
                continue;
            }
            let call = self.flying.swap_remove(index);
            let end = match (call.throttled, over) {
                (true, _) => CallEnd::Throttled,
                (false, true) => CallEnd::Answered,
                (false, false) => CallEnd::TimedOut,
            };
            match end {
                CallEnd::Answered => {
                    self.done += 1;
                    self.moved += call.size;
                }
                CallEnd::Throttled | CallEnd::TimedOut => {
                    self.throttled += u64::from(call.throttled);
                    self.timed_out += u64::from(!call.throttled);
                    if call.tries == 3 {
                        self.failed += 1;
                    } else {
                        let at = self.now + f64::from(call.tries);
                        self.again[call.tries as usize - 1].push_back((at, call.size));
                    }
                }
            }
            self.limit.saw(&EndedCall {
                kind: CallKind::new("put_object", call.size, false),
                epoch: call.epoch,
                took: Duration::from_secs_f64(call.age),
                full,
                end,
            });
            self.most = self.most.max(self.limit.limit());
        }
    }
}

/// What a lane does in so many seconds, as a share of the best fixed limit's.
fn against_the_best(store: Store, ceiling: usize, sizes: &[u64], seconds: f64) -> (f64, Lane) {
    let mut adaptive = Lane::new(ceiling, sizes);
    adaptive.run(store, seconds, ALL);
    let best = [8, 64, 512].map(|limit| {
        let mut fixed = Lane::fixed(limit, sizes);
        fixed.run(store, seconds, ALL);
        fixed.moved
    });
    let best = best.into_iter().max().unwrap();
    (adaptive.moved as f64 / best as f64, adaptive)
}

fn line(mib_per_second: f64) -> Store {
    Store {
        line: mib_per_second * MIB as f64,
        ..FAR
    }
}

#[test]
fn a_thin_line_is_filled_and_no_call_on_it_times_out() {
    for rate in [4.0, 1.0, 0.5] {
        for ceiling in [64, 512] {
            let mut lane = Lane::new(ceiling, &[512 * KIB]);
            let took = lane.run(line(rate), 500.0, 100);
            let ideal = 50.0 / rate;
            assert!(
                took < 1.15 * ideal,
                "{rate} MiB/s: {took} s instead of {ideal}"
            );
            assert_eq!(lane.timed_out, 0, "{rate} MiB/s");
        }
    }
}

#[test]
fn on_a_line_too_thin_for_the_first_limit_no_operation_fails_though_no_byte_is_seen_to_move() {
    for rate in [1.0, 0.5, 0.25, 0.1] {
        let store = Store {
            unseen: f64::INFINITY,
            ..line(rate)
        };
        let mut lane = Lane::new(64, &[512 * KIB]);
        let took = lane.run(store, 2000.0, 100);
        assert_eq!(lane.failed, 0, "{rate} MiB/s");
        assert!(took < 1.25 * 50.0 / rate, "{rate} MiB/s: {took}");
    }
}

#[test]
fn a_store_that_only_is_far_gets_all_the_calls_that_it_may_have() {
    for (latency, seconds) in [(0.002, 1.0), (0.02, 3.0), (0.2, 20.0)] {
        let store = Store { latency, ..FAR };
        let (share, lane) = against_the_best(store, 512, &[KIB], seconds);
        assert!(share > 0.93, "{latency} s: {share}");
        assert_eq!(lane.limit.limit(), 512, "{latency} s");
    }
}

#[test]
fn a_store_that_works_on_a_few_calls_at_a_time_gets_these_and_some_more() {
    for hands in [6.0, 50.0] {
        let store = Store { hands, ..FAR };
        let (share, lane) = against_the_best(store, 512, &[KIB], 10.0);
        assert!(share > 0.9, "{hands}: {share}");
        let limit = lane.limit.limit() as f64;
        assert!(limit < 4.0 * hands, "{hands}: {limit}");
    }
}

#[test]
fn latencies_that_vary_do_not_shrink_the_limit() {
    for spread in [0.5, 1.0] {
        let store = Store { spread, ..FAR };
        let mut lane = Lane::new(64, &[KIB]);
        lane.run(store, 20.0, ALL);
        // As if it had had 64 from the first moment on; the mean of such latencies is higher than their median.
        let mean = store.latency * (spread * spread / 2.0_f64).exp();
        let share = lane.done as f64 * mean / (20.0 * 64.0);
        assert!(share > 0.85, "{spread}: {share}");
    }
}

#[test]
fn a_mix_of_sizes_does_not_shrink_the_limit() {
    let sizes = [KIB, 10 * KIB, 100 * KIB, MIB, 8 * MIB];
    let store = Store {
        spread: 0.5,
        ..line(1000.0)
    };
    let (share, lane) = against_the_best(store, 64, &sizes, 20.0);
    assert!(share > 0.9, "{share}");
    assert!(lane.limit.limit() >= 48, "{}", lane.limit.limit());
}

#[test]
fn large_calls_after_small_ones_are_no_trouble() {
    let mut lane = Lane::new(64, &[KIB]);
    lane.run(line(1000.0), 5.0, ALL);
    assert_eq!(lane.limit.limit(), 64);
    lane.sizes = vec![2 * MIB];
    lane.run(line(1000.0), 5.0, ALL);
    lane.sizes = vec![KIB];
    lane.run(line(1000.0), 5.0, ALL);
    assert_eq!(lane.limit.limit(), 64);
}

#[test]
fn a_store_that_becomes_slower_whatever_the_load_keeps_its_calls() {
    let mut lane = Lane::new(64, &[KIB]);
    for latency in [0.02, 0.2, 0.02, 0.4] {
        let store = Store {
            latency,
            spread: 0.3,
            ..FAR
        };
        let before = lane.done;
        lane.run(store, 15.0, ALL);
        let share = (lane.done - before) as f64 * latency / (15.0 * 64.0);
        assert!(share > 0.8, "{latency} s: {share}");
        assert!(
            lane.limit.limit() >= 48,
            "{latency} s: {}",
            lane.limit.limit()
        );
    }
}

#[test]
fn a_line_that_becomes_thin_is_found_out_and_one_that_becomes_wide_again_too() {
    let mut lane = Lane::new(64, &[512 * KIB]);
    lane.run(line(1000.0), 10.0, ALL);
    assert_eq!(lane.limit.limit(), 64);
    lane.run(line(1.0), 120.0, ALL);
    assert!(lane.limit.limit() <= 20, "{}", lane.limit.limit());
    assert_eq!(lane.failed, 0);
    let before = lane.moved;
    lane.run(line(1.0), 60.0, ALL);
    assert!(lane.moved - before > 50 * MIB, "{}", lane.moved - before);
    lane.run(line(1000.0), 30.0, ALL);
    assert!(lane.limit.limit() >= 30, "{}", lane.limit.limit());
}

#[test]
fn a_store_that_throttles_is_asked_as_much_as_it_can_bear() {
    for (rate, latency) in [(500.0, 0.02), (2000.0, 0.02), (500.0, 0.1)] {
        let store = Store {
            latency,
            rate,
            ..FAR
        };
        let mut lane = Lane::new(512, &[KIB]);
        let took = lane.run(store, 20.0, ALL);
        let throttled = lane.throttled as f64 / (lane.done + lane.throttled) as f64;
        assert!(throttled < 0.01, "{rate}/s at {latency} s: {throttled}");
        let share = lane.done as f64 / took / rate;
        assert!(share > 0.7, "{rate}/s at {latency} s: {share}");
        let mut fixed = Lane::fixed(512, &[KIB]);
        fixed.run(store, 5.0, ALL);
        assert!(fixed.throttled > fixed.done, "{rate}/s at {latency} s");
    }
}

#[test]
fn a_barrier_that_is_lifted_is_noticed() {
    let mut lane = Lane::new(512, &[KIB]);
    lane.run(Store { rate: 500.0, ..FAR }, 20.0, ALL);
    let before = lane.limit.limit();
    lane.run(FAR, 60.0, ALL);
    assert!(lane.limit.limit() > 10 * before, "{}", lane.limit.limit());
}

#[test]
fn a_lane_with_little_to_do_moves_its_limit_neither_up_nor_down() {
    let mut lane = Lane::new(64, &[KIB]);
    let noisy = Store { spread: 1.0, ..FAR };
    lane.demand = 50.0;
    lane.run(noisy, 30.0, ALL);
    assert_eq!((lane.limit.limit(), lane.most), (FIRST, FIRST));
    lane.demand = f64::INFINITY;
    lane.run(noisy, 5.0, ALL);
    assert_eq!(lane.limit.limit(), 64);
    (lane.demand, lane.waiting) = (50.0, 0.0);
    lane.run(
        Store {
            latency: 0.2,
            ..FAR
        },
        60.0,
        ALL,
    );
    assert_eq!(lane.limit.limit(), 64, "slower, and not by our load");
}

#[test]
fn the_ceiling_holds_even_where_it_is_one() {
    for ceiling in [0, 1, 4] {
        let mut lane = Lane::new(ceiling, &[KIB]);
        lane.run(FAR, 5.0, ALL);
        assert_eq!(
            (lane.limit.limit(), lane.most),
            (ceiling.max(1), ceiling.max(1))
        );
    }
}
