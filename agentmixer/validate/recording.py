"""Episodes as they were played, for replays: what everybody saw and did, step by step.

T is the number of steps of an episode, N of agents, D, S and A as in `tasks.base.TaskStep`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import REPORTS_FOLDER
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular
from agentmixer.runtime import arrays
from agentmixer.runtime.actions import allowed
from agentmixer.tasks.base import LARGEST, Pictures, Rendering, Task, TaskStep

#: The arms that are recorded, side by side on the same episodes.
ARMS = ("joint", "deployed")
#: Most bytes that the arrays of all episodes have together, before they are compressed.
BUDGET = 24_000_000
#: Most bytes of a file; float32 noise does not get smaller by compressing it.
MAX_FILE = BUDGET + (1 << 20)
MAX_EPISODES = 1 << 16
#: Real-valued actions that are nearer to each other than this are taken for the same where arms are compared.
SAME = 1e-4
AGAIN = "run agentmixer deploy-sim again"


class Episode(NamedTuple):
    """One episode of one arm. Index 0 of T + 1 is the start; the last is the end, and not the next episode's start."""

    #: "joint" or "deployed".
    arm: str
    #: Which of the paired episodes.
    number: int
    #: [T + 1, S] float32.
    states: np.ndarray
    #: [T + 1, N, D] float32, padded as in a TaskStep.
    obs: np.ndarray
    #: [T + 1, N, A] bool. At an end, where nobody acts any more, the last but one is repeated.
    masks: np.ndarray
    #: [T + 1, N] bool: who can still act. Repeated in the same way.
    active: np.ndarray
    #: [T, N] int32 or [T, N, W] float32, in the task's own units.
    actions: np.ndarray
    #: [T, N] bool: whose action is its own decision, and not the fallback of an agent whose decision came late or was invalid.
    decided: np.ndarray
    #: [T] float32.
    rewards: np.ndarray
    won: bool
    #: False if it was cut off, by whoever played it or because no more steps could be kept.
    ended: bool
    #: [T + 1, H, W, 3] uint8 where the environment renders, else None.
    frames: np.ndarray | None = None


class Recording(NamedTuple):
    """Some of a rehearsal's episodes, by arm and number."""

    episodes: tuple[Episode, ...]
    #: How many were played an arm; more than are kept if those did not fit.
    played: int

    def find(self, arm: str, number: int) -> Episode | None:
        """An arm's episode of that number; None if it was not kept."""
        return next((one for one in self.episodes if (one.arm, one.number) == (arm, number)), None)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the episodes that were kept, each once."""
        return sorted({episode.number for episode in self.episodes})


def first_difference(one: Episode, other: Episode) -> int | None:
    """The first step in which two arms act differently in the same episode, or in which only one still acts; None if there
    is none."""
    both = min(len(one.actions), len(other.actions))
    far = np.abs(one.actions[:both].astype(np.float64) - other.actions[:both]).reshape(both, -1).max(1) > SAME
    if far.any():
        return int(far.argmax())
    return None if len(one.actions) == len(other.actions) else both


class Recorder:
    """Keeps the first episodes that an arm plays, whole, while their arrays have `room` bytes; of the first one as many
    steps as fit. All steps are those of a task with one environment."""

    def __init__(self, arm: str, room: int = BUDGET // len(ARMS)):
        self.arm, self.room, self.played = arm, room, 0
        self.episodes: list[Episode] = []
        self._pictures: Pictures | None = None

    @contextlib.contextmanager
    def of(self, task: Task) -> Iterator[None]:
        """While `task` is played, its pictures are taken too, if it renders any."""
        self._pictures = task.pictures if isinstance(task, Rendering) else None
        if self._pictures:
            self._pictures.wanted = True
        try:
            yield
        finally:
            if self._pictures:
                self._pictures.wanted = False

    def begin(self, step: TaskStep) -> None:
        """An episode has started."""
        self._fits = len(self.episodes) == self.played  # else one before did not fit
        self.played += 1
        self._kept: dict[str, list[np.ndarray]] = {}
        if self._fits:
            self._last = np.array(step.action_mask)[:, 0], np.array(step.active)[:, 0]
            frame = self._pictures.now if self._pictures else None
            self._keep(frame, states=np.array(step.state)[0], obs=np.array(step.obs)[:, 0])

    def add(self, action: np.ndarray, decided: np.ndarray, step: TaskStep) -> None:
        """An action [N] or [N, W] led to `step`. decided [N]: as in `Episode`."""
        if not self._fits:
            return
        if not (np.asarray(step.terminated)[0] or np.asarray(step.truncated)[0]):
            self._last = np.array(step.action_mask)[:, 0], np.array(step.active)[:, 0]
        frame = self._pictures.final if self._pictures else None
        self._keep(
            frame, states=np.array(step.final_state)[0], obs=np.array(step.final_obs)[:, 0], actions=np.array(action),
            decided=np.array(decided), rewards=np.array(step.reward)[0],
        )  # fmt: skip

    def end(self, won: bool, ended: bool) -> None:
        """The episode is over. ended: False if it was cut off."""
        if "actions" in self._kept and (self._fits or self.played == 1):
            if len(self._kept.get("frames", ())) < len(self._kept["states"]):
                self._kept.pop("frames", None)  # not every moment has one
            arrays = {name: np.stack(kept) for name, kept in self._kept.items()}
            whole = ended and self._fits
            self.episodes.append(Episode(arm=self.arm, number=self.played - 1, **arrays, won=won, ended=whole))

    def _keep(self, frame: np.ndarray | None, **arrays: np.ndarray) -> None:
        """Keep a moment, and the step to it, if both fit."""
        mask, active = self._last
        arrays |= {"masks": mask, "active": active}
        if frame is not None and frame.shape == self._kept.get("frames", [frame])[0].shape:
            arrays["frames"] = frame
        self.room -= sum(array.nbytes for array in arrays.values())
        self._fits = self.room >= 0
        if self._fits:
            for name, array in arrays.items():
                self._kept.setdefault(name, []).append(array)


def recorders() -> dict[str, Recorder]:
    """One for each arm of ARMS."""
    return {arm: Recorder(arm) for arm in ARMS}


def gathered(recorders: Mapping[str, Recorder]) -> Recording:
    """What they kept: of every arm the same episodes."""
    fewest = min(len(recorder.episodes) for recorder in recorders.values())
    kept = [episode for recorder in recorders.values() for episode in recorder.episodes[:fewest]]
    if len({None if episode.frames is None else episode.frames.shape[1:] for episode in kept}) > 1:
        kept = [episode._replace(frames=None) for episode in kept]  # a file holds pictures of one size
    return Recording(tuple(kept), max(recorder.played for recorder in recorders.values()))


#: Arrays of a file, in order. Those of all episodes follow one another along the first axis.
_PER_EPISODE = {"arm": "uint8", "number": "int32", "steps": "int32", "won": "bool", "ended": "bool"}
_PER_MOMENT = {"states": "float32", "obs": "float32", "masks": "bool", "active": "bool", "frames": "uint8"}
_MEMBERS = ("played", *_PER_EPISODE, *_PER_MOMENT, "actions", "decided", "rewards")
#: The shape of frames where there are none.
_NO_FRAMES = (0, 0, 3)


def dump(recording: Recording) -> bytes:
    """The bytes of a file (.npz) that `load` reads. There must be an episode."""
    episodes = recording.episodes
    stored: dict[str, np.ndarray] = {
        "played": np.array(recording.played, np.int32),
        "arm": np.array([ARMS.index(episode.arm) for episode in episodes], np.uint8),
        "number": np.array([episode.number for episode in episodes], np.int32),
        "steps": np.array([len(episode.rewards) for episode in episodes], np.int32),
        "won": np.array([episode.won for episode in episodes]),
        "ended": np.array([episode.ended for episode in episodes]),
    }
    for name in _MEMBERS[len(stored) :]:
        parts = [getattr(episode, name) for episode in episodes]
        moments = sum(len(episode.states) for episode in episodes)
        stored[name] = np.zeros((moments, *_NO_FRAMES), np.uint8) if parts[0] is None else np.concatenate(parts)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def load(path: Path, spec: TaskSpec) -> Recording:
    """Read a recording of that task: never unpickling, and no more of it than a recording may have.

    Raises AgentMixerError naming the file if it is too large, damaged, or not a recording of the task."""
    data = read_regular(path, MAX_FILE, again=AGAIN)
    try:
        return _parse(data, spec)
    except Exception as error:  # zipfile, zlib and numpy raise what they like for bytes that are no archive
        told = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else error
        raise AgentMixerError(f"{path} is no recording of {spec.name} {spec.scenario} ({told}); {AGAIN}") from error


def newest(bundle: Path) -> Path:
    """The recording that deploy-sim wrote last into a bundle. Raises AgentMixerError if there is none."""
    folder = bundle / REPORTS_FOLDER
    found = [file for file in folder.glob("deploy_sim*.npz") if not file.is_symlink()]
    if not found:
        raise AgentMixerError(f"{bundle} holds no recorded episodes; run agentmixer deploy-sim {bundle}")
    return max(found, key=lambda file: file.stat().st_mtime_ns)


def _parse(data: bytes, spec: TaskSpec) -> Recording:
    """Raises ValueError, or what zipfile raises, for what `dump` does not write of the task."""
    agents, entries = spec.num_agents, max(space.n for space in spec.action_spaces)
    action = ("int32", (agents,)) if spec.discrete else ("float32", (agents, spec.action_size))
    with arrays.opened(data, _MEMBERS) as archive:
        (episodes,) = arrays.header(archive, "arm")[1]
        if not 0 < episodes <= MAX_EPISODES:
            raise ValueError(f"it holds {episodes:,} episodes, where 1 to {MAX_EPISODES:,} are possible")
        each = {name: arrays.read(archive, name, dtype, (episodes,)) for name, dtype in _PER_EPISODE.items()}
        played = int(arrays.read(archive, "played", "int32", ()))
        steps = [int(count) for count in each["steps"]]
        if min(steps) < 1 or not set(each["arm"]) <= set(range(len(ARMS))) or not 0 <= max(each["number"]) < played:
            raise ValueError("it holds episodes that no rehearsal plays")
        total, moments = sum(steps), sum(steps) + episodes
        frame = arrays.header(archive, "frames")[1][1:]
        if len(frame) != 3 or frame[2] != 3:
            raise ValueError(f"its frames have the shape {list(frame)}")
        rows = {"states": (spec.state_size,), "obs": (agents, max(spec.obs_sizes)), "masks": (agents, entries),
                "active": (agents,), "frames": frame}  # fmt: skip
        called: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (dtype, (moments, *rows[name])) for name, dtype in _PER_MOMENT.items()
        }
        called |= {"actions": (action[0], (total, *action[1])), "decided": ("bool", (total, agents))}
        called["rewards"] = ("float32", (total,))
        size = sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in called.values())
        if size > BUDGET:
            raise ValueError(f"its arrays have {size:,} bytes, where {BUDGET:,} are possible")
        found = {name: arrays.read(archive, name, dtype, shape) for name, (dtype, shape) in called.items()}
    _sensible(found, spec)
    ends = np.cumsum(steps)
    made = []
    for k, end in enumerate(ends):
        moment, step = slice(end - steps[k] + k, end + k + 1), slice(end - steps[k], end)
        parts = {name: array[moment if name in _PER_MOMENT else step] for name, array in found.items()}
        if frame == _NO_FRAMES:
            del parts["frames"]
        arm, won, ended = ARMS[each["arm"][k]], bool(each["won"][k]), bool(each["ended"][k])
        made.append(Episode(arm=arm, number=int(each["number"][k]), **parts, won=won, ended=ended))
    return Recording(tuple(made), played)


def _sensible(found: Mapping[str, np.ndarray], spec: TaskSpec) -> None:
    """Raises ValueError naming numbers that no task gives, or actions that no agent has."""
    for name in ("states", "obs", "rewards", "actions"):
        if not (np.abs(found[name]) <= LARGEST).all():  # a NaN compares as larger
            raise ValueError(f"its {name} are not finite")
    for i, space in enumerate(spec.action_spaces):
        row = found["actions"][:, i] if spec.discrete else found["actions"][:, i, : space.size]
        if not isinstance(space, Box) and not allowed(space, row).all():
            raise ValueError(f"agent {spec.agents[i]} does what it cannot")
