"""A manifest has one spelling and holds nothing that could mean two things, lead elsewhere or overflow later."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import reseal, spell
from made_bundle import made_bundle

from agentmixer.contract.manifest import MAX_AGENT_FILE, MAX_TEAM_FILE, AgentManifest, TeamManifest, Tolerances, decode
from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import Agent
from agentmixer.runtime import bundle as bundles
from agentmixer.runtime.actions import is_near_tie
from agentmixer.runtime.bundle import read_agent, read_bundle
from agentmixer.runtime.golden import parse
from agentmixer.runtime.inspection import receive
from agentmixer.runtime.verify import verify


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return made_bundle(tmp_path / "bundle")


def refused(text: str | bytes, kind: type[AgentManifest | TeamManifest], words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        decode(text if isinstance(text, bytes) else text.encode(), kind, Path("file"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"agent": "a"', '"agent": "b",\n "agent": "a"'),
        lambda text: text.replace('"release": 1', '"release": 1,\n "release": 1'),
        lambda text: text.replace('"depends_on": {', '"depends_on": {\n  "action": [],'),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n",
        lambda text: text.rstrip(),
        lambda text: " " + text,
        lambda text: text.replace('"agent": "a"', '"agent": "\\u0061"'),
        lambda text: text.replace("0.2", "0.20"),
        lambda text: text.replace("0.2", "2e-1"),
        lambda text: json.dumps(json.loads(text)),
    ],
)
def test_a_manifest_has_one_spelling(bundle: Path, change: Callable[[str], str]) -> None:
    text = (bundle / "agents/a/agent.json").read_text()
    decode(text.encode(), AgentManifest, Path("file"))
    assert change(text) != text
    refused(change(text), AgentManifest, "is not spelled as export spells it|is not a valid manifest")


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "a\n"},
        {"agent": "a/b"},
        {"agent": ""},
        {"agent": "x" * 65},
        {"team_id": "made\n"},
        {"team_id": "\x1b[2J"},
        {"index": 1 << 16},
        {"index": -1},
        {"release": 1 << 31},
        {"multiply_adds": 1 << 62},
        {"control_period_s": 1e-320},
        {"control_period_s": 2e6},
        {"control_period_s": 0.0},
        {"control_period_s": -1.0},
        {"action_space": {"type": "discrete", "n": 1 << 40}},
    ],
    ids=str,
)
def test_what_no_agent_can_have_is_no_manifest(bundle: Path, change: dict[str, Any]) -> None:
    tree = json.loads((bundle / "agents/a/agent.json").read_text())
    refused(spell(tree | change), AgentManifest, "is not a valid manifest")


def test_a_number_beyond_64_bits_is_no_manifest(bundle: Path) -> None:
    for file, kind, key in (("agents/a/agent.json", AgentManifest, "index"), ("team.json", TeamManifest, "release")):
        tree = json.loads((bundle / file).read_text()) | {key: 1 << 70}
        refused(json.dumps(tree, indent=1, sort_keys=True), kind, "is not a valid manifest")


def test_agent_and_team_are_of_one_release(bundle: Path) -> None:
    for change in ({"release": 2}, {"team_id": "other"}):
        tree = json.loads((bundle / "team.json").read_text())
        (bundle / "team.json").write_bytes(spell(tree | change))
        with pytest.raises(AgentMixerError, match="its team differs"):
            read_bundle(bundle)
        (bundle / "team.json").write_bytes(spell(tree))
    read_bundle(bundle)


def test_a_mask_has_one_element_an_action(bundle: Path) -> None:
    tree = json.loads((bundle / "agents/a/agent.json").read_text())
    tree["inputs"][1]["shape"] = [5]
    (bundle / "agents/a/agent.json").write_bytes(spell(tree))
    with pytest.raises(AgentMixerError, match=r"contradicts itself .its mask"):
        read_agent(bundle / "agents/a")


@pytest.mark.parametrize(
    ("file", "limit"), [("team.json", MAX_TEAM_FILE), ("agents/a/agent.json", MAX_AGENT_FILE)], ids=str
)
def test_a_manifest_is_not_decoded_beyond_its_size(bundle: Path, file: str, limit: int) -> None:
    (bundle / file).write_bytes((bundle / file).read_bytes() + b" " * limit)
    with pytest.raises(AgentMixerError, match=f"more than {limit:,} bytes"):
        read_bundle(bundle)


def test_all_agents_together_have_a_limit(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(file.stat().st_size for file in bundle.rglob("agents/*/*"))
    monkeypatch.setattr(bundles, "MAX_BYTES", size)
    read_bundle(bundle)
    monkeypatch.setattr(bundles, "MAX_BYTES", size - 1)
    with pytest.raises(AgentMixerError, match="bytes together; export a smaller team"):
        read_bundle(bundle)


def test_only_an_action_that_exists_can_be_a_near_tie() -> None:
    logits, tolerances = np.float32([0.0, 1.0, 1.0]), Tolerances()
    for start in (0, -2, 7):
        space = Discrete(3, start)
        found = [is_near_tie(space, logits, start + action, tolerances) for action in (0, 1, 2)]
        assert found == [False, True, True]
        for action in (start + 3, start - 1, start - 2, 1 << 62, -(1 << 63)):
            assert not is_near_tie(space, logits, action, tolerances)


def test_a_near_tie_is_one_in_every_element() -> None:
    """Logits 0, 1 of the first element and 5, 5, 4 of the second, which counts from 3."""
    space, logits, tolerances = MultiDiscrete((2, 3), (0, 3)), np.float32([0, 1, 5, 5, 4]), Tolerances()
    for action, tie in (
        ([1, 3], True),
        ([1, 4], True),
        ([0, 3], False),
        ([1, 5], False),
        ([1, 6], False),
        ([2, 3], False),
    ):
        assert is_near_tie(space, logits, np.array(action), tolerances) == tie


def test_a_rounded_value_is_a_near_tie_halfway_between_two() -> None:
    """Range 0 to 10, so a mean of x is 5 + 5x: 6.5 lies between 6 and 7, 6.4 nearer to 6."""
    space, tolerances = Box((0.0,), (10.0,), whole=True), Tolerances()
    for mean, action, tie in (
        (0.3, 6, True),
        (0.3, 7, True),
        (0.28, 6, True),
        (0.28, 7, False),
        (9.0, 10, True),
        (9.0, 9, False),
    ):
        assert is_near_tie(space, np.float32([mean]), np.float32([action]), tolerances) == tie, (mean, action)
    assert not is_near_tie(space, np.float32([0.3]), np.float32([6.5]), tolerances)
    assert not is_near_tie(Box((0.0,), (10.0,)), np.float32([0.3]), np.float32([6]), tolerances)


def test_an_agent_can_be_inspected_before_it_is_loaded(bundle: Path, tmp_path: Path) -> None:
    """A trace that only the inspector repeats: without it, the agent loads."""
    folder = bundle / "agents/a"
    assert Agent.load(folder, inspect=True).act(np.zeros(6, np.float32), np.ones(4, bool)) in range(4)
    other = made_bundle(tmp_path / "other", actions=4, hidden=9)
    for name in ("golden.npz",):
        shutil.copy(other / "agents/b" / name, folder / name)
    reseal(bundle)
    Agent.load(folder)
    with pytest.raises(AgentMixerError, match="does not pass: golden: the replay departs"):
        Agent.load(folder, inspect=True)
    with pytest.raises(AgentMixerError, match="holds agent a, not b"):
        Agent.load(folder, name="b", inspect=True)


def test_a_trace_that_ends_early_is_not_filled_with_what_lay_in_memory(bundle: Path) -> None:
    """obs.npy holds its header alone, with the right checksum of that, and says that it has its whole size."""
    file = bundle / "agents/a/golden.npz"
    whole = len(np.load(file)["obs"].tobytes()) + 128
    with zipfile.ZipFile(file) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data[:128] if name == "obs.npy" else data)
    data = bytearray(buffer.getvalue())
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # local header and directory, uncompressed size
        begin = data.index(signature)
        assert struct.unpack_from("<L", data, begin + at) == (128,)
        struct.pack_into("<L", data, begin + at, whole)
    manifest = read_agent(bundle / "agents/a").manifest
    with pytest.raises(AgentMixerError, match="obs ends before its"):
        parse(bytes(data), manifest)


def test_odd_names_among_the_agents_are_named_and_no_agent_is_judged(bundle: Path) -> None:
    """Not UTF-8, and hundreds of long names of control characters: more than a header could carry as they are."""
    os.mkdir(os.fsencode(bundle / "agents") + b"/\xff\xfe")
    for i in range(900):
        (bundle / "agents" / ("\x01" * 240 + str(i))).mkdir()
    report = verify(bundle)
    (failed,) = [check for check in report.checks if check.status == "failed"]
    assert (failed.subject, failed.name) == ("team", "files")
    assert r"\x01" in failed.sentence
    assert {check.subject for check in report.checks} == {"team", "agents"}


def test_a_link_to_a_folder_is_called_one(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle / "agents/a")
    with pytest.raises(AgentMixerError, match=r"current is a link.*give the folder it leads to"):
        Agent.load(tmp_path / "current")


def test_a_whole_answer_has_one_deadline() -> None:
    """Who sends it byte by byte gets no more time for each."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(struct.pack("<Q", 1000))
    for _ in range(100):
        theirs.send(b"x")
    with pytest.raises(TimeoutError):
        receive(ours, 1000, time.monotonic() - 1)
    ours.close()
    theirs.close()


def test_what_is_said_of_a_check_is_short(bundle: Path) -> None:
    """A manifest with hundreds of kilobytes to complain about is answered all the same."""
    for key, value in (("depends_on", {str(i): [] for i in range(20_000)}), ("outputs", [{"name": "x" * 500_000}])):
        tree = json.loads((bundle / "agents/a/agent.json").read_text()) | {key: value}
        (bundle / "agents/a/agent.json").write_bytes(spell(tree))
        reseal(bundle)
        failed = [check for check in verify(bundle).checks if check.status == "failed"]
        assert [(check.subject, check.name) for check in failed] == [("a", "manifest")]
        assert len(failed[0].sentence) <= 2000
    many = json.loads((bundle / "agents/b/agent.json").read_text())
    many["depends_on"] |= {"y" * 150_000 + str(i): [] for i in range(5)}
    (bundle / "agents/b/agent.json").write_bytes(spell(many))
    reseal(bundle)
    (failed,) = [check for check in verify(bundle).checks if check.status == "failed" and check.subject == "b"]
    assert failed.name == "locality" and len(failed.sentence) <= 2000
