"""Faults of wiring: what goes wrong in the code that puts an agent's observation together. Nothing of it crashes.

The agent is given the wrong observation, and the task goes on unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.runtime.named import Observation

#: How each kind is typed.
EXAMPLES = {
    "swap": "swap=agent_0:own.x,own.y",
    "permute": "permute=agent_0:own.*",
    "scale": "scale=agent_0:own.angle:57.3",
    "flip": "flip=agent_0:own.x",
    "offset": "offset=agent_0:own.x:0.5",
    "freeze": "freeze=agent_0:own.x@20",
    "lag": "lag=agent_0:own.x:3",
}
#: Largest factor and offset either way, and largest step and number of steps.
LARGEST, LONGEST = 1e6, 10_000


class Wiring:
    """One fault of one agent.

    | kind | what becomes of the elements |
    |---|---|
    | swap, permute | each has the value of the next one, the last has the value of the first |
    | scale, flip, offset | times `value`; times -1; plus `value` |
    | freeze | from step `value` of each episode on, each keeps the value that it had then |
    | lag | each has the value of `value` steps before; the episode's first value until there are as many |

    agent: its index; elements: indices in its observation; told: the fault as it is typed."""

    def __init__(self, kind: str, elements: Sequence[int], value: float = 0.0, agent: int = 0, told: str = ""):
        self.kind, self.elements, self.value = kind, list(elements), value
        self.agent, self.told = agent, told or kind
        self._step = 0
        self._past: deque[np.ndarray] = deque(maxlen=int(value) + 1 if kind == "lag" else 1)

    def apply(self, obs: np.ndarray, fresh: bool) -> np.ndarray:
        """The observation as the fault leaves it: a copy. obs [D] float32; fresh: it is the first of an episode."""
        if fresh:
            self._step = 0
            self._past.clear()
        wrong = obs.copy()
        wrong[self.elements] = self._wrong(obs[self.elements])
        self._step += 1
        return wrong

    def apply_all(self, obs: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """The same of observations in a row. obs [T, D] float32; fresh [T] bool. Returns a new array."""
        return np.stack([self.apply(row, bool(begins)) for row, begins in zip(obs, fresh, strict=True)])

    def _wrong(self, right: np.ndarray) -> np.ndarray:
        """What becomes of the elements' values."""
        if self.kind in ("swap", "permute"):
            return np.roll(right, -1)
        if self.kind == "scale":
            return right * np.float32(self.value)
        if self.kind == "flip":
            return -right
        if self.kind == "offset":
            return right + np.float32(self.value)
        if self.kind == "lag" or self._step <= self.value:  # a frozen element: the newest value until it freezes
            self._past.append(right)
        return self._past[0]


def parse_wiring(text: str, manifests: Mapping[str, AgentManifest]) -> Wiring:
    """A fault as typed, such as those in `EXAMPLES`. manifests: of the team's agents, by name, in their order.

    An element is given by its name, and where one is asked for a group of them will do. Raises AgentMixerError naming the text that
    means nothing, or the element or agent that does not exist, and what it may be."""
    kind, _, rest = text.partition("=")
    agent, _, what = rest.partition(":")
    example = EXAMPLES[kind]
    if agent not in manifests:
        raise AgentMixerError(
            f"fault '{text}' names an agent that this team lacks{nearest(agent, manifests)}; write it like {example}"
        )
    value = 0.0
    if kind in ("scale", "offset", "lag", "freeze"):
        what, _, number = what.rpartition("@" if kind == "freeze" else ":")
        value = _number(number, text, example, whole=kind in ("lag", "freeze"))
    manifest = manifests[agent]
    names = _pair(what, manifest.tensor("obs").elements) if kind == "swap" else [what]
    elements = [int(index) for name in names for index in indices(manifest, name)]
    if kind == "swap" and not len(names) == len(set(elements)) == len(elements) == 2:
        raise AgentMixerError(f"fault '{text}' does not name two elements to swap; write it like {example}")
    if kind == "permute" and len(elements) < 2:
        raise AgentMixerError(f"fault '{text}' names no group of two elements or more; write it like {example}")
    return Wiring(kind, elements, value, list(manifests).index(agent), text)


def _pair(what: str, known: Sequence[str]) -> list[str]:
    """What stands on both sides of a comma. A name may hold commas itself, so both sides are names where that can be."""
    pairs = [[what[:at], what[at + 1 :]] for at, letter in enumerate(what) if letter == ","]
    return next((pair for pair in pairs if {*pair} <= {*known}), what.split(","))


def indices(manifest: AgentManifest, name: str) -> np.ndarray:
    """Where an element, or each element of a group such as `own.*`, stands in the observation. Raises AgentMixerError for an
    unknown name."""
    numbered = Observation(manifest)
    numbered.array[:] = np.arange(len(numbered.names))
    return np.ravel(numbered[name]).astype(np.int64)


def _number(number: str, text: str, example: str, whole: bool) -> float:
    try:
        value = float(int(number) if whole else float(number))
    except ValueError:
        value = np.nan
    if not (0 <= value <= LONGEST if whole else abs(value) <= LARGEST):
        wanted = f"a whole number from 0 to {LONGEST:,}" if whole else f"a number from {-LARGEST:g} to {LARGEST:g}"
        raise AgentMixerError(f"fault '{text}' does not end with {wanted}; write it like {example}")
    return value
