"""Whether other programs accept what was rendered: Kubernetes' schemas, KEDA's and the Prometheus operator's, promtool,
kustomize. Knows nothing of the worker."""

import functools
import pathlib
import subprocess
import tempfile

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator

from chart import ROOT, documents

# It would read the megabytes of its definitions again for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

# The oldest that Chart.yaml allows, and the newest that the validator knows.
KUBERNETES = ("1.29", "1.37")

MODELS = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): keda.TriggerAuthentication,
    ("monitoring.coreos.com/v1", "PodMonitor"): operator.PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): operator.PrometheusRule,
}

# What these models are too old for, with the values that are right: KEDA has it since 2.17.
NEWER = {"spec.fallback.behavior": {"static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"}}


def schemas(objects):
    """What the schemas say against objects: a sentence each."""
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        model = MODELS.get((item["apiVersion"], item["kind"]))
        if model:
            yield from (f"{name}: {problem}" for problem in _custom(item, model))
            continue
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                yield f"{name}: Kubernetes {version}: {error}"


def _custom(item, model):
    try:
        known = model.model_validate(item).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        yield str(error)
        return
    # The models pass over what they don't know.
    for path, value in _lost(item, known, ()):
        if value not in NEWER.get(path, ()):
            yield f"{path}: no such field"


def _lost(given, kept, path):
    if isinstance(given, dict):
        for key, value in given.items():
            at = (*path, key)
            if not isinstance(kept, dict) or key not in kept:
                yield ".".join(at), value
            else:
                yield from _lost(value, kept[key], at)
    elif isinstance(given, list) and isinstance(kept, list):
        for one, other in zip(given, kept):
            yield from _lost(one, other, path)


def promtool(rules, tests=()):
    """What promtool says against rule groups, and against tests of them."""
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        (directory / "rules.yml").write_text(yaml.safe_dump({"groups": rules}))
        runs = [["check", "rules", "rules.yml"]]
        if tests:
            tests = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": list(tests)}
            (directory / "tests.yml").write_text(yaml.safe_dump(tests))
            runs.append(["test", "rules", "tests.yml"])
        for arguments in runs:
            done = subprocess.run(
                [ROOT / "scripts/prometheus", "promtool", *arguments],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=300,
            )
            if done.returncode != 0:
                yield f"promtool {' '.join(arguments[:2])}: {done.stdout}{done.stderr}"


def kustomize(kubectl, directory):
    """The objects that a kustomization makes. Raises CalledProcessError."""
    done = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise ValueError(f"kubectl kustomize {directory}: {done.stderr}")
    return documents(done.stdout)
