"""Reading and writing files in folders that somebody else may have laid out: a file's own name may not be a link (the
folders on its way may), and nothing blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from agentmixer.errors import AgentMixerError


def read_regular(
    path: Path, limit: int, links: int | None = 1, again: str = "copy or export the bundle again"
) -> bytes:
    """The bytes of a regular file of at most `limit` bytes, read once.

    Symbolic links are not followed and nothing that could block is waited for. links: how many names (hard links) the
    file may have at most, None for any number; again: the way out that the error names.
    Raises AgentMixerError naming the file and what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        what = {
            errno.ENOENT: "is missing",
            errno.ELOOP: "is a link, which is not followed here; put the file itself there",
            errno.EACCES: "cannot be read by this user (permission denied)",
        }.get(error.errno or 0, f"is missing or not a regular file ({error.strerror})")
        raise AgentMixerError(f"{path} {what}; {again}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise AgentMixerError(f"{path} is not a regular file; {again}")
        if links is not None and found.st_nlink > links:
            raise AgentMixerError(
                f"{path} has {found.st_nlink} names (hard links), so that it can change under another; {again}"
            )
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1) if found.st_size <= limit else b""
    finally:
        os.close(descriptor)
    if found.st_size > limit or len(data) > limit:
        raise AgentMixerError(
            f"{path} has more than {limit:,} bytes, which is too large for what it should be; {again}"
        )
    return data


def write_whole(path: Path, data: bytes, mode: int = 0o666, replace: bool = True) -> None:
    """Write a file so that it is complete or absent: a new file beside it is written whole, then renamed.

    A file of that name is replaced; a link or anything else that is not a regular file is not. mode: permissions,
    before the umask; replace: whether there may be a file already. Raises AgentMixerError if something else has the
    name, and OSError if the file cannot be written; nothing is left behind then."""
    scratch, descriptor = _begin(path, mode, replace)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def beside(path: Path, ending: str) -> Path:
    """The file beside `path` that is called as it is, with `ending` after it.

    Raises AgentMixerError if the path ends without a name, as `.` and `/` do."""
    if not path.name:
        raise AgentMixerError(f"{path} is a folder, and a file is wanted; give the file's own name")
    return path.with_name(path.name + ending)


def check_writable(path: Path) -> None:
    """Raises what `write_whole` would, and leaves the file as it is. What lies under the name of the new file beside it
    (`NAME.partial`) is removed, as `write_whole` does."""
    scratch, descriptor = _begin(path, 0o666, replace=True)
    os.close(descriptor)
    scratch.unlink()


def _begin(path: Path, mode: int, replace: bool) -> tuple[Path, int]:
    """A new file beside `path`, open for writing."""
    with contextlib.suppress(FileNotFoundError):
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        if not (replace and regular):
            why = "exists already" if regular else "is not a regular file"
            raise AgentMixerError(f"{path} {why}, and is not written over; remove it or choose another place")
    scratch = beside(path, ".partial")
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()  # left by a process that was killed, or laid there: never written through
    return scratch, os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
