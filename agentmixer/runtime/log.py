"""What a device really fed its agent, and what the agent did: a log, written while it runs and audited afterwards.

T is the number of decisions, D the length of the observation, A the number of logits or means, W the length of an action's row.
"""

from __future__ import annotations

import io
import threading
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest, encode, sha256
from agentmixer.errors import AgentMixerError
from agentmixer.files import check_writable, read_regular, write_whole
from agentmixer.runtime import arrays
from agentmixer.runtime.actions import allowed

#: Most decisions that a log has, and most bytes that its arrays have together. The newest are kept.
MAX_STEPS = 100_000
MAX_BYTES = 1 << 24
#: Most bytes of the file: what does not compress grows by less than this.
MAX_FILE = MAX_BYTES + (1 << 16)
#: Most bytes of an agent's name.
_LONGEST_NAME = 1 << 12


class Log(NamedTuple):
    """T decisions of one agent in a row, the oldest first. The first may be in the middle of an episode: earlier ones may be gone."""

    #: [T, D] float32: what the agent was given. All are finite, for nothing else is decided on.
    obs: np.ndarray
    #: [T, A] bool: True where legal; all True where the task does not mask.
    mask: np.ndarray
    #: [T] bool: the decision was the first of an episode.
    fresh: np.ndarray
    #: [T] int64, [T, W] int64 or [T, W] float32, as `Agent.act` gives them; the fallback action where that was done.
    actions: np.ndarray
    #: The agent's name, and the SHA-256 of its agent.json in hexadecimal.
    agent: str
    digest: str


def _rows(manifest: AgentManifest) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Type and shape of one decision's part of each array: obs, mask, fresh, actions."""
    action = manifest.tensor("action")
    return (
        ("float32", manifest.tensor("obs").shape),
        ("bool", manifest.tensor(manifest.policy).shape),
        ("bool", ()),
        (action.dtype, action.shape),
    )


def longest(manifest: AgentManifest) -> int:
    """How many decisions of this agent a log has at most."""
    size = sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in _rows(manifest))
    return max(1, min(MAX_STEPS, MAX_BYTES // size))


class Logger:
    """Keeps the newest decisions of one agent. All room is taken when it is made, and nothing is allocated a decision.

    Several threads may add; their decisions stand in the order in which they come."""

    def __init__(self, manifest: AgentManifest, steps: int | None = None):
        """steps: how many decisions are kept; as many as a log may have unless given."""
        most = longest(manifest)
        self._size = most if steps is None else max(1, min(steps, most))
        self._arrays = tuple(np.zeros((self._size, *shape), dtype) for dtype, shape in _rows(manifest))
        self._agent, self._digest = manifest.agent, sha256(encode(manifest))
        self._lock = threading.Lock()
        self._fresh = True
        #: How many decisions were added, those included that are no longer kept.
        self.added = 0

    def reset(self) -> None:
        """An episode begins: the next decision is its first."""
        self._fresh = True

    def add(self, obs: np.ndarray, action_mask: np.ndarray | None, action: np.ndarray) -> None:
        """A decision. obs [D] float32; action_mask [A] bool, None where the task does not mask; action as `Agent.act` gives it."""
        with self._lock:
            at = self.added % self._size
            all_obs, all_masks, all_fresh, all_actions = self._arrays
            all_obs[at] = obs
            all_masks[at] = True if action_mask is None else action_mask
            all_fresh[at] = self._fresh
            all_actions[at] = action
            self._fresh = False
            self.added += 1

    def log(self) -> Log:
        """A copy of what is kept."""
        with self._lock:
            first = max(0, self.added - self._size)
            order = np.arange(first, self.added) % self._size
            obs, mask, fresh, actions = (array[order] for array in self._arrays)
            return Log(obs, mask, fresh, actions, self._agent, self._digest)

    def save(self, path: Path) -> None:
        """Write what is kept to `path`, whole. Nothing is written without a decision.

        Raises AgentMixerError if something else than a file has that name, OSError if it cannot be written."""
        if self.added:
            write_whole(path, dump(self.log()))


def check_place(path: Path) -> None:
    """Raises AgentMixerError if no log can be written to `path`."""
    try:
        check_writable(path)
    except OSError as error:
        raise AgentMixerError(
            f"no log can be written to {path} ({error.strerror}); make its folder, or choose another place"
        ) from error


def dump(log: Log) -> bytes:
    """The bytes of a log's file."""
    buffer = io.BytesIO()
    agent, digest = (np.frombuffer(data, np.uint8) for data in (log.agent.encode(), bytes.fromhex(log.digest)))
    np.savez_compressed(buffer, **{**log._asdict(), "agent": agent, "digest": digest})
    return buffer.getvalue()


def read(path: Path, manifest: AgentManifest) -> Log:
    """The log at `path`, a regular file. Raises AgentMixerError as `parse` does, and if there is no such file."""
    return parse(read_regular(path, MAX_FILE, links=None, again="give the file that a logger has written"), manifest)


def parse(data: bytes, manifest: AgentManifest) -> Log:
    """Read a log: never unpickling, and no more of it than `longest` decisions.

    Raises AgentMixerError if it is not a log, is of another agent than the manifest's, or holds what no agent could have been given
    or have done."""
    try:
        log = _read(data, manifest)
    except AgentMixerError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise what they like for bytes that are no archive
        raise AgentMixerError(
            f"agent {manifest.agent}: the log cannot be used ({error}); give the file that a logger has written"
        ) from error
    return log


def _read(data: bytes, manifest: AgentManifest) -> Log:
    with arrays.opened(data, Log._fields) as archive:
        size = arrays.header(archive, "agent")[1][0]
        if not 0 < size <= _LONGEST_NAME:
            raise ValueError(f"it names an agent in {size:,} bytes")
        agent = arrays.read(archive, "agent", "uint8", (size,)).tobytes().decode()
        digest = arrays.read(archive, "digest", "uint8", (32,)).tobytes().hex()
        if digest != (own := sha256(encode(manifest))):
            raise AgentMixerError(
                f"the log is of agent {agent!r}, whose agent.json has the SHA-256 {digest}, and not of {manifest.agent!r} ({own}); "
                "give the log of this agent, or the folder that the log was made with"
            )
        steps, most = arrays.header(archive, "fresh")[1][0], longest(manifest)
        if not 0 < steps <= most:
            raise ValueError(f"it holds {steps:,} decisions, where 1 to {most:,} are possible")
        obs, mask, fresh, actions = (
            arrays.read(archive, name, dtype, (steps, *shape))
            for name, (dtype, shape) in zip(Log._fields, _rows(manifest), strict=False)
        )
    if not np.isfinite(obs).all() or max(mask.view(np.uint8).max(), fresh.view(np.uint8).max()) > 1:
        raise ValueError("it holds an observation that is not finite, or a truth value that is neither true nor false")
    if not allowed(manifest.action_space, actions).all():
        raise ValueError("it holds an action that does not exist")
    return Log(obs, mask, fresh, actions, agent, digest)
