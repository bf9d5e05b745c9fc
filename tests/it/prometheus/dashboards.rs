//! The dashboards as files: what Grafana's schema and linter ask of them, since no Grafana is at hand to render them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::server::{read, root};

/// Where Grafana's addresses lead: files of this repository.
const REPOSITORY: &str = "https://github.com/bucket-brigade/bucket-brigade/blob/main/";
/// Panel types that we use and that every Grafana has.
const TYPES: [&str; 4] = ["timeseries", "stat", "state-timeline", "heatmap"];
/// Identifiers of Grafana's units that we use.
const UNITS: [&str; 7] = ["none", "short", "s", "ops", "percentunit", "bytes", "Bps"];
/// What an export adds and nobody edits.
const NOISE: [&str; 8] = [
    "__inputs",
    "__requires",
    "__elements",
    "iteration",
    "gnetId",
    "version",
    "pluginVersion",
    "hideFrom",
];

/// Every dashboard with the name of its file.
pub(super) fn all() -> Vec<(String, Value)> {
    let folder = root().join("deploy/grafana/dashboards");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("deploy/grafana/dashboards/{name}"));
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        found.push((name, json));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found.len(), 4, "the dashboards are four");
    found
}

/// The panels that show something.
pub(super) fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Everything wrong with one dashboard.
fn faults(dashboard: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    expect(dashboard["schemaVersion"] == 41, "schemaVersion".into());
    expect(dashboard["id"].is_null(), "an id of one Grafana".into());
    expect(dashboard["editable"] == false, "editable".into());
    expect(text(dashboard, "uid").len() > 3, "no uid".into());
    expect(
        !text(dashboard, "description").is_empty(),
        "no description".into(),
    );
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|it| text(it, "name")).collect();
    expect(
        names == ["datasource", "job", "instance", "lane"],
        format!("variables {names:?}"),
    );
    expect(
        variables[0]["type"] == "datasource",
        "datasource variable".into(),
    );
    let all = dashboard.to_string();
    for noise in NOISE {
        expect(
            !all.contains(&format!("\"{noise}\":")),
            format!("exporter's noise: {noise}"),
        );
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        expect(
            has_source(annotation),
            format!("annotation {}", annotation["name"]),
        );
    }
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = text(panel, "title");
        expect(!title.is_empty(), "a panel without a title".into());
        expect(
            panel["id"]
                .as_u64()
                .is_some_and(|id| id > 0 && ids.insert(id)),
            format!("{title}: id {} is not its own", panel["id"]),
        );
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64());
        let (Some(x), Some(y), Some(w), Some(h)) = (x, y, w, h) else {
            expect(false, format!("{title}: gridPos"));
            continue;
        };
        expect(
            w > 0 && h > 0 && x + w <= 24,
            format!("{title}: outside of the grid"),
        );
        let mut alone = true;
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            alone &= cells.insert(cell);
        }
        expect(alone, format!("{title}: overlaps another panel"));
    }
    for panel in panels(dashboard) {
        let title = text(panel, "title");
        let defaults = &panel["fieldConfig"]["defaults"];
        expect(
            TYPES.contains(&text(panel, "type")),
            format!("{title}: type"),
        );
        expect(
            text(panel, "description").len() > 20,
            format!("{title}: description"),
        );
        expect(
            UNITS.contains(&text(defaults, "unit")),
            format!("{title}: unit"),
        );
        expect(has_source(panel), format!("{title}: datasource"));
        let steps = defaults["thresholds"]["steps"].as_array();
        let from: Vec<Option<f64>> = steps
            .into_iter()
            .flatten()
            .map(|step| step["value"].as_f64())
            .collect();
        let rises = from.windows(2).all(|pair| pair[0] < pair[1]);
        expect(
            from.first() == Some(&None) && rises,
            format!("{title}: thresholds"),
        );
        for link in panel["links"].as_array().into_iter().flatten() {
            let page = text(link, "url").strip_prefix(REPOSITORY);
            expect(
                page.is_some_and(|page| root().join(page).exists()),
                format!("{title}: link {}", link["url"]),
            );
        }
        let targets = panel["targets"].as_array();
        expect(
            targets.is_some_and(|it| !it.is_empty()),
            format!("{title}: no target"),
        );
        let mut references = BTreeSet::new();
        for target in targets.into_iter().flatten() {
            let expression = text(target, "expr");
            expect(
                references.insert(text(target, "refId")),
                format!("{title}: refId"),
            );
            expect(
                has_source(target),
                format!("{title}: a target's datasource"),
            );
            let fixed = ["[1m]", "[5m]", "$__interval"];
            expect(
                !fixed.iter().any(|it| expression.contains(it)),
                format!("{title}: a range that does not follow the zoom"),
            );
            let ours = expression.contains("brigade_") && !expression.contains(':');
            let chosen = expression.contains("job=~\"$job\"")
                && expression.contains("instance=~\"$instance\"");
            expect(
                !ours || chosen,
                format!("{title}: ignores the chosen workers"),
            );
        }
    }
    wrong
}

fn has_source(value: &Value) -> bool {
    value["datasource"] == serde_json::json!({"type": "prometheus", "uid": "${datasource}"})
}

#[test]
fn the_dashboards_obey_the_rules_of_grafana() {
    let mut uids = BTreeSet::new();
    for (name, dashboard) in all() {
        let wrong = faults(&dashboard);
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
        assert!(
            uids.insert(text(&dashboard, "uid").to_owned()),
            "{name}: uid"
        );
        assert!(
            panels(&dashboard).count() >= 8,
            "{name}: the test reads too little"
        );
    }
}

#[test]
fn a_dashboard_that_breaks_a_rule_is_found_out() {
    let (_, sound) = all().swap_remove(0);
    type Break = fn(&mut Value);
    let breaks: [(&str, Break); 8] = [
        ("id", |it| {
            it["panels"][2]["id"] = it["panels"][1]["id"].clone()
        }),
        ("overlaps", |it| {
            it["panels"][2]["gridPos"]["x"] = it["panels"][1]["gridPos"]["x"].clone()
        }),
        ("unit", |it| {
            it["panels"][1]["fieldConfig"]["defaults"]["unit"] = "parsecs".into()
        }),
        ("description", |it| {
            it["panels"][1]["description"] = "".into()
        }),
        ("datasource", |it| {
            it["panels"][1]["datasource"]["uid"] = "P1809F7CD0C75ACF3".into()
        }),
        ("link", |it| {
            it["panels"][1]["links"][0]["url"] = "https://example.org/".into()
        }),
        ("zoom", |it| {
            it["panels"][1]["targets"][0]["expr"] = "rate(s3_operations_total[5m])".into()
        }),
        ("noise", |it| it["__inputs"] = Value::Array(Vec::new())),
    ];
    for (what, break_it) in breaks {
        let mut broken = sound.clone();
        break_it(&mut broken);
        let wrong = faults(&broken).join("\n");
        assert!(wrong.contains(what), "{what} is not noticed: {wrong}");
    }
}
