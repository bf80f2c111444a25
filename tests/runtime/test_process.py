"""Frames and agent processes: what is sent is what is answered, and late or foreign answers are not applied."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bundle import made_bundle

import agentmixer
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.host.agent_link import AgentLost
from agentmixer.host.lock_step import Host
from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.frames import HEADER, MAX_FRAME, Kind, observation, pack, unpack
from agentmixer.runtime.golden import Golden, parse
from agentmixer.runtime.launch import Launched, launch
from agentmixer.runtime.sandbox import probe
from agentmixer.validate import attacker

U32 = st.integers(0, 2**32 - 1)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=40), st.lists(st.booleans(), max_size=20), U32, U32)
def test_an_observation_survives_its_frame(obs: list[float], mask: list[bool], episode: int, step: int) -> None:
    seen, legal = np.array(obs, np.float32), np.array(mask, bool)
    payload = seen.tobytes() + legal.tobytes()
    data = pack(Kind.OBSERVE, 3, b"contract", payload, episode, step, 7, 9, seen.nbytes, legal.nbytes)
    frame = unpack(data)
    assert (frame.agent, frame.digest, frame.episode, frame.step) == (3, b"contract", episode, step)
    got_obs, got_mask = observation(frame)
    np.testing.assert_array_equal(got_obs, seen)
    np.testing.assert_array_equal(got_mask if got_mask is not None else [], legal)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(AgentMixerError):
        unpack(data)


@given(st.integers(0, HEADER.size + 15), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(position: int, flip: int) -> None:
    data = bytearray(pack(Kind.OBSERVE, 0, bytes(8), bytes(12) + b"\0\1\0\1", 1, 2, 3, 4, 12, 4))
    data[position] ^= flip
    with pytest.raises(AgentMixerError):
        unpack(bytes(data))


def test_the_header_is_little_endian_and_fixed() -> None:
    fields = (
        "414d5852" "0400" "0500" "01000000" "02000000" "00000000" "0000000000000000" "00000000" "00000000" "00000000"
    ) + b"12345678".hex()  # fmt: skip
    # CRC-32 bit by bit, as IEEE 802.3 has it: reflected, polynomial 0xEDB88320.
    crc = 2**32 - 1
    for byte in bytes.fromhex(fields) + b"payload":
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    crc ^= 2**32 - 1
    assert pack(Kind.STOP, 1, b"12345678", b"payload", episode=2).hex() == (
        fields + crc.to_bytes(4, "little").hex() + b"payload".hex()
    )


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return read_bundle(exported.path)


@pytest.fixture(scope="module")
def goldens(bundle: Bundle) -> list[Golden]:
    return [parse(files.golden, files.manifest) for files in bundle.agents.values()]


def inputs(goldens: list[Golden], t: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [g.obs[t] for g in goldens], [g.action_mask[t] for g in goldens]


def test_processes_repeat_the_golden_traces(bundle: Bundle, goldens: list[Golden]) -> None:
    with Host(bundle, deadline_s=10) as host:
        episode = 0
        for t in range(len(goldens[0].reset)):
            if goldens[0].reset[t]:
                episode += 1
            decisions = host.step(episode, t, *inputs(goldens, t))
            assert [d.action for d in decisions] == [g.action[t] for g in goldens]
            assert all(d.in_time and 0 < d.deciding_ns < d.round_trip_ns for d in decisions)
        sent = [agent.sent_bytes for agent in host.agents]
        assert sent == [len(goldens[0].reset) * (HEADER.size + 97 * 4 + 10)] * 5


def test_an_agents_process_has_nothing_but_its_folder_and_one_descriptor(bundle: Bundle) -> None:
    """Seen from outside, in a process that has not entered the sandbox and so can be looked into."""
    process, link, directory, _ = launch(attacker.SCRIPT, str(bundle.folder("agent_0").resolve()), "victim", "--open")
    with directory, link:
        link.settimeout(60)
        assert unpack(link.recv(MAX_FRAME)).kind == Kind.READY
        proc = Path(f"/proc/{process.pid}")
        assert (proc / "environ").read_bytes() == b""
        assert list((proc / "cwd").iterdir()) == []
        links = {int(fd.name): os.readlink(fd) for fd in (proc / "fd").iterdir()}
        assert links.pop(2) == os.readlink("/proc/self/fd/2")
        assert links.pop(1) == os.devnull
        assert list(links) == [0] and links[0].startswith("socket:")
        modules = (proc / "maps").read_text()
        assert "onnxruntime" in modules
        assert "libtorch" not in modules
        assert "jaxlib" not in modules
        link.shutdown(socket.SHUT_RDWR)
        assert process.wait(60) == 0


@pytest.mark.skipif(not all(probe()), reason=f"this kernel offers {probe()}, not Landlock and seccomp")
def test_a_sandboxed_agent_cannot_be_looked_into(bundle: Bundle) -> None:
    """By other processes of its user; one that may trace everything (root) finds its link and nothing else."""
    with Host(bundle, require_isolation=True) as host:
        assert {agent.isolation.level for agent in host.agents} == {"full"}
        for agent in host.agents:
            proc = Path(f"/proc/{agent.process.pid}")
            try:
                links = [os.readlink(fd) for fd in (proc / "fd").iterdir()]
            except PermissionError:
                for name in ("environ", "maps", "mem"):
                    with pytest.raises(PermissionError):
                        (proc / name).open("rb")
            else:
                assert os.geteuid() == 0
                assert len(links) == 1 and links[0].startswith("socket:")
            status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
            assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")


def test_what_is_announced_is_checked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that announces no isolation is not taken for an isolated one."""
    from agentmixer.host import agent_process as module

    def unprotected(script: Path, folder: str, *_: str) -> Launched:
        return launch(attacker.SCRIPT, folder, "victim", "--open")

    monkeypatch.setattr(module, "launch", unprotected)
    with Host(bundle) as host:
        assert {agent.isolation.level for agent in host.agents} == {"none"}
    with (
        pytest.raises(AgentMixerError, match="agent_0 lacks Landlock, seccomp, "),
        Host(bundle, require_isolation=True),
    ):
        pass


def test_a_refusal_comes_back_in_the_agents_words_and_it_lives_on(bundle: Bundle, goldens: list[Golden]) -> None:
    with Host(bundle, deadline_s=10) as host:
        obs, masks = inputs(goldens, 0)
        with pytest.raises(AgentLost, match=r"agent_1 refused step 0: .*obs\[3\] .* is nan"):
            host.step(0, 0, [obs[0], np.where(np.arange(97) == 3, np.nan, obs[1]).astype(np.float32), *obs[2:]], masks)
        want = [g.action[0] for g in goldens]
        assert [d.action for d in host.step(1, 1, obs, masks)] == want


def test_a_stopped_agent_misses_its_deadline_and_its_stale_reply_is_dropped(
    bundle: Bundle, goldens: list[Golden]
) -> None:
    with Host(bundle, deadline_s=10) as host:
        host.step(0, 0, *inputs(goldens, 0))
        host.deadline_s = 0.2
        os.kill(host.agents[2].process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        decisions = host.step(0, 1, *inputs(goldens, 1))
        assert time.monotonic() - begin < 5
        assert [d.in_time for d in decisions] == [True, True, False, True, True]
        assert decisions[2].action == bundle.agents["agent_2"].manifest.fallback_action
        os.kill(host.agents[2].process.pid, signal.SIGCONT)
        host.deadline_s = 10
        decisions = host.step(0, 2, *inputs(goldens, 2))
        # agent_2 did see step 1; only its answer to it came too late and was thrown away.
        assert [d.action for d in decisions] == [g.action[2] for g in goldens]
        assert all(d.in_time for d in decisions)


def test_an_agent_that_stops_reading_does_not_hold_up_the_others(bundle: Bundle, goldens: list[Golden]) -> None:
    """Its queue fills up, and from then on its frames are missed decisions, not a wait."""
    with Host(bundle, deadline_s=10) as host:
        host.step(0, 0, *inputs(goldens, 0))
        os.kill(host.agents[0].process.pid, signal.SIGSTOP)
        host.deadline_s = 0.002
        before = host.agents[0].sent_bytes
        for step in range(1, 2000):
            decisions = host.step(0, step, *inputs(goldens, 1))
            assert not decisions[0].in_time
        queued = (host.agents[0].sent_bytes - before) / (HEADER.size + 97 * 4 + 10)
        assert 0 < queued < 1999
        host.deadline_s = 1
        assert [d.in_time for d in host.step(0, 2000, *inputs(goldens, 1))] == [False, True, True, True, True]
        os.kill(host.agents[0].process.pid, signal.SIGCONT)


def test_ctrl_c_in_the_terminal_is_the_hosts_alone(bundle: Bundle) -> None:
    with Host(bundle) as host:
        for agent in host.agents:
            assert os.getsid(agent.process.pid) == agent.process.pid != os.getsid(0)


def test_a_killed_agent_is_named(bundle: Bundle, goldens: list[Golden]) -> None:
    with Host(bundle, deadline_s=10) as host:
        host.agents[4].process.kill()
        host.agents[4].process.wait()
        with pytest.raises(AgentLost, match=r"agent_4 .*its process ended with status -9"):
            host.step(0, 0, *inputs(goldens, 0))


def test_no_process_survives_the_host(bundle: Bundle) -> None:
    with Host(bundle) as host:
        processes = [agent.process for agent in host.agents]
    assert all(process.poll() == 0 for process in processes)


def test_an_agent_that_cannot_load_says_why(exported: Exported, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(exported.path, tmp_path / "bundle")
    opened = read_bundle(tmp_path / "bundle")
    (tmp_path / "bundle/agents/agent_0/policy.onnx").write_bytes(b"")
    with (
        pytest.raises(AgentMixerError, match=r"agent_0 did not start: .*policy\.onnx is not what was exported"),
        Host(opened),
    ):
        pass


def test_a_process_decides_as_the_library_does(bundle: Bundle, goldens: list[Golden]) -> None:
    agents = [Agent(files) for files in bundle.agents.values()]
    generator = np.random.default_rng(0)
    with Host(bundle, deadline_s=10) as host:
        for t in range(20):
            obs = [generator.normal(size=97).astype(np.float32) for _ in agents]
            masks = inputs(goldens, t)[1]
            want = [int(agent.act(o, m)) for agent, o, m in zip(agents, obs, masks, strict=True)]
            assert [d.action for d in host.step(0, t, obs, masks)] == want


def test_an_agents_process_imports_from_where_the_host_does(tmp_path: Path) -> None:
    """A copy of the package on PYTHONPATH, as in a robot's workspace. Its READY says one thing more, which the installed
    package can neither send nor read."""
    workspace = tmp_path / "workspace"
    copied = Path(shutil.copytree(Path(agentmixer.__file__).parent, workspace / "agentmixer"))
    for file, old, new in (
        ("launch.py", "    isolation: Isolation\n", "    isolation: Isolation\n    workspace: bool\n"),
        (
            "process.py",
            "Ready(files.manifest.agent, isolation, agent.noise.seed)",
            "Ready(files.manifest.agent, isolation, True)",
        ),
    ):
        text = (copied / "runtime" / file).read_text()
        assert text.count(old) == 1
        (copied / "runtime" / file).write_text(text.replace(old, new))
    made_bundle(tmp_path / "bundle")
    code = """
import sys
from pathlib import Path
from agentmixer.host.lock_step import Host
from agentmixer.runtime.bundle import read_bundle
with Host(read_bundle(Path("bundle"))) as host:
    print(*(agent.name for agent in host.agents))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(workspace)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "a b\n", "")
