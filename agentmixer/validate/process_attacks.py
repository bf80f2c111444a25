"""Attacks on processes: the memory of another agent and of the host, what /proc tells of them, signals, and new processes."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentmixer.contract.manifest import sha256
from agentmixer.validate.attacks import Attacks, Open, Target
from agentmixer.validate.system_calls import call, checked, libc

PTRACE_PEEKDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 16, 17
#: An address that no process uses: reading it fails with EFAULT where reading is permitted, else with another error.
NOWHERE = 8
PROCESS_ATTACKS = Attacks()


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


@PROCESS_ATTACKS.add
def proc_mem(to: Target) -> str:
    with open(f"/proc/{to.victim}/mem", "rb", buffering=0) as memory:
        return _find(to.victim, to.known, lambda start, length: os.pread(memory.fileno(), length, start))[1]


@PROCESS_ATTACKS.add
def process_vm_readv(to: Target) -> str:
    return _find(to.victim, to.known, lambda start, length: _vm_read(to.victim, start, length))[1]


@PROCESS_ATTACKS.add
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


@PROCESS_ATTACKS.add
def host_process_vm_readv(to: Target) -> str:
    return _vm_read(to.host, to.address, len(to.token)).decode()


@PROCESS_ATTACKS.add
def host_proc_mem(to: Target) -> str:
    with open(f"/proc/{to.host}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), len(to.token), to.address).decode()


@PROCESS_ATTACKS.add
def proc_environ(to: Target) -> str:
    return Path(f"/proc/{to.victim}/environ").read_text()


@PROCESS_ATTACKS.add
def proc_cmdline(to: Target) -> str:
    return Path(f"/proc/{to.victim}/cmdline").read_text()


@PROCESS_ATTACKS.add
def proc_maps(to: Target) -> str:
    return Path(f"/proc/{to.victim}/maps").read_text()[:1000]


@PROCESS_ATTACKS.add
def proc_fd(to: Target) -> str:
    return os.readlink(f"/proc/{to.victim}/fd/0")


@PROCESS_ATTACKS.add
def proc_cwd(to: Target) -> str:
    return os.readlink(f"/proc/{to.victim}/cwd")


@PROCESS_ATTACKS.add
def host_environ(to: Target) -> str:
    return sha256(Path(f"/proc/{to.host}/environ").read_bytes())


@PROCESS_ATTACKS.add
def stop_signal(to: Target) -> str:
    os.kill(to.victim, signal.SIGSTOP)
    return "sent"


@PROCESS_ATTACKS.add
def pidfd_stop_signal(to: Target) -> str:
    pidfd = call("pidfd_open", to.victim, 0)
    call("pidfd_send_signal", pidfd, signal.SIGSTOP, 0, 0)
    os.close(pidfd)
    return "sent"


@PROCESS_ATTACKS.add
def renice(to: Target) -> str:
    os.setpriority(os.PRIO_PROCESS, to.victim, 19)
    return "set"


@PROCESS_ATTACKS.add
def set_limit(to: Target) -> str:
    resource.prlimit(to.victim, resource.RLIMIT_CPU, (12345, 12345))
    return "set"


@PROCESS_ATTACKS.add
def fork(to: Target) -> str:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return str(child)


@PROCESS_ATTACKS.add
def kill(to: Target) -> str:
    os.kill(to.victim, signal.SIGKILL)
    return "sent"


@PROCESS_ATTACKS.add
def execute(to: Target) -> str:
    os.execv("/bin/sh", ["sh", "-c", f"printf {to.token} >&0"])
