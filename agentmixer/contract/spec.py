"""The task specification: what a team sees, what it may do and how often."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: Agents' names are folder names: nothing that could lead elsewhere.
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]


class Discrete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="discrete"):
    """Actions 0 .. n-1."""

    n: Annotated[int, msgspec.Meta(ge=1)]


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="box"):
    """Real-valued actions, one bound an element, in the task's own units."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of action elements."""
        return len(self.low)


ActionSpace = Discrete | Box


class TaskSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a task promises. `obs_names`, `action_spaces` hold one entry an agent, in `agents` order.

    `control_period_s` is the time one environment step stands for, in seconds; `episode_limit` counts
    environment steps; `state_size` is the length of the global state, which only training sees;
    `fallback_action` is what a discrete agent does when no decision arrives in time, and must always be
    legal; `shared` says in words what agents have in common by the task's own rules (reward, clock).
    """

    name: str
    scenario: str
    backend: str
    agents: tuple[Name, ...]
    obs_names: tuple[tuple[str, ...], ...]
    state_size: int
    action_spaces: tuple[ActionSpace, ...]
    has_action_mask: bool
    episode_limit: int
    control_period_s: Annotated[float, msgspec.Meta(gt=0)]
    fallback_action: int
    shared: str

    @property
    def num_agents(self) -> int:
        """N, the size of the team."""
        return len(self.agents)

    @property
    def obs_sizes(self) -> tuple[int, ...]:
        """Observation length of each agent."""
        return tuple(len(names) for names in self.obs_names)
