//! Points in time as the ledger and the wire know them: whole microseconds since 1970, UTC.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

/// Microseconds since the Unix epoch. Shown as RFC 3339 in UTC, with `{:.0}` in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The wall clock. For the edges only (a delivery's arrival, a report); rules take their time as an argument.
    pub fn now() -> Self {
        #[cfg(test)]
        if let Some(now) = in_this_test::now() {
            return now;
        }
        Self(jiff::Timestamp::now().as_microsecond())
    }

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From whole seconds since the epoch; `None` when out of range.
    pub fn from_secs(seconds: i64) -> Option<Self> {
        seconds.checked_mul(1_000_000).map(Self)
    }

    /// Reads RFC 3339, such as `2026-11-24T10:00:00Z`.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .map(|time| Self(time.as_microsecond()))
    }

    /// The time from `earlier` to this one; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time plus `duration`, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// This time minus `duration`, saturating.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(6);
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.digits$}"),
            // Out of the calendar's range: the number is better than nothing.
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A wall clock of one test's own, so that nothing it does depends on when it runs.
#[cfg(test)]
pub(crate) mod in_this_test {
    use std::{cell::Cell, time::Duration};

    use tokio::time::Instant;

    use super::Timestamp;

    thread_local! {
        static CLOCK: Cell<Option<(Timestamp, Instant)>> = const { Cell::new(None) };
    }

    /// From now on this thread's wall clock shows `start` and moves with Tokio's.
    pub(crate) fn begin_at(start: Timestamp) {
        CLOCK.set(Some((start, Instant::now())));
    }

    /// Puts it on.
    pub(crate) fn put_on(time: Duration) {
        let put_on = |(start, since): (Timestamp, Instant)| (start.plus(time), since);
        CLOCK.set(CLOCK.get().map(put_on));
    }

    /// Puts it back.
    pub(crate) fn put_back(time: Duration) {
        let put_back = |(start, since): (Timestamp, Instant)| (start.minus(time), since);
        CLOCK.set(CLOCK.get().map(put_back));
    }

    /// The system's wall clock again.
    pub(crate) fn end() {
        CLOCK.set(None);
    }

    pub(super) fn now() -> Option<Timestamp> {
        let (start, since) = CLOCK.get()?;
        Some(start.plus(since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_rfc_3339() {
        let time = Timestamp::from_micros(1_774_000_000_000_001);
        assert_eq!(time.to_string(), "2026-03-20T09:46:40.000001Z");
        assert_eq!(format!("{time:.0}"), "2026-03-20T09:46:40Z");
        assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn differences_never_go_below_zero() {
        let early = Timestamp::from_micros(5);
        let late = early.plus(Duration::from_secs(1));
        assert_eq!(late.since(early), Duration::from_secs(1));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.minus(Duration::from_secs(1)), early);
    }
}
