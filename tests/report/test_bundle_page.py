"""The page of a bundle, from reports whose figures are known. The bundle is made by hand, and nothing is trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from commands import agentmixer
from conftest import tiny_spec
from made_bundle import linear_bundle, made_bundle
from markupsafe import escape
from pages import Reader, read

from agentmixer.contract.results import Check, Report
from agentmixer.errors import AgentMixerError
from agentmixer.host.faulty_link import Faults
from agentmixer.report import bundle_page, kept_reports, proofs
from agentmixer.report.graph_picture import graph_picture
from agentmixer.report.kept_reports import newest
from agentmixer.report.page import Page, compose
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.guard import check_model
from agentmixer.runtime.health import Health
from agentmixer.runtime.onnx_graph import Constant, Graph, Node, Value
from agentmixer.validate.bit_tally import bit_check
from agentmixer.validate.deploy_sim import AgentFigures, DeploySimReport, DeviceFigures, ParityCheck
from agentmixer.validate.equivalence import Equivalence
from agentmixer.validate.faults import AgentFaults, FaultMatrixReport, FaultReport
from agentmixer.validate.histogram import Histogram
from agentmixer.validate.isolation import attack_check
from agentmixer.validate.locality import LocalityReport
from agentmixer.validate.mutation_check import mutation_check
from agentmixer.validate.mutations import MutationsReport
from agentmixer.validate.wiring_rehearsal import Flags, WiringMatrixReport, WiringReport

BAD = "<script>alert(1)</script>\"'&"
SAME = {"p50": 10.0, "p99": 20.0, "p99.9": 30.0, "max": 400.0}


TOLD = DeviceFigures("10.0.0.7:7447", 2, msgspec.structs.asdict(Health(steps=4321, late=17, temperature_c=61.5)))
SILENT = DeviceFigures(BAD, 0, None)


def deploy_sim(*checks: Check, **fields: Any) -> DeploySimReport:
    parity = ParityCheck(
        name="parity", status="passed", sentence=f"1,234 of 1,234 {BAD}", episodes=7, steps=617, actions=1234, not_compared=0,
        different=0, near_ties=0, largest_error=None, first=None,
    )  # fmt: skip
    figures = AgentFigures("full", (), 0.5, 60.0, 61.0, SAME, Histogram(10, (1000, 100, 0, 1)), 5000, 2000, 0, 0)
    arms = {
        arm: {"return": {"value": value, "low": value - 1.125, "high": value + 1.125}, "win_rate": {"value": value / 10, "low": 0.25, "high": 0.75}}
        for arm, value in (("joint", 6.0), ("actors", 5.5), ("deployed", 5.25))
    }  # fmt: skip
    gap = {"return": {"value": 0.75, "low": -0.5, "high": 2.0}, "win_rate": {"value": 0.075, "low": None, "high": None}}
    report = DeploySimReport(
        bundle="elsewhere", checks=(parity, *checks), task="none", scenario=BAD, seed=11, arms=arms, asymmetric_gap=gap,
        mode_agreement={"joint": {"value": 0.9876, "low": 0.9, "high": 0.99}}, equivalence=Equivalence(0.0, 0.0, 0.0, None, 0.05, 7, True),
        deadline_s=0.05, control_period_s=0.2, longest_episode=100, unended={}, step_us=SAME,
        step_histogram=Histogram(20, (600, 17)), start_to_first_action_s=1.25, agents={"a": dataclasses.replace(figures, device=TOLD), BAD: dataclasses.replace(figures, device=SILENT)},
    )  # fmt: skip
    return dataclasses.replace(report, **fields)


def faults(kind: str, rate: float, value: float, fallbacks: int) -> FaultReport:
    counts = AgentFaults(100 - fallbacks, fallbacks, fallbacks, 0, {}, 0, 0, 0, {}, 0, 3)
    return FaultReport(
        bundle="elsewhere", checks=(Check(name="fallbacks", status="passed"),), task="none", scenario="none", seed=5,
        faults=dataclasses.asdict(Faults({kind: rate} if rate else {}, 0.2)), episodes=8, steps=100, deadline_s=0.2, step_us=SAME,
        figures={"return": {"value": value, "low": value - 0.5, "high": value + 0.5}}, agents={"a": counts, "b": counts}, events=[],
    )  # fmt: skip


def reports() -> dict[str, Report]:
    matrix = [faults("drop", 0.0, 5.0, 0), faults("drop", 0.01, 4.0, 1), faults("drop", 0.2, 2.0, 25)]
    return {
        "deploy_sim": deploy_sim(Check(name="deadline", status="passed", sentence="0 later than 50 ms")),
        "locality": LocalityReport(
            bundle="x", steps=200, static={}, observation="1,024 states",
            checks=tuple(bit_check("team", "noise", agent, control, 4, 128, 9 * control) for agent in "ab" for control in (False, True)),
        ),
        "isolation": Report(bundle="x", checks=(attack_check("ptrace", "memory", True, False, "EPERM"),)),
        "mutations": MutationsReport(bundle="x", checks=(mutation_check("normaliser dropped", "it", ("golden", "step 0 differs")),)),
        "faults": FaultMatrixReport(
            bundle="x", reports=tuple(matrix), checks=tuple(Check(name=one.told, status="passed", sentence="as declared") for one in matrix)
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every report but that of parity."""
    path = made_bundle(tmp_path_factory.mktemp("page") / "team", agents=("a", "b"))
    (path / "reports").mkdir()
    for name, report in reports().items():
        (path / "reports" / f"{name}.json").write_text(report.to_json())
    return path


@pytest.fixture(scope="module")
def made(bundle: Path) -> Page:
    return bundle_page.page(read_bundle(bundle))


@pytest.fixture(scope="module")
def found(made: Page) -> Reader:
    return read(compose(made))


def copied(bundle: Path, to: Path, **texts: str) -> Path:
    """A copy with other reports. texts: their JSON by their names."""
    shutil.copytree(bundle, to, ignore=shutil.ignore_patterns("reports"))
    (to / "reports").mkdir()
    for name, text in texts.items():
        (to / "reports" / f"{name}.json").write_text(text)
    return to


def known(bundle: Path) -> tuple[proofs.Found, ...]:
    """What is known of each proof, without verifying the bundle anew."""
    return proofs.found(read_bundle(bundle), Report(bundle="x", checks=(Check(name="files", status="passed"),)), {})


def test_the_verdict_comes_first_in_words(bundle: Path, made: Page, found: Reader) -> None:
    assert made.headline == "The deployed team does what the trained team does."
    assert made.subject.endswith(
        f"2 agents, bundle {hashlib.sha256((bundle / 'team.json').read_bytes()).hexdigest()[:8]}"
    )
    assert made.tone == "good"
    assert "1,234 of 1,234 decisions were the trained actors', and none came later than 50 ms." in made.lead[0]
    assert made.lead[1].startswith("The deployed team won 52.5 % of its episodes. ") and "won 60 %" in made.lead[1]
    assert made.lead[2] == "6 of 7 proofs passed; not run: parity."
    assert found.text.index(made.headline) < found.text.index("How well it plays")


def test_every_sentence_of_every_report_is_on_the_page_as_text(found: Reader) -> None:
    cells = {cell for row in found.rows for cell in row}
    for report in reports().values():
        for check in report.checks:
            assert check.sentence in cells
    assert found.scripts == []
    assert found.text.count(BAD) >= 3  # a sentence, an agent's name and the scenario


def test_numbers_of_the_tables_are_those_of_the_reports(found: Reader) -> None:
    rows = found.rows
    assert ["deployed agents", "0.525 [0.250, 0.750]", "5.250 [4.125, 6.375]"] in rows
    assert ["joint policy minus deployed", "+0.075 (no interval)", "+0.750 [-0.500, +2.000]"] in rows
    assert ["played by the joint policy", "0.9876 [0.9000, 0.9900]"] in rows
    assert ["a", "10", "20", "30", "400", "0", "0.50", "61", "5", "2", "full"] in rows
    assert ["a", "10.0.0.7:7447", "2", "4,321", "17", "0", "0", "0", "61.5"] in rows
    assert [BAD, BAD, "0", "did not say", "", "", "", "", ""] in rows
    assert ["drop 0.2", "2.000 [1.500, 2.500]", "50", "50", "0", "6", "0.4"] in rows
    assert ["noise (control)", "every agent", "✓ passed", "9 of 128 bits of 4 arrays differ"] in rows


def test_drawings_hold_what_the_reports_do(made: Page) -> None:
    """Two agents' histograms are one: 2000, 200 and 2 decisions. 50 of 200 steps fell back at a rate of 20 %."""
    text = compose(made)
    for count in ("2,000", "200", "2", "600", "17"):
        assert f"<title>{count}</title></rect>" in text
    assert "control period 200 ms" in text and "deadline 50 ms" in text
    assert "drop 0.000, 0.010, 0.250" in text  # what the chart of fallbacks says to those who do not see it
    assert "0% 5.000 [4.500, 5.500]; 1% 4.000 [3.500, 4.500]; 20% 2.000 [1.500, 2.500]" in text


def test_what_was_not_run_is_told_with_its_command(bundle: Path, found: Reader) -> None:
    title = "Each exported model computes what its trained actor computes"
    assert [title, "– not run", "agentmixer parity"] in found.rows
    assert f"Not run yet. Run it: agentmixer parity {bundle}" in " ".join(found.text.split())


def test_commands_repeat_what_a_report_was_given(bundle: Path) -> None:
    told = {one.proof.name: proofs.again(one, Path("b c")) for one in known(bundle)}
    assert told["deploy-sim"] == "agentmixer deploy-sim 'b c' --episodes 7 --seed 11 --deadline-ms 50"
    assert told["locality"] == "agentmixer locality 'b c' --steps 200"
    assert told["faults"] == "agentmixer deploy-sim 'b c' --fault-matrix --episodes 8 --seed 5 --deadline-ms 200"


def test_commands_repeat_a_margin_and_faults(bundle: Path, tmp_path: Path) -> None:
    equal = Check(name="equivalence", status="passed")
    one = dataclasses.replace(
        faults("delay", 0.1, 1.0, 0),
        faults={"rates": {"delay": 0.1, "drop": 0.05}, "delay_s": 0.02, "incidents": [
            {"kind": "kill", "agent": "b", "step": 9, "for_s": 0.0}, {"kind": "stop", "agent": "a", "step": 3, "for_s": 0.5}]},
    )  # fmt: skip
    path = copied(bundle, tmp_path / "b", deploy_sim=deploy_sim(equal).to_json(), deploy_sim_faults=one.to_json())
    told = {one.proof.name: proofs.again(one, Path("b")) for one in known(path)}
    assert told["deploy-sim"].endswith("--margin 0.05")
    assert told["faults"] == (
        "agentmixer deploy-sim b --fault delay=20ms:p=0.1 --fault drop=0.05 --fault kill=b@9 --fault stop=a@3:for=500ms "
        "--episodes 8 --seed 5 --deadline-ms 200"
    )


@pytest.mark.parametrize(
    ("name", "headline"),
    [
        ("parity", "The deployed team does not do what the trained team does."),
        ("deadline", "The deployed team does not always decide in time."),
        ("running", "The deployed team broke off: an agent was lost."),
    ],
)
def test_what_failed_is_the_headline(name: str, headline: str, bundle: Path, tmp_path: Path) -> None:
    failed = Report(bundle="x", checks=(Check(name=name, status="failed", sentence=BAD),))
    tone, told = bundle_page._headline(known(copied(bundle, tmp_path / "b", deploy_sim=failed.to_json())))
    assert (tone, told) == ("bad", headline)


def test_without_deploy_sim_nothing_is_shown(bundle: Path, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    assert bundle_page._headline(known(path))[0] == "open"
    shutil.rmtree(path / "reports")
    assert [one.status for one in known(path)].count("not run") == 6


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"checks": 1}', '{"bundle": "x", "checks": [{"name": "a", "status": "good"}]}', "[" * 100_000, "\udc80"],
)  # fmt: skip
def test_a_damaged_report_is_a_sentence(text: str, bundle: Path, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    (path / "reports" / "parity.json").write_bytes(text.encode(errors="surrogateescape"))
    all_found = known(path)
    assert {one.proof.name: one.status for one in all_found}["parity"] == "not run"
    assert "is damaged, or of another version" in proofs.section(all_found, read_bundle(path)).body


def test_figures_that_do_not_fit_are_left_out_and_checks_stay(bundle: Path, tmp_path: Path) -> None:
    """1e300 cannot be drawn; arms of another name, an endless histogram and a missing field are not deploy-sim's."""
    good = json.loads(deploy_sim().to_json())
    for field, value in (
        ("seed", "x"), ("arms", {}), ("arms", {"joint": {}}), ("deadline_s", 1e300), ("step_histogram", {"first": 0, "counts": [1] * 500}),
        ("asymmetric_gap", {}), ("agents", {"a": {}}),
    ):  # fmt: skip
        path = tmp_path / "one.json"
        path.write_text(json.dumps(good | {field: value}))
        kept = kept_reports.read(path)
        assert kept.report is not None and kept.report.passed
        assert kept.figures(kept_reports.Rehearsal) is None, field
    path.write_text(json.dumps(good))
    assert kept_reports.read(path).figures(kept_reports.Rehearsal) is not None
    older = {name: value for name, value in good.items() if name != "step_histogram"}
    path.write_text(json.dumps(older))
    assert kept_reports.read(path).figures(kept_reports.Rehearsal) is not None


def test_the_newest_report_counts(bundle: Path, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b", parity="{}")
    for number, name in enumerate(("parity-2", "parity-10", "parity-3")):
        file = path / "reports" / f"{name}.json"
        file.write_text("{}")
        os.utime(file, (1_000_000_000 + number // 2,) * 2)
    for file, time in (("parity.json", 1_000_000_000), ("parity-10.json", 1_000_000_000)):
        os.utime(path / "reports" / file, (time, time))
    (path / "reports" / "parity-x.json").write_text("{}")
    assert str(newest(path, "parity").file.name) == "parity-3.json"  # type: ignore[union-attr]
    (path / "reports" / "parity-3.json").unlink()
    assert str(newest(path, "parity").file.name) == "parity-10.json"  # type: ignore[union-attr]
    assert newest(path, "par") is None


def test_links_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    (path / "reports" / "parity.json").symlink_to(bundle / "reports" / "deploy_sim.json")
    assert "is a link" in next(one.kept.problem for one in known(path) if one.proof.name == "parity" and one.kept)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.html").write_text("mine")
    (path / "reports" / "report.html").symlink_to(outside / "mine.html")
    refused = agentmixer("report", path, cwd=tmp_path)
    assert refused.returncode == 2 and "report.html is not a regular file" in refused.stderr
    shutil.rmtree(path / "reports")
    (path / "reports").symlink_to(outside)
    refused = agentmixer("report", path, cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")
    assert sorted(file.name for file in outside.iterdir()) == ["mine.html"]
    assert (outside / "mine.html").read_text() == "mine"


def test_the_command_writes_the_page_and_replaces_it(bundle: Path, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    (path / "reports" / "report.html").write_text("an older page")
    done = agentmixer("report", path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"page {path / 'reports' / 'report.html'}"
    assert [file.name for file in (path / "reports").iterdir()] == ["report.html"]
    read((path / "reports" / "report.html").read_text())
    for out, told in ((path / "team.json", "must end in .html"), (path / "x.html", "which no file may be added to")):
        refused = agentmixer("report", path, "--out", out, cwd=tmp_path)
        assert refused.returncode == 2 and told in refused.stderr and "--report" not in refused.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = agentmixer("report", empty, cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr == (
        f"error: {empty} is nothing to report on: no bundle (team.json), no run (config.toml), and no comparison in it\n"
    )


def test_a_graph_as_a_picture(bundle: Path) -> None:
    """obs goes through MatMul and Tanh and MatMul, then the mask; the last two operators make outputs."""
    files = read_bundle(bundle).agents["a"]
    graph = check_model(files.model, files.manifest)
    task = tiny_spec(agents=3, state=11)
    drawn = graph_picture("g", "a", graph, task, {"action": ("obs",)})
    read_as_text = [part.partition("</tspan>")[0] for part in drawn.split(">")]
    for text in (
        "obs",
        "6 float32",
        "4 bool",
        "MatMul 6×8",
        "Tanh",
        "Where",
        "ArgMax",
        "logits",
        "11 numbers",
        "2 others",
        "Policy Modifier",
    ):
        assert f">{text}</tspan>" in drawn, (text, read_as_text)
    assert drawn.count('class="box in"') == 2 and drawn.count('class="box out"') == 2
    assert drawn.count('class="box unseen"') == 4 and drawn.count('class="box node"') == 3
    # From both inputs, and of the mask once more for the layer that it passes.
    assert drawn.count('class="edge lit"') == 3


def test_what_an_agent_heeds_is_drawn_the_most_heeded_first(tmp_path: Path) -> None:
    """Logits 4 x0 and x1; x2 has no weight. x0 and x1 were seen as 0 and 1 in turn."""
    weights, seen = np.float32([[4, 0], [0, 1], [0, 0]]), np.float32([[0, 1, 0], [1, 0, 1]] * 100)
    made = bundle_page.page(read_bundle(linear_bundle(tmp_path / "bundle", weights, seen)))
    body = next(section.body for section in made.sections if section.name == "heeds")
    assert (
        "on 32 recorded observations" in body
        and body.count("2 of 3 elements of its observation move what a computes.") == 1
    )
    slopes = body[body.index("a: how far the output moves") :]
    assert re.findall(r'class="(?:name|value)"[^>]*>([^<]*)<', slopes) == ["x0", "4", "x1", "1"]
    assert ">x2<" not in body


def test_every_agent_is_probed(tmp_path: Path) -> None:
    path = made_bundle(tmp_path / "team", agents=tuple("abcdefghij"))
    body = next(section.body for section in bundle_page.page(read_bundle(path)).sections if section.name == "heeds")
    assert re.findall(r"of its observation move what (\w) computes", body) == list("abcdefgh")
    assert body.count("<svg") == 16 and "The other 2 agents were not tried here." in body


def wiring(told: str, value: float, named: str, fallen: int | None, *episodes: int | None) -> WiringReport:
    """One rehearsal with a fault, whose return was 4 without it."""
    figure = {"low": None, "high": None}
    return WiringReport(
        bundle="elsewhere", checks=(Check(name="fault", status="passed"),), task="none", scenario="none", seed=5, faults=(told,),
        episodes=4, steps=40, figures={"return": {"value": value, **figure}}, calm={"return": {"value": 4.0, **figure}},
        difference={"return": {"value": value - 4.0, "low": value - 4.5, "high": value - 3.5}}, fallen=fallen,
        flags=(Flags("a", episodes, None, 1),), named=named,
    )  # fmt: skip


def test_faults_of_wiring_are_a_table_after_a_sentence(bundle: Path, tmp_path: Path) -> None:
    """Flagged at steps 2, 6 and 9, so at 6 as a rule; the return has fallen at 7. The other fault costs nothing."""
    one = wiring("flip=a:x0", 1.0, "fault", 7, 9, 2, None, 6), wiring(f"lag={BAD}", 4.0, "element", None, *[None] * 4)
    matrix = WiringMatrixReport(
        bundle="x", agent="a", elements=("x0",), reports=one, checks=(Check(name="flip", status="passed"),)
    )
    path = copied(bundle, tmp_path / "b c", wiring_matrix=matrix.to_json())
    body = next(section.body for section in bundle_page.page(read_bundle(path)).sections if section.name == "wiring")
    assert (
        "The return falls by a tenth with 1 of 2 faults; with 1 of these the status flags the observation no later. An audit of "
        "the agent&#39;s log names the element first with 2 of 2, and the kind too with 1." in body
    )
    assert "--wiring-matrix --episodes 4 --seed 5" in body and BAD not in body
    cells = [re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)]
    assert cells[1:] == [
        ["none", "4.000", "", "25%", "", "", ""],
        ["flip=a:x0", "1.000", "-3.000 [-3.500, -2.500]", "75%", "6", "yes", "element and kind"],
        [f"lag={escape(BAD)}", "4.000", "+0.000 [-0.500, +0.500]", "0%", "-", "does not fall", "element"],
    ]
    alone = copied(bundle, tmp_path / "alone", wiring=one[0].to_json())
    body = next(section.body for section in bundle_page.page(read_bundle(alone)).sections if section.name == "wiring")
    assert "--fault flip=a:x0 --episodes 4 --seed 5" in body
    for text, told in (("{", "is damaged"), (one[0].to_json().replace('"fault"', '"all"'), "has no figures")):
        damaged = copied(bundle, tmp_path / told, wiring=text)
        sections = bundle_page.page(read_bundle(damaged)).sections
        assert told in next(section.body for section in sections if section.name == "wiring")


def test_a_large_graph_is_one_block() -> None:
    """2 inputs, 60 operators in parallel, 1 output."""
    value = Value("obs", "float32", ("batch", 2))
    nodes = [Node("Exp", ("obs",), (f"x{i}",), {}) for i in range(60)] + [
        Node("Concat", tuple(f"x{i}" for i in range(60)), ("y",), {})
    ]
    graph = Graph((value,), (Value("y", "float32", ("batch", 120)),), dict[str, Constant](), tuple(nodes), {})
    drawn = graph_picture("g", "a", graph, tiny_spec(agents=1), {"y": ("obs",)})
    assert ">61 operators</tspan>" in drawn and ">60 Exp</tspan>" in drawn and drawn.count('class="box node"') == 1
    assert "no other agent" in drawn


def test_a_bundle_that_is_damaged_has_no_page(bundle: Path, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    (path / "agents" / "a" / "policy.onnx").write_bytes(b"")
    with pytest.raises(AgentMixerError, match="is not what was exported"):
        bundle_page.page(read_bundle(path))
