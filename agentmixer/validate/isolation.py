"""The attack self-test: a hostile process in one agent's place tries to reach the others, without the sandbox and with it.

Every attack has to succeed without the sandbox, or it shows nothing; none may succeed with it. Whether one succeeded
is judged here, by what was stolen or by what has changed, not by the attacker's word where that can be helped.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec

from agentmixer import __version__
from agentmixer.contract.manifest import AGENT_FILE, GOLDEN_FILE, MODEL_FILE
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import sandbox
from agentmixer.runtime.bundle import AgentFiles, Bundle
from agentmixer.runtime.frames import Kind, pack, unpack
from agentmixer.runtime.launch import PROCESS, Ready, launch
from agentmixer.runtime.sandbox import Isolation, Offered
from agentmixer.validate import attacks
from agentmixer.validate.attacks import MAX_MESSAGE, SCRIPT, Target, call, checked, libc

#: How long a message over a link may take.
PATIENCE_S = 30.0
#: What follows this many characters of the victim's golden digest in its memory is to be stolen.
KNOWN = 16


@dataclass(frozen=True)
class Outcome:
    """One attack. control, sandboxed: whether it reached its aim, None if it was not tried.

    `not_shown` says why this machine cannot show it at all; such an attack is no evidence either way."""

    name: str
    aim: str
    control: bool | None
    sandboxed: bool | None
    #: What stopped it in the sandbox, in the kernel's words.
    refusal: str = ""
    not_shown: str = ""

    @property
    def passed(self) -> bool:
        """It worked without the sandbox and not with it, or this machine cannot show it."""
        return not self.sandboxed and (bool(self.control) or bool(self.not_shown))


@dataclass(frozen=True)
class SelfTest:
    """What the attacks came to. `passed` decides the exit code."""

    bundle: str
    agentmixer: str
    offered: Offered
    #: What the agents said of themselves in the sandboxed run.
    isolation: dict[str, Isolation]
    #: Whether, after all attacks in the sandbox, each of the others still answers a frame.
    still_answer: dict[str, bool]
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No attack got through, every control worked that can work here, and the others still answer."""
        return all(outcome.passed for outcome in self.outcomes) and all(self.still_answer.values())

    def to_json(self) -> str:
        """All of it as JSON."""
        data = {
            "passed": self.passed,
            "bundle": self.bundle,
            "agentmixer": self.agentmixer,
            "offered": self.offered._asdict(),
            "isolation": {
                name: {"level": isolation.level, **msgspec.to_builtins(isolation)}
                for name, isolation in self.isolation.items()
            },
            "still_answer": self.still_answer,
            "attacks": [{"passed": outcome.passed, **asdict(outcome)} for outcome in self.outcomes],
        }
        return json.dumps(data, indent=2) + "\n"


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
        self._cleanup(call, "keyctl", attacks.KEYCTL_UNLINK, key, user_keyring)
        call("keyctl", attacks.KEYCTL_SETPERM, key, all_for_user)
        return key

    def attempt(self, name: str) -> tuple[bool, str]:
        """Let the attacker try. Returns whether it reached its aim, and the refusal it met.

        Raises AgentMixerError if the attacker itself broke down."""
        golden = self.victim.files.manifest.files[GOLDEN_FILE]
        target = Target(
            attack=name,
            # What the host's memory holds is what there is to steal there; elsewhere a mark of this attempt's own.
            token=self.secret if name in READS_HOST else secrets.token_hex(16),
            victim=self.victim.process.pid,
            victim_folder=str(self.victim.folder),
            known=golden[:KNOWN],
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
        self.attacker.link.send(msgspec.json.encode(target))
        data = self.attacker.link.recv(MAX_MESSAGE)
        if not data:
            raise AgentMixerError(f"the attacker ended in attack {name}; see its message above")
        if data == target.token.encode():  # from a program that has taken the attacker's place
            return name == "execute", ""
        answer = json.loads(data)
        got = answer.get("got")
        try:
            reached = got == "open" or AIMS[name].reached(self, target, got)
        except OSError:
            reached = False
        return reached, "" if got is not None else str(answer["error"])


#: Reached: judged from the stage, what the attacker was told, and what it says it got (None: it was refused).
Judge = Callable[[Stage, Target, str | None], bool]


@dataclass(frozen=True)
class Aim:
    """What an attack is after, and how the host sees that it got there."""

    what: str
    reached: Judge
    #: Kernels and containers may forbid it to everyone, sandbox or not.
    may_be_forbidden: bool = False


def _stole(secret: Callable[[Stage], str]) -> Judge:
    return lambda stage, target, got: got == secret(stage)


def _digest(file: str) -> Judge:
    return _stole(lambda stage: hashlib.sha256((stage.victim.folder / file).read_bytes()).hexdigest())


def _tells(part: Callable[[Stage], str]) -> Judge:
    return lambda stage, target, got: got is not None and part(stage) in got


def _made(where: Callable[[Stage], Path], joined: bool = False) -> Judge:
    def reached(stage: Stage, target: Target, got: str | None) -> bool:
        path = Path(f"{where(stage)}{target.token}") if joined else where(stage) / target.token
        return os.path.lexists(path)

    return reached


def _heard(name: str) -> Judge:
    def reached(stage: Stage, target: Target, got: str | None) -> bool:
        listener = stage.listeners[name]
        if listener.type == socket.SOCK_STREAM:
            listener, _ = listener.accept()
        return listener.recv(1024) == target.token.encode()

    return reached


def _spoke(expected: Callable[[Target, bytes], bool]) -> Judge:
    def reached(stage: Stage, target: Target, got: str | None) -> bool:
        link = stage.victim.link
        link.settimeout(PATIENCE_S if got else 0.1)
        return expected(target, link.recv(MAX_MESSAGE))

    return reached


def _refused_by_the_victim(target: Target, data: bytes) -> bool:
    return unpack(data).kind == Kind.REFUSE


def _stopped(stage: Stage, target: Target, got: str | None) -> bool:
    stopped = _soon(lambda: stage.victim.state() == "T") if got else stage.victim.state() == "T"
    os.kill(stage.victim.process.pid, signal.SIGCONT)
    return stopped


def _killed(stage: Stage, target: Target, got: str | None) -> bool:
    return _soon(lambda: stage.victim.process.poll() is not None) if got else stage.victim.process.poll() is not None


def _soon(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    return true()


def _reniced(stage: Stage, target: Target, got: str | None) -> bool:
    return os.getpriority(os.PRIO_PROCESS, stage.victim.process.pid) == 19


def _limited(stage: Stage, target: Target, got: str | None) -> bool:
    limits = Path(f"/proc/{stage.victim.process.pid}/limits").read_text().splitlines()
    return any(line.startswith("Max cpu time") and "12345" in line for line in limits)


def _forked(stage: Stage, target: Target, got: str | None) -> bool:
    children = Path("/proc").glob("[0-9]*/stat")
    ours = [file.parent.name for file in children if _parent(file) == stage.attacker.process.pid]
    for child in ours:
        os.kill(int(child), signal.SIGKILL)
    return bool(ours)


def _parent(file: Path) -> int:
    try:
        return int(file.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return 0


def _connected(stage: Stage, target: Target, got: str | None) -> bool:
    if got is None:
        return False
    with socket.create_connection(("127.0.0.1", int(got)), timeout=5):
        return True


def _claimed(stage: Stage, target: Target, got: str | None) -> bool:
    return got is not None


def _host_environ(stage: Stage) -> str:
    return hashlib.sha256(Path("/proc/self/environ").read_bytes()).hexdigest()


#: What is to be stolen from the victim's memory: the rest of its golden digest, which its folder holds too.
_MEMORY = _stole(lambda stage: stage.victim.files.manifest.files[GOLDEN_FILE][KNOWN:])
_SECRET = _stole(lambda stage: stage.secret)
#: Attacks on the host's own memory.
READS_HOST = ("host_process_vm_readv", "host_proc_mem")

#: In the order in which they are tried: the last ones cost the victim or the attacker its life.
AIMS: dict[str, Aim] = {
    "read_model": Aim("read another agent's model file", _digest(MODEL_FILE)),
    "read_golden": Aim("read another agent's golden traces", _digest(GOLDEN_FILE)),
    "read_manifest": Aim("read another agent's manifest", _digest(AGENT_FILE)),
    "list_folder": Aim(
        "list another agent's folder",
        _stole(lambda stage: " ".join(sorted(path.name for path in stage.victim.folder.iterdir()))),
    ),
    "read_tmp": Aim("read a private file in the temporary directory", _SECRET),
    "read_home": Aim("read a private file in the user's home", _SECRET),
    "write_tmp": Aim("write in the temporary directory", _made(lambda stage: stage.scratch)),
    "write_home": Aim("write in the user's home", _made(lambda stage: stage.home, joined=True)),
    "write_working_directory": Aim("write in its own directory", _made(lambda stage: stage.attacker.directory)),
    "truncate": Aim("empty a file", lambda stage, target, got: (stage.scratch / "truncate").stat().st_size == 0),
    "rename": Aim("rename a file", _made(lambda stage: stage.scratch)),
    "remove": Aim("remove a file", lambda stage, target, got: not (stage.scratch / "remove").exists()),
    "change_mode": Aim(
        "open a file's permissions",
        lambda stage, target, got: stat.S_IMODE((stage.scratch / "mode").stat().st_mode) == 0o666,
    ),
    "hard_link": Aim("link another agent's model elsewhere", _made(lambda stage: stage.scratch)),
    "symbolic_link": Aim("make a symbolic link", _made(lambda stage: stage.scratch)),
    "named_pipe": Aim("make a named pipe", _made(lambda stage: stage.scratch), may_be_forbidden=True),
    "write_folder": Aim("write in another agent's folder", _made(lambda stage: stage.victim.folder)),
    "proc_mem": Aim("read another agent's memory, /proc/PID/mem", _MEMORY, may_be_forbidden=True),
    "process_vm_readv": Aim("read another agent's memory, process_vm_readv", _MEMORY, may_be_forbidden=True),
    "ptrace": Aim("trace another agent", _MEMORY, may_be_forbidden=True),
    "host_proc_mem": Aim("read the host's memory, /proc/PID/mem", _SECRET, may_be_forbidden=True),
    "host_process_vm_readv": Aim("read the host's memory, process_vm_readv", _SECRET, may_be_forbidden=True),
    "proc_environ": Aim("read another agent's environment (empty)", _claimed, may_be_forbidden=True),
    "proc_cmdline": Aim("read another agent's command line", _tells(lambda stage: str(stage.victim.folder))),
    "proc_maps": Aim("read another agent's memory map", _tells(lambda stage: "python"), may_be_forbidden=True),
    "proc_fd": Aim("list another agent's descriptors", _tells(lambda stage: "socket:["), may_be_forbidden=True),
    "proc_cwd": Aim(
        "find another agent's directory", _stole(lambda stage: str(stage.victim.directory)), may_be_forbidden=True
    ),
    "host_environ": Aim("read the host's environment", _stole(_host_environ), may_be_forbidden=True),
    "speak_as_the_agent": Aim(
        "send in another agent's name over its own link",
        _spoke(lambda target, data: data == target.token.encode()),
        may_be_forbidden=True,
    ),
    "speak_as_the_host": Aim(
        "send to another agent in the host's name", _spoke(_refused_by_the_victim), may_be_forbidden=True
    ),
    "abstract_socket": Aim("send to an abstract Unix socket", _heard("abstract_socket")),
    "pathname_socket": Aim("send to a Unix socket in the file system", _heard("pathname_socket")),
    "tcp": Aim("connect over TCP on loopback", _heard("tcp")),
    "udp": Aim("send over UDP on loopback", _heard("udp")),
    "tcp_listen": Aim("listen on TCP", _connected),
    "dev_shm_read": Aim("read shared memory in /dev/shm", _SECRET),
    "dev_shm_write": Aim("make shared memory in /dev/shm", _made(lambda stage: stage.shared, joined=True)),
    "sysv_segment": Aim("read a System V shared memory segment", _SECRET),
    "posix_queue": Aim("read a POSIX message queue", _SECRET),
    "keyring": Aim("read a key of the user's keyring", _SECRET, may_be_forbidden=True),
    "stop_signal": Aim("stop another agent, kill", _stopped),
    "pidfd_stop_signal": Aim("stop another agent, pidfd_send_signal", _stopped, may_be_forbidden=True),
    "renice": Aim("starve another agent by its priority", _reniced),
    "set_limit": Aim("change another agent's resource limits", _limited, may_be_forbidden=True),
    "fork": Aim("start a process", _forked),
    "executable_memory": Aim("make memory executable", _claimed, may_be_forbidden=True),
    "io_uring": Aim("set up io_uring", _claimed, may_be_forbidden=True),
    "bpf": Aim("make a BPF map", _claimed, may_be_forbidden=True),
    "userfaultfd": Aim("open userfaultfd", _claimed, may_be_forbidden=True),
    "kill": Aim("kill another agent", _killed),
    "user_namespace": Aim("enter a user namespace of its own", _claimed, may_be_forbidden=True),
    "execute": Aim("run another program", lambda stage, target, got: False),
}


def _run(stage: Stage) -> Iterator[tuple[str, tuple[bool, str]]]:
    for name in AIMS:
        if name not in stage.absent:
            yield name, stage.attempt(name)


def self_test(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> SelfTest:
    """Attack a copy of the bundle's team twice, without the sandbox and with it.

    Calls `progress` with each run's name. Raises AgentMixerError on a system without processes to inspect, for a
    team of one, or if an agent cannot be started."""
    if sys.platform != "linux":
        raise AgentMixerError("the isolation self-test attacks Linux processes; run it on Linux")
    if len(bundle.agents) < 2:
        raise AgentMixerError(f"{bundle.path} holds one agent, who has nobody to reach; choose a bundle of a team")
    progress("without the sandbox")
    with Stage(bundle, protected=False) as stage:
        control, absent = dict(_run(stage)), stage.absent
    progress("in the sandbox")
    with Stage(bundle, protected=True) as stage:
        sandboxed = dict(_run(stage))
        isolation = {member.files.manifest.agent: member.isolation for member in (stage.attacker, *stage.victims)}
        still_answer = {member.files.manifest.agent: member.answers() for member in stage.victims}
    outcomes = []
    for name, aim in AIMS.items():
        worked, why = control.get(name, (None, ""))
        got_through, refusal = sandboxed.get(name, (None, ""))
        not_shown = absent.get(name, "")
        if worked is False and aim.may_be_forbidden and why:
            not_shown = f"this machine refuses it without the sandbox too ({why})"
        outcomes.append(Outcome(name, aim.what, worked, got_through, refusal, not_shown))
    return SelfTest(str(bundle.path), __version__, sandbox.probe(), isolation, still_answer, outcomes)
