"""How far seeds trained side by side leave single runs, and how far a single run leaves itself once its weights are moved by
their last bit.

    python benchmarks/side_by_side.py [--updates 10] [TASK/SCENARIO/PRESET ...]

A row for each: the largest difference of a weight after 1, 3, 5 and 10 updates, and the update in whose rollout the first action
differs (real-valued actions: by more than 1e-3). "beside" is a stack of two seeds against each alone; "moved" is one seed against
itself, half of its weights multiplied by 1 + 1.2e-7 at the start.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from agentmixer import tasks
from agentmixer.tasks.side_by_side import joined, side_by_side
from agentmixer.train import checkpoint
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.train.stream import begin

ALL = (
    "predator_prey/5x5/default", "predator_prey/5x5/paper", "smacv2/protoss_5v5/default", "smacv2/protoss_5v5/paper",
    "matrix/climbing/default", "matrix/climbing/paper", "matrix/climbing/released", "passage/two_agents/default",
    "mamujoco/Hopper-3x1/default", "mamujoco/Hopper-3x1/paper",
)  # fmt: skip
SEEDS, SHOWN = (3, 8), (1, 3, 5, 10)


class Single:
    """One seed alone."""

    def __init__(self, run: Run):
        self.task = run.make_task(run.config.run.num_envs)
        self.algorithm = checkpoint.build([run], self.task.spec)
        memory = self.algorithm.memory(self.task.num_envs)
        self.stream = begin(self.algorithm.team, memory, self.task.reset(run.seed))

    def update(self) -> torch.Tensor:
        """Collect and learn. Returns the actions."""
        experience, _ = self.algorithm.collect([self.task], [self.stream])
        self.algorithm.update(experience)
        return experience.action

    def weights(self) -> dict[str, torch.Tensor]:
        return self.algorithm.share(0)


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours if ours[name].is_floating_point())


def other(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().gt(1e-3 if ours.is_floating_point() else 0).any())


def moved(run: Run, updates: int) -> tuple[list[float], int]:
    one, two = Single(run), Single(run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in two.algorithm.modules.values():
            for weight in module.parameters():
                weight.mul_(1 + 1.2e-7 * (torch.rand(weight.shape, generator=generator) < 0.5))
    found, first = [], 0
    for update in range(1, updates + 1):
        if other(one.update(), two.update()) and not first:
            first = update
        found.append(apart(one.weights(), two.weights()))
    return found, first


def beside(chosen: list[Run], updates: int) -> tuple[list[float], int]:
    alone = [Single(run) for run in chosen]
    made = [run.make_task(run.config.run.num_envs) for run in chosen]
    task = side_by_side(made)
    algorithm = checkpoint.build(chosen, task.spec)
    steps = [own.reset(run.seed) for own, run in zip(made, chosen, strict=True)]
    stream = begin(algorithm.team, algorithm.memory(task.num_envs), joined(steps))
    found, first = [], 0
    for update in range(1, updates + 1):
        experience, _ = algorithm.collect([task], [stream])
        parts = experience.action.chunk(len(chosen))
        differ = [other(single.update(), part) for single, part in zip(alone, parts, strict=True)]
        algorithm.update(experience)
        if any(differ) and not first:
            first = update
        found.append(max(apart(single.weights(), algorithm.share(team)) for team, single in enumerate(alone)))
    return found, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("what", nargs="*", default=ALL)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shown = [update for update in SHOWN if update <= asked.updates]
    print("| task, preset | | " + " | ".join(map(str, shown)) + " | first other action |")
    print("|---|---|" + "---|" * (len(shown) + 1))
    for what in asked.what:
        task, scenario, preset = what.split("/")
        backend, options = tasks.check(task, scenario, None, {})
        config = AgentMixerPPO.configure(preset, task, backend)
        with tempfile.TemporaryDirectory() as folder:
            chosen = [
                runs.create(
                    task,
                    scenario,
                    backend,
                    "agentmixer_ppo",
                    preset,
                    seed,
                    "cpu",
                    options,
                    config,
                    Path(folder) / f"{seed}",
                )
                for seed in SEEDS
            ]
            for name, (found, first) in (
                ("beside", beside(chosen, asked.updates)),
                ("moved", moved(chosen[0], asked.updates)),
            ):
                cells = " | ".join(f"{found[update - 1]:.1e}" for update in shown)
                print(f"| {task} {scenario}, {preset} | {name} | {cells} | {first or 'none'} |", flush=True)


if __name__ == "__main__":
    main()
