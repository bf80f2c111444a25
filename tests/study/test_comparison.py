"""Variants side by side: what is trained, what is used again, and the arithmetic of the table."""

from __future__ import annotations

import io
import json
import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from agentmixer_cli.compare import _tables
from commands import FORKS, Process
from conftest import quiet
from rich.console import Console
from scipy import stats

from agentmixer.config import parse_seeds
from agentmixer.errors import AgentMixerError
from agentmixer.study import comparison
from agentmixer.study.comparison import Question, Trained, Variant, prepare, question, summarise, train_all, variants
from agentmixer.train import trainer
from agentmixer.train.run import steps_done

QUICK = {
    "total_steps": "200",
    "num_envs": "50",
    "eval_interval": "0",
    "final_episodes": "4",
    "hidden": "8",
    "epochs": "2",
}


def test_what_varies_is_combined_in_the_order_typed() -> None:
    found = variants(["pm=mixer,none", "preset=default,paper"], "agentmixer_ppo", "default")
    assert [(v.name, v.preset, v.settings) for v in found] == [
        ("pm=mixer preset=default", "default", {"pm": "mixer"}),
        ("pm=mixer preset=paper", "paper", {"pm": "mixer"}),
        ("pm=none preset=default", "default", {"pm": "none"}),
        ("pm=none preset=paper", "paper", {"pm": "none"}),
    ]
    assert variants([], "agentmixer_sac", "default") == [Variant("default", "agentmixer_sac", "default", {})]


@pytest.mark.parametrize("text", ["pm", "pm=", "pm=a,,b", "pm=a,a"])
def test_a_vary_that_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(AgentMixerError, match="--vary"):
        variants([text], "agentmixer_ppo", "default")


def test_seeds() -> None:
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    for text in ("", "a", "3-1", "1,1", "0-1,1", "-1", "0-5000"):
        with pytest.raises(AgentMixerError, match="--seeds"):
            parse_seeds(text)


def test_the_heading_says_whose_agents_see_more_than_their_own(tmp_path: Path) -> None:
    chosen = variants(["algorithm=mappo,armappo,mappo_full"], "agentmixer_ppo", "default")
    prepared = prepare("matrix", "climbing", chosen, [0], {"total_steps": "200"}, {}, tmp_path)
    assert question(prepared, "return", "").heading == (
        "return, decentralised and greedy (armappo sees the actions of other agents; mappo_full sees the global state), "
        "matrix climbing"
    )
    alone = [(variant, run) for variant, run in prepared if variant.algorithm == "mappo"]
    assert question(alone, "return", "").heading == "return, decentralised and greedy, matrix climbing"


def trained(variant: str, seed: int, value: float) -> Trained:
    return Trained(f"{variant}{seed}", variant, seed, "return", value, value + 1, 0.5 + seed / 10, None, 1.0)


def test_rows_are_means_over_seeds_and_differences_are_paired() -> None:
    ours, theirs = [1.0, 5.0, 9.0], [2.0, 7.0, 10.0]
    found = [trained("a", s, v) for s, v in enumerate(ours)] + [trained("b", s, v) for s, v in enumerate(theirs)]
    a, b = summarise(found)
    assert (a.variant, a.decentralised.value, a.joint.value, a.difference) == ("a", 5.0, 6.0, None)
    # Differences 1, 2, 1: mean 4/3, the interval of a paired t-test.
    interval = stats.ttest_rel(theirs, ours).confidence_interval(0.95)
    assert b.difference is not None
    assert b.difference == pytest.approx((4 / 3, interval.low, interval.high))
    settings = {"a": {"algorithm": "mappo", "total_steps": 1500}}
    asked = Question("0", "agentmixer compare a b", "a", "b", {}, [0, 1, 2], "return", settings, {"x": "1"})
    table = comparison.markdown(asked, found, [a, b])
    assert "`agentmixer compare a b`\n\nsteps: 1,500; x 1\n" in table
    assert "| a | 1 | 5 | 9 | 5 [-4.94, 14.9] | 6 |  | 0.500 | 1 |" in table
    assert "| b | 2 | 7 | 10 |" in table


def test_the_printed_table_fits_80_columns_and_cuts_no_figure() -> None:
    names = ["algorithm=agentmixer_ppo pm=hypernetwork", "algorithm=mappo pm=none"]
    found = [trained(name, seed, -1234.5678 * seed) for name in names for seed in range(12)]
    head, cells = comparison.cells(found, summarise(found))
    out = io.StringIO()
    console = Console(file=out, width=80)
    for table in _tables(head, cells, 80):
        console.print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    for row in cells:
        for figure in filter(None, row[1:]):
            assert any(figure in line for line in lines), figure
    assert all(any(column in line for line in lines) for column in head)


def test_runs_are_trained_once_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)  # processes that have imported torch and JAX
    chosen = variants(["pm=mixer,none"], "agentmixer_ppo", "default")
    prepared = prepare("matrix", "climbing", chosen, [0], QUICK, {}, tmp_path)
    order: list[str] = []
    asked = question(prepared, "return", "agentmixer compare")
    found = train_all(prepared, 2, lambda trained: order.append(trained.variant), asked.measure)
    assert sorted(order) == ["pm=mixer", "pm=none"]
    assert [t.variant for t in found] == ["pm=mixer", "pm=none"]
    for one, (_, run) in zip(found, prepared, strict=True):
        assert run.summary is not None
        assert one.decentralised == run.summary["decentralised_greedy"]["return"]
        assert one.ce_gap is not None
        assert one.ce_gap["actors_greedy"] >= 0
    written = (prepared[0][1].path / "summary.json").stat().st_mtime_ns
    same = prepare("matrix", "climbing", chosen, [0], QUICK, {}, tmp_path)
    assert question(same, "return", "typed otherwise").digest == asked.digest
    again = train_all(same, 2, lambda trained: None, "return")
    assert again == found
    assert (prepared[0][1].path / "summary.json").stat().st_mtime_ns == written
    wins = train_all(prepared, 1, lambda trained: None, "win_rate")
    assert [one.measure for one in wins] == ["win_rate"] * 2
    assert [one.decentralised for one in wins] == [float(one.decentralised == 11) for one in found]
    told = json.loads(comparison.to_json(asked, found, summarise(found)))
    assert told["runs"][1]["variant"] == "pm=none"
    assert told["question"]["command"] == "agentmixer compare"
    assert told["question"]["variants"]["pm=none"]["pm"] == "none"
    assert told["question"]["made_with"]["agentmixer"]
    # Another question of the same scenario has runs, and an answer, of its own.
    other = prepare("matrix", "climbing", chosen, [0], QUICK | {"clip": "0.1"}, {}, tmp_path)
    assert not {run.path for _, run in other} & {run.path for _, run in prepared}
    assert question(other, "return", "agentmixer compare").digest != asked.digest


def test_another_first_variant_or_other_software_is_another_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table holds all variants against the first, so their order changes what it says."""

    def asked(vary: str, seeds: list[int]) -> Question:
        chosen = variants([vary], "agentmixer_ppo", "default")
        return question(prepare("matrix", "climbing", chosen, seeds, QUICK, {}, tmp_path), "return", "")

    first = asked("pm=mixer,none", [0, 1])
    assert asked("pm=mixer,none", [1, 0]).digest == first.digest
    assert asked("pm=none,mixer", [0, 1]).digest != first.digest
    monkeypatch.setattr(comparison, "made_with", lambda: first.made_with | {"agentmixer": "another"})
    assert asked("pm=mixer,none", [0, 1]).digest != first.digest


@pytest.mark.parametrize(
    ("task", "scenario", "measure"), [("matrix", "climbing", "win_rate"), ("passage", "two_agents", "return")]
)
def test_the_win_rate_is_compared_where_the_task_reports_wins(
    task: str, scenario: str, measure: str, tmp_path: Path
) -> None:
    chosen = variants([], "agentmixer_ppo", "default")
    assert question(prepare(task, scenario, chosen, [0], QUICK, {}, tmp_path), None, "").measure == measure


def test_a_measure_that_the_task_lacks_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    chosen = prepare("mamujoco", "Hopper-3x1", variants([], "mappo", "default"), [0], {}, {}, tmp_path)
    with pytest.raises(AgentMixerError, match="mamujoco reports no win_rate; known: return"):
        question(chosen, "win_rate", "agentmixer compare")


def test_a_wrong_name_is_refused_before_anything_exists(tmp_path: Path) -> None:
    for vary, match in (("pm=mixer,mixr", "pm must be one of"), ("algorithm=agentmixer_pp0", "unknown algorithm")):
        with pytest.raises(AgentMixerError, match=match):
            prepare("matrix", "climbing", variants([vary], "agentmixer_ppo", "default"), [0], QUICK, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_interrupted_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)  # a process that has imported torch and JAX
    chosen = variants([], "agentmixer_ppo", "default")
    [(variant, run)] = prepare("matrix", "climbing", chosen, [3], QUICK, {}, tmp_path)
    short = replace(run, config=run.config.replace({"total_steps": 100}))
    assert trainer.train(short, quiet())
    (run.path / "summary.json").unlink()
    assert steps_done(run) == 100
    [found] = train_all(
        prepare("matrix", "climbing", chosen, [3], QUICK, {}, tmp_path), 1, lambda trained: None, "return"
    )
    steps = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [50, 100, 150, 200]
    assert np.isfinite(found.decentralised)
    assert variant.name == "default"


@pytest.mark.parametrize("later", [0.0, 1.0])
def test_ctrl_c_while_processes_still_import_ends_at_once_and_without_tracebacks(later: float, tmp_path: Path) -> None:
    """On a terminal every process gets it. Half of the runs have not begun."""
    vary = ["--vary", "pm=mixer,none", "--seeds", "0,1", "--jobs", "2", "--steps", "1e9"]
    compare = Process("compare", "matrix", "climbing", *vary, cwd=tmp_path)
    deadline, importing = time.monotonic() + 120, list[psutil.Process]()
    while len(importing) < 2 and time.monotonic() < deadline:
        importing = compare.workers()
    time.sleep(later)
    for process in importing:
        process.send_signal(signal.SIGINT)
    compare.send_signal(signal.SIGINT)
    done = compare.done(timeout=10)
    *said, last = done.stderr.splitlines()
    assert (done.returncode, last) == (130, "interrupted; the same command goes on from here")
    assert all(line.startswith("training: 0 of 4 runs finished") for line in said)
    assert len(importing) == 2 and not any(process.is_running() for process in importing)


#: Environments that a training process makes only once `compare` is gone.
ENDLESS = """
import multiprocessing, os, pathlib, time
from mpe2.simple_spread_v3 import parallel_env
def make_env():
    parent = os.getppid()
    if "Spawn" in multiprocessing.current_process().name:
        pathlib.Path(f"making_{os.getpid()}").touch()
        while os.getppid() == parent:
            time.sleep(0.05)
    return parallel_env()
"""


def test_ctrl_c_kills_a_process_that_has_no_checkpoint_yet(tmp_path: Path) -> None:
    """It would be waited for until its environments are made, which takes as long as they want."""
    (tmp_path / "endless_envs.py").write_text(ENDLESS)
    compare = Process(
        "compare", "pettingzoo", "endless_envs:make_env", "--seeds", "0,1", "--measure", "return", cwd=tmp_path
    )
    deadline, making = time.monotonic() + 120, list[Path]()
    while len(making) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        making = list(tmp_path.glob("making_*"))
    compare.send_signal(signal.SIGINT)
    done = compare.done(timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted; the same command goes on from here")
    assert len(making) == 2 and not list(tmp_path.glob("comparisons/*/*/*/checkpoints/step_*"))


def test_ctrl_c_while_processes_train_leaves_checkpoints(tmp_path: Path) -> None:
    vary = ["--vary", "pm=mixer,none", "--seeds", "0-2", "--jobs", "2", "--steps", "1e9"]
    small = [word for setting in ("num_envs=8", "hidden=8", "eval_interval=0") for word in ("--set", setting)]
    compare = Process("compare", "matrix", "climbing", *vary, *small, cwd=tmp_path)
    deadline, trained = time.monotonic() + 120, list[Path]()
    while len(trained) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        trained = [file for file in tmp_path.glob("comparisons/*/*/*/metrics.jsonl") if file.stat().st_size]
    compare.send_signal(signal.SIGINT)
    done = compare.done(timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted; the same command goes on from here")
    assert len(trained) == 2 and all(list(file.parent.glob("checkpoints/step_*")) for file in trained)
