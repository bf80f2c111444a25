"""What each attack is after, and how the host sees that the attacker got there: by what was stolen or has changed, not by
the attacker's word where that can be helped."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentmixer.contract.manifest import AGENT_FILE, GOLDEN_FILE, MODEL_FILE
from agentmixer.runtime.frames import Kind, unpack
from agentmixer.validate.attack_stage import KNOWN, PATIENCE_S, Stage
from agentmixer.validate.attacker import MAX_MESSAGE
from agentmixer.validate.attacks import Target

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
