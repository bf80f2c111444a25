"""Golden traces: what the trained network did, step by step, for anything that runs the policy to repeat."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest, Tolerances
from agentmixer.errors import AgentMixerError

#: A shorter trace shows too little of a recurrent policy to count as evidence.
MIN_STEPS = 200
MAX_STEPS = 1 << 14


class Golden(NamedTuple):
    """T consecutive steps of one agent. obs [T, D]; action_mask [T, A], all True where nothing is masked; reset [T],
    True where the recurrent state starts from zero; action [T] int64 or [T, A] float32; policy [T, A], the logits
    or means; state_out [T, H], H = 0 without memory."""

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
    """Read golden.npz (never unpickling, and no array before its declared size is known to be right).

    Raises AgentMixerError if it does not fit the manifest or holds steps that no agent could be asked about."""
    obs, policy, memory = manifest.tensor("obs").shape, manifest.tensor(manifest.policy).shape, (manifest.memory,)
    action = manifest.tensor("action")
    rows = Golden(*(("float32", obs), ("bool", policy), ("bool", ()), (action.dtype, action.shape)),  # type: ignore[arg-type]
                  ("float32", policy), ("float32", memory))  # type: ignore[arg-type]  # fmt: skip
    golden = None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            declared = [_header(archive, name) for name in Golden._fields]
            steps = declared[Golden._fields.index("reset")][1][0]
            if 0 < steps <= MAX_STEPS and declared == [(dtype, (steps, *shape)) for dtype, shape in rows]:
                golden = Golden(*(_array(archive, name) for name in Golden._fields))
    except Exception as error:  # zipfile, zlib and numpy raise what they like for bytes that are no archive
        raise AgentMixerError(
            f"agent {manifest.agent}: golden.npz cannot be read ({error}); export the bundle again"
        ) from error
    if golden is None:
        raise AgentMixerError(
            f"agent {manifest.agent}: golden.npz has other shapes or types than agent.json; export the bundle again"
        )
    if not (golden.reset[0] and golden.action_mask.any(1).all() and np.isfinite(golden.obs).all()):
        raise AgentMixerError(
            f"agent {manifest.agent}: golden.npz holds steps that no task has (no reset first, no legal action, or an "
            "observation that is not finite); export the bundle again"
        )
    return golden


def _header(archive: zipfile.ZipFile, name: str) -> tuple[str, tuple[int, ...]]:
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is not an array of format 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return dtype.name if dtype.isnative else str(dtype), shape


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def replay(golden: Golden, step: StepFunction, tolerances: Tolerances) -> Parity:
    """Run `step` freely along the trace: its own recurrent state is fed back, so errors may add up."""
    discrete = golden.action.ndim == 1
    state = np.zeros((1, golden.state_out.shape[1]), np.float32)
    policy_error = state_error = 0.0
    different = ties = 0
    first: int | None = None
    for t in range(len(golden.reset)):
        if golden.reset[t]:
            state = np.zeros_like(state)
        action, policy, state = step(golden.obs[t : t + 1], golden.action_mask[t : t + 1], state)
        pairs = [(policy[0], golden.policy[t])]  # illegal ones too: a logit given out unmasked is wrong
        if not discrete:
            pairs.append((action[0], golden.action[t]))
        policy_error = max(policy_error, *(float(np.abs(a - b).max()) for a, b in pairs))
        state_error = max(state_error, float(np.abs(state[0] - golden.state_out[t]).max(initial=0.0)))
        close = all(is_close(a, b, tolerances) for a, b in (*pairs, (state[0], golden.state_out[t])))
        if discrete and action[0] != golden.action[t]:
            different += 1
            tie = is_near_tie(golden.policy[t], int(action[0]), tolerances)
            ties += tie
            close = close and tie
        if not close and first is None:
            first = t
    return Parity(len(golden.reset), policy_error, state_error, different, ties, first)


def is_close(ours: np.ndarray, theirs: np.ndarray, tolerances: Tolerances) -> bool:
    """Whether two arrays differ by no more than the tolerances; a NaN is never close."""
    return np.allclose(ours, theirs, tolerances.relative, tolerances.absolute)


def is_near_tie(logits: np.ndarray, action: int, tolerances: Tolerances) -> bool:
    """Whether `action` was as good as the best to within the tolerance. logits [A], the reference's."""
    return bool(logits.max() - logits[action] <= tolerances.near_tie)
