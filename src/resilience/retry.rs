//! How long to wait between attempts: computed, jittered, capped, lengthened by a server's hint.
//!
//! The delays come from the `backoff` crate, used as a pure policy and nowhere else: our code sleeps,
//! cancels and counts. Its randomness can't be injected, so it runs with factor 0 and the jitter is
//! added here, after which the result is clamped (facts: ecosystem.md, 2).

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// No wait between two attempts is longer, whatever the settings and the server say.
const LONGEST: Duration = Duration::from_secs(120);

/// When a failed operation is tried again, and for the last time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Calls in all, the first one included; at least 1.
    pub max_attempts: u32,
    /// The first wait.
    pub base_delay: Duration,
    /// Each wait is this many times the one before.
    pub multiplier: f64,
    /// A wait deviates by at most this share of itself, 0 to 1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// The wait after failed attempt `attempt` (from 1), or `None` when it was the last.
    ///
    /// `chance` is a fresh random number from 0 to 1. `hint` is what the server asked for; it
    /// lengthens the wait and never shortens it.
    pub fn delay_after(
        &self,
        attempt: u32,
        chance: f64,
        hint: Option<Duration>,
    ) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let ideal = self.ideal_delay(attempt);
        let factor = 1.0 + self.jitter * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
        let jittered = ideal.mul_f64(factor.max(0.0)).min(LONGEST);
        Some(jittered.max(hint.unwrap_or_default().min(LONGEST)))
    }

    /// All waits from that after attempt `attempt` (from 1) to the last, without jitter and hints.
    pub fn waits_from(&self, attempt: u32) -> Duration {
        let waits = attempt..self.max_attempts;
        waits.map(|attempt| self.ideal_delay(attempt)).sum()
    }

    /// The wait after `attempt` without jitter.
    fn ideal_delay(&self, attempt: u32) -> Duration {
        let mut schedule = ExponentialBackoff {
            current_interval: self.base_delay.min(LONGEST),
            randomization_factor: 0.0,
            multiplier: self.multiplier,
            max_interval: LONGEST,
            // Attempts and deadline are ours: the default of 15 minutes would end retries silently.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let mut delay = schedule.current_interval;
        // Past the cap every step is the same, so a huge attempt number need not be walked.
        for _ in 0..attempt.min(64) {
            delay = schedule.next_backoff().unwrap_or(LONGEST);
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: RetryPolicy = RetryPolicy {
        max_attempts: 3,
        base_delay: Duration::from_secs(1),
        multiplier: 2.0,
        jitter: 0.2,
    };

    #[test]
    fn three_attempts_wait_one_and_two_seconds_and_a_fourth_would_wait_four() {
        let middle = |policy: RetryPolicy, attempt| policy.delay_after(attempt, 0.5, None);
        assert_eq!(middle(DEFAULT, 1), Some(Duration::from_secs(1)));
        assert_eq!(middle(DEFAULT, 2), Some(Duration::from_secs(2)));
        assert_eq!(middle(DEFAULT, 3), None);
        let four = RetryPolicy {
            max_attempts: 4,
            ..DEFAULT
        };
        assert_eq!(middle(four, 3), Some(Duration::from_secs(4)));
    }

    #[test]
    fn the_waits_that_are_left_shrink_with_each_attempt() {
        let left = |attempt| DEFAULT.waits_from(attempt).as_secs();
        assert_eq!([1, 2, 3, 4].map(left), [3, 2, 0, 0]);
    }

    #[test]
    fn a_long_base_delay_is_doubled_too() {
        let slow = RetryPolicy {
            base_delay: Duration::from_secs(50),
            ..DEFAULT
        };
        assert_eq!(
            slow.delay_after(2, 0.5, None),
            Some(Duration::from_secs(100))
        );
    }

    #[test]
    fn chance_makes_a_wait_a_fifth_shorter_or_longer() {
        let wait = |chance| DEFAULT.delay_after(1, chance, None).unwrap();
        assert_eq!(wait(0.0), Duration::from_millis(800));
        assert_eq!(wait(1.0), Duration::from_millis(1200));
    }

    #[test]
    fn a_servers_hint_lengthens_the_wait_and_never_shortens_it() {
        let hinted = |hint| DEFAULT.delay_after(1, 0.5, Some(Duration::from_secs(hint)));
        assert_eq!(hinted(7), Some(Duration::from_secs(7)));
        assert_eq!(hinted(0), Some(Duration::from_secs(1)));
        assert_eq!(hinted(1_000_000), Some(LONGEST));
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_jitter_and_below_the_cap(
            attempt in 1u32..2_000_000_000, chance in 0.0f64..=1.0, base_ms in 0u64..10_000_000,
            multiplier in 1.0f64..1000.0, jitter in 0.0f64..=1.0,
        ) {
            let policy = RetryPolicy {
                max_attempts: u32::MAX,
                base_delay: Duration::from_millis(base_ms),
                multiplier,
                jitter,
            };
            let ideal = policy.ideal_delay(attempt).as_secs_f64();
            let wait = policy.delay_after(attempt, chance, None).unwrap();
            prop_assert!(wait <= LONGEST);
            let lowest = (ideal * (1.0 - jitter)).min(LONGEST.as_secs_f64());
            prop_assert!(wait.as_secs_f64() >= lowest - 1e-6);
            prop_assert!(wait.as_secs_f64() <= ideal * (1.0 + jitter) + 1e-6);
        }
    }
}
