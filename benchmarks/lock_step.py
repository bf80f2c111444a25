"""A lock-step of a whole team, one process an agent, against the same decisions in one process.

    python benchmarks/lock_step.py [bundle]

Both replay the golden traces, in turn, step by step. The newest bundle unless one is named.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import newest, read_bundle
from agentmixer.runtime.golden import parse
from agentmixer.runtime.host import Host


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=5000)
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle or newest())
    agents = [Agent(files) for files in bundle.agents.values()]
    goldens = [parse(files.golden, files.manifest) for files in bundle.agents.values()]
    times = np.zeros((2, arguments.steps))
    with Host(bundle) as host:
        for step in range(arguments.steps):
            row = step % len(goldens[0].obs)
            obs, masks = [g.obs[row] for g in goldens], [g.action_mask[row] for g in goldens]
            begin = time.perf_counter()
            host.step(0, step, obs, masks)
            middle = time.perf_counter()
            for agent, seen, mask in zip(agents, obs, masks, strict=True):
                agent.act(seen, mask)
            times[:, step] = middle - begin, time.perf_counter() - middle
    apart, together = times[:, arguments.steps // 10 :] * 1e6
    for name, values in ((f"{len(agents)} processes", apart), ("one process", together)):
        print(f"{name:<12} p50 {np.median(values):7.0f} µs   p99 {np.quantile(values, 0.99):7.0f} µs")
    print(f"ratio of p50 {np.median(apart) / np.median(together):.2f}")


if __name__ == "__main__":
    main()
