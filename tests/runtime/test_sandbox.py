"""The sandbox: what its filter says for each architecture, and what a process that entered it can still do."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import sandbox
from agentmixer.runtime.launch import launch
from agentmixer.runtime.sandbox import MACHINES, Isolation, Machine, probe, program
from agentmixer.validate import system_calls

OFFERED = probe()
both = pytest.mark.skipif(
    not (OFFERED.landlock and OFFERED.seccomp), reason=f"this kernel offers {OFFERED}, not Landlock and seccomp"
)
PID = 4711
KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM


def verdict(code: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would answer: classic BPF over struct seccomp_data, as its manual page describes it."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(arguments + (0,) * 6)[:6])
    instructions = list(struct.iter_unpack("<HBBI", code))
    at = value = 0
    for _ in range(len(instructions)):
        operation, if_true, if_false, k = instructions[at]
        at += 1
        if operation == 0x20:  # ld [k]
            (value,) = struct.unpack_from("<I", data, k)
        elif operation == 0x06:  # ret k
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation]  # jeq, jge, jset
            at += if_true if holds else if_false
    raise AssertionError("the filter does not end")


machines = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)

#: By hand: what must never be open. x86-64, aarch64; None where the call does not exist.
DANGEROUS: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "dup": (32, 23),
    "read": (0, 63),
    "write": (1, 64),
    "setuid": (105, 146),
    "seccomp": (317, 277),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "pkey_mprotect": (329, 288),
}


@machines
def test_what_is_allowed_stays_allowed_and_nothing_else(machine: Machine) -> None:
    code = program(machine, PID)
    numbers = set(machine.allowed.values())
    assert len(numbers) == len(machine.allowed)
    for number in range(1024):
        # For itself, and memory to read and write: the arguments under which every allowed call is.
        read_write = 0b011
        first = PID if number == machine.allowed["tgkill"] else 0
        assert verdict(code, machine.audit, number, first, 0, read_write) == (ALLOW if number in numbers else REFUSE)


def test_architectures_are_told_by_their_elf_numbers() -> None:
    """64-bit and little-endian, with the machine's number in ELF files."""
    assert {name: machine.audit for name, machine in MACHINES.items()} == {
        "x86_64": 0x80000000 | 0x40000000 | 62,
        "aarch64": 0x80000000 | 0x40000000 | 183,
    }


@machines
def test_calls_that_reach_others_are_refused(machine: Machine) -> None:
    code = program(machine, PID)
    for name, numbers in DANGEROUS.items():
        number = numbers[list(MACHINES.values()).index(machine)]
        assert number is None or verdict(code, machine.audit, number, PID, 0, 0) == REFUSE, name


@machines
def test_memory_cannot_be_made_executable_and_signals_reach_itself_alone(machine: Machine) -> None:
    code = program(machine, PID)
    for name in ("mmap", "mprotect"):
        for rights in range(16):
            want = REFUSE if rights & 4 else ALLOW
            assert verdict(code, machine.audit, machine.allowed[name], 0, 4096, rights) == want
    for other in (0, 1, PID - 1, PID + 1, 2**32 - 1):
        assert verdict(code, machine.audit, machine.allowed["tgkill"], other, other, 9) == REFUSE


@machines
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_foreign_architecture_is_killed_whatever_it_calls(machine: Machine, audit: int, number: int) -> None:
    code = program(machine, PID)
    i386, arm = 0x40000003, 0x40000028
    for other in {i386, arm, audit, *(m.audit for m in MACHINES.values())} - {machine.audit}:
        assert verdict(code, other, number) == KILL


@given(st.integers(0x40000000, 2**32 - 1))
def test_x32_is_killed(number: int) -> None:
    code = program(MACHINES["x86_64"], PID)
    assert verdict(code, 0xC000003E, number) == KILL
    assert verdict(code, 0xC000003E, 0x40000000 | MACHINES["x86_64"].allowed["recvfrom"]) == KILL


def header_numbers(architecture: str) -> dict[str, int]:
    """System call numbers as this machine's own headers give them."""
    names = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
    file = Path("/usr/include") / names[architecture]
    if architecture == "x86_64" and not file.is_file():
        file = Path("/usr/include/asm/unistd_64.h")
    if not file.is_file():
        pytest.skip(f"{file} is not installed")
    text = file.read_text()
    found = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    assert len(found) > 250
    return found


@pytest.mark.parametrize("architecture", MACHINES)
def test_numbers_are_those_of_the_systems_headers(architecture: str) -> None:
    known = header_numbers(architecture)
    machine, column = MACHINES[architecture], list(MACHINES).index(architecture)
    ours = {"seccomp": machine.seccomp, "capset": machine.capset} | machine.allowed
    ours |= {name: numbers[column] for name, numbers in system_calls.NUMBERS.items()}
    ours |= {name: number for name, numbers in DANGEROUS.items() if (number := numbers[column]) is not None}
    assert {name: known[name] for name in ours} == ours
    assert known["landlock_create_ruleset"] == sandbox.LANDLOCK_CREATE_RULESET
    assert known["landlock_restrict_self"] == sandbox.LANDLOCK_RESTRICT_SELF


def test_landlocks_rights_are_those_of_the_systems_headers() -> None:
    header = Path("/usr/include/linux/landlock.h")
    if not header.is_file():
        pytest.skip(f"{header} is not installed")
    text = header.read_text()
    bits = dict(re.findall(r"#define LANDLOCK_ACCESS_FS_(\w+)\s+\(1ULL << (\d+)\)", text))
    first = {"MAKE_SYM": 1, "REFER": 2, "TRUNCATE": 3, "IOCTL_DEV": 5}
    for name in first.keys() & bits.keys():
        assert sandbox.FS_RIGHTS[first[name]] == int(bits[name]) + 1


FULL = Isolation(7, True, True, True, True, True, 1, 1)


def test_the_level_says_what_is_missing() -> None:
    from msgspec.structs import replace

    assert (FULL.level, FULL.missing) == ("full", ())
    FULL.require("agent_0")
    for change, missing in (
        ({"landlock": 0}, "Landlock"),
        ({"seccomp": False}, "seccomp"),
        ({"descriptors": 2}, "a single descriptor"),
        ({"threads": 2}, "a single thread"),
        ({"limits": False}, "resource limits"),
        ({"undumpable": False}, "a closed /proc"),
    ):
        less = replace(FULL, **change)
        assert (less.level, less.missing) == ("partial", (missing,))
        with pytest.raises(AgentMixerError, match=rf"agent_0 lacks {missing} here, .*--require-isolation"):
            less.require("agent_0")
    assert replace(FULL, landlock=0, seccomp=False).level == Isolation().level == "none"


def test_elsewhere_nothing_is_entered_and_nothing_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system the process runs on as it is."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.probe() == (0, False)
    before = dict(os.environ)
    assert sandbox.enter(0) == Isolation()
    assert dict(os.environ) == before


PRELUDE = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import ctypes, encodings.idna, errno, json, mmap, signal, socket, sys, threading
import msgspec
from agentmixer.runtime import sandbox
link = socket.socket(fileno=0)
libc = ctypes.CDLL(None, use_errno=True)
def tried(function, *arguments):
    "errno of a refusal, 0 if there was none"
    try:
        function(*arguments)
        return 0
    except OSError as error:
        return error.errno
def tell(**what):
    link.send(json.dumps(what).encode())
def entered():
    return msgspec.to_builtins(sandbox.enter(0))
def probes(file, port):
    return {
        "open": (os.open, file, os.O_RDONLY),
        "create": (os.open, file + ".new", os.O_CREAT | os.O_WRONLY),
        "stat": (os.stat, file),
        "chmod": (os.chmod, file, 0o600),
        "list": (os.listdir, "."),
        "unix": (socket.socket, socket.AF_UNIX),
        "tcp": (socket.create_connection, ("127.0.0.1", port)),
        "udp": (socket.socket, socket.AF_INET, socket.SOCK_DGRAM),
        "netlink": (socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
        "pair": (socket.socketpair,),
        "pipe": (os.pipe,),
        "dup": (os.dup, 0),
        "memfd": (os.memfd_create, "x"),
        "eventfd": (os.eventfd, 0),
        "pidfd": (os.pidfd_open, os.getppid()),
        "signal": (os.kill, os.getppid(), 0),
        "priority": (os.getpriority, os.PRIO_PROCESS, os.getppid()),
        "ancillary": (link.recvmsg, 1),
        "terminal": (os.get_terminal_size, 0),
        "executable": (mmap.mmap, -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7),
        "dumpable": (prctl, 4, 1),
        "read": (os.read, 0, 1),
        "fork": (forked,),
    }
def prctl(*arguments):
    if libc.prctl(*arguments, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "")
def forked():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
"""


class Inside:
    """A script in a process started as an agent's is. What it tells, and how it ended."""

    def __init__(self, folder: Path, script: str, *arguments: object):
        file = folder / "script.py"
        file.write_text(PRELUDE + textwrap.dedent(script))
        self.process, link, directory, _ = launch(file, *(str(argument) for argument in arguments))
        with directory, link:
            link.settimeout(60)
            data = link.recv(1 << 16)
            self.told: dict[str, Any] = json.loads(data) if data else {}
            self.status_file = Path(f"/proc/{self.process.pid}/status")
            self.seen = self.status_file.read_text() if data else ""
            link.shutdown(2)
            self.status = self.process.wait(60)


@both
def test_a_sandboxed_process_reaches_nothing_that_it_reached_before(tmp_path: Path) -> None:
    """The same calls in one process, before and after it enters."""
    import socket

    secret = tmp_path / "secret"
    secret.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = Inside(
            tmp_path,
            """
            calls = probes(sys.argv[1], int(sys.argv[2]))
            link.setblocking(False)
            before = {name: tried(*call) for name, call in calls.items()}
            link.setblocking(True)
            isolation = entered()
            tell(before=before, isolation=isolation, after={name: tried(*call) for name, call in calls.items()})
            link.recv(1)
            """,
            secret,
            server.getsockname()[1],
        )
    # Neither a terminal to measure nor anything to read was there, but they could be asked for.
    without = {name: code for name, code in found.told["before"].items() if code}
    assert without == {"terminal": errno.ENOTTY, "read": errno.EAGAIN, "ancillary": errno.EAGAIN}
    assert set(found.told["after"].values()) == {errno.EPERM}
    assert found.status == 0
    status = dict(line.split(":\t", 1) for line in found.seen.splitlines() if ":\t" in line)
    assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    isolation = found.told["isolation"]
    assert isolation == {**isolation, "landlock": OFFERED.landlock, "descriptors": 1, "threads": 1}
    assert Isolation(**isolation).level == "full"


@both
def test_each_layer_holds_without_the_others(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")

    def refusals(*left_out: str) -> dict[str, int]:
        found = Inside(
            tmp_path,
            """
            calls = {name: probes(sys.argv[1], 9)[name] for name in ("open", "create", "list", "tcp", "signal")}
            for part in sys.argv[2:]:
                setattr(sandbox, part, lambda *_: False)
            isolation = entered()
            tell(isolation=isolation, after={name: tried(*call) for name, call in calls.items()})
            link.recv(1)
            """,
            secret,
            *left_out,
        ).told
        isolation = Isolation(**found["isolation"])
        assert len(isolation.missing) == len(left_out)
        return found["after"]

    landlock = refusals("_seccomp", "_limit")
    tcp = errno.EACCES if OFFERED.landlock >= sandbox.NET_ABI else errno.ECONNREFUSED
    signals = errno.EPERM if OFFERED.landlock >= sandbox.SCOPE_ABI else 0
    files = dict.fromkeys(("open", "create", "list"), errno.EACCES)
    assert landlock == {**files, "tcp": tcp, "signal": signals}
    limits = refusals("_seccomp", "_landlock")
    assert limits == {**dict.fromkeys(("open", "create", "list", "tcp"), errno.EMFILE), "signal": 0}
    seccomp = refusals("_landlock", "_limit")
    assert set(seccomp.values()) == {errno.EPERM}


@both
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("os.abort()", -signal.SIGABRT),
        ("libc.syscall(0x40000000 | 39)", -signal.SIGSYS),  # x32's getpid
        ("i386_getpid()", -signal.SIGSYS),
    ],
    ids=["abort", "x32", "i386"],
)
def test_another_tables_calls_end_the_process(script: str, status: int, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64" and script != "os.abort()":
        pytest.skip("x86-64 has these")
    found = Inside(
        tmp_path,
        f"""
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(bytes.fromhex("53b814000000cd805bc3"))  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
        i386_getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        assert i386_getpid() in (os.getpid(), -errno.ENOSYS)
        entered()
        tell(here=True)
        link.recv(1)
        {script}
        """
        if os.uname().machine == "x86_64"
        else f"entered(); tell(here=True); link.recv(1); {script}",
    )
    assert found.told == {"here": True}
    assert found.status == status


@both
@pytest.mark.parametrize(
    ("how", "looked_into"), [("sandbox._drop_capabilities(sandbox.machine())", True), ("entered()", False)]
)
def test_a_process_of_the_same_user_cannot_look_in(how: str, looked_into: bool, tmp_path: Path) -> None:
    """One with no more rights than it has: root's exemption is a capability."""
    file = tmp_path / "script.py"
    file.write_text(f"{PRELUDE}\n{how}\ntell(here=True)\nlink.recv(1)")
    process, link, directory, _ = launch(file)
    with directory, link:
        link.settimeout(60)
        assert link.recv(100)
        code = f"""
from agentmixer.runtime import sandbox
assert sandbox._drop_capabilities(sandbox.machine())
print(len(open("/proc/{process.pid}/maps").read()))
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        link.shutdown(2)
        process.wait(60)
    assert (result.returncode == 0) == looked_into
    assert looked_into or "PermissionError" in result.stderr


@both
def test_memory_is_limited_and_enough(tmp_path: Path) -> None:
    found = Inside(
        tmp_path,
        """
        entered()
        enough = len(bytearray(128 << 20))
        try:
            bytearray(256 << 20)
            tell(enough=enough, much=True)
        except MemoryError:
            tell(enough=enough, much=False)
        link.recv(1)
        """,
    )
    assert found.told == {"enough": 128 << 20, "much": False}


@both
def test_what_was_open_is_closed_and_a_second_thread_is_told(tmp_path: Path) -> None:
    found = Inside(
        tmp_path,
        """
        held = [os.open("/", os.O_RDONLY) for _ in range(20)]
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        isolation = entered()
        tell(isolation=isolation, open=[fd for fd in range(100) if tried(os.lseek, fd, 0, 0) == errno.ESPIPE], closed=tried(os.close, held[3]))
        os._exit(0)
        """,
    )
    isolation = Isolation(**found.told["isolation"])
    assert (isolation.descriptors, isolation.threads) == (1, 2)
    assert isolation.missing == ("a single thread",)
    assert found.told["closed"] == errno.EBADF


#: Makes system calls fail with ENOSYS for a process and all it starts, as a kernel or container without them does.
WITHOUT = """
import struct, sys
from pathlib import Path
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import sandbox
from agentmixer.runtime.bundle import read_bundle
from agentmixer.host.lock_step import Host
absent = [int(number) for number in sys.argv[2:]]
code = [(0x20, 0, 0, 0)]
for number in absent:
    code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38)]
code.append((0x06, 0, 0, 0x7FFF0000))
assert sandbox._prctl(38, 1)
assert sandbox.install(sandbox.machine(), b"".join(struct.pack("<HBBI", *c) for c in code))
bundle = read_bundle(Path(sys.argv[1]))
with Host(bundle) as host:
    print({(agent.isolation.level, agent.isolation.missing) for agent in host.agents})
try:
    with Host(bundle, require_isolation=True):
        print("started")
except AgentMixerError as error:
    print(error)
"""


@both
@pytest.mark.parametrize("absent", ["Landlock", "seccomp"])
def test_a_kernel_that_offers_less_is_told_and_refused_if_isolation_is_required(
    absent: str, exported: Exported
) -> None:
    ours = sandbox.machine()
    assert ours is not None
    numbers = [444, 445, 446] if absent == "Landlock" else [ours.seccomp]
    command = [sys.executable, "-c", WITHOUT, str(exported.path), *map(str, numbers)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    levels, refusal = result.stdout.splitlines()
    assert levels == repr({("partial", (absent,))})
    assert re.fullmatch(
        rf"agent agent_0 did not start: agent agent_0 lacks {absent} here, and isolation is required; .*", refusal
    )
