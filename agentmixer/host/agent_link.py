"""An agent as its host reaches it, wherever it runs: in a process of this machine or on a device."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import msgspec

from agentmixer.errors import AgentMixerError
from agentmixer.runtime.actions import as_array
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.frames import Kind, reason_of, unpack
from agentmixer.runtime.launch import Ready
from agentmixer.runtime.sandbox import Isolation

START_TIMEOUT_S = 30.0


class AgentLost(AgentMixerError):
    """An agent died, refused or broke the protocol while the team was running."""


class HungUp(Exception):
    """Nobody is at the other end of an agent's link any more."""


class AgentLink(ABC):
    """The host's end of the link to one agent. Nothing here waits but `await_ready` and `close`.

    files: the agent's, as the host's own copy of the bundle has them. require_isolation: refuse an agent that is not fully
    isolated."""

    #: Whether the agent's clock is the host's, so that the times in its frames can be held against the host's.
    shares_clock = True

    def __init__(self, files: AgentFiles, require_isolation: bool):
        self.files = files
        self.name, self.index = files.manifest.agent, files.manifest.index
        self.digest = bytes.fromhex(files.digest)[:8]
        self.space = files.manifest.action_space
        self.fallback = as_array(files.manifest.fallback_action, self.space)
        self.sent_bytes = self.received_bytes = 0
        #: What its process has given up; nothing until it has announced itself.
        self.isolation = Isolation()
        #: Of its noise, as it has announced it.
        self.seed = 0
        self._required = require_isolation
        self._started = time.monotonic_ns()
        #: Its first message, once that has been taken.
        self.announcement = b""

    @abstractmethod
    def fileno(self) -> int:
        """What to poll for reading: something has come from the agent."""

    @property
    def holds_frame(self) -> bool:
        """Whether `receive` has a frame that polling does not show."""
        return False

    @abstractmethod
    def await_ready(self) -> float:
        """Wait until the agent announces itself. Returns seconds since it was started or called.

        Raises AgentMixerError with the agent's own words if it refuses, or if it is not there or stays silent."""

    @abstractmethod
    def first(self) -> bytes | None:
        """Its first message; None while there is none, and b"" if it hung up before."""

    def announced(self, data: bytes) -> float:
        """Take an agent's first message. Returns and raises as `await_ready` does."""
        if not data:
            raise AgentMixerError(f"agent {self.name} did not start: it hung up before it was ready")
        try:
            frame = unpack(data)
        except AgentMixerError as error:
            raise AgentMixerError(f"agent {self.name} did not start: {error}") from error
        if frame.kind == Kind.READY and frame.digest != self.digest:
            raise AgentMixerError(
                f"agent {self.name} did not start: it runs another export of this agent; copy the folder of this bundle to it"
            )
        if frame.kind != Kind.READY:
            raise AgentMixerError(f"agent {self.name} did not start: {reason_of(frame, self.space)}")
        try:
            ready = msgspec.json.decode(frame.payload, type=Ready)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise AgentMixerError(
                f"agent {self.name} did not start: what it announced is not READY ({error})"
            ) from error
        self.isolation, self.seed = ready.isolation, ready.seed
        if self._required:
            self.isolation.require(self.name)
        self.announcement = data
        return self.age_s()

    def age_s(self) -> float:
        """Seconds since it was started or called."""
        return (time.monotonic_ns() - self._started) / 1e9

    @abstractmethod
    def starting(self) -> None:
        """Called at every step while the agent has not announced itself."""

    @abstractmethod
    def send(self, data: bytes) -> bool:
        """One frame to the agent. Returns False if it has stopped reading and its queue is full. Raises HungUp."""

    @abstractmethod
    def receive(self) -> bytes | None:
        """One frame from the agent, None if none has arrived. Raises HungUp."""

    @abstractmethod
    def lost(self, what: str) -> AgentLost:
        """The error that ends the team on this agent's account."""

    @abstractmethod
    def resident_mb(self) -> tuple[float, float]:
        """Resident memory of its process now and at its peak, in MB of 2^20 bytes; 0 where it cannot be told."""

    @abstractmethod
    def signal(self, number: int) -> None:
        """Send its process a signal. Raises AgentMixerError if it runs on another machine."""

    @abstractmethod
    def kill(self) -> None:
        """End the link at once, and the process if it is the host's."""

    @abstractmethod
    def close(self) -> None:
        """Ask the agent to stop, and end the link."""
