"""One agent's process, as its host holds it: started, heard from, ended."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_link import START_TIMEOUT_S, AgentLink, AgentLost, HungUp
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.frames import HEADER, MAX_FRAME, Kind, pack
from agentmixer.runtime.launch import PROCESS, launch

#: Bytes of a socket's buffer that a message cannot use; the kernel keeps 32.
_SOCKET_OVERHEAD = 1024


class AgentProcess(AgentLink):
    """One agent in a process of its own, reached over one inherited SEQPACKET socket pair.

    Holding the descriptor is the identity: nobody else can speak to this agent or for it. folder: the agent's; seed: of its noise,
    if it draws its actions."""

    def __init__(self, files: AgentFiles, folder: Path, require_isolation: bool = False, seed: int = 0):
        super().__init__(files, require_isolation)
        needed = _largest_frame(files.manifest)
        if needed > MAX_FRAME:
            raise AgentMixerError(
                f"agent {self.name} sees {needed:,} bytes a step, but a frame carries {MAX_FRAME:,}; give it a smaller "
                "observation"
            )
        arguments = ["--require-isolation"] if require_isolation else []
        launched = launch(PROCESS, str(folder.resolve()), f"--seed={seed}", *arguments)
        self.process, self.link, self._cwd, self._started = launched
        if not _makes_room(self.link, needed):
            self.close()
            raise AgentMixerError(
                f"agent {self.name} sees {needed:,} bytes a step, more than this system lets a socket take at once; allow "
                f"more: sysctl net.core.wmem_max={2 * needed}"
            )

    def fileno(self) -> int:
        return self.link.fileno()

    def await_ready(self) -> float:
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

    def first(self) -> bytes | None:
        try:
            return self.link.recv(MAX_FRAME, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def announced(self, data: bytes) -> float:
        self.link.setblocking(False)
        return super().announced(data)

    def starting(self) -> None:
        if self.age_s() > START_TIMEOUT_S:
            self.process.kill()

    def send(self, data: bytes) -> bool:
        try:
            self.link.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            raise HungUp(f"cannot be reached ({error.strerror})") from error
        self.sent_bytes += len(data)
        return True

    def receive(self) -> bytes | None:
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
        return AgentLost(f"agent {self.name} {what}; its process {_status(self.process)}")

    def resident_mb(self) -> tuple[float, float]:
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0, 0.0
        found = {
            line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))
        }
        return found.get("VmRSS", 0.0), found.get("VmHWM", 0.0)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Ask the agent to stop, and end its process if it does not, or if it never was ready."""
        with contextlib.suppress(OSError):
            self.link.send(pack(Kind.STOP, self.index, self.digest))
        self.link.close()
        if not self.announcement:
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
