"""Golden traces: what the trained network did, step by step, for anything that runs the policy to repeat."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest, Tolerances
from agentmixer.errors import AgentMixerError


class Golden(NamedTuple):
    """T consecutive steps of one agent. obs [T, D]; action_mask [T, A]; reset [T], True where the recurrent
    state starts from zero; action [T]; logits [T, A]; state_out [T, H]."""

    obs: np.ndarray
    action_mask: np.ndarray
    reset: np.ndarray
    action: np.ndarray
    logits: np.ndarray
    state_out: np.ndarray


class Parity(NamedTuple):
    """How a replay compared. Errors are absolute maxima over legal logits and the recurrent state."""

    steps: int
    logits_error: float
    state_error: float
    different_actions: int
    near_ties: int
    #: First step whose action differs beyond a near tie, or whose numbers are out of tolerance; None if none.
    first_failure: int | None

    @property
    def passed(self) -> bool:
        """Nothing differs beyond the tolerances."""
        return self.first_failure is None


#: One step of a policy: obs [1, D], action_mask [1, A], state [1, H] -> [action [1], logits [1, A], state [1, H]].
StepFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], list[np.ndarray]]


def dump(golden: Golden) -> bytes:
    """The bytes of golden.npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **golden._asdict())
    return buffer.getvalue()


def parse(data: bytes, manifest: AgentManifest) -> Golden:
    """Read golden.npz (never unpickling). Raises AgentMixerError if it does not fit the manifest."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = Golden(**{name: arrays[name] for name in Golden._fields})
    except (ValueError, KeyError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise AgentMixerError(
            f"agent {manifest.agent}: golden.npz cannot be read ({error}); export the bundle again"
        ) from error
    steps = golden.reset.size
    obs, logits = manifest.tensor("obs").shape[0], manifest.tensor("logits").shape[0]
    wanted = Golden((steps, obs), (steps, logits), (steps,), (steps,), (steps, logits), (steps, manifest.state.size))  # type: ignore[arg-type]
    if any(array.shape != shape for array, shape in zip(golden, wanted, strict=True)):
        raise AgentMixerError(
            f"agent {manifest.agent}: golden.npz has other shapes than agent.json; export the bundle again"
        )
    return golden


def replay(golden: Golden, step: StepFunction, tolerances: Tolerances) -> Parity:
    """Run `step` freely along the trace: its own recurrent state is fed back, so errors may add up."""
    state = np.zeros((1, golden.state_out.shape[1]), np.float32)
    logits_error = state_error = 0.0
    different = ties = 0
    first: int | None = None
    for t in range(len(golden.reset)):
        if golden.reset[t]:
            state = np.zeros_like(state)
        action, logits, state = step(golden.obs[t : t + 1], golden.action_mask[t : t + 1], state)
        legal = golden.action_mask[t]
        gaps = np.abs(logits[0] - golden.logits[t])[legal], np.abs(state[0] - golden.state_out[t])
        logits_error, state_error = max(logits_error, float(gaps[0].max())), max(state_error, float(gaps[1].max()))
        close = np.allclose(
            logits[0][legal], golden.logits[t][legal], tolerances.relative, tolerances.absolute
        ) and np.allclose(state[0], golden.state_out[t], tolerances.relative, tolerances.absolute)
        if action[0] != golden.action[t]:
            different += 1
            tie = is_near_tie(golden.logits[t], int(action[0]), tolerances)
            ties += tie
            close = close and tie
        if not close and first is None:
            first = t
    return Parity(len(golden.reset), logits_error, state_error, different, ties, first)


def is_near_tie(logits: np.ndarray, action: int, tolerances: Tolerances) -> bool:
    """Whether `action` was as good as the best to within the tolerance. logits [A], the reference's."""
    return bool(logits.max() - logits[action] <= tolerances.near_tie)
