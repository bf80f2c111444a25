"""System calls that Python has no function for, by name: for the attacks, and for what is planted to be attacked."""

from __future__ import annotations

import ctypes
import errno
import os

from agentmixer.runtime import sandbox

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
