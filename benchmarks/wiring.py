"""What an audit makes of faults of wiring: six kinds of fault on every element that varies, and clean logs.

    python benchmarks/wiring.py BUNDLE [--agent agent_0] [--steps 200] [--clean 100] [--elements 1000]

Each log is of so many decisions of the deployed team, of another seed than the profile's, and each fault is put into a log of its own. A fault that
leaves its log as it is does not count, and neither does an element that does not vary in the log.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agentmixer.contract.manifest import encode, sha256
from agentmixer.export.episodes import profiles
from agentmixer.runtime import profile
from agentmixer.runtime.bundle import AgentFiles, read_bundle
from agentmixer.runtime.log import Log
from agentmixer.runtime.status import Watch
from agentmixer.runtime.wiring_search import Search
from agentmixer.train import checkpoint
from agentmixer.validate.source_run import source_run
from agentmixer.validate.wiring import Wiring

SEED, KINDS = 77, ("swap", "scale", "flip", "offset", "freeze", "lag")


def logs(bundle: Path, agent: str, steps: int, wanted: int) -> tuple[AgentFiles, list[Log]]:
    """So many logs of one agent."""
    opened = read_bundle(bundle)
    run = source_run(opened).on_cpu()
    files, index = opened.agents[agent], opened.team.task.agents.index(agent)
    with contextlib.closing(run.make_task(1)) as task:
        algorithm, _ = checkpoint.load_weights(run, task, checkpoint.latest(run))
        alone = task.restarts
    envs = 1 if alone else run.config.run.num_envs // run.config.run.lanes
    rounds = -(-wanted // envs)
    with contextlib.closing(run.make_task(envs)) as task:
        seen = profiles(algorithm.team, task, seed=SEED, steps=rounds * steps)[index]
    parts = len(seen.obs) // steps
    obs, fresh, actions = (
        array.reshape(parts, steps, *array.shape[1:]) for array in (seen.obs, seen.fresh, seen.actions)
    )
    digest, mask = sha256(encode(files.manifest)), np.ones((steps, files.manifest.action_space.n), bool)
    return files, [Log(obs[i], mask, fresh[i], actions[i], agent, digest) for i in range(parts)]


def flagged(files: AgentFiles, figures: profile.Profile, log: Log) -> float:
    """The share of a log's decisions that the status flags."""
    watch, count = Watch(files.manifest, figures), 0
    for row, fresh in zip(log.obs, log.fresh, strict=True):
        if fresh:
            watch.reset()
        _, outside, stale = watch.look(row)
        count += bool(outside or stale)
    return count / len(log.obs)


def fault(kind: str, element: int, log: Log, figures: profile.Profile, rng: np.random.Generator) -> Wiring | None:
    """A fault of that kind: swapped with any element that varies in the log, times 57.3, off by half of its range, frozen from the start,
    three steps late. None if the element does not vary."""
    varies = np.flatnonzero(log.obs.std(0) > 0)
    if element not in varies or len(varies) < 2:
        return None
    row = figures.quantiles[np.searchsorted(figures.elements, element)]
    value = {"scale": 180 / np.pi, "offset": float(row[-1] - row[0]) / 2, "lag": 3.0}.get(kind, 0.0)
    elements = [element]
    if kind == "swap":
        elements.append(int(rng.choice(varies[varies != element])))
    return Wiring(kind, elements, value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--agent")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--elements", type=int, default=1000)
    asked = parser.parse_args()
    agent = asked.agent or read_bundle(asked.bundle).team.task.agents[0]
    files, kept = logs(asked.bundle, agent, asked.steps, asked.clean)
    manifest, figures = files.manifest, profile.parse(files.profile, files.manifest)
    rng, console = np.random.default_rng(0), Console()

    def judged(log: Log) -> tuple[bool, float]:
        return bool(Search(manifest, figures, log).explain(1)), flagged(files, figures, log)

    clean = [judged(log) for log in track(kept[: asked.clean], "clean logs", console=Console(stderr=True))]
    names = manifest.tensor("obs").elements
    varying = figures.elements[figures.quantiles[:, 0] < figures.quantiles[:, -1]]
    if len(varying) > asked.elements:
        varying = np.sort(rng.choice(varying, asked.elements, replace=False))
    table = Table(title=f"{manifest.task} {manifest.scenario}, {agent}, logs of {asked.steps} decisions")
    for column in ("fault", "logs", "noticed", "element named", "kind named too", "decisions flagged by the status"):
        table.add_column(column)
    total = np.zeros(5)
    for kind in KINDS:
        row = np.zeros(5)
        for element in track(varying.tolist(), kind, console=Console(stderr=True)):
            log = kept[int(rng.integers(len(kept)))]
            wiring = fault(kind, element, log, figures, rng)
            wrong = log if wiring is None else log._replace(obs=wiring.apply_all(log.obs, log.fresh))
            if np.array_equal(wrong.obs, log.obs):
                continue
            found = Search(manifest, figures, wrong).explain(1)
            named = bool(found) and names[element] in found[0].elements
            row += (1, bool(found), named, named and found[0].kind == kind, flagged(files, figures, wrong))
        total += row
        table.add_row(kind, f"{row[0]:.0f}", *(f"{count / max(row[0], 1):.0%}" for count in row[1:]))
    table.add_row("all", f"{total[0]:.0f}", *(f"{count / max(total[0], 1):.0%}" for count in total[1:]))
    complaints, flags = np.sum(clean, 0)
    table.add_row("none", f"{len(clean)}", f"{complaints:.0f} of {len(clean)}", "", "", f"{flags / len(clean):.2%}")
    console.print(table)
    console.print(
        f"a log in order would show a fault of the kind, of {len(varying)} elements:",
        Search(manifest, figures, kept[0]).noticed(),
    )


if __name__ == "__main__":
    main()
