//! The known name that somebody who wrote an unknown one most likely meant.

/// The nearest of `known`, unless none resembles `wanted`: at most a third of it may differ. Of several that are
/// near, one that differs in case, `_` and `-` only: `versionId` means `version_id`, not `version`.
pub(crate) fn nearest<'k>(
    wanted: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    known
        .into_iter()
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= wanted.len().div_ceil(3))
        .min_by_key(|(distance, name)| (squeezed(name) != squeezed(wanted), *distance, *name))
        .map(|(_, name)| name)
}

fn squeezed(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-'));
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

/// How many bytes must be put in, taken out or replaced to make one of the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_single_changes() {
        for (from, to, changes) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("abc", "abc", 0),
        ] {
            assert_eq!(distance(from, to), changes, "{from} -> {to}");
        }
    }

    #[test]
    fn a_typing_error_finds_its_key_and_nonsense_finds_none() {
        let known = ["amqp.url", "ledger.url", "log.level"];
        assert_eq!(nearest("ledger.ulr", known), Some("ledger.url"));
        assert_eq!(nearest("loglevel", known), Some("log.level"));
        assert_eq!(nearest("zzzzzzzzz", known), None);
        let known = ["version", "version_id", "key"];
        assert_eq!(nearest("versionId", known), Some("version_id"));
        assert_eq!(nearest("Version", known), Some("version"));
    }
}
