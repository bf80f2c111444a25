"""What an agent came to see and did in the episodes of the team that it was exported from: profile.npz.

A device holds what it observes against it (`runtime.status`), and so does an audit of a log.
D is the length of the observation, K the number of its elements that have figures, W the length of an action's row, A the
number of logits.
"""

from __future__ import annotations

import io
from math import prod
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest
from agentmixer.contract.spec import ActionSpace, Box
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import arrays, relations
from agentmixer.runtime.relations import Relations

#: Most bytes of the file.
MAX_FILE = 1 << 16
#: Which quantiles are kept; the first and the last are the least and the largest value.
LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
#: Most elements that have figures, so that the file stays small.
MAX_ELEMENTS = 256
#: How many of the other elements are named that an element goes along with most.
PARTNERS = 3


class Profile(NamedTuple):
    """Figures of the elements of the observation, and of the actions. All are finite."""

    #: [K] int64, rising: the elements that have figures. All of them, or the `MAX_ELEMENTS` that vary most.
    elements: np.ndarray
    #: [3] int64: decisions, episodes that began, and first observations (more of them than episodes were played on).
    counts: np.ndarray
    #: [K, 9] float32: the values at `LEVELS`, over all decisions.
    quantiles: np.ndarray
    #: [K, 9] float32: the same over first observations.
    first: np.ndarray
    #: [K, 2] float32: mean and largest absolute change from one decision to the next of the same episode.
    change: np.ndarray
    #: [K] float32: correlation with the decision before. 0 for an element that never varies.
    autocorrelation: np.ndarray
    #: [K] int64: the most decisions in a row of one episode after the first of them that left the element as it was.
    unchanged: np.ndarray
    #: [K, 3] int64 and float32: which of the K it goes along with most, and Pearson's correlation with them.
    partners: np.ndarray
    correlation: np.ndarray
    #: [A] float32: how often each whole number was chosen, 0 to 1; of real values [W, 9] float32, the values at `LEVELS`.
    actions: np.ndarray
    #: How the elements go together.
    relations: Relations


#: The arrays of a file, in order.
NAMES = (*Profile._fields[:-1], *Relations._fields)


def measure(obs: np.ndarray, fresh: np.ndarray, first: np.ndarray, actions: np.ndarray, space: ActionSpace) -> Profile:
    """The profile of T decisions in a row. obs [T, D] float32; fresh [T] bool, where an episode began; first [F, D], first
    observations, of these and other episodes; actions [T] or [T, W], as `Agent.act` gives them. T and F are at least 1."""
    steps, size = obs.shape
    elements = np.arange(size)
    if size > MAX_ELEMENTS:
        elements = np.sort(np.argsort(-obs.var(0), kind="stable")[:MAX_ELEMENTS])
        obs, first, size = obs[:, elements], first[:, elements], MAX_ELEMENTS
    exact = obs.astype(np.float64)
    follows = ~fresh[1:]
    moved = np.abs(np.diff(exact, axis=0))[follows]
    change = np.stack([moved.mean(0), moved.max(0)], 1) if len(moved) else np.zeros((size, 2))
    correlation = correlations(exact)
    np.fill_diagonal(correlation, 0.0)
    partners = np.argsort(-np.abs(correlation), 1, kind="stable")[:, :PARTNERS]
    partners = np.pad(partners, ((0, 0), (0, PARTNERS - partners.shape[1])))
    figures = Profile(
        elements=elements,
        counts=np.array([steps, fresh.sum(), len(first)]),
        quantiles=np.quantile(obs, LEVELS, axis=0).T.astype(np.float32),
        first=np.quantile(first, LEVELS, axis=0).T.astype(np.float32),
        change=change.astype(np.float32),
        autocorrelation=lagged(exact, follows).astype(np.float32),
        unchanged=longest_unchanged(obs, fresh),
        partners=partners,
        correlation=np.take_along_axis(correlation, partners, 1).astype(np.float32),
        actions=_of_actions(actions, space),
        relations=relations.measure(obs, fresh, relations.action_features(actions, space)),
    )
    return Profile._make([*map(np.ascontiguousarray, figures[:-1]), figures.relations])


def correlations(rows: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every two columns of [T, D], [D, D]; 0 where a column does not vary."""
    centred = rows - rows.mean(0)
    length = np.sqrt((centred**2).sum(0))
    scaled = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-9 * (1 + np.abs(rows).max(0)))
    return np.clip(scaled.T @ scaled, -1.0, 1.0)


def lagged(rows: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """Each column's correlation with itself one row before, [D], over those rows [T - 1] that follow theirs."""
    before, after = rows[:-1][follows], rows[1:][follows]
    if not len(before):
        return np.zeros(rows.shape[1])
    a, b = before - before.mean(0), after - after.mean(0)
    length = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.clip(np.divide((a * b).sum(0), length, out=np.zeros(rows.shape[1]), where=length > 1e-12), -1.0, 1.0)


def longest_unchanged(rows: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Of each column of [T, D] the most rows in a row that were equal to the row before, [D]. fresh [T]: where an episode began."""
    times = np.arange(len(rows))[:, None]
    changed = np.ones(rows.shape, bool)
    changed[1:] = (rows[1:] != rows[:-1]) | fresh[1:, None]
    return (times - np.maximum.accumulate(np.where(changed, times, 0))).max(0)


def _of_actions(actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    rows = actions.reshape(len(actions), -1)
    if isinstance(space, Box):
        return np.quantile(rows, LEVELS, axis=0).T.astype(np.float32)
    counts = [
        np.bincount(column - start, minlength=n) for column, (n, start) in zip(rows.T, space.choices, strict=True)
    ]
    return (np.concatenate(counts) / len(rows)).astype(np.float32)


def dump(profile: Profile) -> bytes:
    """The bytes of profile.npz. Where they would be too many, relations of the elements that vary least are left out."""
    known = profile.relations
    kept = len(known.kind)
    while True:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **dict(zip(NAMES, (*profile[:-1], *known), strict=True)))
        if buffer.tell() <= MAX_FILE or not kept:
            return buffer.getvalue()
        kept = kept * 3 // 4
        least = np.argsort(np.argsort(-known.standard[:, 1], kind="stable"), kind="stable") >= kept
        known = relations.without(known, least)


def _sizes(manifest: AgentManifest) -> list[tuple[str, tuple[int, ...]]]:
    """Type and shape of the arrays of a file."""
    space, levels = manifest.action_space, len(LEVELS)
    size = min(len(manifest.tensor("obs").elements), MAX_ELEMENTS)
    return [
        ("int64", (size,)), ("int64", (3,)), ("float32", (size, levels)), ("float32", (size, levels)),
        ("float32", (size, 2)), ("float32", (size,)), ("int64", (size,)), ("int64", (size, PARTNERS)),
        ("float32", (size, PARTNERS)), ("float32", (space.size, levels) if isinstance(space, Box) else (space.n,)),
        *relations.layout(size),
    ]  # fmt: skip


def parse(data: bytes, manifest: AgentManifest) -> Profile:
    """Read profile.npz: never unpickling, and no more of it than the manifest's sizes call for.

    Raises AgentMixerError if it does not fit the manifest, or holds what no episodes could have given."""
    wanted = _sizes(manifest)
    try:
        if (room := sum(np.dtype(kind).itemsize * prod(shape) for kind, shape in wanted)) > 1 << 26:
            raise ValueError(f"its arrays have {room:,} bytes")
        with arrays.opened(data, NAMES) as archive:
            read = [arrays.read(archive, name, *found) for name, found in zip(NAMES, wanted, strict=True)]
        own = len(Profile._fields) - 1
        profile = Profile._make([*read[:own], Relations._make(read[own:])])
        _sensible(profile, len(manifest.tensor("obs").elements), isinstance(manifest.action_space, Box))
        relations.check(profile.relations, manifest.action_space.n)
    except Exception as error:  # zipfile, zlib and numpy raise what they like for bytes that are no archive
        raise AgentMixerError(
            f"agent {manifest.agent}: profile.npz cannot be used ({error}); export the bundle again"
        ) from error
    return profile


def _sensible(profile: Profile, whole: int, real: bool) -> None:
    """Raises ValueError for figures that no episodes give."""
    if not all(np.isfinite(array).all() for array in (*profile[:-1], *profile.relations)):
        raise ValueError("a figure is not finite")
    rows = [profile.quantiles, profile.first] + ([profile.actions] if real else [])
    within = np.abs(profile.correlation) <= 1, np.abs(profile.autocorrelation) <= 1, profile.change >= 0
    positive = (profile.counts >= 1).all() and (profile.unchanged >= 0).all()
    shares = real or ((profile.actions >= 0) & (profile.actions <= 1)).all()
    if not (all((np.diff(row, axis=1) >= 0).all() for row in rows) and all(part.all() for part in within)):
        raise ValueError("quantiles fall, or a correlation lies beyond 1")
    elements = profile.elements
    if not ((np.diff(elements) > 0).all() and elements[0] >= 0 and elements[-1] < whole):
        raise ValueError("its elements do not rise, or one does not exist")
    known = ((profile.partners >= 0) & (profile.partners < max(1, len(profile.quantiles)))).all()
    if not (positive and shares and known):
        raise ValueError("it counts less than one step, or names an element that does not exist")
