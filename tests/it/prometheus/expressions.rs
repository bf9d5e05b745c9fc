//! Every expression that people or Prometheus will run: from dashboards, rules and docs, made ready to be executed
//! over a test's short time.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{dashboards, docs, server::root};

/// An expression and the place where it stands.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    /// For people: file and panel, rule or page.
    pub(super) place: String,
    /// As it stands there.
    pub(super) text: String,
    /// Whether it is a condition, whose answer is empty most of the time.
    pub(super) condition: bool,
}

impl Expression {
    /// What is executed. Grafana's variables get what Grafana would put in; of a condition it is asked whether
    /// all that it compares is there.
    pub(super) fn executed(&self) -> String {
        let text = self
            .text
            .replace("$__rate_interval", "10s")
            .replace("$__range", "2m")
            .replace("$job", ".+")
            .replace("$instance", ".+")
            .replace("$lane", ".+");
        if self.condition {
            operands(&text)
        } else {
            text
        }
    }
}

/// Those of all panels, annotations and variables.
pub(super) fn of_dashboards() -> Vec<Expression> {
    let mut found = Vec::new();
    for (name, dashboard) in dashboards::all() {
        let mut add = |what: String, text: &str, condition| {
            found.push(Expression {
                place: format!("{name}: {what}"),
                text: text.to_owned(),
                condition,
            });
        };
        for panel in dashboards::panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                let what = format!("{} {}", panel["title"], target["refId"]);
                add(what, target["expr"].as_str().unwrap(), false);
            }
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            let what = format!("annotation {}", annotation["name"]);
            add(what, annotation["expr"].as_str().unwrap(), true);
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(query) = variable["query"]["query"].as_str() {
                let inner = query.strip_prefix("label_values(").unwrap();
                let (series, label) = inner.strip_suffix(')').unwrap().rsplit_once(',').unwrap();
                let text = format!("count by ({}) ({series})", label.trim());
                add(format!("variable {}", variable["name"]), &text, false);
            }
        }
    }
    found
}

/// Those of rules as Prometheus has read them.
pub(super) fn of_rules(rules: &[Value]) -> Vec<Expression> {
    let each = rules.iter().map(|rule| Expression {
        place: format!("rule {}", rule["name"]),
        text: rule["query"].as_str().unwrap().to_owned(),
        condition: rule["type"] == "alerting",
    });
    each.collect()
}

/// Those of the documentation's `promql` blocks, a line each.
pub(super) fn of_docs() -> Vec<Expression> {
    let mut found = Vec::new();
    for page in docs::pages() {
        for line in docs::block_lines(&page.text, "promql") {
            found.push(Expression {
                place: page.name.clone(),
                text: line.clone(),
                condition: line.contains("== "),
            });
        }
    }
    found
}

/// Names of series in a text: ours, RabbitMQ's, the process's, and recorded ones.
pub(super) fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_part(c))
        .filter(|word| {
            let ours = ["brigade_", "s3_operation", "rabbitmq_", "process_"];
            // `level:metric:operation`; not a time, nor a cast in SQL.
            let recorded = word.matches(':').count() == 2
                && !word.contains("::")
                && word.starts_with(|c: char| c.is_ascii_lowercase());
            (ours.iter().any(|start| word.starts_with(start)) || recorded) && !word.ends_with('_')
        })
        .map(str::to_owned)
        .collect()
}

/// The expression with `bool` behind every comparison, and `and` for `unless`: its answer is empty if one of its
/// operands is.
fn operands(text: &str) -> String {
    let (mut out, mut depth, mut quoted) = (String::new(), 0, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let here = depth == 0 && !quoted;
        let comparison = ["==", "!=", ">=", "<=", ">", "<"];
        if let Some(found) = comparison.iter().find(|it| here && rest.starts_with(**it)) {
            rest = &rest[found.len()..];
            out.push_str(found);
            out.push_str(" bool");
        } else if here && rest.starts_with("unless on") {
            rest = &rest["unless".len()..];
            out.push_str("and");
        } else if here && rest.starts_with("unless ") {
            // "Not so before": there is no before that must be there.
            return out;
        } else {
            match c {
                '"' => quoted = !quoted,
                '{' if !quoted => depth += 1,
                '}' if !quoted => depth -= 1,
                _ => {}
            }
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The rules with a second for every minute, in `for` and in ranges: an hour of trouble fits into one of a test.
pub(super) fn hastened(rules: &str) -> String {
    let mut out = String::new();
    for line in rules.lines() {
        let line = match line.trim_start().strip_prefix("for: ") {
            Some(wait) => format!("        for: {}", in_seconds(wait)),
            None => line.to_owned(),
        };
        let mut parts = line.split('[');
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            // `[5m]` is a range, `[.]` part of a pattern.
            match part.split_once(']') {
                Some((range, rest))
                    if range.starts_with(|c: char| c.is_ascii_digit())
                        && range.ends_with(['m', 'h']) =>
                {
                    out.push_str(&format!("[{}]{rest}", in_seconds(range)));
                }
                _ => out.push_str(&format!("[{part}")),
            }
        }
        out.push('\n');
    }
    out
}

fn in_seconds(time: &str) -> String {
    let (number, unit) = time.split_at(time.len() - 1);
    format!("{number}{}", if unit == "h" { "m" } else { "s" })
}

/// The configuration with a second between scrapes, and these targets instead of discovery: workers, RabbitMQ.
pub(super) fn hastened_configuration(worker: &str, rabbit: &str) -> String {
    let text = std::fs::read_to_string(root().join("deploy/prometheus/prometheus.yml")).unwrap();
    let mut out = String::new();
    for line in text.lines() {
        let line = line.replace("_interval: 15s", "_interval: 1s");
        let target = if line.contains("names: [worker]") {
            worker
        } else {
            rabbit
        };
        let line = match line.trim_start() {
            "dns_sd_configs:" => "    static_configs:".to_owned(),
            it if it.starts_with("- { names:") => format!("      - {{ targets: ['{target}'] }}"),
            _ => line,
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[test]
fn of_a_condition_its_operands_are_asked_for() {
    let rule = r#"a{b!="> 1"} == 0 and on (c) d > 5 unless on (e) f >= 1"#;
    let expected = r#"a{b!="> 1"} == bool 0 and on (c) d > bool 5 and on (e) f >= bool 1"#;
    assert_eq!(operands(rule), expected);
    assert_eq!(operands("a > 0 unless a offset 1m"), "a > bool 0 ");
}

#[test]
fn minutes_become_seconds_and_patterns_stay() {
    let rules = "        for: 5m\n  expr: rate(a{q=~\"x[.](y|z)[0-9]+\"}[10m]) + increase(b[1h])";
    let expected =
        "        for: 5s\n  expr: rate(a{q=~\"x[.](y|z)[0-9]+\"}[10s]) + increase(b[1m])\n";
    assert_eq!(hastened(rules), expected);
}

#[test]
fn names_of_series_are_found_in_texts() {
    let text = "sum(rate(brigade_jobs_total{lane=\"a\"}[5m])) + lane:x:max `s3_operations_total`, http://a:9";
    let expected = ["brigade_jobs_total", "lane:x:max", "s3_operations_total"];
    assert_eq!(names(text), expected.map(str::to_owned).into());
}
