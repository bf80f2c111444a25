"""`agentmixer doctor`."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import textwrap
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from agentmixer import __version__
from agentmixer.missing import Problem, missing_packages
from agentmixer_cli.terminal import Terminal

#: Columns of the report, so that it can be copied anywhere.
WIDTH = 80
#: What the base install brings to an agent.
BASE = (("numpy", "onnxruntime", "msgspec"), "pip install agentmixer")
#: What each feature imports, and what installs that.
FEATURES = {
    "run agents on a device": BASE,
    "train": (("torch", "safetensors", "tensorboard", "scipy"), "pip install 'agentmixer[train]'"),
    "export": (("torch", "onnx"), "pip install 'agentmixer[train]'"),
    "tensorboard": (("tensorboard",), "pip install 'agentmixer[train]'"),
    "pages and plots": (("jinja2", "matplotlib", "scipy"), "pip install 'agentmixer[report]'"),
    "sign, and check signatures": (("cryptography",), "pip install 'agentmixer[sign]'"),
}


class Finding(NamedTuple):
    """Something that this machine may be used for. about: what it is there with; problems: what is missing, if anything."""

    name: str
    about: str
    problems: list[Problem]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine has and what is missing for each task, backend and feature, and what mends that.

    Runs with the base install. Exits 0 whatever is missing: this is a report, not a verdict. Example: agentmixer doctor
    """
    findings = [Finding("Python", f"{platform.python_version()}, AgentMixer {__version__}", [])]
    findings += [*_tasks(), *_packages(), _sandbox(), _cuda(), _ray()]
    if as_json:
        listed = [
            {
                "name": name,
                "ok": not problems,
                "about": about,
                "missing": [{"what": what, "way_out": way_out} for what, way_out in problems],
            }
            for name, about, problems in findings
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    console = Terminal()
    console.width = max(20, min(console.width, WIDTH))
    for name, about, problems in findings:
        if not problems:
            _print(console, "ok", f"{name}: {about}" if about else name)
        for what, way_out in problems:
            _print(console, "missing", f"{name}: {what}")
            _print(console, "", way_out)


def _print(console: Terminal, status: str, text: str) -> None:
    """A status and a text beside it, in as many lines as it takes; a word is never broken, for it may be an address."""
    lines = textwrap.wrap(text, console.width - 9, break_long_words=False, break_on_hyphens=False)
    for i, line in enumerate(lines):
        console.sentence(f"{'' if i else status:9}{line}")


def _tasks() -> Iterator[Finding]:
    """Every backend of every task that is installed."""
    from agentmixer import tasks

    way_out = "mend or remove the package that brings it"
    for task in tasks.names():
        try:
            for backend in tasks.family(task).backends:
                yield Finding(f"task {task}, backend {backend}", "", tasks.backend_problems(task, backend))
        except Exception as error:  # code of others: whatever it raises, the rest is still reported
            yield Finding(f"task {task}", "", [Problem(f"it cannot be loaded: {error}", way_out)])


def _packages() -> Iterator[Finding]:
    """The features that take packages alone."""
    for name, (packages, way_out) in FEATURES.items():
        yield Finding(name, ", ".join(map(_version, packages)), missing_packages(packages, way_out))


def _version(package: str) -> str:
    """A package and its version, as far as that is known."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _sandbox() -> Finding:
    """Whether this kernel lets agents' processes give everything up."""
    if problems := missing_packages(*BASE):
        return Finding("sandbox", "", problems)
    from agentmixer.runtime.sandbox import probe

    offered = probe()
    has = {"Landlock": offered.landlock > 0, "seccomp": offered.seccomp}
    way_out = "use Linux 5.13 or later (x86-64 or aarch64) and allow both; agents run without, but less isolated"
    problems += [Problem(f"this kernel offers no {name}", way_out) for name, there in has.items() if not there]
    return Finding("sandbox", f"Landlock ABI {offered.landlock}, seccomp", problems)


def _cuda() -> Finding:
    """Whether --device cuda can be used."""
    gpus, problems = _gpus(), missing_packages(["torch"])
    if not gpus:
        way_out = "nothing needs a GPU; where there is one, install NVIDIA's driver"
        problems.append(Problem("NVIDIA's driver shows no GPU", way_out))
    elif not problems and not _torch_has_cuda():
        problems.append(Problem("torch is built for the processor alone", "install torch for CUDA, see pytorch.org"))
    return Finding("--device cuda", f"{gpus} GPU{'s' * (gpus > 1)}", problems)


def _torch_has_cuda() -> bool:
    """Whether the torch that is installed brings its library for CUDA."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    return (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists()


def _gpus() -> int:
    """GPUs that NVIDIA's driver shows this process; 0 without the driver."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value


def _ray() -> Finding:
    """Whether environments can be stepped on a Ray cluster. Whether one answers there is not tried."""
    address = os.environ.get("RAY_ADDRESS")
    problems = missing_packages(["ray"], "pip install 'agentmixer[ray]'")
    if not address:
        way_out = "ray start --head starts a cluster on this machine, and RAY_ADDRESS=auto finds it"
        problems.append(Problem("RAY_ADDRESS names no cluster", way_out))
    return Finding("--workers ray", f"{_version('ray')}, RAY_ADDRESS is {address}", problems)
