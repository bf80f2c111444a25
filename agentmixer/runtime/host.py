"""The host's side: start one process an agent, send each its own observation, take its decision.

Lock-step: all agents get their frames, then all decisions are awaited until the deadline.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import numpy as np

from agentmixer.contract.spec import Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.frames import MAX_FRAME, Kind, action_of, pack, unpack
from agentmixer.runtime.launch import PROCESS, Ready, launch
from agentmixer.runtime.sandbox import Isolation

START_TIMEOUT_S = 30.0


class AgentLost(AgentMixerError):
    """An agent died, refused or broke the protocol while the team was running."""


class Decision(NamedTuple):
    """What came back for one agent in one step."""

    #: As `Agent.act` returned it: [] int64 or [A] float32.
    action: np.ndarray
    #: Host's clock from sending the frame to holding the decision, ns; 0 if none came.
    round_trip_ns: int
    #: The agent's own clock for unpacking, deciding and packing, ns; 0 if none came.
    deciding_ns: int
    #: False: no decision before the deadline, `action` is the manifest's fallback.
    in_time: bool


class AgentProcess:
    """One agent in a process of its own, reached over one inherited SEQPACKET socket pair.

    Holding the descriptor is the identity: nobody else can speak to this agent or for it.
    """

    def __init__(self, bundle: Bundle, name: str, require_isolation: bool = False):
        files = bundle.agents[name]
        self.name, self.index = name, files.manifest.index
        self.digest = bytes.fromhex(files.digest)[:8]
        self.space = files.manifest.action_space
        self.fallback = np.array(
            files.manifest.fallback_action, np.int64 if isinstance(self.space, Discrete) else np.float32
        )
        self.sent_bytes = self.received_bytes = 0
        self._required = require_isolation
        arguments = ["--require-isolation"] if require_isolation else []
        launched = launch(PROCESS, str(bundle.folder(name).resolve()), *arguments)
        self.process, self.link, self._cwd, self._started = launched
        #: What its process has given up; nothing until it has announced itself.
        self.isolation = Isolation()

    def await_ready(self) -> float:
        """Wait until the agent announces itself. Returns seconds since its process was started.

        Raises AgentMixerError with the agent's own words if it refuses, or if it dies or stays silent."""
        self.link.settimeout(START_TIMEOUT_S)
        try:
            data = self.link.recv(MAX_FRAME)
        except TimeoutError:
            raise AgentMixerError(f"agent {self.name} did not start within {START_TIMEOUT_S:.0f} s") from None
        if not data:
            raise AgentMixerError(
                f"agent {self.name} did not start: its process ended with status {self.process.wait()}"
            )
        self.link.setblocking(False)
        frame = unpack(data)
        if frame.kind != Kind.READY or frame.digest != self.digest:
            raise AgentMixerError(f"agent {self.name} did not start: {bytes(frame.payload).decode(errors='replace')}")
        try:
            self.isolation = msgspec.json.decode(frame.payload, type=Ready).isolation
        except msgspec.MsgspecError as error:
            raise AgentMixerError(
                f"agent {self.name} did not start: what it announced is not READY ({error})"
            ) from error
        if self._required:
            self.isolation.require(self.name)
        return (time.monotonic_ns() - self._started) / 1e9

    def send(self, data: bytes) -> bool:
        """One frame to the agent. Returns False if it has stopped reading and its queue is full.

        Raises AgentLost if its process is gone or the frame is too large for the link."""
        try:
            self.link.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(f"cannot be reached ({error.strerror})") from error
        self.sent_bytes += len(data)
        return True

    def _lost(self, what: str) -> AgentLost:
        return AgentLost(f"agent {self.name} {what}; its process {_status(self.process)}")

    def receive(self, episode: int, step: int, sent_ns: int, deadline_ns: int) -> Decision | None:
        """Take one frame that has arrived: the decision for this episode and step, or None.

        Decisions that echo another episode or step are stale, those sent after the deadline late; both are
        dropped. Host and agent share a machine, and so the monotonic clock.
        Raises AgentLost if the agent refuses the frame, its process is gone or it breaks the protocol."""
        try:
            data = self.link.recv(MAX_FRAME)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            raise self._lost("hung up")
        self.received_bytes += len(data)
        try:
            frame = unpack(data)
        except AgentMixerError as error:
            raise self._lost(f"sent a broken frame ({error})") from error
        if frame.digest != self.digest or frame.agent != self.index:
            raise self._lost(f"speaks for agent {frame.agent}")
        if (frame.episode, frame.step) != (episode, step):
            return None
        if frame.kind == Kind.REFUSE:
            raise self._lost(f"refused step {step}: {bytes(frame.payload).decode(errors='replace')}")
        if frame.kind != Kind.ACT or frame.sent_ns > deadline_ns:
            return None
        try:
            action, deciding = action_of(frame, self.space)
        except AgentMixerError as error:
            raise self._lost(f"sent a broken decision ({error})") from error
        return Decision(action, now - sent_ns, deciding, True)

    def resident_mb(self) -> tuple[float, float]:
        """Resident memory now and at its peak, in MB of 2^20 bytes (Linux; 0 elsewhere or once it ended)."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0, 0.0
        found = {
            line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))
        }
        return found.get("VmRSS", 0.0), found.get("VmHWM", 0.0)

    def close(self) -> None:
        """Ask it to stop, and end it if it does not."""
        with contextlib.suppress(OSError):
            self.link.send(pack(Kind.STOP, self.index, self.digest))
        self.link.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._cwd.cleanup()


def _status(process: subprocess.Popen[bytes]) -> str:
    """What became of a process, in words. One that has just hung up gets a moment to end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return f"ended with status {process.wait(timeout=0.2)}"
    return "still runs"


class Host:
    """The whole team, one process an agent. Use as a context manager.

    deadline_s: how long a step waits for decisions; the manifest's control period unless given.
    require_isolation: refuse to start unless every agent's isolation is full.
    """

    def __init__(self, bundle: Bundle, deadline_s: float | None = None, require_isolation: bool = False):
        self.bundle = bundle
        self.deadline_s = bundle.team.task.control_period_s if deadline_s is None else deadline_s
        self.require_isolation = require_isolation
        self.agents: list[AgentProcess] = []
        self.start_seconds: list[float] = []
        self._poll = select.poll()
        self._index: dict[int, int] = {}

    def __enter__(self) -> Host:
        try:
            for name in self.bundle.team.task.agents:
                self.agents.append(AgentProcess(self.bundle, name, self.require_isolation))
            self.start_seconds = [agent.await_ready() for agent in self.agents]
            self._index = {agent.link.fileno(): agent.index for agent in self.agents}
            for descriptor in self._index:
                self._poll.register(descriptor, select.POLLIN)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self.agents:
            agent.close()

    def step(self, episode: int, step: int, obs: list[np.ndarray], masks: list[np.ndarray] | None) -> list[Decision]:
        """One lock-step. obs: one [D] float32 an agent; masks: one [A] bool an agent, if the task masks.

        Another episode number than the last one's makes every agent forget its recurrent state first."""
        deadline_ns = time.monotonic_ns() + int(self.deadline_s * 1e9)
        deadline_us = min(int(self.deadline_s * 1e6), 2**32 - 1)  # all that its field in the frame can say
        sent: dict[int, int] = {}
        for i, agent in enumerate(self.agents):
            seen = obs[i].tobytes()
            mask = b"" if masks is None else masks[i].tobytes()
            now = time.monotonic_ns()
            sizes = (len(seen), len(mask))
            frame = pack(Kind.OBSERVE, i, agent.digest, seen + mask, episode, step, now, deadline_us, *sizes)
            if agent.send(frame):
                sent[i] = now
        return self._await(episode, step, sent, deadline_ns)

    def _await(self, episode: int, step: int, sent: dict[int, int], deadline_ns: int) -> list[Decision]:
        """Decisions of all agents as they arrive; the fallback for those still out at the deadline.

        One agent's silence must not cost the others: what has arrived by then is taken."""
        decisions = [Decision(agent.fallback, 0, 0, False) for agent in self.agents]
        missing = set(sent)
        expired = False
        while missing and not expired:
            left = deadline_ns - time.monotonic_ns()
            expired = left <= 0
            for descriptor, _ in self._poll.poll(max(left, 0) / 1e6):
                index = self._index[descriptor]
                decision = self.agents[index].receive(episode, step, sent.get(index, 0), deadline_ns)
                if decision is not None and index in missing:
                    decisions[index] = decision
                    missing.remove(index)
        return decisions
