//! A Prometheus of a test's own: started with a configuration, asked over its HTTP API, stopped with the test.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use bucket_brigade::http::client;
use serde_json::Value;

/// No query takes longer, not even on a busy machine.
const ANSWER: Duration = Duration::from_secs(30);

/// The repository.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs `scripts/prometheus`; its output, standard error included, and whether it succeeded.
pub(super) fn script(arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(root().join("scripts/prometheus"));
    let done = command
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    (
        String::from_utf8_lossy(&text).into_owned(),
        done.status.success(),
    )
}

/// Seconds since 1970, as Prometheus counts.
pub(super) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// A running Prometheus.
#[derive(Debug)]
pub(super) struct Prometheus {
    address: String,
    directory: tempfile::TempDir,
}

/// A series of a range query: its labels and its values, without their times.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Value,
    pub(super) values: Vec<f64>,
}

impl Prometheus {
    /// Starts one with these files, `prometheus.yml` among them.
    pub(super) fn start(files: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let (output, started) = script(&["start", directory.path().to_str().unwrap()]);
        assert!(started, "{output}");
        let address = output.lines().last().unwrap().to_owned();
        Self { address, directory }
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let answer = client::get(&self.address, path, ANSWER).await;
        let answer = answer.map_err(|error| error.to_string())?.json();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// The values of an expression over a time, a second apart.
    pub(super) async fn range(&self, expression: &str, from: f64) -> Result<Vec<Series>, String> {
        let path = format!(
            "/api/v1/query_range?query={}&start={from:.3}&end={:.3}&step=1",
            escaped(expression),
            now(),
        );
        let data = self.ask(&path).await?;
        Ok(list(&data["result"]).map(series).collect())
    }

    /// The names of all series that were ever scraped or recorded.
    pub(super) async fn names(&self) -> BTreeSet<String> {
        let data = self.ask("/api/v1/label/__name__/values").await.unwrap();
        list(&data).filter_map(text).collect()
    }

    /// The recording and alerting rules as they were read.
    pub(super) async fn rules(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/rules").await.unwrap();
        let rules = list(&data["groups"]).flat_map(|group| list(&group["rules"]).cloned());
        rules.collect()
    }

    /// The alerts that fire now, by name and then their labels.
    pub(super) async fn firing(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/alerts").await.unwrap();
        let alerts = list(&data["alerts"]).filter(|alert| alert["state"] == "firing");
        alerts.map(|alert| alert["labels"].clone()).collect()
    }

    /// How each target was scraped last: `up` or the error.
    pub(super) async fn targets(&self) -> Vec<String> {
        let data = self.ask("/api/v1/targets?state=active").await.unwrap();
        let targets = list(&data["activeTargets"]).map(|target| match &target["health"] {
            Value::String(up) if up == "up" => up.clone(),
            _ => target["lastError"].to_string(),
        });
        targets.collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let directory: PathBuf = self.directory.path().to_owned();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            eprintln!("--- Prometheus' log ---\n{log}");
        }
        script(&["stop", directory.to_str().unwrap()]);
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn series(value: &Value) -> Series {
    let numbers = list(&value["values"]).map(|pair| pair[1].as_str().unwrap().parse().unwrap());
    Series {
        labels: value["metric"].clone(),
        values: numbers.collect(),
    }
}

/// For a URL's query.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
