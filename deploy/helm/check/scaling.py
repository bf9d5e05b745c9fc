"""What KEDA is asked, and what it makes of the answers. KEDA itself is not here: the formula is plain arithmetic, the question to
Prometheus is put to promtool."""

from chart import of_kind

import validators

MANAGEMENT_KEYS = {"protocol", "host", "vhostName", "queueName", "mode", "value", "unsafeSsl"}


def triggers(objects):
    """One trigger a lane through the management API, counting held jobs, with credentials by reference."""
    deployments = {item["metadata"]["name"]: item for item in of_kind(objects, "Deployment")}
    for item in of_kind(objects, "ScaledObject"):
        name, spec = item["metadata"]["name"], item["spec"]
        container = deployments[name]["spec"]["template"]["spec"]["containers"][0]
        lanes = container["args"][2].split(",")
        prefix = {v["name"]: v.get("value") for v in container["env"]}.get("BRIGADE_AMQP__PREFIX", "brigade")
        asked = [trigger for trigger in spec["triggers"] if trigger["type"] == "rabbitmq"]
        if [trigger["metadata"]["queueName"] for trigger in asked] != [f"{prefix}.{lane}" for lane in lanes]:
            yield f"{name}: asks for other queues than those of {lanes}"
        for trigger in asked:
            metadata = trigger["metadata"]
            if metadata["protocol"] != "http" or metadata["mode"] != "QueueLength" or set(metadata) - MANAGEMENT_KEYS:
                yield f"{name}: {metadata} does not count what workers hold, or holds what it must not"
            if not metadata["host"].endswith("/") or "@" in metadata["host"]:
                yield f"{name}: {metadata['host']} lacks its slash or holds a password"
            if not trigger["authenticationRef"]["name"]:
                yield f"{name}: nobody vouches for the question about {metadata['queueName']}"
        if not spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]:
            yield f"{name}: falls back to {spec['fallback']['replicas']} pods"
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        if down["stabilizationWindowSeconds"] < 300:
            yield f"{name}: takes pods away after {down['stabilizationWindowSeconds']} s"
        yield from _formula(name, spec)


def _formula(name, spec):
    modifiers = spec["advanced"].get("scalingModifiers")
    names = [trigger["name"] for trigger in spec["triggers"]]
    if len(set(names)) != len(names):
        yield f"{name}: two triggers have one name"
    if not modifiers:
        return
    if modifiers["target"] != "1":
        yield f"{name}: the formula yields replicas, so its target is 1"
    for trigger in spec["triggers"]:
        if trigger["name"] not in modifiers["formula"]:
            yield f"{name}: the formula leaves {trigger['name']} out"


def replicas(spec, **answers):
    """What the formula of a ScaledObject makes of the answers; those not named are 0."""
    known = {trigger["name"]: 0.0 for trigger in spec["triggers"]}
    unknown = set(answers) - set(known)
    assert not unknown, f"{unknown} is not asked for: {sorted(known)}"
    scope = {**known, **answers, "min": min, "max": max, "__builtins__": {}}
    return eval(spec["advanced"]["scalingModifiers"]["formula"], scope)  # noqa: S307 (our own text)


def by_hand(objects):
    """The formulas of deploy/helm/values/keda.yaml, with answers whose result is known."""
    by_name = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "ScaledObject")}
    upload, rest = by_name["jobs-bucket-brigade-upload"], by_name["jobs-bucket-brigade-rest"]
    for spec, answers, expected in (
        (upload, {}, 0),
        (upload, {"jobs_upload": 32}, 1),
        (upload, {"jobs_upload": 320}, 10),
        # Far above, the fleet's own limit holds; with an open circuit the cap.
        (upload, {"jobs_upload": 1e6}, 12),
        (upload, {"jobs_upload": 1e6, "open_upload": 1}, 3),
        (upload, {"jobs_upload": 32, "open_upload": 1}, 1),
        # The largest lane counts; cleanup has no circuit.
        (rest, {"jobs_read": 128, "jobs_cleanup": 2000}, 2),
        (rest, {"jobs_read": 64, "jobs_cleanup": 6000}, 3),
        (rest, {"jobs_read": 1e6, "open_download": 1}, 3),
        (rest, {"jobs_read": 1e6, "open_download": 1, "jobs_cleanup": 8000}, 4),
    ):
        result = replicas(spec, **answers)
        if result != expected:
            yield f"{answers} makes {result} replicas, not {expected}"


def questions(objects):
    """Whether Prometheus understands the questions about circuits, and answers as the formula expects."""
    rules, tests = [], []
    for item in of_kind(objects, "ScaledObject"):
        for trigger in item["spec"]["triggers"]:
            if trigger["type"] != "prometheus":
                continue
            record = f"q{len(rules)}"
            rules.append({"record": record, "expr": trigger["metadata"]["query"]})
            circuit = trigger["name"].removeprefix("open_")
            for closed, answer in (((), 0), ((1, 1), 0), ((1, 1, 0), 0), ((1, 0), 1), ((0, 0), 1)):
                tests.append(_case(item, circuit, closed, record, answer))
    if not rules:
        yield "no question about a circuit is asked"
        return
    yield from validators.promtool([{"name": "keda", "rules": rules}], tests)


def _case(item, circuit, closed, record, answer):
    pods = [f"{item['metadata']['name']}-7c9d8f6b5-{index}xyz" for index in range(len(closed))]
    # Pods of another set whose name begins with this one's, and the other circuit, have no say.
    strangers = [(f"{item['metadata']['name']}-large-7c9d8f6b5-abcde", circuit, 0)]
    strangers += [(pod, "download" if circuit == "upload" else "upload", 0) for pod in pods]
    own = [(pod, circuit, value) for pod, value in zip(pods, closed)]
    return {
        "interval": "1m",
        "input_series": [
            {
                "series": f'brigade_circuit_state{{namespace="brigade",pod="{pod}",circuit="{which}",state="closed"}}',
                "values": f"{value}x5",
            }
            for pod, which, value in own + strangers
        ],
        "promql_expr_test": [
            {"expr": record, "eval_time": "3m", "exp_samples": [{"labels": record, "value": answer}]}
        ],
    }
