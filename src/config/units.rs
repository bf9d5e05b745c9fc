//! Durations and sizes as people write them: a whole number and one unit.

use std::time::Duration;

/// A unit's name and what it is worth in the smallest one; the largest first.
type Unit = (&'static str, u64);

/// In milliseconds. There is no bare number: a duration without a unit is a guess.
const DURATIONS: [Unit; 5] = [
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
/// In bytes; no unit means bytes.
const SIZES: [Unit; 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("", 1),
];

/// Reads `500ms`, `3s`, `2m`, `24h` or `14d`; `None` for anything else.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads `64KiB`, `8MiB`, `1GiB`, `5TiB` or a number of bytes; `None` for anything else.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// The shortest form that [`parse_duration`] reads back; whole milliseconds only.
pub(super) fn show_duration(duration: Duration) -> String {
    show(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        &DURATIONS,
    )
}

/// The shortest form that [`parse_size`] reads back.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

fn parse(text: &str, units: &[Unit]) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*worth)
}

fn show(amount: u64, units: &[Unit]) -> String {
    let fits = units
        .iter()
        .find(|(_, worth)| amount >= *worth && amount.is_multiple_of(*worth));
    match fits.or(units.last()) {
        Some((name, worth)) => format!("{}{name}", amount / worth),
        None => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        let good = [
            ("500ms", 500),
            ("3s", 3000),
            ("2m", 120_000),
            ("24h", 86_400_000),
            ("0ms", 0),
        ];
        for (text, milliseconds) in good {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        assert_eq!(
            parse_duration("14d"),
            Some(Duration::from_secs(14 * 86_400))
        );
        for bad in [
            "",
            "3",
            "s",
            "1.5s",
            "-1s",
            "3 s",
            "3S",
            "1m30s",
            "3sec",
            "999999999999999d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_size_has_a_binary_unit_or_is_in_bytes() {
        let good = [
            ("64KiB", 65_536),
            ("8MiB", 8 << 20),
            ("1GiB", 1 << 30),
            ("5TiB", 5 << 40),
            ("7", 7),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "MiB",
            "8MB",
            "8 MiB",
            "8mib",
            "1.5GiB",
            "-1",
            "99999999TiB",
        ] {
            assert_eq!(parse_size(bad), None, "{bad:?} was accepted");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["500ms", "1500ms", "3s", "90s", "2m", "25h", "14d", "0ms"] {
            assert_eq!(
                parse_duration(text).map(show_duration).as_deref(),
                Some(text)
            );
        }
        for text in ["1KiB", "1025", "8MiB", "5TiB", "0"] {
            assert_eq!(parse_size(text).map(show_size).as_deref(), Some(text));
        }
    }
}
