"""Recorded episodes as a page holds them: arrays with time last, small numbers, deflated, as text.

`templates/replay_data.js` reads what is written here. T is the number of steps, N of agents, K of shapes.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.tasks.scene import Scene
from agentmixer.validate.recording import Episode, Recording

#: An episode is worth cutting if this many steps of it remain.
FEWEST_STEPS = 20
#: Real-valued actions that are nearer to each other than this are taken for the same where arms are compared.
SAME = 1e-4
#: Most of steps * agents * shapes, about: what is worked out of a recording before it is known whether it fits.
_MOST_WORK, _SHAPES = 50_000_000, 48
#: Stands for NaN among 16-bit numbers.
_NAN = 65535


class Packed(NamedTuple):
    """Episodes that fit: JSON values, and a sentence that says how many these are of how many."""

    episodes: list[dict[str, Any]]
    told: str


def packed(
    recording: Recording, spec: TaskSpec, scene: Callable[[Episode], Scene | None], budget: int, exact: bool = False
) -> Packed:
    """As many episodes as fit into `budget` bytes, the last one cut if need be.

    scene: what an episode looks like, None if that is not known; exact: keep observations bit for bit, so that policies can
    decide on them again."""
    numbers = sorted({episode.number for episode in recording.episodes})
    made: list[dict[str, Any]] = []
    left, cut = budget, 0
    for number in numbers:
        whole = [episode for episode in recording.episodes if episode.number == number]
        most = _MOST_WORK // (spec.num_agents**2 * min(max(spec.obs_sizes), _SHAPES))
        arms = [shortened(episode, most) for episode in whole]
        cut = most if any(len(episode.actions) > most for episode in whole) else 0
        if cut and cut < FEWEST_STEPS:
            cut = 0
            break
        one = _episode(arms, spec, scene, exact)
        size, longest = len(one["packed"]), max(len(arm.actions) for arm in arms)
        while size > left:  # a share of the steps takes about that share of the room
            steps = min(longest - 1, int(0.95 * left / size * longest))
            if steps < FEWEST_STEPS:
                cut = 0
                break
            arms = [shortened(arm, steps) for arm in arms]
            one = _episode(arms, spec, scene, exact)
            size, longest = len(one["packed"]), steps
            cut = steps
        if size > left:
            break
        made.append(one)
        left -= size
        if cut:
            break
    return Packed(made, _told(len(made) - bool(cut), cut, recording.played))


def shortened(episode: Episode, steps: int) -> Episode:
    """The first steps of an episode."""
    if len(episode.actions) <= steps:
        return episode
    moments = {name: getattr(episode, name)[: steps + 1] for name in ("states", "obs", "masks", "active")}
    frames = None if episode.frames is None else episode.frames[: steps + 1]
    return episode._replace(
        **moments,
        frames=frames,
        actions=episode.actions[:steps],
        decided=episode.decided[:steps],
        rewards=episode.rewards[:steps],
        won=False,
        ended=False,
    )


def parted(arms: list[Episode]) -> int | None:
    """The first step in which two arms act differently; None if they never do, or if there is one arm only."""
    if len(arms) < 2:
        return None
    ours, theirs = arms[0].actions, arms[1].actions
    both = min(len(ours), len(theirs))
    far = np.abs(ours[:both].astype(np.float64) - theirs[:both]).reshape(both, -1) > SAME
    found = np.flatnonzero(far.any(1))
    return int(found[0]) if len(found) else None if len(ours) == len(theirs) else both


def _told(whole: int, cut: int, played: int) -> str:
    """How much of what was played is here."""
    many = "1 episode" if played == 1 else f"{played:,} episodes"
    if whole == played:
        return f"Here {'is' if played == 1 else 'are all'} {many}."
    kept = f"{whole:,} of {many}" if whole else ""
    rest = (
        f"the first {cut:,} steps of {'another' if whole else many if played == 1 else f'one of {many}'}" if cut else ""
    )
    return f"As much as fits into this page: {' and '.join(filter(None, [kept, rest]))}."


def _episode(
    arms: list[Episode], spec: TaskSpec, scene: Callable[[Episode], Scene | None], exact: bool
) -> dict[str, Any]:
    buffer, heads = _Buffer(), []
    for arm in arms:
        keep = exact and arm.arm == "deployed"
        heads.append(_arm(arm, scene(arm), buffer, exact=keep or spec.discrete))
    head = json.dumps(heads, allow_nan=False, separators=(",", ":")).encode()
    data = len(head).to_bytes(4, "little") + head + b"".join(buffer.parts)
    return {
        "number": arms[0].number,
        "parted": parted(arms),
        "arms": [
            {
                "arm": arm.arm,
                "steps": len(arm.actions),
                "outcome": _outcome(arm, spec),
                "return": round(float(arm.rewards.sum()), 4),
            }
            for arm in arms
        ],
        "packed": base64.b64encode(zlib.compress(data, 9)).decode(),
    }


def _outcome(episode: Episode, spec: TaskSpec) -> str:
    if not episode.ended:
        return "not to its end"
    return ("won" if episode.won else "lost") if spec.reports_wins else ""


class _Buffer:
    """Arrays behind each other. What `add` returns says where one lies and how it is read."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._size = 0

    def _append(self, data: bytes) -> int:
        at = self._size
        self.parts.append(data)
        self._size += len(data)
        return at

    def add(self, array: np.ndarray, exact: bool = False) -> dict[str, Any]:
        """array [T, ...]. bool and uint8 are kept as they are; numbers as float32 if `exact`, else as 16 bits each between
        the least and the greatest of their last axis."""
        last = np.ascontiguousarray(np.moveaxis(array, 0, -1))
        if array.dtype in (np.bool_, np.uint8):
            return {"as": "u1", "at": self._append(last.astype(np.uint8).tobytes()), "size": last.size}
        if exact:
            return {"as": "f4", "at": self._append(last.astype("<f4").tobytes()), "size": last.size}
        rows = array.astype(np.float64).reshape(-1, array.shape[-1])
        known = np.where(np.isfinite(rows), rows, np.nan)
        some = np.isfinite(known).any(0)
        low, high = (
            f(known, axis=0, initial=i, where=np.isfinite(known)) for f, i in ((np.min, np.inf), (np.max, -np.inf))
        )
        low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
        step = (high - low) / (_NAN - 1)
        codes = np.rint((array.astype(np.float64) - low) / np.where(step > 0, step, 1.0))
        codes = np.moveaxis(np.where(np.isfinite(array), codes, _NAN), 0, -1).astype(np.uint16)
        codes[..., 1:] -= codes[..., :-1].copy()  # what changes from one moment to the next is small, and deflates well
        planes = codes.astype("<u2").reshape(-1, 1).view(np.uint8).T.tobytes()
        return {
            "as": "u2",
            "at": self._append(planes),
            "size": codes.size,
            "moments": len(array),
            "low": [float(f"{value:.7g}") for value in low],
            "step": [float(f"{value:.7g}") for value in step],
        }

    def pictures(self, frames: np.ndarray) -> list[dict[str, Any]]:
        """frames [T + 1, H, W, 3] uint8, each as WebP."""
        from PIL import Image  # only where an environment renders

        found = []
        for frame in frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "WEBP", quality=70, method=4)
            found.append({"at": self._append(file.getvalue()), "size": file.tell()})
        return found


def _arm(episode: Episode, scene: Scene | None, buffer: _Buffer, exact: bool) -> dict[str, Any]:
    """How one arm's arrays are read, and what does not change over the episode."""
    head: dict[str, Any] = {
        "obs": buffer.add(episode.obs, exact),
        "actions": buffer.add(episode.actions.reshape(*episode.actions.shape[:2], -1), exact=True),
        "masks": buffer.add(episode.masks),
        "active": buffer.add(episode.active),
        "decided": buffer.add(episode.decided),
        "actionWidth": int(np.prod(episode.actions.shape[2:], dtype=int)),
    }
    if scene is not None:
        head["scene"] = _scene(scene, buffer)
    elif episode.frames is not None:
        head["pictures"] = buffer.pictures(episode.frames)
        head["shape"] = list(episode.frames.shape[1:3])
    return head


def _scene(scene: Scene, buffer: _Buffer) -> dict[str, Any]:
    return {
        "width": float(scene.width),
        "height": float(scene.height),
        "axes": int(scene.at.shape[-1]),
        "shapes": [list(shape) for shape in scene.shapes],
        "sight": [None if np.isnan(value) else float(value) for value in scene.sight],
        "captions": list(scene.captions),
        "at": buffer.add(scene.at),
        "to": buffer.add(scene.to),
        "shown": buffer.add(scene.shown),
        "level": buffer.add(scene.level),
        "seen": buffer.add(scene.seen),
        "centre": None if scene.centre is None else buffer.add(scene.centre),
    }


def real_valued(spec: TaskSpec) -> list[bool]:
    """Whether each agent's actions are real values, which no two runtimes compute alike to the last bit."""
    return [isinstance(space, Box) and not space.whole for space in spec.action_spaces]
