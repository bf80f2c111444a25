"""Environment steps a second: this package's batched Multi-Agent MuJoCo against mamujoco_v1 itself.

    python benchmarks/mamujoco.py [--scenario Ant-4x2] [--envs 40] [--seconds 3] [--rounds 5]

mamujoco_v1 is stepped as its users do, one environment after another, in one process and then in one
process a core, sharing the same environments out. Both see uniformly random actions and begin a new
episode whenever one ends. The physics alone (MuJoCo's own calls on as many threads, no observations, no
rewards, no new episodes) is what no implementation can pass. The four take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from rich.console import Console
from table import Row, show

from agentmixer.tasks import make
from agentmixer.tasks.mamujoco.mamujoco_layout import layout, reference

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def theirs(scenario: str, envs: int, seconds: float, seed: int) -> float:
    """Steps a second of `envs` environments of mamujoco_v1 in this process."""
    rng = np.random.default_rng(seed)
    copies = [reference(scenario) for _ in range(envs)]
    for i, env in enumerate(copies):
        env.reset(seed=seed + i)
    spaces = copies[0].action_spaces
    drawn = [{a: rng.uniform(s.low, s.high).astype(np.float32) for a, s in spaces.items()} for _ in range(997)]
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for env in copies:
            steps += 1
            _, _, terminated, truncated, _ = env.step(drawn[steps % len(drawn)])
            env.state()  # centralised training needs it at every step
            if any(terminated.values()) or any(truncated.values()):
                env.reset()
    return steps / (time.perf_counter() - begin)


def ours(scenario: str, envs: int, seconds: float) -> float:
    """Steps a second of this package's task with as many environments."""
    task = make("mamujoco", scenario, envs)
    shape = task.reset(0).action_mask.shape
    high = layout(scenario, "0").model.actuator_ctrlrange[0, 1]
    rng = np.random.default_rng(0)
    drawn = [rng.uniform(-high, high, shape).astype(np.float32) for _ in range(97)]
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        task.step(drawn[steps % len(drawn)])
        steps += 1
    rate = steps * envs / (time.perf_counter() - begin)
    task.close()
    return rate


def physics(scenario: str, envs: int, seconds: float) -> float:
    """Steps a second of MuJoCo alone, with random controls, on one thread a core."""
    found, rng = layout(scenario, "0"), np.random.default_rng(0)
    model, begin = found.model, time.perf_counter()

    def work(share: int) -> int:
        copies = [mujoco.MjData(model) for _ in range(share)]
        for data in copies:
            data.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T)
        steps = 0
        while time.perf_counter() - begin < seconds:
            for data in copies:
                mujoco.mj_step(model, data, found.frame_skip)
                mujoco.mj_rnePostConstraint(model, data)
            steps += share
        return steps

    with ThreadPoolExecutor(CORES) as pool:
        return sum(pool.map(work, [len(part) for part in np.array_split(range(envs), CORES)])) / seconds


def measure(scenario: str, envs: int, seconds: float, rounds: int) -> list[Row]:
    """Rows of the table."""
    shares = [(scenario, len(part), seconds, 1000 * i) for i, part in enumerate(np.array_split(range(envs), CORES))]
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        timed = [
            (
                theirs(scenario, envs, seconds, 0),
                sum(pool.starmap(theirs, shares, chunksize=1)),
                ours(scenario, envs, seconds),
                physics(scenario, envs, seconds),
            )
            for _ in range(rounds)
        ]
    one, many, mine, bare = np.median(timed, axis=0)
    name = f"{scenario}, {envs} environments, {CORES} threads"
    return [
        Row(name, mine, "steps/s", "mamujoco_v1, 1 process", one),
        Row(name, mine, "steps/s", f"mamujoco_v1, {CORES} processes", many),
        Row(name, mine, "steps/s", "MuJoCo's physics alone", bare),
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="Ant-4x2")
    parser.add_argument("--envs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    show(Console(), measure(arguments.scenario, arguments.envs, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
