"""The task specification: what a team sees, what it may do and how often."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: Agents' names are folder names: nothing that could lead elsewhere.
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
#: Seconds between two decisions, from a tenth of a millisecond to eleven days.
SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 1e-4, 1e6
Period = Annotated[float, msgspec.Meta(ge=SHORTEST_PERIOD_S, le=LONGEST_PERIOD_S)]
#: A count in a manifest. Nothing in one is larger.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62) - 1)]


#: A bound of an action element; graphs clamp in float32, so it must be finite there.
_LARGEST = 3.4028234663852886e38
Bound = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
#: Most actions that an agent may choose from.
MOST_ACTIONS = 1 << 24


class Discrete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="discrete"):
    """Actions 0 .. n-1."""

    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_ACTIONS)]


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="box"):
    """Real-valued actions, one bound an element, in the task's own units."""

    low: tuple[Bound, ...]
    high: tuple[Bound, ...]

    @property
    def n(self) -> int:
        """Number of action elements."""
        return len(self.low)


ActionSpace = Discrete | Box
#: One agent's action in the task's own terms: a number (Discrete), or one real value an element (Box).
Action = int | tuple[float, ...]
OptionValue = bool | int | float | str


class TaskSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a task promises. `obs_names`, `action_spaces`, `fallback_actions` hold one entry an agent, in
    `agents` order; agents may differ in all three, but a team's action spaces are all Discrete or all Box.

    `options` are the task's own settings as resolved (`--env-arg`); `reports_wins` says whether an episode
    can be won, beside having a return; `control_period_s` is the time one environment step stands for, in
    seconds; `episode_limit` counts environment steps; `state_size` is the length of the global state, which
    only training sees; a fallback action is what an agent does when no decision arrives in time, and must
    always be legal; `shared` says in words what agents have in common by the task's own rules.
    """

    name: str
    scenario: str
    backend: str
    options: dict[str, OptionValue]
    agents: tuple[Name, ...]
    obs_names: tuple[tuple[str, ...], ...]
    state_size: Count
    action_spaces: tuple[ActionSpace, ...]
    has_action_mask: bool
    reports_wins: bool
    episode_limit: Count
    control_period_s: Period
    fallback_actions: tuple[Action, ...]
    shared: str

    @property
    def num_agents(self) -> int:
        """N, the size of the team."""
        return len(self.agents)

    @property
    def obs_sizes(self) -> tuple[int, ...]:
        """Observation length of each agent."""
        return tuple(len(names) for names in self.obs_names)

    @property
    def discrete(self) -> bool:
        """Whether the team's actions are discrete."""
        return isinstance(self.action_spaces[0], Discrete)


def allows(space: ActionSpace, action: Action) -> bool:
    """Whether `action` is one of `space`."""
    if isinstance(space, Discrete):
        return isinstance(action, int) and 0 <= action < space.n
    return (
        isinstance(action, tuple)
        and len(action) == len(space.low) == len(space.high) > 0
        and all(low <= value <= high for low, value, high in zip(space.low, action, space.high, strict=True))
    )
