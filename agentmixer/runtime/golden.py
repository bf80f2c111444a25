"""Golden traces: what the trained network did, step by step, for anything that runs the policy to repeat."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest, Tolerances
from agentmixer.contract.spec import ActionSpace, Box
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import arrays
from agentmixer.runtime.actions import allowance, allowed, follows, is_near_tie

#: A shorter trace shows too little of a recurrent policy to count as evidence.
MIN_STEPS = 200
MAX_STEPS = 1 << 12
#: Most bytes of golden.npz.
MAX_FILE = 1 << 24
#: Most bytes that all arrays may have together, and most work of repeating them (in `guard.Cost.work`): a second or so.
MAX_BYTES = 1 << 25
MAX_WORK = 1 << 31


class Golden(NamedTuple):
    """T consecutive steps of one agent. obs [T, D]; action_mask [T, A], all True where nothing is masked; reset [T],
    True where the recurrent state starts from zero; action [T] or [T, W] int64, or [T, W] float32; policy [T, A], the
    logits (with the noise in them) or means; state_out [T, H], H = 0 without memory; noise [T, A], or [T, 0] where the action is
    the mode: the file then has no such array."""

    obs: np.ndarray
    action_mask: np.ndarray
    reset: np.ndarray
    action: np.ndarray
    policy: np.ndarray
    state_out: np.ndarray
    noise: np.ndarray


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


#: One step of a policy: obs [1, D], action_mask [1, A], state [1, H], noise [1, A] -> [action, logits or mean [1, A], state
#: [1, H]]. A policy without a mask, memory or noise ignores them.
StepFunction = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], list[np.ndarray]]


def dump(golden: Golden) -> bytes:
    """The bytes of golden.npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(golden, name) for name in _arrays(golden.noise.shape[1])})
    return buffer.getvalue()


def _arrays(noise: int) -> tuple[str, ...]:
    """Names of the arrays in golden.npz, in order. noise: its length."""
    return Golden._fields if noise else Golden._fields[:-1]


def silence(steps: int) -> np.ndarray:
    """The noise of decisions that are not drawn, [T, 0]."""
    return np.zeros((steps, 0), np.float32)


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
                  ("float32", policy), ("float32", memory), ("float32", (manifest.noise,)))  # type: ignore[arg-type]  # fmt: skip
    names = _arrays(manifest.noise)
    with arrays.opened(data, names) as archive:
        steps = arrays.header(archive, "reset")[1][0]
        if not 0 < steps <= MAX_STEPS:
            raise ValueError(f"it holds {steps:,} steps, where 1 to {MAX_STEPS:,} are possible")
        size = sum(np.dtype(dtype).itemsize * steps * prod(shape) for dtype, shape in rows)
        if size > MAX_BYTES:
            raise ValueError(f"its arrays have {size:,} bytes, where {MAX_BYTES:,} are possible")
        found = [
            arrays.read(archive, name, dtype, (steps, *shape))
            for name, (dtype, shape) in zip(names, rows, strict=False)
        ]
        silent = [] if manifest.noise else [silence(steps)]
        return Golden(*found, *silent)


def _sensible(golden: Golden, manifest: AgentManifest) -> None:
    """Raises ValueError naming a step that no task has, or a decision that the agent cannot make."""
    finite = np.isfinite(golden.obs).all() and np.isfinite(golden.noise).all()
    if not (golden.reset[0] and golden.action_mask.any(1).all() and finite):
        raise ValueError(
            "it holds steps that no task has: no reset first, no legal action, or an observation or noise that is not finite"
        )
    fits = allowed(manifest.action_space, golden.action, golden.action_mask)
    if not (fits.all() and np.isfinite(golden.policy).all() and np.isfinite(golden.state_out).all()):
        raise ValueError(
            "it holds decisions that no agent makes: an action that is not allowed, or a number that is not finite"
        )
    if not follows(manifest.action_space, golden.policy, golden.action, Tolerances()).all():
        raise ValueError("it holds actions that its own logits or means do not give")


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
    fed = np.zeros((1, golden.state_out.shape[1]), np.float32)
    answers: list[list[np.ndarray]] = []
    for t in range(len(golden.reset)):
        if golden.reset[t]:
            fed = np.zeros_like(fed)
        here = slice(t, t + 1)
        answers.append(step(golden.obs[here], golden.action_mask[here], fed, golden.noise[here]))
        fed = answers[-1][2]
    action, policy, state = (np.concatenate(column) for column in zip(*answers, strict=True))
    # The logits of illegal actions too: one that is given out unmasked is wrong.
    close = is_close(policy, golden.policy, tolerances) & is_close(state, golden.state_out, tolerances)
    errors = [float(np.abs(policy - golden.policy).max())]
    different = ties = 0
    if real:
        apart = np.abs(action - golden.action)
        errors.append(float(apart.max()))
        close &= (apart <= allowance(real, golden.action, tolerances)).all(1)
    else:
        for row in np.flatnonzero((action != golden.action).reshape(len(action), -1).any(1)):
            different += 1
            tie = is_near_tie(space, golden.policy[row], action[row], tolerances)
            ties += tie
            close[row] &= tie
    state_error = float(np.abs(state - golden.state_out).max(initial=0.0))
    first = None if close.all() else int(close.argmin())
    return Parity(len(golden.reset), max(errors), state_error, different, ties, first)


def is_close(ours: np.ndarray, theirs: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """Which rows of two arrays [T, ...] differ by no more than the tolerances, [T] bool; a NaN is never close."""
    close = np.isclose(ours, theirs, tolerances.relative, tolerances.absolute)
    return np.asarray(close.all(tuple(range(1, close.ndim))))
