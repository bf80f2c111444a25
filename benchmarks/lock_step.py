"""A lock-step of a whole team, one process an agent, against the same decisions in one process.

    python benchmarks/lock_step.py [bundle]

Both replay the golden traces, in turn, step by step. The newest bundle unless one is named.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from table import Row, show

from agentmixer.host.lock_step import Host
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import newest, read_bundle
from agentmixer.runtime.golden import parse


def measure(folder: Path | None, steps: int) -> list[Row]:
    """Rows of the table: medians and 99 % quantiles, the first tenth of the steps left out."""
    bundle = read_bundle(folder or newest())
    agents = [Agent(files) for files in bundle.agents.values()]
    masked = next(iter(bundle.agents.values())).manifest.mask_rule == "forbid"
    goldens = [parse(files.golden, files.manifest) for files in bundle.agents.values()]
    times = np.zeros((2, steps))
    with Host(bundle) as host:
        for step in range(steps):
            row = step % len(goldens[0].obs)
            obs = [golden.obs[row] for golden in goldens]
            masks = [golden.action_mask[row] for golden in goldens] if masked else None
            begin = time.perf_counter()
            host.step(0, step, obs, masks)
            middle = time.perf_counter()
            for agent, seen, mask in zip(agents, obs, masks or [None] * len(agents), strict=True):
                agent.act(seen, mask)
            times[:, step] = middle - begin, time.perf_counter() - middle
    apart, together = times[:, steps // 10 :] * 1e6
    name = f"lock-step of {len(agents)} processes"
    return [
        Row(f"{name}, p{q}", float(np.percentile(apart, q)), "µs", "one process", float(np.percentile(together, q)))
        for q in (50, 99)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=5000)
    arguments = parser.parse_args()
    show(Console(), measure(arguments.bundle, arguments.steps))


if __name__ == "__main__":
    main()
