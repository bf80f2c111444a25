"""One agent at a fixed rate, as on its device: observe, decide, apply, once in every control period.

    python examples/control_loop.py bundles/<bundle>/agents/agent_0 --steps 1000

Started like this, it takes its observations from the agent's golden trace and moves nothing. That measures the device before
any sensor is connected. To control something, write your own `Device`.
"""

import argparse
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from agentmixer.contract.spec import Box
from agentmixer.runtime import Agent, AgentMixerError
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.golden import parse


class Device(Protocol):
    """What you write: the sensors and the motors."""

    def observe(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The newest observation, float32 [D], and the action mask, bool [A], or None for a task that does not mask."""
        ...

    def apply(self, action: np.ndarray) -> None:
        """Do it. Must not wait."""
        ...


@dataclass
class Ticks:
    """What became of the ticks. seconds: from the start of each tick to its decision."""

    applied: int = 0
    late: int = 0
    refused: int = 0
    skipped: int = 0
    seconds: list[float] = field(default_factory=list)


def control(
    agent: Agent, device: Device, steps: int, clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Ticks:  # fmt: skip
    """Run one episode of so many ticks. clock: seconds that never go back."""
    period = agent.manifest.control_period_s
    kind = np.float32 if isinstance(agent.manifest.action_space, Box) else np.int64
    fallback = np.asarray(agent.manifest.fallback_action, kind)
    ticks = Ticks()
    agent.reset()
    due = (
        clock()
    )  # when the tick begins; always a whole number of periods after the first, so that errors do not add up
    for _ in range(steps):
        sleep(max(0.0, due - clock()))
        obs, mask = device.observe()
        try:
            action = agent.act(obs, mask)
        except AgentMixerError:  # a NaN from a sensor, or InvalidDecision; the agent's memory is as it was before
            action = fallback
            ticks.refused += 1
        else:
            if clock() - due > period:  # the decision is for a moment that is over
                action = fallback
                ticks.late += 1
            else:
                ticks.applied += 1
        ticks.seconds.append(clock() - due)
        device.apply(action)
        notify("WATCHDOG=1")
        due += period
        if clock() >= due + period:  # whole ticks were missed: leave them out, never hurry to catch up
            missed = int((clock() - due) // period)
            due += missed * period
            ticks.skipped += missed
    return ticks


def notify(message: str) -> None:
    """Tell systemd, if it has started this program: READY=1 once, WATCHDOG=1 at every tick."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.sendto(message.encode(), address.replace("@", "\0", 1))


class GoldenDevice:
    """Observes what the agent's golden trace holds, over and over, and moves nothing."""

    def __init__(self, folder: Path):
        files = read_agent(folder)
        self.golden = parse(files.golden, files.manifest)
        self.masked = files.manifest.mask_rule == "forbid"
        self.step = -1

    def observe(self) -> tuple[np.ndarray, np.ndarray | None]:
        self.step = (self.step + 1) % len(self.golden.obs)
        return self.golden.obs[self.step], self.golden.action_mask[self.step] if self.masked else None

    def apply(self, action: np.ndarray) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the agent's folder")
    parser.add_argument("--steps", type=int, default=1000, help="ticks to run")
    arguments = parser.parse_args()
    agent = Agent.load(arguments.folder)
    notify("READY=1")
    ticks = control(agent, GoldenDevice(arguments.folder), arguments.steps)
    p50, p99, most = np.percentile(ticks.seconds, (50, 99, 100)) * 1e6
    print(f"applied {ticks.applied}, late {ticks.late}, refused {ticks.refused}, skipped {ticks.skipped}")
    print(f"from the start of a tick to its decision: p50 {p50:.0f} µs, p99 {p99:.0f} µs, longest {most:.0f} µs")


if __name__ == "__main__":
    main()
