"""A lock-step of a whole team, one process an agent, against the same decisions in one process and in bare processes.

    python benchmarks/lock_step.py [bundle]

All replay the golden traces, step by step. A bare process runs the ONNX Runtime session on one golden step and answers with as
many bytes as an agent does: no frame is checked, no action, and there is no sandbox. The newest bundle unless one is named.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from table import Row, show

from agentmixer.host.lock_step import Host
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import AgentFiles, Bundle, newest, read_bundle
from agentmixer.runtime.frames import HEADER
from agentmixer.runtime.golden import parse

#: Bytes of a decision: a header, the time spent deciding, and an action.
ANSWER = HEADER.size + 16


def golden_feed(files: AgentFiles, session: Any) -> dict[str, np.ndarray]:
    """What a session is run on: the first golden step."""
    golden = parse(files.golden, files.manifest)
    given: dict[str, Any] = {"obs": golden.obs[:1], "state_in": np.zeros((1, files.manifest.memory), np.float32)}
    given["noise"] = golden.noise[:1]
    if files.manifest.mask_rule == "forbid":
        given["action_mask"] = golden.action_mask[:1]
    return {wanted.name: given[wanted.name] for wanted in session.get_inputs()}


def frame_bytes(bundle: Bundle) -> int:
    """Bytes of an observation's frame."""
    manifest = next(iter(bundle.agents.values())).manifest
    mask = manifest.action_space.n if manifest.mask_rule == "forbid" else 0
    return HEADER.size + 4 * manifest.tensor("obs").shape[0] + mask


def bare(files: AgentFiles, link: socket.socket) -> None:
    """A bare process: answers each message after one run of the session."""
    session = make_session(files.model)
    feed = golden_feed(files, session)
    link.send(b"ready")
    while data := link.recv(1 << 20):
        session.run(None, feed)
        link.send(data[:ANSWER])


def bare_lock_step(bundle: Bundle, steps: int) -> np.ndarray:
    """s of each step of as many bare processes as the team has agents."""
    fresh = multiprocessing.get_context("spawn")
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in bundle.agents]
    processes = [
        fresh.Process(target=bare, args=(files, theirs), daemon=True)
        for files, (_, theirs) in zip(bundle.agents.values(), pairs, strict=True)
    ]
    readable = select.poll()
    for process, (ours, _) in zip(processes, pairs, strict=True):
        process.start()
        readable.register(ours, select.POLLIN)
    by_number, data, times = {ours.fileno(): ours for ours, _ in pairs}, bytes(frame_bytes(bundle)), np.zeros(steps)
    for ours in by_number.values():
        ours.recv(100)
    for step in range(steps):
        begin = time.perf_counter()
        for ours in by_number.values():
            ours.send(data)
        left = len(by_number)
        while left:
            for number, _ in readable.poll():
                left -= bool(by_number[number].recv(1000))
        times[step] = time.perf_counter() - begin
    for process in processes:
        process.kill()
    return times


def measure(folder: Path | None, steps: int) -> list[Row]:
    """Rows of the table: medians and 99 % quantiles, the first tenth of the steps left out."""
    bundle = read_bundle(folder or newest())
    agents = [Agent(files) for files in bundle.agents.values()]
    masked = next(iter(bundle.agents.values())).manifest.mask_rule == "forbid"
    goldens = [parse(files.golden, files.manifest) for files in bundle.agents.values()]
    times = np.zeros((3, steps))
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
            times[:2, step] = middle - begin, time.perf_counter() - middle
    times[2] = bare_lock_step(bundle, steps)
    apart, *others = times[:, steps // 10 :] * 1e6
    name = f"lock-step of {len(agents)} processes"
    return [
        Row(f"{name}, p{q}", float(np.percentile(apart, q)), "µs", what, float(np.percentile(against, q)))
        for what, against in zip(("one process", "bare processes"), others, strict=True)
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
