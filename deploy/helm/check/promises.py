"""What must hold of whatever the chart renders: the hardening, the probes, the grace, the labels. Each function says what is
wrong, a sentence each."""

from chart import containers, of_kind

DRAIN_MARGIN = 15
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def environment(container):
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def seconds(text):
    for unit in sorted(UNITS, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * UNITS[unit]
    raise ValueError(text)


def hardened(objects):
    """Not root, no privilege, a read-only root, no token of Kubernetes', no secret in a variable."""
    for item, pod, container in containers(objects):
        name = item["metadata"]["name"]
        expected = {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        if pod["securityContext"] != expected:
            yield f"{name}: the pod's security context is {pod['securityContext']}"
        expected = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if container["securityContext"] != expected:
            yield f"{name}: the container's security context is {container['securityContext']}"
        if pod["automountServiceAccountToken"] or pod["enableServiceLinks"]:
            yield f"{name}: Kubernetes' token or its services' variables are in the pod"
        if any(key.startswith("host") for key in pod):
            yield f"{name}: it shares something with its node"
        for variable, value in environment(container).items():
            secret = any(word in variable for word in ("TOKEN", "AMQP_URL", "SECRET", "ACCESS_KEY"))
            if secret and not variable.endswith("_FILE"):
                yield f"{name}: {variable} holds a secret; it belongs into a file"
    for item in of_kind(objects, "Secret"):
        yield f"Secret {item['metadata']['name']}: secrets are the user's own, and referred to"
    for item in of_kind(objects, "ServiceAccount"):
        if item["automountServiceAccountToken"]:
            yield f"{item['metadata']['name']}: the account's token would be mounted"


def probed(objects):
    """A startup and a liveness probe on /livez, a readiness probe on /readyz, on the port that the worker listens on."""
    for item, _, container in containers(of_kind(objects, "Deployment")):
        name = item["metadata"]["name"]
        port = int(environment(container)["BRIGADE_HTTP__LISTEN"].rsplit(":", 1)[-1])
        if container["ports"] != [{"name": "http", "containerPort": port}]:
            yield f"{name}: it listens on {port}, and its ports are {container['ports']}"
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            if container[probe]["httpGet"] != {"path": path, "port": "http"}:
                yield f"{name}: {probe} asks {container[probe]['httpGet']}"


def patient(objects, default):
    """A grace period that a drain and the three seconds after it fit into; `default` is drain.timeout's own."""
    for item, pod, container in containers(of_kind(objects, "Deployment")):
        drain = seconds(environment(container).get("BRIGADE_DRAIN__TIMEOUT", default))
        grace = pod["terminationGracePeriodSeconds"]
        if grace < drain + 3 + 10:
            yield f"{item['metadata']['name']}: {grace} s of grace for a drain of {drain} s"


def mounted(objects):
    """Every file that a variable names lies in a volume that is mounted; a SQLite ledger on a claim, and with one pod."""
    for item, pod, container in containers(objects):
        name = item["metadata"]["name"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes:
                yield f"{name}: the mount {mount['name']} has no volume"
        paths = {
            source["path"]
            for projected in volumes["secrets"]["projected"]["sources"]
            for source in projected["secret"]["items"]
        }
        named = {
            value.rsplit("/", 1)[-1]
            for value in environment(container).values()
            if value and value.startswith("/etc/brigade/secrets/")
        }
        if paths != named:
            yield f"{name}: variables name {sorted(named)}, and the files are {sorted(paths)}"
        if environment(container).get("DATABASE_URL", "").startswith("sqlite:"):
            spec = item["spec"]
            if "persistentVolumeClaim" not in volumes.get("ledger", {}):
                yield f"{name}: a SQLite ledger without a volume"
            if spec["replicas"] > 1 or spec["strategy"] != {"type": "Recreate"}:
                yield f"{name}: a SQLite ledger, and {spec['replicas']} pods by {spec['strategy']['type']}"


def joined(objects):
    """Selectors find the pods that they are meant for, and names fit into a label (63 characters)."""
    templates = {item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"] for item, _, _ in containers(objects)}
    deployments = {item["metadata"]["name"] for item in of_kind(objects, "Deployment")}
    for item in objects:
        name, spec = item["metadata"]["name"], item.get("spec", {})
        if len(name) > 58:
            yield f"{item['kind']} {name}: too long, Kubernetes appends to it"
        for selector in ("selector", "podSelector"):
            wanted = spec.get(selector, {}).get("matchLabels", {}).items()
            if selector in spec and not any(wanted <= labels.items() for labels in templates.values()):
                yield f"{item['kind']} {name}: selects no pod"
        target = spec.get("scaleTargetRef", {}).get("name")
        if target and target not in deployments:
            yield f"{item['kind']} {name}: scales {target}, which is none of {sorted(deployments)}"
    for item, pod, _ in containers(objects):
        own = item["spec"]["template"]["metadata"]["labels"].items()
        for constraint in pod.get("topologySpreadConstraints", ()):
            if not constraint["labelSelector"]["matchLabels"].items() <= own:
                yield f"{item['metadata']['name']}: spreads other pods than its own"


def replicas(objects):
    """Whoever scales is alone in it."""
    scaled = {item["spec"]["scaleTargetRef"]["name"] for item in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")}
    for item in of_kind(objects, "Deployment"):
        if (item["metadata"]["name"] in scaled) == ("replicas" in item["spec"]):
            yield f"{item['metadata']['name']}: its number of pods is said by two, or by nobody"
