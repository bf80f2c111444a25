"""The attack self-test: it passes here, and it fails when the sandbox or an attack does not do what it should."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import agentmixer

from agentmixer.contract.results import Check, Report
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.sandbox import probe
from agentmixer.validate import isolation, reports
from agentmixer.validate.attack_aims import AIMS
from agentmixer.validate.attack_stage import Stage
from agentmixer.validate.attacker import ATTACKS
from agentmixer.validate.isolation import IsolationReport, attack_check, attempt, self_test

OFFERED = probe()
pytestmark = pytest.mark.skipif(
    not (OFFERED.landlock and OFFERED.seccomp), reason=f"this kernel offers {OFFERED}, not Landlock and seccomp"
)


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return read_bundle(exported.path)


@pytest.fixture(scope="module")
def result(bundle: Bundle) -> IsolationReport:
    return self_test(bundle)


def test_no_attack_gets_through_and_every_one_works_without_the_sandbox(result: IsolationReport) -> None:
    assert [attack.name for attack in result.attacks] == list(AIMS)
    assert set(AIMS) == set(ATTACKS)
    for attack in result.attacks:
        if attack.status != "does not apply":
            assert attack.inside is False, attack
            assert attack.outside, attack
    # What no container forbids: these are always shown.
    shown = {attack.name for attack in result.attacks if attack.status != "does not apply"}
    assert shown >= {
        "read_model",
        "read_golden",
        "write_folder",
        "tcp",
        "udp",
        "abstract_socket",
        "kill",
        "fork",
        "execute",
    }
    assert result.passed


def test_the_others_are_real_agents_and_answer_after_all_attacks(result: IsolationReport) -> None:
    assert result.still_answer == {f"agent_{i}": True for i in range(1, 5)}
    assert {found["level"] for found in result.isolation.values()} == {"full"}
    assert len(result.isolation) == 5


def test_the_report_is_json(result: IsolationReport) -> None:
    data = json.loads(result.to_json())
    assert data["passed"] is True
    assert data["isolation"]["agent_3"]["level"] == "full"
    assert {row["name"] for row in data["checks"]} == {*AIMS, "still answers"}


def test_the_bundle_itself_is_not_touched(bundle: Bundle, result: IsolationReport) -> None:
    assert read_bundle(bundle.path).agents == bundle.agents


def staged(monkeypatch: pytest.MonkeyPatch, protected: bool) -> None:
    real = Stage.__init__
    monkeypatch.setattr(Stage, "__init__", lambda self, bundle, **_: real(self, bundle, protected=protected))


@pytest.fixture(scope="module")
def unprotected(bundle: Bundle) -> IsolationReport:
    """The sandboxed run without its sandbox."""
    with pytest.MonkeyPatch.context() as patch:
        staged(patch, protected=False)
        return self_test(bundle)


def test_a_sandbox_that_is_not_there_fails_the_test(unprotected: IsolationReport, result: IsolationReport) -> None:
    """Whatever can be shown here gets through, and the verdict is FAIL."""
    found = unprotected
    assert not found.passed
    shown = {attack.name for attack in result.attacks if attack.status != "does not apply"}
    assert {attack.name for attack in found.attacks if attack.inside} == shown
    assert found.still_answer["agent_1"] is False  # it was killed
    assert {level["level"] for level in found.isolation.values()} == {"none"}


def test_attacks_that_do_not_work_fail_the_test(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control in the sandbox: nothing works, so nothing is shown."""
    staged(monkeypatch, protected=True)
    found = self_test(bundle)
    assert not found.passed
    assert not any(attack.outside or attack.inside for attack in found.attacks)


def test_what_an_attack_shows() -> None:
    def holds(outside: bool | None, inside: bool | None, not_shown: str = "") -> bool:
        check = attack_check("x", "x", outside, inside, not_shown=not_shown)
        return Report(bundle="x", checks=(Check(name="other", status="passed"), check)).passed

    assert holds(True, False)
    assert not holds(True, True)
    assert not holds(False, False)
    assert holds(None, False, "no such thing here")
    assert not holds(None, True, "no such thing here")


def test_a_team_of_one_is_refused(bundle: Bundle) -> None:
    alone = bundle._replace(agents={"agent_0": bundle.agents["agent_0"]})
    with pytest.raises(AgentMixerError, match="holds one agent, who has nobody to reach"):
        self_test(alone)


def test_nothing_is_left_behind(bundle: Bundle) -> None:
    with Stage(bundle, protected=False) as stage:
        attempt(stage, "write_home")
        places = [stage.scratch, stage.home, stage.shared, stage.attacker.directory]
        processes = [stage.attacker.process, *(victim.process for victim in stage.victims)]
        assert all(place.exists() for place in places)
    assert not any(place.exists() for place in places)
    assert not list(Path.home().glob(stage.home.name + "*"))
    assert all(process.poll() is not None for process in processes)


def test_the_attacker_is_not_part_of_what_a_device_runs() -> None:
    runtime = Path(isolation.__file__).parents[1] / "runtime"
    assert not [file for file in runtime.glob("*.py") if "attack" in file.read_text()]


def test_the_command_prints_the_verdict_and_exits_with_it(
    bundle: Bundle,
    result: IsolationReport,
    unprotected: IsolationReport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second time the bundle lies where nothing can be written."""
    monkeypatch.setattr(isolation, "self_test", lambda *_: result)
    passed = agentmixer("isolation", bundle.path, "--json", cwd=tmp_path)
    assert passed.returncode == 0, passed.stderr
    assert json.loads(passed.stdout)["passed"] is True

    def unwritable(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(isolation, "self_test", lambda *_: unprotected)
    monkeypatch.setattr(reports, "check_writable", unwritable)
    failed = agentmixer("isolation", bundle.path, cwd=tmp_path)
    assert failed.returncode == 1, failed.stderr
    assert "GOT THROUGH" in failed.stdout
    why = r"note: the report is not kept: no report can be written to \S+ \(Read-only file system\) "
    assert re.search(why, " ".join(failed.stdout.split()))
    assert failed.stdout.rstrip().splitlines()[-1].startswith("verdict: FAIL: ")
