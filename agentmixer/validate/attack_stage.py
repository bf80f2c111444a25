"""What the attacks are tried on: a team of processes, an attacker in one agent's place, and secrets to be stolen."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from agentmixer.contract.manifest import GOLDEN_FILE
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.bundle import AgentFiles, Bundle
from agentmixer.runtime.frames import Kind, pack, unpack
from agentmixer.runtime.launch import PROCESS, Ready, launch
from agentmixer.runtime.sandbox import Isolation
from agentmixer.validate.attacker import MAX_MESSAGE, SCRIPT
from agentmixer.validate.attacks import Target
from agentmixer.validate.system_calls import KEYCTL_SETPERM, KEYCTL_UNLINK, call, checked, libc

#: How long a message over a link may take.
PATIENCE_S = 30.0
#: What follows this many characters of the victim's golden digest in its memory is to be stolen.
KNOWN = 16


class Member:
    """A process in an agent's place."""

    def __init__(self, files: AgentFiles, folder: Path, script: Path, *arguments: str):
        self.files, self.folder = files, folder
        self.process, self.link, self._directory, _ = launch(script, str(folder), *arguments)
        self.directory = Path(self._directory.name)
        self.isolation = Isolation()

    def await_ready(self) -> None:
        """Raises AgentMixerError if it does not start."""
        self.link.settimeout(PATIENCE_S)
        data = self.link.recv(MAX_MESSAGE)
        frame = unpack(data) if data else None
        if frame is None or frame.kind != Kind.READY:
            why = bytes(frame.payload).decode(errors="replace") if frame else "its process ended"
            raise AgentMixerError(f"agent {self.files.manifest.agent} did not start: {why}")
        self.isolation = msgspec.json.decode(frame.payload, type=Ready).isolation

    def answers(self) -> bool:
        """Whether it decides upon an observation of zeros in which everything is allowed."""
        manifest = self.files.manifest
        obs = bytes(4 * manifest.tensor("obs").shape[0])
        mask = b"\1" * manifest.tensor("action_mask").shape[0] if manifest.mask_rule == "forbid" else b""
        digest = bytes.fromhex(self.files.digest)[:8]
        frame = pack(Kind.OBSERVE, manifest.index, digest, obs + mask, obs_bytes=len(obs), mask_bytes=len(mask))
        try:
            self.link.send(frame)
            return unpack(self.link.recv(MAX_MESSAGE)).kind == Kind.ACT
        except (OSError, AgentMixerError):
            return False

    def state(self) -> str:
        """Its process's state: one letter, as in /proc; empty if it is gone."""
        try:
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return ""

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.link.close()
        self._directory.cleanup()


class Stage:
    """All that is there to be attacked in one run: the team, an attacker in the first agent's place, and canaries.

    What this machine does not have is in `absent`, by the attack that would need it."""

    def __init__(self, bundle: Bundle, protected: bool):
        self.absent: dict[str, str] = {}
        self._end = contextlib.ExitStack()
        self._cleanup = self._end.callback
        self.scratch = Path(self._end.enter_context(tempfile.TemporaryDirectory(prefix="agentmixer-isolation-")))
        try:
            self._plant()
            self._start(bundle, protected)
        except BaseException:
            self._end.close()
            raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()

    def _start(self, bundle: Bundle, protected: bool) -> None:
        members = []
        attacker, *others = bundle.team.task.agents
        for name in (attacker, *others):
            folder = self.scratch / name  # a copy, because the attacks write
            shutil.copytree(bundle.folder(name), folder)
            if name == attacker:
                script, arguments = SCRIPT, ["attack"] if protected else ["attack", "--open"]
            else:
                script, arguments = (PROCESS, []) if protected else (SCRIPT, ["victim", "--open"])
            member = Member(bundle.agents[name], folder, script, *arguments)
            self._cleanup(member.close)
            members.append(member)
        for member in members:
            member.await_ready()
        self.attacker, *self.victims = members
        self.victim = self.victims[0]

    def _plant(self) -> None:
        """Canaries of every kind, gone again when the stage closes."""
        self.secret = secrets.token_hex(16)
        for name in ("secret", "truncate", "rename", "remove", "mode"):
            (self.scratch / name).write_text(self.secret)
            (self.scratch / name).chmod(0o600)
        self.home = self._file(Path.home(), ".agentmixer-", "read_home", "write_home")
        self.shared = self._file(Path("/dev/shm"), "agentmixer-", "dev_shm_read", "dev_shm_write")
        self.memory = ctypes.create_string_buffer(self.secret.encode())
        self.abstract = f"agentmixer-{self.secret}"
        loopback = ("127.0.0.1", 0)
        self.listeners = {
            "abstract_socket": self._listener(socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + self.abstract),
            "pathname_socket": self._listener(socket.AF_UNIX, socket.SOCK_DGRAM, str(self.scratch / "socket")),
            "tcp": self._listener(socket.AF_INET, socket.SOCK_STREAM, loopback),
            "udp": self._listener(socket.AF_INET, socket.SOCK_DGRAM, loopback),
        }
        self.segment = self._try("sysv_segment", self._plant_segment)
        self._try("posix_queue", self._plant_message)
        self.key = self._try("keyring", self._plant_key)

    def _try(self, name: str, plant: Callable[[], int]) -> int:
        try:
            return plant()
        except (OSError, AttributeError) as error:
            self.absent[name] = f"none here ({getattr(error, 'strerror', None) or error})"
            return 0

    def _file(self, folder: Path, prefix: str, *needed_by: str) -> Path:
        try:
            descriptor, name = tempfile.mkstemp(prefix=prefix, dir=folder)
        except OSError as error:
            self.absent |= dict.fromkeys(needed_by, f"{folder} cannot be written to ({error.strerror})")
            return folder
        os.write(descriptor, self.secret.encode())
        os.close(descriptor)
        self._cleanup(self._remove, folder, Path(name).name)
        return Path(name)

    @staticmethod
    def _remove(folder: Path, prefix: str) -> None:
        for file in folder.glob(prefix + "*"):
            file.unlink()

    def _listener(self, family: int, kind: int, address: str | tuple[str, int]) -> socket.socket:
        listener = self._end.enter_context(socket.socket(family, kind))
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.setblocking(False)
        return listener

    def _plant_segment(self) -> int:
        private, create, remove = 0, 0o1000, 0
        library = libc()
        segment = checked(library.shmget(private, 4096, create | 0o600))
        self._cleanup(library.shmctl, segment, remove, None)
        address = library.shmat(segment, None, 0)
        ctypes.memmove(address, self.secret.encode(), len(self.secret))
        library.shmdt(ctypes.c_void_p(address))
        return segment

    def _plant_message(self) -> int:
        name = self.abstract.encode()
        queue = call("mq_open", name, os.O_RDWR | os.O_CREAT, 0o600, 0)
        self._cleanup(call, "mq_unlink", name)
        call("mq_timedsend", queue, self.secret.encode(), len(self.secret), 0, 0)
        os.close(queue)
        return 0

    def _plant_key(self) -> int:
        user_keyring, all_for_user = -4, 0x3F3F0000
        payload = self.secret.encode()
        key = call("add_key", b"user", self.abstract.encode(), payload, len(payload), user_keyring)
        self._cleanup(call, "keyctl", KEYCTL_UNLINK, key, user_keyring)
        call("keyctl", KEYCTL_SETPERM, key, all_for_user)
        return key

    def target(self, attack: str, token: str) -> Target:
        """What the attacker is told for one attack. token: the mark by which its success is known."""
        return Target(
            attack=attack,
            token=token,
            victim=self.victim.process.pid,
            victim_folder=str(self.victim.folder),
            known=self.victim.files.manifest.files[GOLDEN_FILE][:KNOWN],
            host=os.getpid(),
            host_descriptor=self.victim.link.fileno(),
            address=ctypes.addressof(self.memory),
            scratch=str(self.scratch),
            home=str(self.home),
            shared=str(self.shared),
            abstract=self.abstract,
            tcp_port=self.listeners["tcp"].getsockname()[1],
            udp_port=self.listeners["udp"].getsockname()[1],
            segment=self.segment,
            queue=self.abstract,
            key=self.key,
        )
