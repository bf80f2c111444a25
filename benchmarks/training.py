"""What training costs, and how much of the machine it uses.

    python benchmarks/training.py [--updates 5]

Every figure stands beside one measured in the same run: the bare simulator (legal random actions, nothing learned,
as many environments), the rate at which this machine multiplies large matrices, or another way to train. Rates are
environment steps a second, compiling left out. Floating-point operations are those of the matrix products, counted.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from table import Row, show
from torch.utils.flop_counter import FlopCounterMode

from agentmixer.tasks import make
from agentmixer.tasks.base import Task, to_torch
from agentmixer.tasks.side_by_side import joined, side_by_side
from agentmixer.train import blocks, stream
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.blocks import threads


def peak() -> float:
    """Floating-point operations a second in the product of two 2048 x 2048 matrices, on as many cores as training has."""
    a, b = torch.randn(2, 2048, 2048)
    before, best = torch.get_num_threads(), 0.0
    torch.set_num_threads(threads())
    for _ in range(8):
        begin = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - begin))
    torch.set_num_threads(before)
    return best


def simulate(task: Task, steps: int) -> float:
    """Seconds for `steps` steps of all environments with random legal actions."""
    generator = torch.Generator().manual_seed(0)
    seen, begin = task.reset(0), 0.0
    for step in range(steps + 2):
        if step == 2:
            begin = time.perf_counter()
        mask = to_torch(seen.action_mask)
        action = torch.multinomial(mask.float().flatten(0, 1), 1, generator=generator).view(mask.shape[:2])
        seen = task.step(action.int())
    to_torch(seen.reward)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Cost:
    """Of one rollout with its update: environment steps; seconds of the bare simulator, of collecting, of updating;
    operations of acting and updating."""

    steps: int
    simulating: float
    collecting: float
    updating: float
    operations: float

    @property
    def seconds(self) -> float:
        return self.collecting + self.updating

    @property
    def rate(self) -> float:
        return self.steps / self.seconds


def cost(family: str, scenario: str, preset: str, updates: int, teams: int = 1) -> Cost:
    """Best of `updates` rounds, after one that warms up."""
    config = AgentMixerPPO.configure(preset, family)
    run = config.run
    tasks = [[make(family, scenario, run.num_envs // run.lanes) for _ in range(run.lanes)] for _ in range(teams)]
    lanes = [side_by_side(same) for same in zip(*tasks, strict=True)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(teams)]
    algorithm = AgentMixerPPO(lanes[0].spec, config, generators)
    algorithm.schedule(0.5)  # whatever is switched on late is on
    streams = [
        stream.begin(
            algorithm.team,
            algorithm.memory(task.num_envs),
            joined([own[lane].reset(seed) for seed, own in enumerate(tasks)]),
        )
        for lane, task in enumerate(lanes)
    ]
    with FlopCounterMode(display=False) as counter:
        # The counter sees its own thread alone: one block, taken here.
        blocks.ROWS, rows = 10**9, blocks.ROWS
        algorithm.update(algorithm.collect(lanes, streams)[0])
        blocks.ROWS = rows
    best = [float("inf")] * 3
    single = make(family, scenario, run.num_envs)
    for _ in range(updates):
        begin = time.perf_counter()
        experience, _ = algorithm.collect(lanes, streams)
        middle = time.perf_counter()
        algorithm.update(experience)
        end = time.perf_counter()
        bare = teams * simulate(single, run.rollout_length)
        best = [min(pair) for pair in zip(best, (bare, middle - begin, end - middle), strict=True)]
    bare, collecting, updating = best
    steps = run.num_envs * run.rollout_length * teams
    return Cost(steps, bare, collecting, updating, counter.get_total_flops())


def measure(updates: int) -> list[Row]:
    """Rows of the table."""
    torch.set_num_threads(1)
    top = peak()
    rows = []
    costs = {}
    for family, scenario, preset in (
        ("smacv2", "protoss_5v5", "paper"), ("smacv2", "protoss_5v5", "default"), ("smacv2", "protoss_10v10", "paper"),
        ("matrix", "climbing", "paper"), ("predator_prey", "5x5", "default"),
    ):  # fmt: skip
        name = f"{scenario}, {preset}"
        one = costs[name] = cost(family, scenario, preset, updates)
        bare = one.steps / one.simulating
        rows.append(Row(name, one.rate, "steps/s", "its simulator alone", bare))
        spent = one.operations / one.seconds
        rows.append(Row(f"{name}: products", spent / 1e9, "GFLOP/s", "2048² matrices", top / 1e9))
        rows.append(Row(f"{name}: update", one.updating, "s", "the whole round", one.seconds))
    small, large = costs["protoss_5v5, paper"], costs["protoss_10v10, paper"]
    heavier = (large.operations / large.steps) / (small.operations / small.steps)
    rows.append(Row("10v10, seconds a step", 1 / large.rate, "s", "5v5 by its operations", heavier / small.rate))
    for family, scenario in (("smacv2", "protoss_5v5"), ("matrix", "climbing")):
        four = cost(family, scenario, "default", updates, teams=4)
        one = costs.get(f"{scenario}, default") or cost(family, scenario, "default", updates)
        rows.append(Row(f"{scenario}, 4 teams in one stack", four.seconds, "s", "one team", one.seconds))
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=5)
    show(Console(), measure(parser.parse_args().updates))


if __name__ == "__main__":
    main()
