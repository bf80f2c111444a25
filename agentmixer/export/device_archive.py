"""One archive for one device: the agent's folder, wheels of what it needs, and a script that installs both without a network."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentmixer.contract.manifest import AGENT_FILE
from agentmixer.errors import AgentMixerError
from agentmixer.files import write_whole
from agentmixer.runtime.bundle import AGENT_LIMITS, Raw, agent_manifest, only_listed, read_raw
from agentmixer.runtime.launch import PACKAGES

MACHINES = ("x86_64", "aarch64")
#: Beside PACKAGES, what the base install of agentmixer asks for.
_BASE = (*PACKAGES[1:], "typer", "rich")

_INSTALL = """#!/bin/sh
# Installs {name} and what it needs, without a network: sh install.sh [PREFIX]
# PREFIX is /opt/agentmixer unless given. PYTHON names a Python {python} that has venv.
set -eu
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
prefix=${{1:-/opt/agentmixer}}
"${{PYTHON:-python{python}}}" -m venv "$prefix"
"$prefix/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$here/wheels" \\
    --require-hashes -r "$here/requirements.txt"
rm -rf "$prefix/{name}"
cp -r "$here/{name}" "$prefix/"
sed "s|PREFIX|$prefix|g" "$here/agent.service" > "$prefix/{name}.service"
[ -e "$prefix/{name}.env" ] || sed "s|PREFIX|$prefix|g" "$here/agent.env" > "$prefix/{name}.env"
"$prefix/bin/agentmixer" verify "$prefix/{name}"
echo "installed in $prefix. What the agent is to do stands in $prefix/{name}.env. To start it with the machine:"
echo "  systemctl enable --now $prefix/{name}.service"
"""

_UNIT = """[Unit]
Description=AgentMixer {name}
StartLimitIntervalSec=0

[Service]
WorkingDirectory=PREFIX
EnvironmentFile=PREFIX/{name}.env
ExecStart=PREFIX/bin/agentmixer agent PREFIX/{name} $AGENTMIXER_ARGUMENTS
Restart=always
RestartSec=1
MemoryMax=512M
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""

#: Until the user says otherwise: measures the device, and moves nothing.
_ENVIRONMENT = """# Options of: agentmixer agent PREFIX/{name}
# A host calls:    --listen 0.0.0.0:7447 --tls PREFIX/keys
# Without a host:  --control MODULE:FUNCTION
AGENTMIXER_ARGUMENTS=--control golden
"""


def pack(folder: Path, wheel: Path, target: Path, machine: str, python: str, glibc: tuple[int, int]) -> list[str]:
    """Write the archive. Returns the names of the wheels in it.

    folder: the agent's; wheel: agentmixer's own; machine: one of MACHINES; python: the device's version, such as 3.11; glibc:
    the oldest that the device may have. What agentmixer needs is taken in the versions that are installed here.
    Raises AgentMixerError if pip finds no wheels, or the archive cannot be written."""
    raw = read_raw(folder, AGENT_LIMITS)
    manifest = agent_manifest(folder, raw.read(AGENT_FILE))
    only_listed(raw, manifest)
    with tempfile.TemporaryDirectory(prefix="agentmixer-") as scratch:
        wheels = _download(wheel, Path(scratch), machine, python, glibc)
        files = {
            **{f"{manifest.agent}/{file}": data for file, data in _files(raw)},
            **{f"wheels/{file.name}": file.read_bytes() for file in wheels},
            "requirements.txt": "".join(map(_pinned, wheels)).encode(),
            "install.sh": _INSTALL.format(name=manifest.agent, python=python).encode(),
            "agent.service": _UNIT.format(name=manifest.agent).encode(),
            "agent.env": _ENVIRONMENT.format(name=manifest.agent).encode(),
        }
    try:
        write_whole(target, _archive(f"{manifest.agent}-device", files))
    except OSError as error:
        raise AgentMixerError(f"{target} cannot be written ({error.strerror}); give another --out") from error
    return [file.name for file in wheels]


def _files(raw: Raw) -> list[tuple[str, bytes]]:
    return [(name, raw.read(name)) for name in raw.names]


def _download(wheel: Path, place: Path, machine: str, python: str, glibc: tuple[int, int]) -> list[Path]:
    """agentmixer's wheel and those that it needs, in `place`, sorted."""
    pins = place / "constraints.txt"
    pins.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _BASE))
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc[1], 4, -1)] + [f"manylinux2014_{machine}"]
    wheels = place / "wheels"
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", python, "--constraint", str(pins), "--dest", str(wheels),
        *(word for tag in tags for word in ("--platform", tag)), str(wheel),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise AgentMixerError(
            f"pip finds no wheels for Python {python} on {machine} with glibc {glibc[0]}.{glibc[1]} ({last}); name what the "
            "device has: --python, --machine, --glibc"
        )
    return sorted(wheels.glob("*.whl"))


def _pinned(wheel: Path) -> str:
    """A line of requirements.txt that only this file fulfils."""
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _archive(folder: str, files: dict[str, bytes]) -> bytes:
    """A tar.gz whose bytes depend on the files alone."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(files[name]), 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()


def newest_wheel(places: Sequence[Path]) -> Path:
    """The newest wheel of agentmixer in these folders. Raises AgentMixerError if there is none."""
    found = [file for place in places for file in place.glob("agentmixer-*.whl")]
    if not found:
        raise AgentMixerError(
            "there is no wheel of agentmixer in dist/; make one where its sources are (make dist), or name it: --wheel FILE"
        )
    return max(found, key=lambda file: file.stat().st_mtime)
