"""One process at a time trains a run."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agentmixer.errors import AgentMixerError

try:
    import fcntl
except ImportError:  # a system without POSIX locks does without
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run's directory for this process. The hold ends with the process, however it dies, and worker processes
    do not inherit it; the file stays.

    Raises AgentMixerError if another process holds it, or if something that is not a regular file has the name."""
    if fcntl is None:
        yield
        return
    file = path / LOCK
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags, 0o666)
    except OSError as error:
        raise AgentMixerError(f"{file} cannot be opened ({error.strerror}); remove it or put that right") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AgentMixerError(f"{file} is not a regular file; remove it")
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentMixerError(
                f"{path} is being trained by another process; wait for that one or stop it, then --resume"
            ) from error
        except OSError as error:
            raise AgentMixerError(
                f"{file} cannot be locked ({error.strerror}); keep the run on a file system that can"
            ) from error
        yield
    finally:
        os.close(descriptor)
