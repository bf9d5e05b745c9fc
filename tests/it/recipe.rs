//! The pages about S3 operations name files, tests and code that exist, so that they can't fall behind unseen.

use std::path::{Path, PathBuf};

use crate::architecture::sources;

const PAGES: [&str; 2] = [
    "docs/how-to/add-an-s3-operation.md",
    "docs/explanation/s3-resilience.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The page without its blocks of code.
fn prose(page: &str) -> String {
    let outside = page.split("```").step_by(2);
    outside.collect::<Vec<_>>().join("\n")
}

/// What stands between backticks.
fn code_spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

/// Text and target of each link.
fn links(prose: &str) -> Vec<(&str, &str)> {
    let ends = prose.match_indices("](");
    let link = |(at, _): (usize, &str)| {
        let text = prose[..at].rsplit('[').next().unwrap();
        let target = prose[at + 2..].split(')').next().unwrap();
        (text.trim_matches('`'), target)
    };
    ends.map(link).collect()
}

/// The anchor of a heading, as the forge makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn is_path(span: &str) -> bool {
    let known = ["src/", "tests/", "docs/"];
    known.iter().any(|folder| span.starts_with(folder))
}

fn is_name(span: &str) -> bool {
    span.chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.".contains(c))
        && span.contains(['_', '.'])
}

#[test]
fn every_link_leads_to_a_file_and_heading_and_a_test_that_it_names_is_in_that_file() {
    for page in PAGES {
        let prose = prose(&read(&root().join(page)));
        let links = links(&prose);
        assert!(links.len() >= 10, "{page} has {} links", links.len());
        for (text, target) in links {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = root().join(page).parent().unwrap().join(file);
            assert!(path.exists(), "{page} links to {target}");
            if !heading.is_empty() {
                let linked = read(&path);
                let mut headings = linked.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{page}: {target}"
                );
            }
            if is_name(text) {
                let test = format!("fn {text}(");
                assert!(read(&path).contains(&test), "{page}: no {text} in {file}");
            }
        }
    }
}

#[test]
fn every_file_and_name_in_them_exists() {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    let code: String = files.iter().map(|path| read(path)).collect();
    for page in PAGES {
        for span in code_spans(&prose(&read(&root().join(page)))) {
            if is_path(span) {
                assert!(root().join(span).exists(), "{page} names the file {span}");
            } else if is_name(span) {
                let found = span.rsplit('.').next().unwrap();
                let whole = |at: usize| {
                    let after = code[at + found.len()..].chars().next();
                    after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
                };
                let mut places = code.match_indices(found);
                assert!(places.any(|(at, _)| whole(at)), "{page} names {span}");
            }
        }
    }
}

/// The recipe quotes the method; this is that quote.
#[test]
fn the_code_that_the_recipe_shows_is_the_code() {
    let page = read(&root().join(PAGES[0]));
    let method = read(&root().join("src/storage/tagging.rs"));
    let shown = page.split("```rust\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    for line in shown.lines() {
        assert!(method.contains(line.trim()), "{line}");
    }
}
