"""A team that steps for an hour, or AGENTMIXER_SOAK_MINUTES: what it holds at the end is what it held at the start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from counting_bundle import counting_bundle, seen
from test_faulty_link import resident_kb

from agentmixer.host.lock_step import Host

#: Parts of the run that are compared, and how much the last may hold beyond the second.
PARTS = 10
GROWTH_KB = 2048
#: Steps before anything is measured: what is allocated once has been by then.
WARM_UP = 20_000


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.soak
def test_memory_and_descriptors_stay_flat(tmp_path: Path) -> None:
    """In an interpreter of its own, so that what is measured is a host and not the test runner around it."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {paths}; import pathlib, test_soak; test_soak.soak(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def soak(path: Path) -> None:
    """Flat: in host and agents the median resident memory of the last tenth is within 2 MiB of the second tenth's;
    and the number of descriptors is the same at every sample."""
    seconds = float(os.environ.get("AGENTMIXER_SOAK_MINUTES", "60")) * 60
    samples: list[tuple[list[int], list[int]]] = []
    with Host(counting_bundle(path / "bundle"), 10) as host:
        pids = [os.getpid(), *(agent.process.pid for agent in host.agents)]
        steps = 0

        def play(until: float, at_least: int = 0) -> None:
            nonlocal steps
            while time.monotonic() < until or steps < at_least:
                episode, step = divmod(steps, 100)
                decisions = host.step(episode, step, seen(episode, step), None)
                assert [d.action[2] for d in decisions] == [step + 1] * 3
                steps += 1

        play(0, WARM_UP)
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            play(time.monotonic() + seconds / PARTS / 20)
            samples.append(([resident_kb(pid) for pid in pids], [descriptors(pid) for pid in pids]))
    memory = np.array([sample[0] for sample in samples])
    part = len(memory) // PARTS
    early, late = np.median(memory[part : 2 * part], 0), np.median(memory[-part:], 0)
    held = [sample[1] for sample in samples]
    print(
        f"{steps:,} steps in {seconds / 60:g} min; KiB then {early.tolist()} now {late.tolist()}; descriptors {held[-1]}"
    )
    assert (late - early < GROWTH_KB).all()
    assert all(sample == held[0] for sample in held)
