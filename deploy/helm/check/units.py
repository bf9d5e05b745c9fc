"""The systemd unit: systemd's own words on it, and that it keeps what the chart's pods keep."""

import pathlib
import re
import shutil
import subprocess
import tempfile

from chart import ROOT
from promises import seconds

UNIT = ROOT / "deploy/systemd"

# What systemd-analyze calls the exposure, times ten: 0 to 100, and "OK" ends at 49.
EXPOSURE = 15

KEPT = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "StateDirectory": "brigade",
    "KillMode": "mixed",
    "Restart": "always",
    "RestartPreventExitStatus": "64",
}


def values(text):
    """The last value of each directive, and all values of those that add up."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"^([A-Za-z]+)=(.*)$", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def wrong(drain):
    """What speaks against the unit; `drain` is drain.timeout's default in seconds."""
    unit = values((UNIT / "brigade.service").read_text())
    for directive, value in KEPT.items():
        if unit.get(directive, [None])[-1] != value:
            yield f"{directive} is {unit.get(directive)}, not {value!r}"
    stop = seconds(unit["TimeoutStopSec"][-1])
    if stop < drain + 3 + 10:
        yield f"TimeoutStopSec is {stop} s, for a drain of {drain} s"
    if not any(value.startswith("@system-service") for value in unit.get("SystemCallFilter", [])):
        yield "any system call is allowed"
    for drop_in in sorted((UNIT / "brigade.service.d").glob("*.conf")):
        text = drop_in.read_text()
        for credential in re.findall(r"^LoadCredential=([^:]+):", text, re.MULTILINE):
            if f"%d/{credential}" not in text:
                yield f"{drop_in.name}: nothing reads the credential {credential}"
    yield from _systemd()


def systemd():
    return shutil.which("systemd-analyze")


def _systemd():
    if not systemd():
        return
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        # The program need not be installed here.
        text = (UNIT / "brigade.service").read_text().replace("/usr/local/bin/brigade", "/bin/true")
        (directory / "brigade.service").write_text(text)
        shutil.copytree(UNIT / "brigade.service.d", directory / "brigade.service.d")
        for arguments in (
            ["verify", "--man=no", "--recursive-errors=no", "./brigade.service"],
            ["security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", "./brigade.service"],
        ):
            done = subprocess.run(
                ["systemd-analyze", *arguments], cwd=directory, capture_output=True, text=True, timeout=60
            )
            if done.returncode != 0 or (arguments[0] == "verify" and done.stderr.strip()):
                yield f"systemd-analyze {arguments[0]}: {done.stderr or done.stdout}"
