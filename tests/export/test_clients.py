"""examples/clients/: runtimes in C++ and JavaScript that know docs/bundle-format.md alone repeat the golden traces."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bundle_by_hand import any_profile
from made_bundle import linear_bundle
from traced_agents import KINDS, traced

from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENT_FILES,
    GOLDEN_FILE,
    MODEL_FILE,
    OPTIONAL_FILES,
    PROFILE_FILE,
    AgentManifest,
    decode,
    encode,
    sha256,
)
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.report import onnxruntime_web
from agentmixer.runtime import golden

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"
HEADERS = "#include <nlohmann/json.hpp>\n#include <openssl/evp.h>\n#include <zip.h>\n"


def cpp(folder: Path) -> list[str]:
    """The client in C++, built in `folder` against the release of ONNX Runtime that ONNXRUNTIME_DIR names."""
    runtime, compiler = os.environ.get("ONNXRUNTIME_DIR"), shutil.which("c++")
    if not runtime or not compiler:
        pytest.skip("no C++ compiler here" if runtime else "ONNXRUNTIME_DIR names no release of ONNX Runtime")
    check = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(check, input=HEADERS, text=True, capture_output=True).returncode:
        pytest.skip("nlohmann-json3-dev, libzip-dev or libssl-dev is not installed")
    program, libraries = folder / "replay", Path(runtime) / "lib"
    # Debian and CMake put the headers into a folder of their own.
    include = [f"-I{Path(runtime) / 'include'}", f"-I{Path(runtime) / 'include' / 'onnxruntime'}"]
    link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lonnxruntime", "-lzip", "-lcrypto"]
    subprocess.run([compiler, "-std=c++17", *include, CLIENTS / "replay.cpp", "-o", program, *link], check=True)
    return [str(program)]


def mjs(folder: Path) -> list[str]:
    """The client in JavaScript, beside the onnxruntime-web of the live page."""
    node = shutil.which("node")
    if not node:
        pytest.skip("no Node.js here")
    try:
        onnxruntime_web.web_runtime()
    except AgentMixerError as error:
        pytest.skip(str(error))
    shutil.copy(CLIENTS / "replay.mjs", folder)
    with tarfile.open(onnxruntime_web._cached()) as package:
        package.extractall(folder / "node_modules", filter="data")
    (folder / "node_modules" / "package").rename(folder / "node_modules" / "onnxruntime-web")
    return [node, str(folder / "replay.mjs")]


@pytest.fixture(scope="module", params=[cpp, mjs], ids=["C++", "JavaScript"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    command: list[str] = request.param(tmp_path_factory.mktemp("client"))
    return command


def replayed(client: list[str], folder: Path) -> tuple[int, str, str]:
    """Its exit status, and what it printed on standard output and on standard error."""
    done = subprocess.run([*client, str(folder)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def rewrite(folder: Path, **files: bytes) -> None:
    """Other files, named by their stem, and an agent.json that lists them as if they had been exported."""
    path = folder / AGENT_FILE
    for name in AGENT_FILES:
        if Path(name).stem in files:
            (folder / name).write_bytes(files[Path(name).stem])
    manifest = decode(path.read_bytes(), AgentManifest, path)
    digests = {name: sha256((folder / name).read_bytes()) for name in manifest.files}
    path.write_bytes(encode(msgspec.structs.replace(manifest, files=digests)))


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """An agent's folder, to be changed."""
    return shutil.copytree(exported.path / "agents" / "agent_0", tmp_path / "agent_0")


def test_they_know_every_file_that_an_agent_may_have() -> None:
    for source in ("replay.cpp", "replay.mjs"):
        text = (CLIENTS / source).read_text()
        assert all(name in text for name in (*AGENT_FILES, *itertools.chain(*OPTIONAL_FILES))), source


def test_an_exported_team_decides_as_it_did(client: list[str], exported: Exported) -> None:
    for folder in sorted((exported.path / "agents").iterdir()):
        assert replayed(client, folder) == (0, f"agent {folder.name}: 256 of 256 golden actions equal\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_action_is_read_and_another_network_is_noticed(
    client: list[str], kind: str, tmp_path: Path
) -> None:
    spec, index, settings = KINDS[kind]
    agent, other = (traced(spec, index, **settings, seed=seed) for seed in (0, 1))
    files = {
        MODEL_FILE: agent.model,
        GOLDEN_FILE: golden.dump(agent.golden),
        PROFILE_FILE: any_profile(agent.manifest),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    digests = {name: sha256(data) for name, data in files.items()}
    (tmp_path / AGENT_FILE).write_bytes(encode(msgspec.structs.replace(agent.manifest, files=digests)))
    name = agent.manifest.agent
    assert replayed(client, tmp_path) == (0, f"agent {name}: 200 of 200 golden actions equal\n", "")

    rewrite(tmp_path, policy=other.model)
    status, line, error = replayed(client, tmp_path)
    assert (status, error) == (1, "") and line.startswith(f"agent {name}: ") and line.endswith("the first is step 0\n")


@pytest.mark.parametrize("name", AGENT_FILES)
def test_a_changed_or_missing_file_is_refused(client: list[str], name: str, copied: Path) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    sentence = f"{copied / name} is not what was exported (its SHA-256 differs)\n"
    assert replayed(client, copied) == (2, "", sentence)
    (copied / name).unlink()
    assert replayed(client, copied) == (2, "", f"{copied / name} is missing or cannot be read\n")


def test_an_unknown_schema_version_is_refused(client: list[str], copied: Path) -> None:
    path = copied / AGENT_FILE
    path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 5'))
    assert replayed(client, copied) == (2, "", "agent.json has schema version 5, not 4\n")


def test_what_is_no_trace_of_the_agent_is_refused(client: list[str], copied: Path) -> None:
    path = copied / AGENT_FILE
    right = golden.parse((copied / GOLDEN_FILE).read_bytes(), decode(path.read_bytes(), AgentManifest, path))
    for wrong in (b"no archive", golden.dump(right._replace(policy=right.policy[:, 1:]))):
        rewrite(copied, golden=wrong)
        status, line, error = replayed(client, copied)
        assert (status, line) == (2, "") and "golden.npz" in error and error.count("\n") == 1


def test_near_ties_are_counted_and_other_actions_differ(client: list[str], tmp_path: Path) -> None:
    """Actions 0 and 1 have the same logits, action 2 has lower ones."""
    seen = np.random.default_rng(0).random((200, 1))
    folder = linear_bundle(tmp_path / "bundle", np.array([[1.0, 1.0, 0.5]]), seen) / "agents" / "a"
    path = folder / AGENT_FILE
    right = golden.parse((folder / GOLDEN_FILE).read_bytes(), decode(path.read_bytes(), AgentManifest, path))
    assert not right.action.any()
    ties = right.action.copy()
    ties[[3, 50]] = 1
    rewrite(folder, golden=golden.dump(right._replace(action=ties)))
    assert replayed(client, folder) == (0, "agent a: 198 of 200 golden actions equal, near ties: 2\n", "")
    far = right.policy.copy()
    far[7] += np.float32(1e-4)
    rewrite(folder, golden=golden.dump(right._replace(policy=far)))
    differs = "steps that differ in action, policy or state: 1, the first is step 7"
    assert replayed(client, folder) == (1, f"agent a: 200 of 200 golden actions equal; {differs}\n", "")
