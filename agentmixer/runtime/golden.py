"""Golden traces: what the trained network did, step by step, for anything that runs the policy to repeat."""

from __future__ import annotations

import codecs
import io
import struct
import zipfile
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest, Tolerances
from agentmixer.contract.spec import ActionSpace, Box
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.actions import allowance, allowed, is_near_tie

codecs.lookup("cp437")  # zipfile needs it, and in the sandbox nothing can be loaded any more

#: A shorter trace shows too little of a recurrent policy to count as evidence.
MIN_STEPS = 200
MAX_STEPS = 1 << 12
#: Most bytes of golden.npz.
MAX_FILE = 1 << 24
#: Most bytes that all arrays may have together, and most work of repeating them (in `guard.Cost.work`): a second or so.
MAX_BYTES = 1 << 25
MAX_WORK = 1 << 31
#: Bytes that describe an array before its data: more than export writes, which is 128.
_LONGEST_HEADER = 1024
#: Bytes taken out of an archive at a time: zipfile joins what it reads piece by piece.
_CHUNK = 1 << 18


class Golden(NamedTuple):
    """T consecutive steps of one agent. obs [T, D]; action_mask [T, A], all True where nothing is masked; reset [T],
    True where the recurrent state starts from zero; action [T] or [T, W] int64, or [T, W] float32; policy [T, A], the
    logits or means; state_out [T, H], H = 0 without memory."""

    obs: np.ndarray
    action_mask: np.ndarray
    reset: np.ndarray
    action: np.ndarray
    policy: np.ndarray
    state_out: np.ndarray


class Parity(NamedTuple):
    """How a replay compared. Errors are absolute maxima over logits (or means and actions) and the state."""

    steps: int
    policy_error: float
    state_error: float
    different_actions: int
    near_ties: int
    #: First step whose action differs beyond a near tie, or whose numbers are out of tolerance; None if none.
    first_failure: int | None

    @property
    def passed(self) -> bool:
        """Nothing differs beyond the tolerances."""
        return self.first_failure is None


#: One step of a policy: obs [1, D], action_mask [1, A], state [1, H] -> [action, logits or mean [1, A], state [1, H]].
#: A policy without a mask or memory ignores them.
StepFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], list[np.ndarray]]


def dump(golden: Golden) -> bytes:
    """The bytes of golden.npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **golden._asdict())
    return buffer.getvalue()


def parse(data: bytes, manifest: AgentManifest) -> Golden:
    """Read golden.npz: never unpickling, and no more of it than the manifest's sizes call for.

    Raises AgentMixerError if it does not fit the manifest, is too large, or holds steps that no agent could be asked
    about or decisions that no agent could have made."""
    try:
        golden = _read(data, manifest)
        _sensible(golden, manifest)
    except Exception as error:  # zipfile, zlib and numpy raise what they like for bytes that are no archive
        raise AgentMixerError(
            f"agent {manifest.agent}: golden.npz cannot be used ({error}); export the bundle again"
        ) from error
    return golden


def _read(data: bytes, manifest: AgentManifest) -> Golden:
    """The arrays as they stand. Raises ValueError, or what zipfile raises, for what `dump` does not write."""
    obs, policy, memory = manifest.tensor("obs").shape, manifest.tensor(manifest.policy).shape, (manifest.memory,)
    action = manifest.tensor("action")
    rows = Golden(*(("float32", obs), ("bool", policy), ("bool", ()), (action.dtype, action.shape)),  # type: ignore[arg-type]
                  ("float32", policy), ("float32", memory))  # type: ignore[arg-type]  # fmt: skip
    with _opened(data) as archive:
        steps = _header(archive, "reset")[1][0]
        if not 0 < steps <= MAX_STEPS:
            raise ValueError(f"it holds {steps:,} steps, where 1 to {MAX_STEPS:,} are possible")
        sizes = [np.dtype(dtype).itemsize * steps * prod(shape) for dtype, shape in rows]
        if sum(sizes) > MAX_BYTES:
            raise ValueError(f"its arrays have {sum(sizes):,} bytes, where {MAX_BYTES:,} are possible")
        arrays = []
        for name, (dtype, shape), size in zip(Golden._fields, rows, sizes, strict=True):
            found = _header(archive, name)
            if found[:2] != (dtype, (steps, *shape)):
                raise ValueError(
                    f"{name} is {found[0]} {list(found[1])}, where agent.json calls for {dtype} {[steps, *shape]}"
                )
            entry, at = archive.getinfo(f"{name}.npy"), found[2]
            if entry.file_size != at + size:
                raise ValueError(f"{name} has {entry.file_size:,} bytes, where {at + size:,} are called for")
            room = np.empty(at + size, np.uint8)
            with archive.open(entry) as file:
                for begin in range(0, room.size, _CHUNK):
                    chunk = file.read(min(_CHUNK, room.size - begin))
                    if len(chunk) < min(_CHUNK, room.size - begin):
                        raise ValueError(f"{name} ends before its {room.size:,} bytes")
                    room[begin : begin + len(chunk)] = np.frombuffer(chunk, np.uint8)
            arrays.append(np.frombuffer(room.data, dtype, offset=at).reshape(steps, *shape))
    return Golden(*arrays)


def _opened(data: bytes) -> zipfile.ZipFile:
    """The archive, of which only its end has been read. Raises ValueError if it is not made as `dump` makes it: six
    members in order, compressed with deflate, their directory at the end and nothing after it."""
    end = struct.Struct("<4s4H2LH")
    names = [f"{name}.npy" for name in Golden._fields]
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


def _header(archive: zipfile.ZipFile, name: str) -> tuple[str, tuple[int, ...], int]:
    """An array's type and shape, and where its data begins."""
    with archive.open(f"{name}.npy") as opened:
        file = io.BytesIO(opened.read(_LONGEST_HEADER))
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is not an array of format 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran and len(shape) > 1:
        raise ValueError(f"{name} is not stored row by row")
    return dtype.name if dtype.isnative else str(dtype), shape, file.tell()


def _sensible(golden: Golden, manifest: AgentManifest) -> None:
    """Raises ValueError naming a step that no task has, or a decision that the agent cannot make."""
    if not (golden.reset[0] and golden.action_mask.any(1).all() and np.isfinite(golden.obs).all()):
        raise ValueError(
            "it holds steps that no task has: no reset first, no legal action, or an observation that is not finite"
        )
    fits = allowed(manifest.action_space, golden.action, golden.action_mask)
    if not (fits.all() and np.isfinite(golden.policy).all() and np.isfinite(golden.state_out).all()):
        raise ValueError(
            "it holds decisions that no agent makes: an action that is not allowed, or a number that is not finite"
        )


def check_length(golden: Golden, work: int) -> None:
    """Raises AgentMixerError if a trace shows too little, or if repeating it takes too long. work: of one decision
    (`guard.Cost.work`)."""
    steps = len(golden.reset)
    if steps < MIN_STEPS:
        raise AgentMixerError(f"golden.npz holds {steps} steps, fewer than {MIN_STEPS}; export the bundle again")
    if steps * work > MAX_WORK:
        raise AgentMixerError(
            f"golden.npz holds {steps} steps of {work:,} units of work, where {MAX_WORK:,} in all are possible; export the "
            "bundle again"
        )


def replay(golden: Golden, step: StepFunction, space: ActionSpace, tolerances: Tolerances) -> Parity:
    """Run `step` freely along the trace: its own recurrent state is fed back, so errors may add up. space: the agent's."""
    real = space if isinstance(space, Box) and not space.whole else None
    state = np.zeros((1, golden.state_out.shape[1]), np.float32)
    policy_error = state_error = 0.0
    different = ties = 0
    first: int | None = None
    for t in range(len(golden.reset)):
        if golden.reset[t]:
            state = np.zeros_like(state)
        action, policy, state = step(golden.obs[t : t + 1], golden.action_mask[t : t + 1], state)
        # The logits of illegal actions too: one that is given out unmasked is wrong.
        close = is_close(policy[0], golden.policy[t], tolerances) and is_close(
            state[0], golden.state_out[t], tolerances
        )
        policy_error = max(policy_error, float(np.abs(policy[0] - golden.policy[t]).max()))
        state_error = max(state_error, float(np.abs(state[0] - golden.state_out[t]).max(initial=0.0)))
        if real:
            apart = np.abs(action[0] - golden.action[t])
            policy_error = max(policy_error, float(apart.max()))
            close = close and bool((apart <= allowance(real, golden.action[t], tolerances)).all())
        elif not np.array_equal(action[0], golden.action[t]):
            different += 1
            tie = is_near_tie(space, golden.policy[t], action[0], tolerances)
            ties += tie
            close = close and tie
        if not close and first is None:
            first = t
    return Parity(len(golden.reset), policy_error, state_error, different, ties, first)


def is_close(ours: np.ndarray, theirs: np.ndarray, tolerances: Tolerances) -> bool:
    """Whether two arrays differ by no more than the tolerances; a NaN is never close."""
    return np.allclose(ours, theirs, tolerances.relative, tolerances.absolute)
