"""docs/how-to/deploy-on-kubernetes.md, as far as it can be tried without a cluster: its values are rendered, its Secrets are those
that the pods mount, its commands of `brigade` exist with their flags."""

import re
import shlex
import subprocess

import helm_python

from chart import ROOT, documents, of_kind

PAGE = ROOT / "docs/how-to/deploy-on-kubernetes.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands():
    """The command lines of all shell blocks, as words."""
    return [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line.strip()]


def wrong(chart, kubectl):
    """Values that are refused, Secrets that can't be made or that no pod mounts, names of objects that do not exist."""
    mounted, names, count = set(), set(), 0
    for block in blocks("yaml"):
        try:
            objects = chart.render(*documents(block))
        except helm_python.errors.HelmError as error:
            yield f"values of the page: {error}"
            continue
        count += 1
        names |= {item["metadata"]["name"] for item in objects}
        for item in of_kind(objects, "Deployment"):
            for volume in item["spec"]["template"]["spec"]["volumes"]:
                for source in volume.get("projected", {}).get("sources", ()):
                    mounted |= {(source["secret"]["name"], entry["key"]) for entry in source["secret"]["items"]}
        for item in of_kind(objects, "TriggerAuthentication"):
            mounted |= {(one["name"], one["key"]) for one in item["spec"]["secretTargetRef"]}
    if count < 5:
        yield f"only {count} blocks of values are read"
    made = set()
    for words in commands():
        if words[:3] == ["kubectl", "create", "secret"]:
            secret, problem = _secret(kubectl, words)
            made |= secret
            yield from problem
        for name in (word.removeprefix("deploy/") for word in words if word.startswith("deploy/jobs")):
            if name not in names:
                yield f"{name} is none of the objects of the page's values"
    if made != mounted:
        yield f"the page makes the Secrets {sorted(made)}, and the pods mount {sorted(mounted)}"


def _secret(kubectl, words):
    """(name, key) of what a `kubectl create secret` makes, without a cluster."""
    words = [word.replace("--from-file=credentials", "--from-literal=credentials=x") for word in words]
    done = subprocess.run(
        [kubectl, *words[1:], "--dry-run=client", "--output=yaml"], capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        return set(), [f"{shlex.join(words)}: {done.stderr}"]
    secret, = documents(done.stdout)
    return {(secret["metadata"]["name"], key) for key in secret["data"]}, []


def unknown(brigade):
    """Commands of `brigade` on the page, and flags of theirs, that the program does not have."""
    inside = [words[words.index("--") + 1 :] for words in commands() if "--" in words]
    lines = [words for words in inside if words[0] == "brigade"]
    if len(lines) < 3:
        yield f"only {len(lines)} commands of brigade are read"
    for words in lines:
        flags = [word for word in words if word.startswith("--")]
        verbs = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
        done = subprocess.run([brigade, *verbs, "--help"], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            yield f"brigade {' '.join(verbs)}: {done.stderr}"
        for flag in flags:
            if not re.search(rf"{flag}\b", done.stdout):
                yield f"brigade {' '.join(verbs)} has no {flag}"
