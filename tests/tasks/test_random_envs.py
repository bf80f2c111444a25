"""Random environments train, or are refused in a sentence that names the agent; what trains is exported and deployed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import random_envs
from conftest import quiet
from random_envs import AGENT_FAULTS, SPACE_FAULTS, Random

from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.validate.deploy_sim import deploy_sim

SCENARIO = "random_envs:make"
SETTINGS = {
    "num_envs": 2, "rollout_length": 8, "total_steps": 32, "hidden": 32, "chunk_length": 4, "minibatches": 1, "epochs": 1,
    "eval_interval": 0, "eval_episodes": 1, "final_episodes": 1, "judge_limit": 20,
}  # fmt: skip
#: No environment may take longer, in seconds.
LONGEST = 120


@contextmanager
def limited() -> Iterator[None]:
    """Fail a test that hangs."""

    def hung(*_: object) -> None:
        raise TimeoutError(f"not done within {LONGEST} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def trained(number: int, path: Path) -> Run:
    """Two updates. Raises AgentMixerError if the environment is refused."""
    backend, options = check("pettingzoo", SCENARIO, "serial", {"number": number})
    config = AgentMixerPPO.configure("default", "pettingzoo").replace(SETTINGS)
    run = runs.create("pettingzoo", SCENARIO, backend, "agentmixer_ppo", "default", 1, "cpu", options, config, path)
    trainer.train(run, console=quiet())
    return run


def outcome(number: int, path: Path) -> Run | str:
    """The run, or why the environment was refused, which must be what is wrong with it."""
    env = Random(number)
    with limited():
        try:
            run = trained(number, path)
        except AgentMixerError as error:
            told = str(error)
            assert env.fault, f"environment {number} does nothing wrong and is refused: {told}"
            assert "\n" not in told and "Traceback" not in told, told
            if env.fault in SPACE_FAULTS + AGENT_FAULTS:
                names = {str(env.who), str(env.who).replace(".", "_")}  # the environment's, and the folder's
                assert any(f"agent '{name}'" in told for name in names), (env.fault, told)
            return told
    return run


def judge(numbers: Iterable[int], path: Path, deployed: int) -> None:
    found: Counter[str] = Counter()
    for number in numbers:
        run = outcome(number, path / str(number))
        kind = Random(number).fault or "no fault"
        found[f"{kind}: {'refused' if isinstance(run, str) else 'trained'}"] += 1
        if isinstance(run, Run) and deployed:
            deployed -= 1
            with limited():
                bundle = read_bundle(exporting.export(run, path / f"bundle{number}").path)
                report = deploy_sim(bundle, 2, run=run, deadline_s=30)
                assert report.passed and not report.parity.different - report.parity.near_ties, (number, report.checks)
    print("\n".join(f"{count:5d} {what}" for what, count in sorted(found.items())))
    assert not deployed
    assert "no fault: refused" not in found
    wrong = [f"{fault}: trained" for fault in (*SPACE_FAULTS, *AGENT_FAULTS, *random_envs.TEAM_FAULTS)]
    assert not set(wrong) & set(found), found


def test_random_environments_of_every_kind(tmp_path: Path) -> None:
    """The first environment that does each thing wrong, and the first 16 that do nothing wrong."""
    first: dict[str, int] = {}
    right = [number for number in range(40) if Random(number).fault is None][:16]
    for number in range(200):
        if (fault := Random(number).fault) is not None:
            first.setdefault(fault, number)
    assert len(right) == 16
    assert set(first) == {*SPACE_FAULTS, *AGENT_FAULTS, *random_envs.TEAM_FAULTS}
    judge([*right, *first.values()], tmp_path, deployed=2)


@pytest.mark.soak
def test_2000_random_environments(tmp_path: Path) -> None:
    judge(range(100, 2100), tmp_path, deployed=50)
