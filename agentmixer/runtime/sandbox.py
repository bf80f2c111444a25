"""What an agent's process gives up before it touches its model: files, network, other processes, new descriptors.

Landlock and a seccomp filter, both open to any user on Linux, with resource limits and no capabilities. The filter
is a list of what is allowed: what holding a session and answering frames over an open descriptor needs, about thirty
calls, none of which names a file, an address or another process. Anything else fails with EPERM rather than by a
signal, because libraries try calls that they can do without, and an agent lost to one of those would be worse than
a call refused. A call through another architecture's table, or x32's, means other things under the same numbers: it
ends the process.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
import sys
import threading
from typing import NamedTuple

import msgspec

from agentmixer.errors import AgentMixerError

# prctl
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 4, 38, 39

# Landlock: system calls 444 to 446 on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_VERSION = 1
#: First ABI that offers a right, and how many low bits of the file system's rights it knows.
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
NET_ABI, NET_RIGHTS = 4, 0b11  # TCP bind and connect
SCOPE_ABI, SCOPES = 6, 0b11  # abstract Unix sockets and signals outside the domain

# seccomp
SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL, SECCOMP_FILTER_FLAG_TSYNC = 1, 2, 1
KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | 1  # EPERM
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
#: Offsets in what a filter sees: the number, the architecture, the low half of an argument (little-endian).
NUMBER, ARCHITECTURE = 0, 4
ARGUMENT = tuple(16 + 8 * i for i in range(6))
X32 = 0x40000000
PROT_EXEC = 4

#: What is left to spare for the session and its work, beyond what the process has mapped when it enters, in bytes.
ADDRESS_SPACE = 192 << 20
#: Seconds of CPU that loading an agent may take.
LOAD_CPU_S = 20


class Machine(NamedTuple):
    """What differs between architectures: the audit number, and the numbers of system calls."""

    audit: int
    seccomp: int
    capset: int
    allowed: dict[str, int]


#: name: number on x86-64, number on aarch64 (None: it has no such call).
_ALLOWED: dict[str, tuple[int, int | None]] = {
    # the link, which is open already
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "poll": (7, None),
    "ppoll": (271, 73),
    "close": (3, 57),
    # memory of its own; never executable (see `program`)
    "brk": (12, 214),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "madvise": (28, 233),
    # time and chance
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    # threads that exist already, and where they run
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "gettid": (186, 178),
    # signals to itself, and the end
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "tgkill": (234, 131),  # itself alone (see `program`), so that abort() looks like one
    "exit": (60, 93),
    "exit_group": (231, 94),
}

MACHINES = {
    "x86_64": Machine(0xC000003E, 317, 126, {name: x86 for name, (x86, _) in _ALLOWED.items()}),
    "aarch64": Machine(0xC00000B7, 277, 91, {name: arm for name, (_, arm) in _ALLOWED.items() if arm is not None}),
}


class Isolation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process has really given up, as far as it could tell when it did."""

    #: The Landlock ABI in force; 0 without Landlock.
    landlock: int = 0
    seccomp: bool = False
    no_new_privs: bool = False
    no_capabilities: bool = False
    #: Other processes of its user cannot look into it.
    undumpable: bool = False
    limits: bool = False
    #: Descriptors left open, the link included; 0 if it could not tell.
    descriptors: int = 0
    #: Threads when it entered: Landlock holds for the one that asks and those it starts. 0 if it could not tell.
    threads: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        """What full isolation has and this has not."""
        has = {
            "Landlock": self.landlock > 0,
            "seccomp": self.seccomp,
            "no_new_privs": self.no_new_privs,
            "dropped capabilities": self.no_capabilities,
            "a closed /proc": self.undumpable,
            "resource limits": self.limits,
            "a single descriptor": self.descriptors == 1,
            "a single thread": self.threads == 1,
        }
        return tuple(name for name, held in has.items() if not held)

    @property
    def level(self) -> str:
        """`full`: nothing is missing; `none`: neither Landlock nor seccomp; `partial`: anything between."""
        if not self.missing:
            return "full"
        return "partial" if self.landlock or self.seccomp else "none"

    def require(self, agent: str) -> None:
        """Raises AgentMixerError naming what is missing, and the way out, unless isolation is full."""
        if self.missing:
            raise AgentMixerError(
                f"agent {agent} lacks {', '.join(self.missing)} here, and isolation is required; run it on Linux 5.13 or "
                "later (x86-64 or aarch64) with Landlock and seccomp allowed, or leave out --require-isolation"
            )


class Offered(NamedTuple):
    """What this kernel offers a process: Landlock's ABI (0: none) and whether seccomp filters can be set."""

    landlock: int
    seccomp: bool


def machine() -> Machine | None:
    """This machine's tables; None where there are none (another system or architecture, or a 32-bit process)."""
    known = sys.platform == "linux" and sys.maxsize > 2**32 and sys.byteorder == "little"
    return MACHINES.get(os.uname().machine) if known else None


def probe() -> Offered:
    """What could be entered here. Changes nothing."""
    ours = machine()
    if ours is None:
        return Offered(0, False)
    kill = ctypes.c_uint32(KILL)
    available = _call(ours.seccomp, SECCOMP_GET_ACTION_AVAIL, 0, ctypes.addressof(kill)) == 0
    return Offered(max(_call(LANDLOCK_CREATE_RULESET, 0, 0, LANDLOCK_VERSION), 0), available)


def enter(link: int, cpu_s: int = LOAD_CPU_S) -> Isolation:
    """Give up everything but the descriptor `link`, for good, and say what that came to.

    cpu_s: seconds of CPU after which SIGXCPU ends the process, unless it has come to ignore that signal.

    What this kernel does not offer is left out and reported, never an error. Modules must have been imported and
    files read before: afterwards nothing can be opened, stderr included."""
    ours = machine()
    if ours is None:
        return Isolation()
    os.environ.clear()
    threads, mapped = _seen()
    no_new_privs = _prctl(PR_SET_NO_NEW_PRIVS, 1)
    return Isolation(
        undumpable=_prctl(PR_SET_DUMPABLE, 0),
        no_new_privs=no_new_privs,
        no_capabilities=_drop_capabilities(ours),
        descriptors=_close_all_but(link),
        threads=threads,
        landlock=_landlock() if no_new_privs else 0,
        limits=_limit(mapped, cpu_s),
        seccomp=no_new_privs and _seccomp(ours),
    )


def loaded() -> None:
    """Lift the limit of CPU, which is for loading: how long an agent may act has no limit."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)


def program(ours: Machine, pid: int) -> bytes:
    """The seccomp filter, one instruction 8 bytes: everything but what is allowed fails with EPERM.

    Of the allowed calls, mmap and mprotect cannot make memory executable and tgkill reaches process `pid` alone."""
    code: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, ours.audit),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
    ]
    for name, number in ours.allowed.items():
        if name in ("mmap", "mprotect"):
            test = [
                (LOAD, 0, 0, ARGUMENT[2]),
                (JUMP_BITS, 1, 0, PROT_EXEC),
                (RETURN, 0, 0, ALLOW),
                (RETURN, 0, 0, REFUSE),
            ]
        elif name == "tgkill":
            test = [(LOAD, 0, 0, ARGUMENT[0]), (JUMP_EQUAL, 0, 1, pid), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
        else:
            test = [(RETURN, 0, 0, ALLOW)]
        code += [(JUMP_EQUAL, 0, len(test), number), *test]
    code.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def install(ours: Machine, code: bytes) -> bool:
    """Put a filter in force for all threads of this process. Returns whether it is. Needs no_new_privs."""
    array = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(array))
    return _call(ours.seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header) == 0


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: int | bytes) -> int:
    """A system call by its number; -1 if the kernel refuses it."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(_libc().syscall(ctypes.c_long(number), *wide))


def _prctl(option: int, value: int) -> bool:
    return _libc().prctl(option, *(ctypes.c_ulong(number) for number in (value, 0, 0, 0))) == 0


def _drop_capabilities(ours: Machine) -> bool:
    version_3 = struct.pack("<II", 0x20080522, 0)
    return _call(ours.capset, version_3, bytes(24)) == 0


def _close_all_but(link: int) -> int:
    """Returns how many descriptors are left; 0 if it cannot be told."""
    try:
        for descriptor in os.listdir("/proc/self/fd"):
            if int(descriptor) != link:
                os.closerange(int(descriptor), int(descriptor) + 1)
        # The descriptor that lists them is among those listed.
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0


def _landlock() -> int:
    """Returns the ABI in force, 0 if none."""
    abi = _call(LANDLOCK_CREATE_RULESET, 0, 0, LANDLOCK_VERSION)
    if abi < 1:
        return 0
    files = (1 << max(bits for first, bits in FS_RIGHTS.items() if first <= abi)) - 1
    denied = struct.pack("<QQQ", files, NET_RIGHTS * (abi >= NET_ABI), SCOPES * (abi >= SCOPE_ABI))
    ruleset = _call(LANDLOCK_CREATE_RULESET, denied, len(denied), 0)
    if ruleset < 0:
        return 0
    try:
        return abi if _call(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _seen() -> tuple[int, int]:
    """Threads of this process and bytes it has mapped; zeros if it cannot be told."""
    try:
        with open("/proc/self/statm") as file:
            return len(os.listdir("/proc/self/task")), int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0, 0


def _limit(mapped: int, cpu_s: int) -> bool:
    """No core, no file that grows, no process, no further descriptor, no locked memory, memory and time that fit."""
    if not mapped:
        return False
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 1,  # poll() counts against it
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_AS: mapped + ADDRESS_SPACE,
    }
    try:
        for kind, value in wanted.items():
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        used, hard = math.ceil(sum(os.times()[:2])), resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = used + cpu_s if hard == resource.RLIM_INFINITY else min(used + cpu_s, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    except (OSError, ValueError):
        return False
    return True


def _seccomp(ours: Machine) -> bool:
    return install(ours, program(ours, os.getpid()))
