"""Arrays in an archive (.npz) that may come from a stranger: never unpickled, and no more of it read than is called for."""

from __future__ import annotations

import codecs
import io
import struct
import zipfile
from collections.abc import Sequence
from math import prod

import numpy as np

codecs.lookup("cp437")  # zipfile needs it, and in the sandbox nothing can be loaded any more

#: Bytes that describe an array before its data: more than `np.savez_compressed` writes, which is 128.
_LONGEST_HEADER = 1024
#: Bytes taken out of an archive at a time: zipfile joins what it reads piece by piece.
_CHUNK = 1 << 18


def opened(data: bytes, arrays: Sequence[str]) -> zipfile.ZipFile:
    """The archive, of which only its end has been read. Raises ValueError if it is not made as `np.savez_compressed` makes
    it of `arrays`: these members in order, compressed with deflate, their directory at the end and nothing after it."""
    end = struct.Struct("<4s4H2LH")
    names = [f"{name}.npy" for name in arrays]
    if len(data) < end.size:
        raise ValueError(f"it is not an archive of {len(names)} arrays")
    signature, *disks, here, members, size, at, comment = end.unpack(data[-end.size :])
    if signature != b"PK\5\6" or any(disks) or comment or not here == members == len(names):
        raise ValueError(f"it is not an archive of {len(names)} arrays")
    if size > 4096 or at + size + end.size != len(data) or data[-end.size - 20 : -end.size].startswith(b"PK\6\7"):
        raise ValueError("its directory is not where it should be")
    archive = zipfile.ZipFile(io.BytesIO(data))
    if archive.namelist() != names:
        raise ValueError(f"it holds {', '.join(archive.namelist())}, where {', '.join(names)} belong")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_DEFLATED or entry.flag_bits:
            raise ValueError(f"{entry.filename} is compressed in another way than deflate")
    return archive


def header(archive: zipfile.ZipFile, name: str) -> tuple[str, tuple[int, ...], int]:
    """An array's type and shape, and where its data begins. Raises ValueError if it is not stored as numpy stores one."""
    with archive.open(f"{name}.npy") as opened:
        file = io.BytesIO(opened.read(_LONGEST_HEADER))
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is not an array of format 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran and len(shape) > 1:
        raise ValueError(f"{name} is not stored row by row")
    return dtype.name if dtype.isnative else str(dtype), shape, file.tell()


def read(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of that type and shape, whose bytes the caller has bounded. Raises ValueError if it is another one."""
    *found, at = header(archive, name)
    if found != [dtype, shape]:
        raise ValueError(f"{name} is {found[0]} {list(found[1])}, where {dtype} {list(shape)} is called for")
    entry, size = archive.getinfo(f"{name}.npy"), at + np.dtype(dtype).itemsize * prod(shape)
    if entry.file_size != size:
        raise ValueError(f"{name} has {entry.file_size:,} bytes, where {size:,} are called for")
    room = np.empty(size, np.uint8)
    with archive.open(entry) as file:
        for begin in range(0, room.size, _CHUNK):
            chunk = file.read(min(_CHUNK, room.size - begin))
            if len(chunk) < min(_CHUNK, room.size - begin):
                raise ValueError(f"{name} ends before its {room.size:,} bytes")
            room[begin : begin + len(chunk)] = np.frombuffer(chunk, np.uint8)
    return np.frombuffer(room.data, dtype, offset=at).reshape(shape)
