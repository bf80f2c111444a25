"""The verdict under faults: it passes what behaves as declared, and finds what does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import agentmixer
from counting_bundle import counting_bundle, seen

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.host.faulty_link import Faults, Incident, Key
from agentmixer.host.lock_step import LATE, Decision, Host
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.frames import Kind, action_of, pack, unpack
from agentmixer.validate import faults as rehearsal
from agentmixer.validate.faults import FaultReport, judge, rehearse, replay

MIXED = Faults({"drop": 0.05, "delay": 0.1, "duplicate": 0.1, "reorder": 0.05, "corrupt": 0.05, "truncate": 0.02}, 0.01)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return counting_bundle(tmp_path_factory.mktemp("counting") / "bundle")


@pytest.fixture(scope="module")
def report(exported: Exported) -> FaultReport:
    """Frame faults of most kinds, one kill, one stop, on a trained team."""
    incidents = (Incident("kill", 3, 10, 1.0), Incident("stop", 1, 20, 0.2))
    faults = Faults(MIXED.rates, MIXED.delay_s, incidents)
    with pytest.MonkeyPatch.context() as patch:  # these tests hold on a busy machine too
        patch.setattr(rehearsal, "_check_calm", lambda _: None)
        return rehearse(read_bundle(exported.path), faults, episodes=6, seed=5, deadline_s=0.02)


def kept(report: FaultReport) -> dict[str, bool]:
    return {check.name: check.passed for check in report.checks}


def test_a_team_under_many_faults_behaves_as_declared(report: FaultReport) -> None:
    # How long a step takes is a busy machine's to decide; that it is judged, the next tests show.
    assert kept(report) | {"step": True} == dict.fromkeys(
        ("fallbacks", "decisions", "damage", "step", "processes"), True
    )
    assert report.total("fallbacks") == report.total("lost") + report.total("late") > 0
    assert report.total("decisions") + report.total("fallbacks") == 5 * report.steps
    assert report.total("damaged") == report.total("refused") > 0
    assert report.agents["agent_3"].restarts == 1
    assert sum(agent.restarts for agent in report.agents.values()) == 1
    for agent in report.agents.values():
        assert sum(agent.causes.values()) == agent.fallbacks
        assert "unknown" not in agent.causes
    assert {"killed", "lost", "rejoined, recurrent state reset"} <= {event["what"] for event in report.events}


def test_the_report_is_json_with_its_faults_and_its_verdict(report: FaultReport) -> None:
    data = json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert data["passed"] is report.passed
    assert data["faults"]["incidents"][0] == {"kind": "kill", "agent": "agent_3", "step": 10, "for_s": 1.0}
    assert data["faults"]["rates"] == MIXED.rates
    assert [check["name"] for check in data["checks"]] == [check.name for check in report.checks]


def test_what_frames_do_to_a_team_comes_from_the_seed_alone(bundle: Bundle) -> None:
    """Lost frames are the same ones whatever the machine is doing; only lateness is the machine's."""
    faults = Faults({"drop": 0.2})
    twice = [team(bundle, faults, deadline_s=0.05, seed=3, steps=30)[0] for _ in range(2)]
    dropped = [
        [{key for key, why in tally.missed.items() if why == "dropped"} for tally in host.tallies] for host in twice
    ]
    assert dropped[0] == dropped[1] != [set(), set(), set()]


def team(
    bundle: Bundle, faults: Faults, deadline_s: float = 0.01, seed: int = 0, steps: int = 60
) -> tuple[Host, list[dict[Key, np.ndarray]]]:
    """A host that has played, and what each agent was seen to do."""
    applied: list[dict[Key, np.ndarray]] = [{} for _ in range(3)]
    with Host(bundle, deadline_s, faults, seed, restart=True) as host:
        for step in range(steps):
            for mine, decision in zip(applied, host.step(0, step, seen(0, step), None), strict=True):
                if decision.in_time:
                    mine[0, step] = decision.action
        rehearsal.settle(host, faults)
    return host, applied


def verdict(
    host: Host, applied: list[dict[Key, np.ndarray]], longest_s: float = 0.0, faults: Faults = MIXED
) -> set[str]:
    """Names of the promises that were broken."""
    return {check.name for check in judge(host, applied, longest_s, faults) if not check.passed}


def test_each_broken_promise_is_found(bundle: Bundle) -> None:
    host, applied = team(bundle, MIXED, seed=1)
    assert verdict(host, applied) == set()
    assert verdict(host, applied, longest_s=0.0111) == {"step"}
    assert verdict(host, applied, longest_s=0.0109) == set()
    killed = Faults(MIXED.rates, MIXED.delay_s, (Incident("kill", 0, 3, 1.0),))
    assert verdict(host, applied, faults=killed) == {"processes"}

    key, action = next(iter(applied[0].items()))
    applied[0][key] = action + np.float32([0, 1, 0])  # the next step's
    assert verdict(host, applied) == {"decisions"}
    applied[0][key] = action + np.float32([0, 0, 1])  # of a memory that took a step twice
    assert verdict(host, applied) == {"decisions"}
    applied[0][key] = action

    missed = host.tallies[1].missed
    step = next(iter(missed))
    why, missed[step] = missed[step], None
    assert verdict(host, applied) == {"fallbacks"}
    missed[step] = why
    host.tallies[2].broken -= 1
    assert verdict(host, applied) == {"damage"}


def test_a_host_that_takes_any_reply_for_the_current_one_is_found(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check of the echo is for: without it, stale decisions are applied, and the verdict says so."""
    real = Host._judge

    def gullible(self: Host, index: int, data: bytes, deadline_ns: int) -> Decision | None:
        try:
            frame = unpack(data)
        except AgentMixerError:
            return real(self, index, data, deadline_ns)
        if frame.kind == Kind.ACT and self._playing:
            action, deciding_ns = action_of(frame, self.agents[index].space)
            return Decision(action, 0, deciding_ns, True)
        return real(self, index, data, deadline_ns)

    monkeypatch.setattr(Host, "_judge", gullible)
    faults = Faults({"drop": 0.3, "delay": 0.3}, 0.015)  # an old reply comes while the new one is missing
    host, applied = team(bundle, faults)
    assert "decisions" in verdict(host, applied, faults=faults)


def test_a_replay_sees_what_the_agent_saw_and_nothing_else(bundle: Bundle) -> None:
    files = bundle.agents["b"]

    def frame(episode: int, step: int) -> bytes:
        return pack(Kind.OBSERVE, 1, bytes(8), seen(episode, step)[0].tobytes(), episode, step, obs_bytes=8)

    # Step 1 was lost, 2 came twice, 3 after 4, one of episode 0 in episode 1; then the process was started anew.
    order = [(0, 0), (0, 2), (0, 2), (0, 4), (0, 3), (1, 0), (0, 9), (1, 1), None, (1, 2)]
    decided = replay(files, [frame(*key) if key else None for key in order])
    assert {key: int(action[2]) for key, action in decided.items()} == {
        (0, 0): 1, (0, 2): 2, (0, 4): 3, (1, 0): 1, (1, 1): 2, (1, 2): 1,
    }  # fmt: skip


def test_the_matrix_plays_each_kind_at_each_rate_on_the_same_episodes(exported: Exported) -> None:
    said: list[str] = []
    matrix = rehearsal.matrix(
        read_bundle(exported.path),
        2,
        seed=5,
        deadline_s=0.1,
        kinds=("drop", "corrupt"),
        rates=(0.0, 0.03),
        progress=said.append,
    )
    assert list(dict.fromkeys(said)) == [
        f"playing rehearsal {number} of 3, {faults}: episode {episode} of 2"
        for number, faults in ((1, "no fault"), (2, "drop 3%"), (3, "corrupt 3%"))
        for episode in (1, 2)
    ]
    reports = matrix.reports
    assert [report.faults["rates"] for report in reports] == [{}, {"drop": 0.03}, {"corrupt": 0.03}]
    calm, drop, corrupt = reports
    assert calm.total("lost") == 0
    assert sum(agent.injected["drop"] for agent in drop.agents.values()) == drop.total("lost") > 0
    assert corrupt.total("damaged") == corrupt.total("refused") > 0
    for report in reports:
        assert kept(report) | {"step": True} == dict.fromkeys(("fallbacks", "decisions", "damage", "step"), True)
    data = json.loads(matrix.to_json())
    assert data["passed"] == matrix.passed == all(report.passed for report in reports)
    assert [check["name"] for check in data["checks"]] == ["none", "drop 0.03", "corrupt 0.03"]
    assert [report["passed"] for report in data["reports"]] == [report.passed for report in reports]


def test_a_machine_too_busy_is_no_verdict(exported: Exported) -> None:
    """Nobody decides within 10 microseconds."""
    with pytest.raises(
        AgentMixerError, match=r"too busy to judge: without any fault [\d,]+ of [\d,]+ decisions were later"
    ):
        rehearsal.matrix(read_bundle(exported.path), 1, seed=5, deadline_s=1e-5)


def test_a_machine_too_busy_is_no_verdict_on_single_faults_either(exported: Exported, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    common = ("deploy-sim", exported.path, "--episodes", "1", "--deadline-ms", "0.01", "--report", report)
    for fault in ("drop=0.1", "kill=agent_2@5"):
        told = agentmixer(*common, "--fault", fault, cwd=tmp_path)
        assert told.returncode == 2 and "too busy to judge: without any fault" in told.stderr
        assert told.stderr.splitlines()[0] == "playing without faults: episode 1 of 1"
        assert told.stderr.splitlines()[-1].startswith("error: ") and not report.exists()


def test_causes_are_lost_or_late_and_a_late_one_outweighs_a_lost_copy(bundle: Bundle) -> None:
    host = Host(bundle, 1.0, Faults())
    tally = host.tallies[0]
    tally.missed[0, 1] = None
    assert (tally.fallbacks, tally.lost, tally.late) == (1, 0, 0)
    host._note(0, (0, 1), "dropped")
    assert (tally.lost, tally.late) == (1, 0)
    host._note(0, (0, 1), LATE)
    assert (tally.lost, tally.late) == (0, 1)
    host._note(0, (0, 1), "dropped")
    assert (tally.lost, tally.late) == (0, 1)
    host._note(0, (0, 2), "dropped")  # of a step that did not fall back
    assert tally.fallbacks == 1


def test_faults_from_the_command_line(exported: Exported, tmp_path: Path) -> None:
    common = ("deploy-sim", exported.path, "--episodes", "2", "--deadline-ms", "500", "--report", tmp_path / "r.json")
    told = agentmixer(*common, "--fault", "duplicate=0.2", "--fault", "kill=agent_2@5", cwd=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "kill agent_2@5" in told.stdout
    assert told.stdout.splitlines()[-1] == "verdict: PASS"
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is True

    never = agentmixer(*common, "--fault", "kill=agent_2@100000", cwd=tmp_path)
    assert never.returncode == 1
    assert "kill=agent_2@100000 did not happen" in never.stdout

    for arguments, words in (
        (("--fault", "dorp=0.1"), "unknown fault 'dorp'; did you mean 'drop'?"),
        (("--fault", "kill=agent_9@1"), "names an agent that this team lacks"),
        (("--fault", "drop=0.1", "--fault-matrix"), "leave out --fault"),
    ):
        refused = agentmixer(*common, *arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert words in refused.stderr and refused.stderr.count("\n") == 1
