"""`Agent.act` against the bare ONNX Runtime session it wraps, same observations, same process.

    python benchmarks/agent_latency.py [bundles/<bundle>/agents/agent_0]

The newest bundle's first agent unless one is named. The two are timed in turn, call by call, so that whatever else
the machine does falls on both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from table import Row, show

from agentmixer.contract.manifest import AGENTS_FOLDER
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import newest, read_agent
from agentmixer.runtime.golden import parse


def times_of(folder: Path, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds of each call: Agent.act, bare session. [calls] each."""
    files = read_agent(folder)
    golden = parse(files.golden, files.manifest)
    agent, session = Agent(files), make_session(files.model)
    agent.reset()
    names, outputs = ([spec.name for spec in tensors] for tensors in (files.manifest.inputs, files.manifest.outputs))
    state = np.zeros((1, files.manifest.memory), np.float32)
    times = np.zeros((2, calls), np.int64)
    masked = files.manifest.mask_rule == "forbid"
    clock = time.perf_counter_ns
    for call in range(calls):
        row = call % len(golden.obs)
        obs, mask = golden.obs[row], golden.action_mask[row] if masked else None
        given = {
            "obs": obs[None],
            "action_mask": golden.action_mask[row][None],
            "noise": golden.noise[row][None],
            "state_in": state,
        }
        feed = {name: given[name] for name in names}
        begin = clock()
        agent.act(obs, mask)
        middle = clock()
        found = session.run(outputs, feed)
        times[:, call] = middle - begin, clock() - middle
        state = found[-1] if files.manifest.memory else state
    return times[0], times[1]


def measure(folder: Path | None, calls: int) -> list[Row]:
    """Rows of the table: medians and 99 % quantiles, the first tenth of the calls left out."""
    folder = folder or sorted((newest() / AGENTS_FOLDER).iterdir())[0]
    act, bare = (times[len(times) // 10 :] / 1e3 for times in times_of(folder, calls))
    return [
        Row(f"Agent.act, p{q}", float(np.percentile(act, q)), "µs", "its bare session", float(np.percentile(bare, q)))
        for q in (50, 99)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--calls", type=int, default=20_000)
    arguments = parser.parse_args()
    show(Console(), measure(arguments.folder, arguments.calls))


if __name__ == "__main__":
    main()
