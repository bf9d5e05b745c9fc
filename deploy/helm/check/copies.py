"""What the chart has from elsewhere: dashboards, rules, the worker's settings; and what is rendered from it for those without
Helm. `sync` makes it anew, `stale` says what is not as `sync` would make it."""

import json
import re
import tomllib

from chart import CHART, NAMESPACE, ROOT, Chart, read, VALUES

MANIFESTS = ROOT / "deploy/kubernetes/base"
MADE = "# Made by scripts/chart sync from deploy/helm; change it there.\n"

# What Helm alone needs.
_HELM = re.compile(r"^ *(app.kubernetes.io/managed-by|helm.sh/chart): .*\n", re.MULTILINE)


def wanted(chart):
    """The text of every file that is made, by its path."""
    files = {}
    for path in sorted((ROOT / "deploy/prometheus").glob("*.yml")):
        if path.name != "prometheus.yml":
            files[CHART / "files/prometheus" / path.name] = path.read_text()
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        files[CHART / "files/grafana" / path.name] = path.read_text()
    files[CHART / "files/settings.yaml"] = _settings()
    for template, text in chart.files(read(VALUES / "kubernetes.yaml"), release="brigade", namespace=NAMESPACE).items():
        text = _HELM.sub("", text).strip().removeprefix("---").strip()
        if template.endswith(".yaml") and text:
            files[MANIFESTS / template.rsplit("/", 1)[-1]] = f"{MADE}{text}\n"
    return files


def _settings():
    settings = tomllib.loads((ROOT / "config/default.toml").read_text())
    lines = ["# Made by scripts/chart sync from config/default.toml: the settings that there are, and their defaults."]
    for group, values in settings.items():
        lines.append(f"{group}:")
        for key, value in values.items():
            if isinstance(value, dict):
                lines.append(f"  {key}:")
                lines += [f"    {inner}: {json.dumps(what)}" for inner, what in value.items()]
            else:
                lines.append(f"  {key}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def stale(chart):
    """Files that differ from what `sync` would write, are missing, or are no longer made."""
    files = wanted(chart)
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            yield f"{path.relative_to(ROOT)} is not what its source is: run scripts/chart sync"
    for path in _made() - set(files):
        yield f"{path.relative_to(ROOT)} has no source: remove it"


def _made():
    made = {path for path in (CHART / "files").rglob("*") if path.is_file()}
    return made | {path for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml"}


def sync():
    """Writes all of it. The settings come first: the chart reads them."""
    settings = CHART / "files/settings.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(_settings())
    files = wanted(Chart())
    for path in _made() - set(files):
        path.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
