//! Who may import whom, read from the `use` lines: data flows one way, and each outside system has one
//! module that knows it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Modules of ours that a module may name; `None`: any.
fn allowed(module: &str) -> Option<&'static [&'static str]> {
    Some(match module {
        "job" => &["job", "nearest"],
        "nearest" => &["nearest"],
        "terminal" => &["terminal"],
        "crash" => &["crash", "terminal"],
        "watch" => &[],
        "resilience" => &["resilience", "watch"],
        "metrics" => &["metrics", "job", "resilience"],
        "config" => &["config", "job", "nearest"],
        "storage" => &["storage", "job", "resilience", "metrics"],
        "broker" => &["broker", "job", "resilience", "metrics", "watch"],
        "ledger" => &["ledger", "job", "resilience", "metrics", "watch"],
        "lane" => &[
            "lane",
            "broker",
            "ledger",
            "storage",
            "job",
            "resilience",
            "metrics",
            "crash",
            "watch",
        ],
        "drain" => &["config"],
        "telemetry" => &["config", "terminal"],
        "http" => &[
            "http",
            "worker",
            "broker",
            "ledger",
            "lane",
            "job",
            "resilience",
            "metrics",
        ],
        // The simulation is a test of all of them together.
        "worker" | "cli" | "dev" | "sim" => return None,
        other => panic!("module {other} is new: say here whom it may import"),
    })
}

/// Crates that only some modules may name.
const FENCED: [(&str, &[&str]); 5] = [
    ("lapin", &["broker"]),
    ("sqlx", &["ledger"]),
    ("aws_sdk_s3", &["storage", "dev"]),
    ("backoff", &["resilience"]),
    ("anyhow", &["cli", "worker", "dev"]),
];

pub(crate) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The source with comments and text left out, as far as this test needs it.
fn code(source: &str) -> String {
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::` in `code`, those in `use crate::{…}` groups included.
fn imported(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(top_level(group)),
            None => names.extend(first_word(rest)),
        }
    }
    names
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

/// The first word of each entry of a group, nested groups skipped.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut entry) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(first_word(std::mem::take(&mut entry).trim())),
            _ if depth == 0 => entry.push(c),
            _ => {}
        }
    }
    names.extend(first_word(entry.trim()));
    names
}

#[test]
fn every_module_imports_only_what_the_architecture_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        if matches!(module, "main" | "lib") {
            continue;
        }
        let code = code(&std::fs::read_to_string(&file).unwrap());
        *seen.entry(module.to_owned()).or_default() += 1;
        if let Some(allowed) = allowed(module) {
            for name in imported(&code)
                .into_iter()
                .filter(|name| !allowed.contains(&name.as_str()))
            {
                wrong.push(format!("{}: {module} imports {name}", relative.display()));
            }
        }
        for (fenced, only) in FENCED {
            let names_it =
                code.contains(&format!("{fenced}::")) || code.contains(&format!("use {fenced}"));
            if names_it && !only.contains(&module) {
                wrong.push(format!("{}: {module} names {fenced}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        seen.len() >= 11 && seen["job"] > 5,
        "the test reads too little: {seen:?}"
    );
}

/// Where chance would decide, a simulation would not repeat: `select!` must be `biased`, and `watch` our own.
#[test]
fn nothing_on_the_way_of_a_job_is_left_to_tokios_chance() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for folder in [
        "lane",
        "ledger/writer",
        "worker",
        "storage",
        "broker/memory",
        "resilience",
    ] {
        let mut files = Vec::new();
        sources(&root.join(folder), &mut files);
        for file in files {
            let code = code(&std::fs::read_to_string(&file).unwrap());
            let mut selects = code.split("select! {").skip(1);
            if selects.any(|body| !body.trim_start().starts_with("biased;")) {
                wrong.push(format!("{}: a select! that is not biased", file.display()));
            }
            let groups = code.split("sync::{").skip(1);
            let mut groups = groups.filter_map(|rest| rest.split('}').next());
            if code.contains("sync::watch") || groups.any(|group| group.contains("watch")) {
                wrong.push(format!("{}: Tokio's watch", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut files);
    }
    let long = files
        .iter()
        .filter(|file| std::fs::read_to_string(file).unwrap().lines().count() > 500);
    let long: Vec<_> = long.collect();
    assert!(long.is_empty(), "split these by their nouns: {long:?}");
}

#[test]
fn the_readers_of_use_lines_see_groups_and_paths() {
    let code = "use crate::{broker::{Acker, job}, lane::run};\nfn f() { crate::metrics::x() }";
    assert_eq!(imported(code), ["broker", "lane", "metrics"]);
}
