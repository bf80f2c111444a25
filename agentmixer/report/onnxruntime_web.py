"""ONNX Runtime for browsers, from its npm package: one pinned version, by its digest."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular

VERSION = "1.30.0"
#: As npm writes a package's integrity: SHA-512 of the archive.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: The build for processors alone, with SIMD. Its script holds everything but the WebAssembly.
_SCRIPT, _WASM = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
#: Most bytes of the archive.
_LARGEST = 64 << 20
_TIMEOUT_S = 600


class WebRuntime(NamedTuple):
    """What a page runs models with: an ES module, and the WebAssembly that it is given."""

    script: bytes
    wasm: bytes


def web_runtime(archive: Path | None = None) -> WebRuntime:
    """Read the runtime from the npm package's archive, or fetch that once with npm and keep it among this user's caches.

    Raises AgentMixerError if npm is missing or cannot fetch it, or if the archive is not the pinned one."""
    path = archive or _cached()
    data = read_regular(path, _LARGEST, links=None, again=f"get it with: npm pack onnxruntime-web@{VERSION}")
    if "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise AgentMixerError(
            f"{path} is not the archive of onnxruntime-web {VERSION} (its SHA-512 is another); remove it and get it with: "
            f"npm pack onnxruntime-web@{VERSION}"
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        script, wasm = (package.extractfile(name) for name in (_SCRIPT, _WASM))
        assert script and wasm  # the digest says so
        return WebRuntime(script.read(), wasm.read())


def _cached() -> Path:
    """The archive among this user's caches, fetched unless it is there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentmixer"
    kept = folder / f"onnxruntime-web-{VERSION}.tgz"
    if kept.is_file():
        return kept
    way_out = f"run npm pack onnxruntime-web@{VERSION} where there is a network, and give --onnxruntime-web FILE.tgz"
    npm = shutil.which("npm")
    if npm is None:
        raise AgentMixerError(
            f"a live page needs onnxruntime-web, which npm fetches, and npm is not installed; {way_out}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--pack-destination", scratch]
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=_TIMEOUT_S)
            (Path(scratch) / kept.name).rename(kept)
    except (OSError, subprocess.SubprocessError) as error:
        raise AgentMixerError(f"npm could not fetch onnxruntime-web {VERSION} ({error}); {way_out}") from error
    return kept
