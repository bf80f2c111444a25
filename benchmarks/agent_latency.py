"""`Agent.act` against the bare ONNX Runtime session it wraps, same observations, same process.

    python benchmarks/agent_latency.py [bundles/<bundle>/agents/agent_0]

The newest bundle's first agent unless one is named. Prints medians in microseconds and their ratio. The two are timed in turn, call by call, so that whatever
else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from agentmixer.contract.manifest import AGENTS_FOLDER
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import newest, read_agent
from agentmixer.runtime.golden import parse


def measure(folder: Path, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds of each call: Agent.act, bare session. [calls] each."""
    files = read_agent(folder)
    golden = parse(files.golden, files.manifest)
    agent, session = Agent(files), make_session(files.model)
    agent.reset()
    outputs = [spec.name for spec in files.manifest.outputs]
    state = np.zeros((1, files.manifest.memory), np.float32)
    times = np.zeros((2, calls), np.int64)
    clock = time.perf_counter_ns
    for call in range(calls):
        obs, mask = golden.obs[call % len(golden.obs)], golden.action_mask[call % len(golden.obs)]
        feed = {"obs": obs[None], "action_mask": mask[None], "state_in": state}
        begin = clock()
        agent.act(obs, mask)
        middle = clock()
        _, _, state = session.run(outputs, feed)
        times[:, call] = middle - begin, clock() - middle
    return times[0], times[1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--calls", type=int, default=20_000)
    arguments = parser.parse_args()
    folder = arguments.folder or sorted((newest() / AGENTS_FOLDER).iterdir())[0]
    act, bare = (times[len(times) // 10 :] / 1e3 for times in measure(folder, arguments.calls))
    for name, times in (("Agent.act", act), ("bare session", bare)):
        print(f"{name:<14} p50 {np.median(times):7.1f} µs   p99 {np.quantile(times, 0.99):7.1f} µs")
    print(f"ratio of p50   {np.median(act) / np.median(bare):.2f}")


if __name__ == "__main__":
    main()
