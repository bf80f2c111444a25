"""Where training time goes, and how much of the bare simulator's rate training keeps.

    python benchmarks/training.py [--scenario protoss_5v5] [--preset default] [--updates 20]

The bare simulator (legal random actions, nothing learned) is timed in the same run, right before, with
as many environments. Rates are environment steps a second, compilation left out.
"""

from __future__ import annotations

import argparse
import time

import torch

from agentmixer.tasks import make
from agentmixer.tasks.base import Task, to_torch
from agentmixer.train import rollout
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.presets import PRESETS, resolve


def simulate(task: Task, steps: int) -> float:
    """Seconds for `steps` steps of all environments with random legal actions."""
    generator = torch.Generator().manual_seed(0)
    seen = task.reset(0)
    begin = 0.0
    for step in range(steps + 2):
        if step == 2:
            begin = time.perf_counter()
        mask = to_torch(seen.action_mask)
        action = torch.multinomial(mask.float().flatten(0, 1), 1, generator=generator).view(mask.shape[:2])
        seen = task.step(action.int())
    to_torch(seen.reward)
    return time.perf_counter() - begin


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="protoss_5v5")
    parser.add_argument("--preset", default="default", choices=PRESETS["agentmixer_ppo"])
    parser.add_argument("--updates", type=int, default=20)
    arguments = parser.parse_args()
    config = AgentMixerPPO.Config().replace(resolve("agentmixer_ppo", arguments.preset, "smacv2"))
    task = make("smacv2", arguments.scenario, config.num_envs)
    steps = arguments.updates * config.rollout_length
    bare = simulate(task, steps)

    algorithm = AgentMixerPPO(task.spec, config, "cpu", [torch.Generator().manual_seed(0)])
    stream = rollout.start(algorithm, task, 0)
    algorithm.update(rollout.collect(algorithm, task, stream)[0])
    collecting = updating = 0.0
    for _ in range(arguments.updates):
        begin = time.perf_counter()
        experience, _ = rollout.collect(algorithm, task, stream)
        middle = time.perf_counter()
        algorithm.update(experience)
        collecting, updating = collecting + middle - begin, updating + time.perf_counter() - middle

    count, total = steps * config.num_envs, collecting + updating
    print(f"{arguments.scenario}, preset {arguments.preset}, {count:,} steps")
    print(f"bare simulator {count / bare:9,.0f} steps/s")
    print(f"training       {count / total:9,.0f} steps/s, {bare / total:.2f} of the bare simulator's rate")
    for name, part in (("environment", bare), ("acting", collecting - bare), ("update", updating)):
        print(f"  {name:<12} {part / total:5.0%} of the time")


if __name__ == "__main__":
    main()
