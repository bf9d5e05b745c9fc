//! `docs/reference/configuration.md` says what the program does.

use super::*;

const PAGE: &str = include_str!("../../../docs/reference/configuration.md");

#[test]
fn the_reference_page_lists_every_key_with_its_default_and_no_other() {
    let mut problems = Problems::default();
    let raw = Raw::gather(&Sources::default(), &mut problems);
    let row = |(key, setting): (&str, &raw::RawSetting)| match &setting.value {
        RawValue::One(text) if text.is_empty() => format!("| `{key}` | empty |"),
        RawValue::One(text) => format!("| `{key}` | `{text}` |"),
        RawValue::Many(_) => format!("| `{key}` | empty list |"),
    };
    let mut expected: Vec<String> = raw.iter().map(row).collect();
    let is_key_row = |line: &&str| line.starts_with("| `") && line.contains('.');
    let keys = PAGE.split("## Every setting").nth(1).unwrap();
    let mut rows: Vec<&str> = keys.lines().filter(is_key_row).collect();
    expected.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, expected);
}

#[test]
fn the_reference_page_lists_every_relation() {
    for (key, _, relation, other, _) in RISKY_PAIRS {
        let row = format!("| `{key}` | {relation} | `{other}` |");
        assert!(PAGE.contains(&row), "{row}");
    }
}
