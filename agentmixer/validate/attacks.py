"""What a hostile agent would try. Started by `validate.isolation` in the place of one agent, and by nothing else.

    python -I attacks.py FOLDER (attack | victim) [--open]

`attack`: start as an agent does, then try what the host asks for, one attack a message: {"attack": name, ...target}
in, {"got": text} or {"error": text, "errno": number} out. `victim`: an agent. `--open`: without the sandbox, for the
control that shows that the attacks work.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    # As in runtime.process.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ctypes
import encodings.idna  # noqa: F401  sockets import it when they first meet an address
import errno
import hashlib
import json
import mmap
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from agentmixer.runtime import process, sandbox
from agentmixer.runtime.sandbox import Isolation

#: This file, for `runtime.launch`.
SCRIPT = Path(__file__)
MAX_MESSAGE = 1 << 16

#: System calls without a function in the C library: x86-64, aarch64.
NUMBERS = {
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
}
KEYCTL_SETPERM, KEYCTL_UNLINK, KEYCTL_READ = 5, 9, 11
PTRACE_PEEKDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 16, 17
CLONE_NEWUSER = 0x10000000
#: An address that is nobody's: reading it fails with EFAULT, but only for who may read at all.
NOWHERE = 8


class Target(msgspec.Struct, frozen=True):
    """What the host knows and tells the attacker, so that only the sandbox is in the way. `victim` is the other
    agent's process; what is to be stolen follows `known` in its memory, and stands at `address` in the host's."""

    attack: str
    token: str
    victim: int
    victim_folder: str
    known: str
    host: int
    host_descriptor: int
    address: int
    scratch: str
    home: str
    shared: str
    abstract: str
    tcp_port: int
    udp_port: int
    segment: int
    queue: str
    key: int


def libc() -> ctypes.CDLL:
    """The C library, with pointers as wide as they are."""
    library = ctypes.CDLL(None, use_errno=True)
    library.shmat.restype = ctypes.c_void_p
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    library.ptrace.restype = ctypes.c_long
    return library


def checked(result: int) -> int:
    """Raises OSError if a call of the C library returned -1."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    """A system call by name. Raises OSError."""
    try:
        number = NUMBERS[name][list(sandbox.MACHINES).index(os.uname().machine)]
    except ValueError:
        raise OSError(errno.ENOSYS, "number unknown on this architecture") from None
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(int(libc().syscall(ctypes.c_long(number), *wide)))


ATTACKS: dict[str, Callable[[Target], str]] = {}


def attack(function: Callable[[Target], str]) -> Callable[[Target], str]:
    """Each returns what it got hold of, or raises OSError."""
    ATTACKS[function.__name__] = function
    return function


# Files


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@attack
def read_model(to: Target) -> str:
    return _sha256(Path(to.victim_folder, "policy.onnx"))


@attack
def read_golden(to: Target) -> str:
    return _sha256(Path(to.victim_folder, "golden.npz"))


@attack
def read_manifest(to: Target) -> str:
    return _sha256(Path(to.victim_folder, "agent.json"))


@attack
def list_folder(to: Target) -> str:
    return " ".join(sorted(os.listdir(to.victim_folder)))


@attack
def read_tmp(to: Target) -> str:
    return Path(to.scratch, "secret").read_text()


@attack
def read_home(to: Target) -> str:
    return Path(to.home).read_text()


def _write(path: Path) -> str:
    path.write_text("x")
    return "written"


@attack
def write_folder(to: Target) -> str:
    return _write(Path(to.victim_folder, to.token))


@attack
def write_tmp(to: Target) -> str:
    return _write(Path(to.scratch, to.token))


@attack
def write_home(to: Target) -> str:
    return _write(Path(to.home + to.token))


@attack
def write_working_directory(to: Target) -> str:
    return _write(Path(to.token))


@attack
def truncate(to: Target) -> str:
    os.truncate(Path(to.scratch, "truncate"), 0)
    return "truncated"


@attack
def rename(to: Target) -> str:
    os.rename(Path(to.scratch, "rename"), Path(to.scratch, to.token))
    return "renamed"


@attack
def remove(to: Target) -> str:
    os.unlink(Path(to.scratch, "remove"))
    return "removed"


@attack
def change_mode(to: Target) -> str:
    os.chmod(Path(to.scratch, "mode"), 0o666)
    return "changed"


@attack
def hard_link(to: Target) -> str:
    os.link(Path(to.victim_folder, "policy.onnx"), Path(to.scratch, to.token))
    return "linked"


@attack
def symbolic_link(to: Target) -> str:
    os.symlink(to.victim_folder, Path(to.scratch, to.token))
    return "linked"


@attack
def named_pipe(to: Target) -> str:
    os.mkfifo(Path(to.scratch, to.token))
    return "made"


# Memory


def _regions(pid: int) -> Iterator[tuple[int, int]]:
    """Start and length of a process's private writable memory."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if rights == "rw-p":
            start, end = (int(bound, 16) for bound in span.split("-"))
            yield start, end - start


def _find(pid: int, known: str, read: Callable[[int, int], bytes]) -> tuple[int, str]:
    """Where `known` stands in a process's memory, and what follows it there."""
    try:
        regions = list(_regions(pid))
    except OSError:
        read(NOWHERE, 8)  # without a map there is nothing to find, but it may still be open
        raise
    for start, length in regions:
        try:
            data = read(start, length)
        except OSError:
            continue
        where = -1
        while (where := data.find(known.encode(), where + 1)) >= 0:
            follows = data[where + len(known) : where + 64]
            if len(follows) == 64 - len(known) and follows.isalnum():
                return start + where, follows.decode()
    raise OSError(errno.ENODATA, "nothing found")


def _vm_read(pid: int, start: int, length: int) -> bytes:
    class Span(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(length)
    ours, theirs = Span(ctypes.addressof(buffer), length), Span(start, length)
    try:
        got = checked(libc().process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))
    except OSError as error:
        if error.errno == errno.EFAULT and start == NOWHERE:
            raise Open from error
        raise
    return buffer.raw[:got]


class Open(Exception):
    """The door is open, though this attack found nothing behind it."""


@attack
def proc_mem(to: Target) -> str:
    with open(f"/proc/{to.victim}/mem", "rb", buffering=0) as memory:
        return _find(to.victim, to.known, lambda start, length: os.pread(memory.fileno(), length, start))[1]


@attack
def process_vm_readv(to: Target) -> str:
    return _find(to.victim, to.known, lambda start, length: _vm_read(to.victim, start, length))[1]


@attack
def ptrace(to: Target) -> str:
    library = libc()
    checked(library.ptrace(PTRACE_ATTACH, to.victim, None, None))
    try:
        os.waitpid(to.victim, 0)
        address, _ = _find(to.victim, to.known, lambda start, length: _vm_read(to.victim, start, length))
        return b"".join(
            library.ptrace(PTRACE_PEEKDATA, to.victim, address + offset, None).to_bytes(8, "little", signed=True)
            for offset in range(16, 64, 8)
        ).decode()
    finally:
        library.ptrace(PTRACE_DETACH, to.victim, None, None)


@attack
def host_process_vm_readv(to: Target) -> str:
    return _vm_read(to.host, to.address, len(to.token)).decode()


@attack
def host_proc_mem(to: Target) -> str:
    with open(f"/proc/{to.host}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), len(to.token), to.address).decode()


# What /proc tells


@attack
def proc_environ(to: Target) -> str:
    return Path(f"/proc/{to.victim}/environ").read_text()


@attack
def proc_cmdline(to: Target) -> str:
    return Path(f"/proc/{to.victim}/cmdline").read_text()


@attack
def proc_maps(to: Target) -> str:
    return Path(f"/proc/{to.victim}/maps").read_text()[:1000]


@attack
def proc_fd(to: Target) -> str:
    return os.readlink(f"/proc/{to.victim}/fd/0")


@attack
def proc_cwd(to: Target) -> str:
    return os.readlink(f"/proc/{to.victim}/cwd")


@attack
def host_environ(to: Target) -> str:
    return _sha256(Path(f"/proc/{to.host}/environ"))


# Sockets


def _stolen(pid: int, descriptor: int) -> socket.socket:
    pidfd = call("pidfd_open", pid, 0)
    try:
        return socket.socket(fileno=call("pidfd_getfd", pidfd, descriptor, 0))
    finally:
        os.close(pidfd)


@attack
def speak_as_the_agent(to: Target) -> str:
    with _stolen(to.victim, 0) as link:
        link.send(to.token.encode())
    return "sent"


@attack
def speak_as_the_host(to: Target) -> str:
    with _stolen(to.host, to.host_descriptor) as link:
        link.send(to.token.encode())
    return "sent"


def _send(family: int, kind: int, address: str | tuple[str, int], token: str) -> str:
    with socket.socket(family, kind) as connection:
        connection.connect(address)
        connection.send(token.encode())
    return "sent"


@attack
def abstract_socket(to: Target) -> str:
    return _send(socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + to.abstract, to.token)


@attack
def pathname_socket(to: Target) -> str:
    return _send(socket.AF_UNIX, socket.SOCK_DGRAM, str(Path(to.scratch, "socket")), to.token)


@attack
def tcp(to: Target) -> str:
    return _send(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", to.tcp_port), to.token)


@attack
def udp(to: Target) -> str:
    return _send(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", to.udp_port), to.token)


_LISTENING: list[socket.socket] = []


@attack
def tcp_listen(to: Target) -> str:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    _LISTENING.append(server)  # open for as long as the process is
    server.bind(("127.0.0.1", 0))
    server.listen()
    return str(server.getsockname()[1])


# Shared memory


@attack
def dev_shm_read(to: Target) -> str:
    return Path(to.shared).read_text()


@attack
def dev_shm_write(to: Target) -> str:
    return _write(Path(to.shared + to.token))


@attack
def sysv_segment(to: Target) -> str:
    address = libc().shmat(to.segment, None, 0)
    if address == ctypes.c_void_p(-1).value:
        checked(-1)
    return ctypes.string_at(address, len(to.token)).decode()


@attack
def posix_queue(to: Target) -> str:
    queue = call("mq_open", to.queue.encode(), os.O_RDONLY | os.O_NONBLOCK, 0, 0)
    buffer = ctypes.create_string_buffer(8192)
    got = call("mq_timedreceive", queue, buffer, len(buffer), 0, 0)
    os.close(queue)
    return buffer.raw[:got].decode()


@attack
def keyring(to: Target) -> str:
    buffer = ctypes.create_string_buffer(256)
    got = call("keyctl", KEYCTL_READ, to.key, buffer, len(buffer))
    return buffer.raw[:got].decode()


# Signals and other processes


@attack
def stop_signal(to: Target) -> str:
    os.kill(to.victim, signal.SIGSTOP)
    return "sent"


@attack
def pidfd_stop_signal(to: Target) -> str:
    pidfd = call("pidfd_open", to.victim, 0)
    call("pidfd_send_signal", pidfd, signal.SIGSTOP, 0, 0)
    os.close(pidfd)
    return "sent"


@attack
def renice(to: Target) -> str:
    os.setpriority(os.PRIO_PROCESS, to.victim, 19)
    return "set"


@attack
def set_limit(to: Target) -> str:
    resource.prlimit(to.victim, resource.RLIMIT_CPU, (12345, 12345))
    return "set"


@attack
def fork(to: Target) -> str:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return str(child)


# Doors of the kernel


@attack
def executable_memory(to: Target) -> str:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return "mapped"


@attack
def io_uring(to: Target) -> str:
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    return "opened"


@attack
def bpf(to: Target) -> str:
    # BPF_MAP_CREATE of an array: 4-byte keys, 8-byte values, one entry
    attributes = b"".join(value.to_bytes(4, "little") for value in (2, 4, 8, 1)) + bytes(56)
    os.close(call("bpf", 0, attributes, len(attributes)))
    return "opened"


@attack
def userfaultfd(to: Target) -> str:
    user_mode_only = 1
    os.close(call("userfaultfd", user_mode_only))
    return "opened"


@attack
def user_namespace(to: Target) -> str:
    checked(libc().unshare(CLONE_NEWUSER))
    return "entered"


@attack
def kill(to: Target) -> str:
    os.kill(to.victim, signal.SIGKILL)
    return "sent"


@attack
def execute(to: Target) -> str:
    os.execv("/bin/sh", ["sh", "-c", f"printf {to.token} >&0"])


def serve(link: socket.socket) -> None:
    """Try what the host asks for until it hangs up."""
    while data := link.recv(MAX_MESSAGE):
        to = msgspec.json.decode(data, type=Target)
        answer: dict[str, str | int | None]
        try:
            answer = {"got": ATTACKS[to.attack](to)}
        except Open:
            answer = {"got": "open"}
        except OSError as error:
            answer = {"error": os.strerror(error.errno or 0), "errno": error.errno}
        link.send(json.dumps(answer).encode())


def main(link: socket.socket, folder: Path, role: str, unprotected: bool) -> None:
    """Command line."""

    def stay(_: int) -> Isolation:
        return Isolation()

    enter = stay if unprotected else sandbox.enter
    if role == "victim":
        process.main(link, folder, enter=enter)
    elif process.start(link, folder, enter=enter):
        serve(link)


if __name__ == "__main__":
    main(socket.socket(fileno=sys.stdin.fileno()), Path(sys.argv[1]), sys.argv[2], "--open" in sys.argv[3:])
