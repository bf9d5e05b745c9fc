"""The chart as Helm sees it: renders a set of values into documents. Knows no validator and no rule."""

import copy
import pathlib

import helm_python
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy/helm/bucket-brigade"
VALUES = ROOT / "deploy/helm/values"

RELEASE = "jobs"
NAMESPACE = "brigade"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML 1.2 as Kubernetes reads it, where a key may not occur twice."""


def _mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice in one map: {', '.join(twice)}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path):
    """The one document of a YAML file."""
    return yaml.load(path.read_text(), Loader)


def documents(text):
    """All documents of a text that are not empty."""
    return [document for document in yaml.load_all(text, Loader) if document]


def sets():
    """The sets of values in deploy/helm/values by name."""
    return {path.stem: read(path) or {} for path in sorted(VALUES.glob("*.yaml"))}


def merged(base, over):
    """Values on top of others, as Helm does it: maps are merged, all else is replaced."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class Chart:
    """The chart, loaded once."""

    def __init__(self):
        self._chart = helm_python.Chart.load(CHART)
        self.metadata = self._chart.metadata
        self.defaults = self._chart.values

    def files(self, values, release=RELEASE, namespace=NAMESPACE):
        """Rendered text by template. Raises helm_python's error when a template or the schema refuses."""
        return self._chart.render(values, name=release, namespace=namespace, is_install=True)

    def render(self, values, **names):
        """All objects, in the order of templates."""
        rendered = self.files(values, **names)
        texts = (text for name, text in sorted(rendered.items()) if name.endswith(".yaml"))
        return [document for text in texts for document in documents(text)]


def of_kind(objects, *kinds):
    return [item for item in objects if item["kind"] in kinds]


def containers(objects):
    """(object, pod spec, container) of every pod template."""
    for item in of_kind(objects, "Deployment", "Job"):
        pod = item["spec"]["template"]["spec"]
        for container in pod["containers"]:
            yield item, pod, container
