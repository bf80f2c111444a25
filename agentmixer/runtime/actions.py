"""Actions as arrays: their type, whether they exist and are legal, and when another one was as good."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from agentmixer.contract.manifest import Tolerances
from agentmixer.contract.spec import NO_BOUND, Action, ActionSpace, Box, Discrete, MultiDiscrete


def array_type(space: ActionSpace) -> tuple[Literal["int64", "float32"], tuple[int, ...]]:
    """Type and shape of one action: [] or [W] int64 for whole numbers, [W] float32 for real values."""
    if isinstance(space, Discrete):
        return "int64", ()
    return ("float32" if isinstance(space, Box) else "int64"), (space.size,)


def as_array(action: Action, space: ActionSpace) -> np.ndarray:
    """An action of a manifest as `Agent.act` gives one."""
    return np.array(action, array_type(space)[0])


def parts(space: Discrete | MultiDiscrete, entries: np.ndarray) -> list[np.ndarray]:
    """A mask or logits, [A], cut into one view for each element of an action."""
    return np.split(entries, np.cumsum([n for n, _ in space.choices])[:-1])


class Ranges(NamedTuple):
    """Of a space's elements, [W] float32 each: an action is `centre + scale * x`, rounded if the space is a whole Box, and
    clamped to `low` and `high`. x is a mean, in units of half the range, or the number of a choice, which counts from
    `centre` in steps of 1. A real value without a bound on either side is a mean itself."""

    centre: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray


def ranges(space: ActionSpace) -> Ranges:
    """What turns what a network gives into an action in the task's own units."""
    if not isinstance(space, Box):
        sizes, starts = np.array(space.choices, np.float32).T
        return Ranges(starts, np.ones_like(starts), starts, starts + sizes - 1)
    low, high = np.array(space.low, np.float32), np.array(space.high, np.float32)
    unbounded = (low <= np.float32(-NO_BOUND)) | (high >= np.float32(NO_BOUND))
    centre = np.where(unbounded, np.clip(np.float32(0), low, high), (low + high) / 2)
    return Ranges(centre, np.where(unbounded, np.float32(1), (high - low) / 2), low, high)


def allowed(space: ActionSpace, actions: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
    """Which of T actions are of `space` and legal, [T] bool. actions [T] or [T, W]; masks [T, A] bool, True where legal."""
    rows = actions.reshape(len(actions), -1)
    if isinstance(space, Box):
        # Graphs clamp in float32, so bounds are compared there. A NaN compares as outside.
        of = ranges(space)
        inside = (of.low <= rows) & (rows <= of.high) & (np.rint(rows) == rows if space.whole else True)
        return np.asarray(inside.all(1))
    sizes, starts = np.array(space.choices).T
    chosen = rows - starts
    exist = np.asarray(((chosen >= 0) & (chosen < sizes)).all(1))
    if masks is None:
        return exist
    entries = np.cumsum([0, *sizes[:-1]]) + np.clip(chosen, 0, sizes - 1)
    return np.asarray(exist & np.take_along_axis(masks, entries, 1).all(1))


def allowance(space: Box, action: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """By how much each real value may differ from `action` [..., W]: the relative tolerance of it and the absolute
    tolerance, the latter in units of half the element's range if that is more than 1, for a mean is multiplied by it."""
    largest = np.maximum(ranges(space).scale, 1)
    return np.asarray(tolerances.absolute * largest + tolerances.relative * np.abs(action))


def is_near_tie(space: ActionSpace, policy: np.ndarray, action: np.ndarray | int, tolerances: Tolerances) -> bool:
    """Whether `action`, whole numbers, exists and each of its elements was as good as the best to within the tolerance:
    had a logit as high, or lies as near to the mean. policy [A], the reference's logits or means."""
    row = np.asarray(action)[None]
    if not allowed(space, row)[0] or (isinstance(space, Box) and not space.whole):
        return False
    return bool(follows(space, policy[None], row, tolerances)[0])


def follows(space: ActionSpace, policies: np.ndarray, actions: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """Which of T actions of `space` are what their policies give, [T] bool, to within the tolerances: an element has the greatest
    logit, or is the mean in the task's units. policies [T, A], logits or means; actions [T] or [T, W]."""
    rows, policies = actions.reshape(len(actions), -1), policies[:, : space.n]
    if isinstance(space, Box):
        of = ranges(space)
        exact = np.clip(of.centre + of.scale * policies, of.low, of.high)
        rounding = 0.5 + tolerances.near_tie if space.whole else 0.0
        return np.asarray((np.abs(rows - exact) <= rounding + allowance(space, exact, tolerances)).all(1))
    sizes, starts = np.array(space.choices).T
    logits = np.split(policies, np.cumsum(sizes)[:-1], 1)
    return np.all([
        own.max(1) - np.take_along_axis(own, (chosen - start)[:, None], 1)[:, 0] <= tolerances.near_tie
        for own, chosen, start in zip(logits, rows.T, starts, strict=True)
    ], 0)  # fmt: skip
