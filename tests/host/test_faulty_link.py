"""Faults on purpose, and what holds under them: whose decision is applied, what is counted, who comes back."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from counting_bundle import FALLBACK, counting_bundle, seen

import agentmixer.runtime
from agentmixer.errors import AgentMixerError
from agentmixer.host.faulty_link import FRAME_FAULTS, Faults, FaultyLink, Incident, parse_faults
from agentmixer.host.lock_step import Decision, Event, Host
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.frames import (
    HEADER,
    MAGIC,
    MAX_FRAME,
    NOWHERE,
    VERSION,
    Frame,
    Kind,
    action_of,
    pack,
    unpack,
)
from agentmixer.runtime.process import main as serve_agent
from agentmixer.runtime.sandbox import Isolation

TEAM = ("agent_0", "agent_1", "agent_2")
#: One episode of this many steps a Host.
STEPS = 100


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return counting_bundle(tmp_path_factory.mktemp("counting") / "bundle")


# --- what may be asked for


def test_faults_as_typed() -> None:
    asked = [
        "drop=0.05",
        "delay=20ms:p=0.1",
        "corrupt=1",
        "kill=agent_2@100",
        "stop=agent_1@3:for=500ms",
        "stop=agent_0@4",
    ]
    assert parse_faults(asked, TEAM) == Faults(
        {"drop": 0.05, "delay": 0.1, "corrupt": 1.0},
        0.02,
        (Incident("kill", 2, 100, 1.0), Incident("stop", 1, 3, 0.5), Incident("stop", 0, 4, 1.0)),
    )
    assert parse_faults(["delay=1.5s"], TEAM) == Faults({"delay": 1.0}, 1.5)
    assert parse_faults([], TEAM) == Faults()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dorp=0.1", "unknown fault 'dorp'; did you mean 'drop'?"),
        ("", "unknown fault ''"),
        ("drop", "fault 'drop' has no rate; write it like drop=0.05"),
        ("drop=much", "fault 'drop=much' has no rate"),
        ("drop=1.01", "fault 'drop=1.01' has a rate outside 0 to 1"),
        ("drop=-0.1", "fault 'drop=-0.1' has a rate outside 0 to 1"),
        ("drop=nan", "fault 'drop=nan' has a rate outside 0 to 1"),
        ("delay=0.1", "fault 'delay=0.1' has no duration in us, ms or s; write it like delay=20ms:p=0.1"),
        ("delay=20ms:p=2", "fault 'delay=20ms:p=2' has a rate outside 0 to 1"),
        ("kill=agent_2", "fault 'kill=agent_2' names no agent and step; write it like kill=agent_0@100"),
        ("kill=agent_2@-1", "names no agent and step"),
        ("kill=agent_2@1:for=1s", "names no agent and step"),
        ("kill=agent_3@1", "fault 'kill=agent_3@1' names an agent that this team lacks"),
        ("stop=agent_1@1:for=long", "has no duration in us, ms or s; write it like stop=agent_0@100:for=500ms"),
    ],
)
def test_a_fault_that_means_nothing_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(AgentMixerError) as refused:
        parse_faults([text], TEAM)
    assert words in str(refused.value)


def test_a_kind_is_given_once() -> None:
    with pytest.raises(AgentMixerError, match="fault drop is given twice"):
        parse_faults(["drop=0.1", "drop=0.2"], TEAM)


# --- what happens to frames


class Wire:
    """A link that keeps what it is given, and answers nothing."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def send(self, data: bytes) -> bool:
        self.got.append(data)
        return True

    def receive(self) -> bytes | None:
        return None


def through(
    faults: Faults, count: int, seed: int = 0
) -> tuple[FaultyLink, list[bytes], list[tuple[tuple[int, int], str]]]:
    """`count` frames of one byte, one every ms, through a link with these faults; what arrived and what was lost."""
    wire, lost = Wire(), []
    link = FaultyLink(wire, faults, seed, 0, lambda key, why: lost.append((key, why)))
    for step in range(count):
        now = step * 1_000_000
        link.move(now)
        link.send(pack(Kind.OBSERVE, 0, bytes(8), b"x", 0, step, obs_bytes=1), now)
    link.release()
    link.move(10**18)
    return link, wire.got, lost


def steps(frames: list[bytes]) -> list[int]:
    return [unpack(data).step for data in frames]


def test_without_faults_every_frame_passes_in_order() -> None:
    link, got, lost = through(Faults(), 100)
    assert steps(got) == list(range(100))
    assert lost == []
    assert link.injected == dict.fromkeys(FRAME_FAULTS, 0)


def test_one_seed_is_one_fate() -> None:
    faults = Faults(dict.fromkeys(FRAME_FAULTS, 0.1), 0.005)
    first, again, other = (through(faults, 500, seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", FRAME_FAULTS)
@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_rates_are_kept(kind: str, rate: float) -> None:
    count = 4000
    link, _, _ = through(Faults({kind: rate}, 0.001), count)
    spread = 5 * np.sqrt(count * rate * (1 - rate))
    assert abs(link.injected[kind] - count * rate) < spread
    assert sum(link.injected.values()) == link.injected[kind]


def test_each_kind_does_what_its_name_says() -> None:
    _, got, lost = through(Faults({"drop": 0.3}), 100)
    assert sorted(steps(got) + [key[1] for key, why in lost if why == "dropped"]) == list(range(100))
    assert steps(got) == sorted(steps(got))

    link, got, lost = through(Faults({"duplicate": 0.3}), 100)
    assert len(got) == 100 + link.injected["duplicate"]
    assert set(steps(got)) == set(range(100)) and lost == []

    _, got, lost = through(Faults({"reorder": 0.3}), 100)
    assert sorted(steps(got)) == list(range(100)) and lost == []
    swaps = [later - earlier for earlier, later in zip(steps(got), steps(got)[1:], strict=False)]
    assert min(swaps) < 0

    # Frames leave every ms; those held for 5.5 ms come after the next five.
    link, got, _ = through(Faults({"delay": 0.1}, 0.0055), 100)
    place = {step: n for n, step in enumerate(steps(got))}
    moved = [step for step in range(94) if place[step] - step > 0]
    assert len(moved) > 0 and sorted(place) == list(range(100))

    for kind, longer in (("corrupt", 0), ("truncate", -1), ("oversize", 1)):
        link, got, lost = through(Faults({kind: 1.0}), 50)
        assert [np.sign(len(data) - HEADER.size - 1) for data in got] == [longer] * 50
        assert link.damaged == 50 and [why for _, why in lost] == ["damaged"] * 50
        for data in got:
            assert len(data) > 0
            with pytest.raises(AgentMixerError):
                unpack(data)


def test_it_is_the_checksum_that_refuses_a_changed_payload() -> None:
    """Positive control: with a checksum to match, the very same change is read as if nothing had happened."""
    data = bytearray(pack(Kind.OBSERVE, 0, bytes(8), bytes(8), obs_bytes=8))
    data[-1] ^= 1
    with pytest.raises(AgentMixerError, match="damaged on the way"):
        unpack(bytes(data))
    assert unpack(resealed(bytes(data))).payload[-1] == 1


# --- a team under faults


def play(host: Host, count: int = STEPS, episode: int = 0) -> list[list[Decision]]:
    return [host.step(episode, step, seen(episode, step, len(host.agents)), None) for step in range(count)]


def check_actions(played: list[list[Decision]], episode: int = 0) -> None:
    """Whatever was applied was decided for its own step, from a memory that took no step twice."""
    for step, decisions in enumerate(played):
        for decision in decisions:
            if decision.in_time:
                assert tuple(decision.action[:2]) == (episode, step)
                assert 1 <= decision.action[2] <= step + 1
            else:
                np.testing.assert_array_equal(decision.action, np.float32(FALLBACK))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_every_lost_frame_is_one_fallback_and_nothing_else_is(bundle: Bundle, rate: float) -> None:
    with Host(bundle, 0.01, Faults({"drop": rate}), seed=4) as host:
        played = play(host)
        assert host.settle(5)
    check_actions(played)
    fallbacks = sum(not d.in_time for decisions in played for d in decisions)
    drops = sum(link.injected["drop"] for link in host.links)
    assert drops > 0
    # A dropped observation is never answered, so each drop costs exactly one decision.
    assert sum(tally.lost for tally in host.tallies) == drops
    assert fallbacks == drops + sum(tally.late for tally in host.tallies)
    assert fallbacks == sum(tally.fallbacks for tally in host.tallies)
    # The memory took every observation that was not dropped, and answers that were dropped cost it nothing.
    for agent, link in enumerate(host.links):
        last = next(t for t in range(STEPS - 1, -1, -1) if played[t][agent].in_time)
        assert played[last][agent].action[2] == sum(unpack(data).step <= last for data in link.delivered if data)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_fallbacks_are_lost_plus_late_whatever_happens_to_frames(bundle: Bundle, rate: float) -> None:
    with Host(bundle, 0.01, Faults(dict.fromkeys(FRAME_FAULTS, rate), 0.01), seed=7) as host:
        played = play(host)
        assert host.settle(5)
    check_actions(played)
    for agent, tally in enumerate(host.tallies):
        fallbacks = sum(not decisions[agent].in_time for decisions in played)
        assert fallbacks == tally.lost + tally.late == tally.fallbacks
    assert sum(link.damaged for link in host.links) == sum(link.refused for link in host.links)
    assert sum(link.damaged_back for link in host.links) == sum(tally.broken for tally in host.tallies)
    if rate == 0.2:
        assert sum(tally.late for tally in host.tallies) > 0 < sum(tally.stale for tally in host.tallies)
        assert sum(link.damaged for link in host.links) > 0 < sum(link.damaged_back for link in host.links)


def test_a_step_takes_no_longer_than_its_deadline(bundle: Bundle) -> None:
    """The median, which a busy machine cannot move."""
    with Host(bundle, 0.05, Faults({"drop": 1.0})) as host:
        times = []
        for step in range(20):
            begin = time.monotonic()
            host.step(0, step, seen(0, step), None)
            times.append(time.monotonic() - begin)
    assert 0.05 <= float(np.median(times)) <= 0.055


def test_duplicates_are_taken_once_on_both_ends(bundle: Bundle) -> None:
    with Host(bundle, 10, Faults({"duplicate": 0.1}), seed=1) as host:
        played = play(host)
        assert host.settle(5)
    for step, decisions in enumerate(played):
        # The count is exact: no observation moved the memory twice.
        assert [tuple(d.action) for d in decisions] == [(0, step, step + 1)] * 3
    doubled = sum(link.injected["duplicate"] for link in host.links)
    not_applied = sum(tally.duplicates + tally.stale + tally.refused for tally in host.tallies)
    assert doubled > 0
    # A doubled observation is refused by the agent, a doubled reply by the host; and a refusal may be doubled itself.
    assert not_applied == doubled
    assert [tally.fallbacks for tally in host.tallies] == [0, 0, 0]


def test_an_overtaken_frame_is_refused_by_whoever_gets_it(bundle: Bundle) -> None:
    with Host(bundle, 0.01, Faults({"reorder": 0.1}), seed=1) as host:
        played = play(host)
        assert host.settle(5)
    check_actions(played)
    assert sum(tally.stale for tally in host.tallies) > 0
    assert sum(tally.refused for tally in host.tallies) > 0
    assert sum(tally.duplicates for tally in host.tallies) == 0


def test_every_damaged_frame_is_refused(bundle: Bundle) -> None:
    with Host(bundle, 0.01, Faults({"corrupt": 0.1, "truncate": 0.05, "oversize": 0.05}), seed=1) as host:
        played = play(host)
        assert host.settle(5)
    check_actions(played)
    for link, tally in zip(host.links, host.tallies, strict=True):
        assert link.damaged == link.refused > 0
        assert link.damaged_back == tally.broken > 0


def test_without_faults_a_refused_frame_still_ends_the_team(bundle: Bundle) -> None:
    with Host(bundle, 10) as host:
        host.agents[1].send(b"nonsense")
        with pytest.raises(AgentMixerError, match=r"agent b refused step 0: .*shorter than its header"):
            host.step(0, 0, seen(0, 0), None)


def test_steps_must_grow(bundle: Bundle) -> None:
    with Host(bundle, 10) as host:
        host.step(3, 5, seen(3, 5), None)
        for key in ((3, 5), (3, 4), (2, 9)):
            with pytest.raises(AgentMixerError, match="cannot follow step 5 of episode 3"):
                host.step(*key, seen(*key), None)
        assert [d.action[2] for d in host.step(4, 0, seen(4, 0), None)] == [1, 1, 1]


# --- processes


def events(host: Host, what: str) -> list[Event]:
    return [event for event in host.events if event.what.startswith(what)]


def test_a_killed_agent_is_noticed_replaced_and_back_with_a_fresh_memory(bundle: Bundle) -> None:
    with Host(bundle, 10, Faults(incidents=(Incident("kill", 1, 5, 1.0),)), restart=True) as host:
        begin = time.monotonic()
        decisions = [host.step(0, step, seen(0, step), None) for step in range(6)]
        assert time.monotonic() - begin < 9  # the step of the kill did not wait for its deadline
        step = 6
        while not events(host, "rejoined"):
            decisions.append(host.step(0, step, seen(0, step), None))
            step += 1
            time.sleep(0.005)
        decisions += [host.step(0, step + n, seen(0, step + n), None) for n in range(3)]
    check_actions(decisions)
    killed, lost, back = (events(host, what)[0] for what in ("killed", "lost", "rejoined"))
    assert (killed.step, killed.agent) == (5, "b")
    assert lost.at_s - killed.at_s < 0.1
    assert back.at_s - lost.at_s < 2
    assert back.what == "rejoined, recurrent state reset"
    # Nobody else noticed a thing: their decisions and memories are those of an undisturbed team.
    for t, row in enumerate(decisions):
        assert tuple(row[0].action) == tuple(row[2].action) == (0, t, t + 1)
    mine = [row[1] for row in decisions]
    first = next(t for t in range(6, len(mine)) if mine[t].in_time)
    assert all(decision.in_time for decision in mine[:5])
    assert not any(decision.in_time for decision in mine[6:first])
    assert [decision.action[2] for decision in mine[first:]] == [n + 1 for n in range(len(mine) - first)]
    assert host.tallies[1].restarts == 1
    assert host.tallies[1].lost == host.tallies[1].fallbacks > 0
    assert set(host.tallies[1].missed.values()) <= {"agent lost", "not running"}


def test_an_agent_that_dies_by_itself_is_replaced_without_any_injected_fault(bundle: Bundle) -> None:
    with Host(bundle, 10, restart=True) as host:
        host.step(0, 0, seen(0, 0), None)
        host.agents[2].process.kill()
        host.agents[2].process.wait()
        assert [d.in_time for d in host.step(0, 1, seen(0, 1), None)] == [True, True, False]
        assert host.settle(10)
        assert [d.action[2] for d in host.step(0, 2, seen(0, 2), None)] == [3, 3, 1]
    assert [event.what for event in host.events] == ["lost", "rejoined, recurrent state reset"]


def test_an_agent_that_cannot_start_again_is_given_up_and_the_team_goes_on(tmp_path: Path) -> None:
    bundle = counting_bundle(tmp_path / "bundle")
    with Host(bundle, 10, restart=True) as host:
        (tmp_path / "bundle/agents/a/policy.onnx").unlink()
        host.agents[0].process.kill()
        step = 0
        while not events(host, "gone"):
            assert [d.in_time for d in host.step(0, step, seen(0, step), None)][1:] == [True, True]
            step += 1
            time.sleep(0.01)
        decisions = host.step(0, step, seen(0, step), None)
        assert [d.in_time for d in decisions] == [False, True, True]
        assert host.settle(1)
    assert host.tallies[0].restarts == 0
    assert host.tallies[0].lost == host.tallies[0].fallbacks


def test_a_stopped_agent_falls_back_then_answers_all_it_got_and_only_the_last_answer_counts(bundle: Bundle) -> None:
    with Host(bundle, 0.05, Faults(incidents=(Incident("stop", 1, 3, 0.3),)), restart=True) as host:
        decisions = []
        while len(decisions) < 30 and not (events(host, "continued") and decisions[-1][1].in_time):
            decisions.append(host.step(0, len(decisions), seen(0, len(decisions)), None))
        host.deadline_s = 10
        decisions.append(host.step(0, len(decisions), seen(0, len(decisions)), None))
        assert host.settle(5)
    check_actions(decisions)
    assert [e.what for e in host.events] == ["stopped", "continued"]
    tally = host.tallies[1]
    assert tally.fallbacks >= 5
    # Its old answers came, and none was applied; its memory missed none of the steps that it slept through.
    # (One sent late in the step that it belongs to is late, but not stale.)
    assert tally.late == tally.fallbacks >= tally.stale > 0
    assert tuple(decisions[-1][1].action) == (0, len(decisions) - 1, len(decisions))


HOST = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from counting_bundle import seen
from agentmixer.runtime.bundle import read_bundle
from agentmixer.host.lock_step import Host
with Host(read_bundle(Path(sys.argv[1])), 0.1) as host:
    print(*(agent.process.pid for agent in host.agents), flush=True)
    for step in range(10**6):
        host.step(0, step, seen(0, step), None)
        if step == 10:
            print("playing", flush=True)
"""


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_no_agent_outlives_a_host_that_is_killed_in_the_middle_of_a_step(bundle: Bundle) -> None:
    """Three heartbeats are three control periods; the end of the link reaches an agent at once."""
    command = [sys.executable, "-c", HOST, str(bundle.path), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout
        agents = [int(pid) for pid in host.stdout.readline().split()]
        assert len(agents) == 3 and host.stdout.readline() == "playing\n"
        assert all(map(runs, agents))
        host.kill()
        host.wait()
        begin = time.monotonic()
        while any(map(runs, agents)) and time.monotonic() - begin < 30:
            time.sleep(0.005)
        took = time.monotonic() - begin
    assert not any(map(runs, agents))
    assert took < 3 * bundle.team.task.control_period_s


# --- clocks


def test_only_the_monotonic_clock_is_read() -> None:
    """In all that a device runs: no call of time.time, of datetime, or of anything else that a clock step moves."""
    wall = {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "clock_gettime", "clock_settime", "datetime"}
    for file in Path(agentmixer.runtime.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr in {"monotonic_ns", "monotonic", "sleep"}, f"{file.name} line {node.lineno}"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not wall.difference({"time"}).intersection(names), f"{file.name} imports {names}"
            assert not (isinstance(node, ast.ImportFrom) and node.module == "time"), f"{file.name} line {node.lineno}"


def test_clock_steps_change_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's wall clock jumps a day back or ahead each time that it is read."""
    day, real, jumps = 86400.0, time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + day * (-1) ** next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    with Host(bundle, 10) as host:
        played = play(host, 20)
    assert [[tuple(d.action) for d in row] for row in played] == [[(0, t, t + 1)] * 3 for t in range(20)]


# --- malformed frames


def resealed(data: bytes) -> bytes:
    """The same frame with a checksum that fits, as one would send who means it."""
    *fields, _ = HEADER.unpack_from(data)
    _, _, kind, agent, *middle, digest = fields
    return pack(kind, agent, digest, data[HEADER.size :], *middle)


def malformed(generator: np.random.Generator, good: bytes, digest: bytes) -> bytes:
    """One frame that an agent with two observation elements and no mask must refuse."""
    nan = np.array([np.nan, 0], np.float32).tobytes()
    key = {"episode": 1, "step": int(generator.integers(2**31))}

    def observe(payload: bytes, obs: int, mask: int = 0, agent: int = 0, whose: bytes = digest) -> bytes:
        return pack(Kind.OBSERVE, agent, whose, payload, key["episode"], key["step"], obs_bytes=obs, mask_bytes=mask)

    size = int(generator.integers(1, 2000))
    kinds = (
        lambda: generator.bytes(size),
        lambda: MAGIC + VERSION.to_bytes(2, "little") + generator.bytes(size),
        lambda: good[: generator.integers(1, len(good))],
        lambda: good + generator.bytes(int(generator.integers(1, 1 << 16))),
        lambda: bytes(b ^ (n == at) * int(flip) for n, b in enumerate(good)),
        lambda: observe(bytes(8), 2**32 - 1, 2**32 - 1),
        lambda: observe(bytes(8), 4, 0),
        lambda: observe(bytes(7), 7),
        lambda: observe(b"", 0),
        lambda: observe(bytes(4 * size), 4 * size) if size != 2 else observe(b"", 0),
        lambda: observe(bytes(8) + b"\1" * size, 8, size),
        lambda: observe(bytes(8) + b"\2", 8, 1),
        lambda: observe(nan, 8),
        lambda: observe(bytes(8), 8, agent=int(generator.integers(1, 2**32))),
        lambda: observe(bytes(8), 8, whose=generator.bytes(8)),
        lambda: pack(Kind(int(generator.choice([1, 3, 4]))), 0, digest, bytes(16)),
        lambda: good,  # its step is over
    )
    at, flip = generator.integers(len(good)), generator.integers(1, 256)
    return kinds[generator.integers(len(kinds))]()


def resident_kb(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_malformed_frames_are_refused_with_a_reason_and_leave_no_trace(bundle: Bundle, count: int) -> None:
    generator = np.random.default_rng(count)
    begin = time.monotonic()
    with Host(bundle, 10) as host:
        agent = host.agents[0]
        agent.link.setblocking(True)

        def ask(data: bytes) -> Frame:
            agent.link.send(data)
            return unpack(agent.link.recv(MAX_FRAME))

        def good(step: int) -> bytes:
            return pack(Kind.OBSERVE, 0, agent.digest, seen(0, 0)[0].tobytes(), 0, step, obs_bytes=8)

        def decide(step: int) -> tuple[float, ...]:
            return tuple(action_of(ask(good(step)), agent.space)[0])

        assert decide(0) == (0, 0, 1)
        for _ in range(500):  # whatever is allocated once has been by now
            ask(malformed(generator, good(0), agent.digest))
        before, reasons = resident_kb(agent.process.pid), set()
        for n in range(count):
            answer = ask(malformed(generator, good(0), agent.digest))
            assert answer.kind == Kind.REFUSE and len(answer.payload) > 10, n
            reasons.add(bytes(answer.payload).decode().translate({ord(c): None for c in "0123456789"})[:16])
        grown = resident_kb(agent.process.pid) - before
        assert len(reasons) >= 6
        assert grown < 5 * 1024
        assert agent.process.poll() is None
    print(
        f"{count} malformed frames in {time.monotonic() - begin:.1f} s, {len(reasons)} kinds of reasons, {grown} KiB grown"
    )


def test_a_refused_frame_does_not_touch_the_memory(bundle: Bundle) -> None:
    """Damaged, foreign or ill-formed frames, of this or of a later episode: the next good one goes on where it was."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    thread = threading.Thread(target=serve_agent, args=(theirs, bundle.folder("a"), False, lambda link: Isolation()))
    thread.start()
    digest, generator = unpack(ours.recv(MAX_FRAME)).digest, np.random.default_rng(0)
    space = bundle.agents["a"].manifest.action_space
    for step in range(200):
        good = pack(Kind.OBSERVE, 0, digest, seen(0, step)[0].tobytes(), 0, step, obs_bytes=8)
        ours.send(good)
        assert tuple(action_of(unpack(ours.recv(MAX_FRAME)), space)[0]) == (0, step, step + 1)
        for data in (
            good[:-1],
            pack(Kind.OBSERVE, 0, digest, bytes(7), 9, 0, obs_bytes=7),
            pack(Kind.OBSERVE, 1, digest, bytes(8), 9, 0, obs_bytes=8),
            pack(Kind.OBSERVE, 0, bytes(8), bytes(8), 9, 0, obs_bytes=8),
            generator.bytes(60),
            good,
        ):
            ours.send(data)
            answer = unpack(ours.recv(MAX_FRAME))
            assert answer.kind == Kind.REFUSE
            damaged = data[:4] != MAGIC or data == good[:-1]
            assert ((answer.episode, answer.step) == NOWHERE) == damaged
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
    theirs.close()


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    """No test leaves a child behind. What other tests started, multiprocessing's tracker for one, may be there."""

    def children() -> set[int]:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}

    before = children()
    yield
    left = children() - before
    for pid in left:
        os.kill(pid, signal.SIGCONT)
    assert left == set()
