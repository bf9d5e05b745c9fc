"""Rules and dashboards in the cluster are those of deploy/prometheus and deploy/grafana."""

import json

import yaml

from chart import ROOT, of_kind

import validators


def _groups(prefix):
    groups = []
    for name in ("recording.yml", "alerts.yml"):
        text = (ROOT / "deploy/prometheus" / name).read_text()
        groups += yaml.safe_load(text.replace("brigade[.]", f"{prefix}[.]"))["groups"]
    return groups


def same(objects, prefix):
    """What differs from the files, for queues with a prefix."""
    rule, = of_kind(objects, "PrometheusRule")
    if rule["spec"]["groups"] != _groups(prefix):
        yield "the PrometheusRule is not deploy/prometheus"
    if prefix != "brigade" and "brigade[.]" in json.dumps(rule):
        yield "a rule still names queues with the prefix brigade"
    yield from validators.promtool(rule["spec"]["groups"])

    files = {path.name: json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")}
    shown = {}
    for item in of_kind(objects, "ConfigMap"):
        if item["metadata"]["labels"].get("grafana_dashboard") != "1":
            yield f"{item['metadata']['name']}: Grafana's sidecar would not find it"
        if sum(map(len, item["data"].values())) > 1_000_000:
            yield f"{item['metadata']['name']}: larger than a ConfigMap may be"
        shown |= {name: json.loads(text) for name, text in item["data"].items()}
    if shown != files:
        yield f"the dashboards are {sorted(shown)}, not those of deploy/grafana: {sorted(files)}"

    monitor, = of_kind(objects, "PodMonitor")
    endpoint, = monitor["spec"]["podMetricsEndpoints"]
    if {"targetLabel": "job", "replacement": "brigade"} not in endpoint["relabelings"]:
        yield "the scrape job is not named brigade, by which rules and dashboards select"
