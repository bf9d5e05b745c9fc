"""Whether the worker itself accepts what the chart gives it: `brigade config check` with the variables and the files of every
rendered container."""

import os
import pathlib
import subprocess
import tempfile

from chart import containers
from promises import environment

SECRETS = {
    "amqp-url": "amqps://brigade:p%2Fw@a.example.com:5671/%2f,amqps://brigade:p%2Fw@b.example.com:5671/%2f\n",
    "database-url": "postgres://brigade:password@postgresql.example.com/brigade?sslmode=verify-full\n",
    "admin-token": "0123456789abcdef0123456789abcdef\n",
    "s3-credentials": "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = secret\n",
}


def refused(brigade, objects):
    """What `config check` says against containers."""
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        for path, text in SECRETS.items():
            (directory / path).write_text(text)
        for folder in ("ledger", "spool", "authority"):
            (directory / folder).mkdir()
        (directory / "authority/ca.pem").write_text(_authority())
        for item, _, container in containers(objects):
            code, said = check(brigade, directory, environment(container))
            if code != 0:
                yield f"{item['metadata']['name']}: brigade config check ends with {code}: {said}"


def check(brigade, directory, variables):
    """Exit code and words of `config check` with these variables; paths in the pod are put below a directory."""
    places = {
        "/etc/brigade/secrets": directory,
        "/etc/brigade/authority": directory / "authority",
        "/var/lib/brigade": directory / "ledger",
        "/spool": directory / "spool",
    }
    moved = {}
    for name, value in variables.items():
        for place, where in places.items():
            value = value.replace(place, str(where))
        moved[name] = value
    done = subprocess.run(
        [brigade, "config", "check"],
        cwd=directory,
        env={"HOME": str(directory), "PATH": os.defpath, **moved},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def noticed(brigade):
    """That the check would notice: a setting that no worker knows, and one with a value that can't be."""
    for name, value in (("BRIGADE_DRAIN__TIMOUT", "25s"), ("BRIGADE_LANES__UPLOAD__CONCURRENCY", "many")):
        with tempfile.TemporaryDirectory() as directory:
            code, said = check(brigade, pathlib.Path(directory), {name: value})
        if code != 64 or name.rsplit("__", 1)[-1].lower() not in said.lower():
            yield f"brigade config check with {name}={value} ends with {code}: {said}"


def _authority():
    """Some public authority, so that the bundle can be read; none where the machine has none."""
    for path in ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"):
        if os.path.exists(path):
            return pathlib.Path(path).read_text()
    return ""
