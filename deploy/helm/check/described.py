"""values.yaml and values.schema.json say the same, and say it of every value."""

import json
import re

from chart import CHART, read

# Names that say enough beneath a comment.
SPEAKING = ("name", "key", "enabled", "usernameKey", "passwordKey", "scaleUp", "scaleDown")


def gaps():
    """Values without a comment, without a description, or in one file only."""
    values = read(CHART / "values.yaml")
    schema = json.loads((CHART / "values.schema.json").read_text())
    commented = _commented((CHART / "values.yaml").read_text())
    for path, described in _walk(schema, schema, values, ()):
        name = ".".join(path)
        if not described:
            yield f"values.schema.json: {name} has no description"
        if name not in commented and not (path[-1] in SPEAKING and ".".join(path[:-1]) in commented):
            yield f"values.yaml: {name} has no comment"
    yield from _loose(schema, "values.schema.json")


def _resolve(schema, node):
    return schema["definitions"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


def _walk(schema, node, values, path):
    """(path, has a description) of every value; a value that only one of both knows has none."""
    known = _resolve(schema, node).get("properties", {})
    partial = path[-1:] == ("s3",) and len(path) > 1 or path[-1:] == ("jobsPerReplica",)
    for key in sorted(set(known) | set(values)):
        at = (*path, key)
        if key not in known or (key not in values and not partial and at != ("global",)):
            yield at, False
            continue
        if at == ("global",) or key not in values:
            continue
        inner = _resolve(schema, known[key])
        yield at, len(inner.get("description", "")) > 8 or key in ("name",) and "description" in inner
        if isinstance(values[key], dict) and "properties" in inner:
            yield from _walk(schema, inner, values[key], at)


def _loose(node, at):
    """Objects of the schema that let a misspelled key through."""
    if isinstance(node, dict):
        if "properties" in node and node.get("additionalProperties") is not False and at.count("/") != 0:
            yield f"{at}: takes any key"
        for key, inner in node.items():
            yield from _loose(inner, f"{at}/{key}")


def _commented(text):
    """Paths of the keys of values.yaml that have a comment above them."""
    found, stack, comment = set(), [], False
    for line in text.splitlines():
        if match := re.match(r"^( *)([A-Za-z0-9]+):", line):
            stack[len(match[1]) // 2 :] = [match[2]]
            if comment:
                found.add(".".join(stack))
        comment = line.lstrip().startswith("#")
    return found
