"""Attacks on what the whole system shares: files, sockets, shared memory, keys, and doors of the kernel."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
from pathlib import Path

from agentmixer.contract.manifest import sha256
from agentmixer.validate.attacks import Attacks, Target
from agentmixer.validate.system_calls import KEYCTL_READ, call, checked, libc

CLONE_NEWUSER = 0x10000000
SYSTEM_ATTACKS = Attacks()


@SYSTEM_ATTACKS.add
def read_model(to: Target) -> str:
    return sha256(Path(to.victim_folder, "policy.onnx").read_bytes())


@SYSTEM_ATTACKS.add
def read_golden(to: Target) -> str:
    return sha256(Path(to.victim_folder, "golden.npz").read_bytes())


@SYSTEM_ATTACKS.add
def read_manifest(to: Target) -> str:
    return sha256(Path(to.victim_folder, "agent.json").read_bytes())


@SYSTEM_ATTACKS.add
def list_folder(to: Target) -> str:
    return " ".join(sorted(os.listdir(to.victim_folder)))


@SYSTEM_ATTACKS.add
def read_tmp(to: Target) -> str:
    return Path(to.scratch, "secret").read_text()


@SYSTEM_ATTACKS.add
def read_home(to: Target) -> str:
    return Path(to.home).read_text()


def _write(path: Path) -> str:
    path.write_text("x")
    return "written"


@SYSTEM_ATTACKS.add
def write_folder(to: Target) -> str:
    return _write(Path(to.victim_folder, to.token))


@SYSTEM_ATTACKS.add
def write_tmp(to: Target) -> str:
    return _write(Path(to.scratch, to.token))


@SYSTEM_ATTACKS.add
def write_home(to: Target) -> str:
    return _write(Path(to.home + to.token))


@SYSTEM_ATTACKS.add
def write_working_directory(to: Target) -> str:
    return _write(Path(to.token))


@SYSTEM_ATTACKS.add
def truncate(to: Target) -> str:
    os.truncate(Path(to.scratch, "truncate"), 0)
    return "truncated"


@SYSTEM_ATTACKS.add
def rename(to: Target) -> str:
    os.rename(Path(to.scratch, "rename"), Path(to.scratch, to.token))
    return "renamed"


@SYSTEM_ATTACKS.add
def remove(to: Target) -> str:
    os.unlink(Path(to.scratch, "remove"))
    return "removed"


@SYSTEM_ATTACKS.add
def change_mode(to: Target) -> str:
    os.chmod(Path(to.scratch, "mode"), 0o666)
    return "changed"


@SYSTEM_ATTACKS.add
def hard_link(to: Target) -> str:
    os.link(Path(to.victim_folder, "policy.onnx"), Path(to.scratch, to.token))
    return "linked"


@SYSTEM_ATTACKS.add
def symbolic_link(to: Target) -> str:
    os.symlink(to.victim_folder, Path(to.scratch, to.token))
    return "linked"


@SYSTEM_ATTACKS.add
def named_pipe(to: Target) -> str:
    os.mkfifo(Path(to.scratch, to.token))
    return "made"


def _stolen(pid: int, descriptor: int) -> socket.socket:
    pidfd = call("pidfd_open", pid, 0)
    try:
        return socket.socket(fileno=call("pidfd_getfd", pidfd, descriptor, 0))
    finally:
        os.close(pidfd)


@SYSTEM_ATTACKS.add
def speak_as_the_agent(to: Target) -> str:
    with _stolen(to.victim, 0) as link:
        link.send(to.token.encode())
    return "sent"


@SYSTEM_ATTACKS.add
def speak_as_the_host(to: Target) -> str:
    with _stolen(to.host, to.host_descriptor) as link:
        link.send(to.token.encode())
    return "sent"


def _send(family: int, kind: int, address: str | tuple[str, int], token: str) -> str:
    with socket.socket(family, kind) as connection:
        connection.connect(address)
        connection.send(token.encode())
    return "sent"


@SYSTEM_ATTACKS.add
def abstract_socket(to: Target) -> str:
    return _send(socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + to.abstract, to.token)


@SYSTEM_ATTACKS.add
def pathname_socket(to: Target) -> str:
    return _send(socket.AF_UNIX, socket.SOCK_DGRAM, str(Path(to.scratch, "socket")), to.token)


@SYSTEM_ATTACKS.add
def tcp(to: Target) -> str:
    return _send(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", to.tcp_port), to.token)


@SYSTEM_ATTACKS.add
def udp(to: Target) -> str:
    return _send(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", to.udp_port), to.token)


_LISTENING: list[socket.socket] = []


@SYSTEM_ATTACKS.add
def tcp_listen(to: Target) -> str:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    _LISTENING.append(server)  # open for as long as the process is
    server.bind(("127.0.0.1", 0))
    server.listen()
    return str(server.getsockname()[1])


@SYSTEM_ATTACKS.add
def dev_shm_read(to: Target) -> str:
    return Path(to.shared).read_text()


@SYSTEM_ATTACKS.add
def dev_shm_write(to: Target) -> str:
    return _write(Path(to.shared + to.token))


@SYSTEM_ATTACKS.add
def sysv_segment(to: Target) -> str:
    address = libc().shmat(to.segment, None, 0)
    if address == ctypes.c_void_p(-1).value:
        checked(-1)
    return ctypes.string_at(address, len(to.token)).decode()


@SYSTEM_ATTACKS.add
def posix_queue(to: Target) -> str:
    queue = call("mq_open", to.queue.encode(), os.O_RDONLY | os.O_NONBLOCK, 0, 0)
    buffer = ctypes.create_string_buffer(8192)
    got = call("mq_timedreceive", queue, buffer, len(buffer), 0, 0)
    os.close(queue)
    return buffer.raw[:got].decode()


@SYSTEM_ATTACKS.add
def keyring(to: Target) -> str:
    buffer = ctypes.create_string_buffer(256)
    got = call("keyctl", KEYCTL_READ, to.key, buffer, len(buffer))
    return buffer.raw[:got].decode()


@SYSTEM_ATTACKS.add
def executable_memory(to: Target) -> str:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return "mapped"


@SYSTEM_ATTACKS.add
def io_uring(to: Target) -> str:
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    return "opened"


@SYSTEM_ATTACKS.add
def bpf(to: Target) -> str:
    # BPF_MAP_CREATE of an array: 4-byte keys, 8-byte values, one entry
    attributes = b"".join(value.to_bytes(4, "little") for value in (2, 4, 8, 1)) + bytes(56)
    os.close(call("bpf", 0, attributes, len(attributes)))
    return "opened"


@SYSTEM_ATTACKS.add
def userfaultfd(to: Target) -> str:
    user_mode_only = 1
    os.close(call("userfaultfd", user_mode_only))
    return "opened"


@SYSTEM_ATTACKS.add
def user_namespace(to: Target) -> str:
    checked(libc().unshare(CLONE_NEWUSER))
    return "entered"
