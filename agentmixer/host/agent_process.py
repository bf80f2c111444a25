"""One agent's process, as its host holds it: started, heard from, ended."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.actions import as_array
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.frames import HEADER, MAX_FRAME, Kind, pack, reason_of, unpack
from agentmixer.runtime.launch import PROCESS, Ready, launch
from agentmixer.runtime.sandbox import Isolation

START_TIMEOUT_S = 30.0
#: Bytes of a socket's buffer that a message cannot use; the kernel keeps 32.
_SOCKET_OVERHEAD = 1024


class AgentLost(AgentMixerError):
    """An agent died, refused or broke the protocol while the team was running."""


class HungUp(Exception):
    """Nobody is at the other end of an agent's link any more."""


class AgentProcess:
    """One agent in a process of its own, reached over one inherited SEQPACKET socket pair.

    Holding the descriptor is the identity: nobody else can speak to this agent or for it.
    """

    def __init__(self, bundle: Bundle, name: str, require_isolation: bool = False):
        files = bundle.agents[name]
        self.name, self.index = name, files.manifest.index
        self.digest = bytes.fromhex(files.digest)[:8]
        self.space = files.manifest.action_space
        self.fallback = as_array(files.manifest.fallback_action, self.space)
        needed = _largest_frame(files.manifest)
        if needed > MAX_FRAME:
            raise AgentMixerError(
                f"agent {name} sees {needed:,} bytes a step, but a frame carries {MAX_FRAME:,}; give it a smaller observation"
            )
        self.sent_bytes = self.received_bytes = 0
        self._required = require_isolation
        arguments = ["--require-isolation"] if require_isolation else []
        launched = launch(PROCESS, str(bundle.folder(name).resolve()), *arguments)
        self.process, self.link, self._cwd, self._started = launched
        self._ready = False
        if not _makes_room(self.link, needed):
            self.close()
            raise AgentMixerError(
                f"agent {name} sees {needed:,} bytes a step, more than this system lets a socket take at once; allow more: "
                f"sysctl net.core.wmem_max={2 * needed}"
            )
        #: What its process has given up; nothing until it has announced itself.
        self.isolation = Isolation()

    def await_ready(self) -> float:
        """Wait until the agent announces itself. Returns seconds since its process was started.

        Raises AgentMixerError with the agent's own words if it refuses, or if it dies or stays silent."""
        self.link.settimeout(max(START_TIMEOUT_S - self.age_s(), 0.001))
        try:
            data = self.link.recv(MAX_FRAME)
        except TimeoutError:
            raise AgentMixerError(f"agent {self.name} did not start within {START_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise AgentMixerError(f"agent {self.name} did not start: its link broke ({error.strerror})") from error
        if not data:
            raise AgentMixerError(
                f"agent {self.name} did not start: it hung up before it was ready; its process {_status(self.process)}"
            )
        return self.announced(data)

    def announced(self, data: bytes) -> float:
        """Take an agent's first message. Waits for nothing. Returns and raises as `await_ready` does."""
        self.link.setblocking(False)
        if not data:
            raise AgentMixerError(f"agent {self.name} did not start: it hung up before it was ready")
        frame = unpack(data)
        if frame.kind != Kind.READY or frame.digest != self.digest:
            raise AgentMixerError(f"agent {self.name} did not start: {reason_of(frame, self.space)}")
        try:
            self.isolation = msgspec.json.decode(frame.payload, type=Ready).isolation
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise AgentMixerError(
                f"agent {self.name} did not start: what it announced is not READY ({error})"
            ) from error
        if self._required:
            self.isolation.require(self.name)
        self._ready = True
        return self.age_s()

    def age_s(self) -> float:
        """Seconds since its process was started."""
        return (time.monotonic_ns() - self._started) / 1e9

    def send(self, data: bytes) -> bool:
        """One frame to the agent. Returns False if it has stopped reading and its queue is full."""
        try:
            self.link.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            raise HungUp(f"cannot be reached ({error.strerror})") from error
        self.sent_bytes += len(data)
        return True

    def receive(self) -> bytes | None:
        """One frame from the agent, None if none has arrived."""
        try:
            data = self.link.recv(MAX_FRAME)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise HungUp("hung up")
        self.received_bytes += len(data)
        return data

    def lost(self, what: str) -> AgentLost:
        """The error that ends the team on this agent's account."""
        return AgentLost(f"agent {self.name} {what}; its process {_status(self.process)}")

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
        """Ask it to stop, and end it if it does not, or if it never was ready."""
        with contextlib.suppress(OSError):
            self.link.send(pack(Kind.STOP, self.index, self.digest))
        self.link.close()
        if not self._ready:
            self.process.kill()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._cwd.cleanup()


def _largest_frame(manifest: AgentManifest) -> int:
    """Bytes of the longest frame that goes to an agent: an observation and its mask."""
    mask = manifest.action_space.n if manifest.mask_rule == "forbid" else 0
    return HEADER.size + 4 * manifest.tensor("obs").shape[0] + mask


def _makes_room(link: socket.socket, needed: int) -> bool:
    """Let the link take a frame of so many bytes. Returns whether it now does; the system has a limit."""

    def room() -> int:
        return link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _SOCKET_OVERHEAD

    if room() < needed:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, needed + _SOCKET_OVERHEAD)
    return room() >= needed


def _status(process: subprocess.Popen[bytes]) -> str:
    """What became of a process, in words. One that has just hung up gets a moment to end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return f"ended with status {process.wait(timeout=0.2)}"
    return "still runs"
