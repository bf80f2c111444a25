"""The loop of one agent on its device, without a host: observe, decide, apply, once in every control period.

Ticks lie on a grid: each begins a whole number of periods after the first, so that errors do not add up. What is done
when a tick does not go as it should, and how it is counted:

| what happened | what is applied | counted as |
|---|---|---|
| the decision came after the period was over | the fallback action | late |
| no observation came: `observe` returned None | the fallback action; the agent is not asked | silent |
| the agent refused the observation, or had no valid decision | the fallback action | refused |
| `observe` or `apply` raised | the fallback action at once, or at the next tick | failed |
| whole ticks went by meanwhile | nothing: two decisions in a hurry do not make up for them | skipped |

When the loop ends, for whatever reason, the fallback action is applied.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.runtime.actions import as_array
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.golden import parse

#: Of how many ticks, the newest, the times are kept.
KEPT = 1 << 17
#: Priority under SCHED_FIFO: above ordinary work, below the kernel's own threads for interrupts (50).
PRIORITY = 49
_MCL_CURRENT, _MCL_FUTURE = 1, 2


class Device(Protocol):
    """What the user writes: the sensors and the motors."""

    def observe(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The newest observation, [D] float32, and the action mask, [A] bool, or None for a task that does not mask. None
        instead of both: a sensor is silent."""

    def apply(self, action: np.ndarray) -> object:
        """Do it. Must not wait. The action is as `Agent.act` returns one."""


class Ticks:
    """What became of the ticks so far, see this module."""

    def __init__(self) -> None:
        self.applied = self.late = self.silent = self.refused = self.failed = self.skipped = 0
        #: From when the tick was due to when it began, and to when its action had been applied, the longest, in s.
        self.longest_start_s = self.longest_s = 0.0
        self._start_s, self._end_s = np.full((2, KEPT), np.nan)  # filled, so that the process does not grow later
        self._count = 0

    @property
    def fallbacks(self) -> int:
        """Ticks in which the fallback action was applied."""
        return self.late + self.silent + self.refused + self.failed

    def took(self, start_s: float, end_s: float) -> None:
        """Keep how late a tick began and ended."""
        self._start_s[self._count % KEPT], self._end_s[self._count % KEPT] = start_s, end_s
        self._count += 1
        self.longest_start_s, self.longest_s = max(self.longest_start_s, start_s), max(self.longest_s, end_s)

    def quantiles(self, *shares: float) -> tuple[np.ndarray, np.ndarray]:
        """Of the newest KEPT ticks, in s: from due to begun, and from due to applied; NaN without any tick."""
        kept = min(self._count, KEPT)
        if not kept:
            return np.full(len(shares), np.nan), np.full(len(shares), np.nan)
        return np.quantile(self._start_s[:kept], shares), np.quantile(self._end_s[:kept], shares)


def control(
    agent: Agent, device: Device, steps: int | None = None, period_s: float | None = None, ticks: Ticks | None = None,
    stop: threading.Event | None = None, failed: Callable[[BaseException], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep,
) -> Ticks:  # fmt: skip
    """Run one episode of so many ticks, or until `stop` is set. period_s: the manifest's control period unless given. ticks:
    counted on while the loop runs. failed: told of each error of the device. clock: seconds that never go back."""
    period = agent.manifest.control_period_s if period_s is None else period_s
    fallback = as_array(agent.manifest.fallback_action, agent.manifest.action_space)
    ticks = Ticks() if ticks is None else ticks
    agent.reset()
    begun, due = 0, clock()
    try:
        while (steps is None or begun < steps) and not (stop and stop.is_set()):
            begun += 1
            wait = due - clock()
            if wait > 0:
                sleep(wait)
            start = clock() - due
            action = _decided(agent, device, fallback, period, due, ticks, failed, clock)
            try:
                device.apply(action)
            except Exception as error:
                ticks.failed += 1
                failed(error)
            ticks.took(start, clock() - due)
            notify("WATCHDOG=1")
            due += period
            if (missed := int((clock() - due) // period)) > 0:
                due += missed * period
                ticks.skipped += missed
    finally:
        with contextlib.suppress(Exception):
            device.apply(fallback.copy())
    return ticks


def _decided(
    agent: Agent, device: Device, fallback: np.ndarray, period: float, due: float, ticks: Ticks,
    failed: Callable[[BaseException], None], clock: Callable[[], float],
) -> np.ndarray:  # fmt: skip
    """The action of one tick; counts what became of it."""
    try:
        seen = device.observe()
    except Exception as error:
        ticks.failed += 1
        failed(error)
        return fallback.copy()
    if seen is None:
        ticks.silent += 1
        return fallback.copy()
    try:
        action = agent.act(*seen)
    except AgentMixerError:  # such as a NaN of a sensor, or InvalidDecision; the agent's memory is as it was before
        ticks.refused += 1
        return fallback.copy()
    if clock() - due > period:  # the decision is for a moment that is over
        ticks.late += 1
        return fallback.copy()
    ticks.applied += 1
    return action


def notify(message: str) -> None:
    """Tell systemd, if it has started this program: READY=1 once, WATCHDOG=1 at every tick."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.setblocking(False)
            link.sendto(message.encode(), address.replace("@", "\0", 1))


class GoldenDevice:
    """Observes what the agent's golden trace holds, over and over, and moves nothing: it measures a machine before any
    sensor is connected."""

    def __init__(self, files: AgentFiles):
        golden = parse(files.golden, files.manifest)
        masks = golden.action_mask if files.manifest.mask_rule == "forbid" else [None] * len(golden.obs)
        self._seen = list(zip(golden.obs, masks, strict=True))
        self._step = -1

    def observe(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The next step of the trace."""
        self._step = (self._step + 1) % len(self._seen)
        return self._seen[self._step]

    def apply(self, action: np.ndarray) -> None:
        """Nothing."""


def real_time() -> None:
    """Let this process run before ordinary ones (SCHED_FIFO), keep its memory from being swapped out, and let the garbage
    collector leave alone what there is. Raises AgentMixerError if this user may not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        raise AgentMixerError(
            f"this user may not run in real time ({error.strerror}); start as root, allow it (CPUSchedulingPolicy=fifo and "
            "LimitMEMLOCK=infinity in a systemd unit; rtprio and memlock in limits.conf), or leave out --realtime"
        ) from error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        why = os.strerror(ctypes.get_errno())
        raise AgentMixerError(f"memory cannot be locked ({why}); raise the limit (ulimit -l), or leave out --realtime")
    gc.collect()
    gc.freeze()
