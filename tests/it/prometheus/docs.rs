//! The pages that alerts and dashboards lead to: each alert has one, and what they tell people to type exists.

use std::{collections::BTreeSet, process::Command};

use super::server::{Prometheus, read, root};

/// Pages of the runbook that belong to no alert.
const GENERAL: [&str; 2] = ["README.md", "dead-letters.md"];
/// What every alert's page has.
const SECTIONS: [&str; 4] = [
    "## What it means",
    "## See it",
    "## Mend it",
    "## If nobody does",
];

/// A page of the documentation.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) name: String,
    pub(super) text: String,
}

/// The runbook and the how-to.
pub(super) fn pages() -> Vec<Page> {
    let mut names = vec!["docs/how-to/watch-it.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs/runbook")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        names.push(format!("docs/runbook/{name}"));
    }
    names.sort();
    let page = |name: String| Page {
        text: read(&name),
        name,
    };
    names.into_iter().map(page).collect()
}

/// The lines of a page's code blocks in that language.
pub(super) fn block_lines(text: &str, language: &str) -> Vec<String> {
    let (mut inside, mut lines) = (false, Vec::new());
    for line in text.lines() {
        match line.trim().strip_prefix("```") {
            Some(opened) => inside = opened == language,
            None if inside && !line.trim().is_empty() => lines.push(line.trim().to_owned()),
            None => {}
        }
    }
    lines
}

/// `BrigadeNoWorkers` is told about in `no-workers.md`.
fn page_of(alert: &str) -> String {
    let mut name = String::new();
    for c in alert.strip_prefix("Brigade").unwrap_or(alert).chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(c.to_lowercase());
    }
    format!("{name}.md")
}

/// A Prometheus that has read the rules and scrapes nothing.
fn reader() -> Prometheus {
    Prometheus::start(&[
        (
            "prometheus.yml",
            "rule_files: [recording.yml, alerts.yml]\n".to_owned(),
        ),
        ("recording.yml", read("deploy/prometheus/recording.yml")),
        ("alerts.yml", read("deploy/prometheus/alerts.yml")),
    ])
}

#[tokio::test]
async fn every_alert_has_its_texts_and_its_page_and_every_page_its_alert() {
    let rules = reader().rules().await;
    let index = read("docs/runbook/README.md");
    let mut wrong = Vec::new();
    let mut expected: BTreeSet<String> = GENERAL.map(str::to_owned).into();
    let alerts = rules.iter().filter(|rule| rule["type"] == "alerting");
    for alert in alerts {
        let name = alert["name"].as_str().unwrap();
        let page = page_of(name);
        let notes = &alert["annotations"];
        for note in ["summary", "description"] {
            if notes[note].as_str().unwrap_or_default().is_empty() {
                wrong.push(format!("{name} has no {note}"));
            }
        }
        let url = notes["runbook_url"].as_str().unwrap_or_default();
        if !url.ends_with(&format!("/docs/runbook/{page}")) {
            wrong.push(format!("{name} leads to {url}, not to {page}"));
        }
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        if !severity.contains("page") && severity != "ticket" {
            wrong.push(format!("{name} has severity {severity:?}"));
        }
        if !index.contains(&format!("[{name}]({page})")) {
            wrong.push(format!("{name} is not in the index"));
        }
        let text = std::fs::read_to_string(root().join("docs/runbook").join(&page));
        let text = text.unwrap_or_default();
        if !text.starts_with(&format!("# {name}\n")) {
            wrong.push(format!("{page} does not begin with {name}"));
        }
        let missing = SECTIONS.iter().filter(|section| !text.contains(**section));
        wrong.extend(missing.map(|section| format!("{page} has no {section}")));
        for language in ["promql", "sh"] {
            if block_lines(&text, language).is_empty() {
                wrong.push(format!("{page} shows no {language}"));
            }
        }
        expected.insert(page);
    }
    let there = std::fs::read_dir(root().join("docs/runbook")).unwrap();
    let there: BTreeSet<String> = there
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        there, expected,
        "pages without an alert, or alerts without a page"
    );
    assert!(
        expected.len() > 15,
        "the test reads too little: {expected:?}"
    );
}

#[test]
fn every_command_in_the_runbook_exists_with_its_options() {
    let mut commands = BTreeSet::new();
    for page in pages() {
        for line in block_lines(&page.text, "sh") {
            let line = line.split('#').next().unwrap().to_owned();
            commands.extend(line.strip_prefix("brigade ").map(str::to_owned));
        }
        let quoted = page.text.split('`').skip(1).step_by(2);
        commands.extend(quoted.filter_map(|code| code.strip_prefix("brigade ").map(str::to_owned)));
    }
    assert!(
        commands.len() > 20,
        "the test reads too little: {commands:?}"
    );
    let mut wrong = Vec::new();
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let names: Vec<&&str> = words
            .iter()
            .take(2)
            .take_while(is_name)
            .filter(|word| !word.starts_with('-'))
            .collect();
        let mut brigade = Command::new(env!("CARGO_BIN_EXE_brigade"));
        let help = brigade.args(names).arg("--help").output().unwrap();
        let text = String::from_utf8_lossy(&help.stdout);
        let options = words.iter().filter(|word| word.starts_with("--"));
        let unknown: Vec<_> = options.filter(|option| !text.contains(**option)).collect();
        if !help.status.success() || !unknown.is_empty() {
            wrong.push(format!("brigade {command}: unknown {unknown:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = root().join(&page.name).parent().unwrap().to_owned();
        for target in page
            .text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if !target.starts_with("https://") && !folder.join(file).exists() {
                wrong.push(format!("{}: {target}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_alert_is_tested_for_firing_and_for_not_firing() {
    let (output, passed) = super::server::script(&[
        "promtool",
        "test",
        "rules",
        "deploy/prometheus/tests/alerts.yml",
    ]);
    assert!(passed, "{output}");
    let rules = read("deploy/prometheus/alerts.yml");
    let tests = read("deploy/prometheus/tests/alerts.yml");
    let mut alerts = 0;
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        let cases: Vec<&str> = tests
            .split("- eval_time: ")
            .filter(|case| case.contains(&format!("alertname: {alert}\n")))
            .collect();
        let silent = cases.iter().filter(|case| case.contains("exp_alerts: []"));
        let silent = silent.count();
        assert!(
            silent > 0 && silent < cases.len(),
            "{alert}: {silent} of {} cases are silent",
            cases.len()
        );
        alerts += 1;
    }
    assert!(alerts > 10, "the test reads too little");
}
