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
#: What stands for the bound of an element that has none.
NO_BOUND = 1e15
#: Most actions that an agent may choose from.
MOST_ACTIONS = 1 << 24


#: How many values a whole number may have, and the least of them.
Choices = Annotated[int, msgspec.Meta(ge=1, le=MOST_ACTIONS)]
Start = Annotated[int, msgspec.Meta(ge=-MOST_ACTIONS, le=MOST_ACTIONS)]


class Discrete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="discrete"):
    """An action is one of the whole numbers start .. start + n - 1."""

    n: Choices
    start: Start = 0

    @property
    def size(self) -> int:
        """Number of elements of an action."""
        return 1

    @property
    def choices(self) -> tuple[tuple[int, int], ...]:
        """Of each element how many values it may have, and the least of them."""
        return ((self.n, self.start),)


class MultiDiscrete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="multi_discrete"):
    """An action is a row of whole numbers; element k is one of starts[k] .. starts[k] + sizes[k] - 1."""

    sizes: tuple[Choices, ...]
    starts: tuple[Start, ...]

    @property
    def n(self) -> int:
        """Number of logits, and of mask elements: those of element 0 first, then those of element 1, and so on."""
        return sum(self.sizes)

    @property
    def size(self) -> int:
        """Number of elements of an action."""
        return len(self.sizes)

    @property
    def choices(self) -> tuple[tuple[int, int], ...]:
        """Of each element how many values it may have, and the least of them."""
        return tuple(zip(self.sizes, self.starts, strict=True))


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="box"):
    """An action is a row of real values, one bound an element, in the task's own units.

    whole: every value is rounded to a whole number, half to even. A bound of NO_BOUND either way is none."""

    low: tuple[Bound, ...]
    high: tuple[Bound, ...]
    whole: bool = False

    @property
    def n(self) -> int:
        """Number of means: one an element."""
        return len(self.low)

    @property
    def size(self) -> int:
        """Number of elements of an action."""
        return len(self.low)


ActionSpace = Discrete | MultiDiscrete | Box
#: One agent's action in the task's own terms: a whole number (Discrete), a row of whole numbers (MultiDiscrete) or of real
#: values (Box).
Action = int | tuple[int | float, ...]
OptionValue = bool | int | float | str


#: A word or a few about an element: a unit, a frame, a group.
Word = Annotated[str, msgspec.Meta(max_length=64)]


class Element(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody has said of an element of an observation beside its name; nothing where nobody has.

    unit: for example "rad", "m/s", or "1" for a share; low, high: where its values lie by the task's own rules, both
    inclusive; frame: what it is measured against, for example "map" or "own position"; group: elements that belong
    together and are set at once, for example "enemy_0". Unless a group is said, an element belongs to what stands before the first
    dot of its name."""

    unit: Word = ""
    low: Bound | None = None
    high: Bound | None = None
    frame: Word = ""
    group: Word = ""


class TaskSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a task promises. `obs_names`, `action_spaces`, `fallback_actions` hold one entry an agent, in
    `agents` order; agents may differ in all three. So do `obs_elements`, what is known of each element of an observation, and
    `action_names`, a name for each action of a Discrete space or each element of another; both are empty where the task says
    nothing, and so is an agent's entry.

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
    obs_elements: tuple[tuple[Element, ...], ...] = ()
    action_names: tuple[tuple[str, ...], ...] = ()

    @property
    def num_agents(self) -> int:
        """N, the size of the team."""
        return len(self.agents)

    @property
    def obs_sizes(self) -> tuple[int, ...]:
        """Observation length of each agent."""
        return tuple(len(names) for names in self.obs_names)

    def elements_of(self, agent: int) -> tuple[Element, ...]:
        """What the task says of the elements that an agent observes; empty if nothing."""
        return self.obs_elements[agent] if self.obs_elements else ()

    def actions_of(self, agent: int) -> tuple[str, ...]:
        """What the task calls an agent's actions; empty if nothing."""
        return self.action_names[agent] if self.action_names else ()

    @property
    def discrete(self) -> bool:
        """Whether every agent's action is one whole number."""
        return all(isinstance(space, Discrete) for space in self.action_spaces)

    @property
    def real_valued(self) -> bool:
        """Whether every agent's action is a row of real values. A team may be neither discrete nor real-valued."""
        return all(isinstance(space, Box) for space in self.action_spaces)

    @property
    def action_size(self) -> int:
        """Elements of the longest action in the team."""
        return max(space.size for space in self.action_spaces)


def allows(space: ActionSpace, action: Action) -> bool:
    """Whether `action` is one of `space`."""
    if isinstance(space, Box):
        return (
            isinstance(action, tuple)
            and len(action) == len(space.low) == len(space.high) > 0
            and all(low <= value <= high for low, value, high in zip(space.low, action, space.high, strict=True))
        )
    if isinstance(space, MultiDiscrete) and not 0 < len(space.sizes) == len(space.starts):
        return False
    values = (action,) if isinstance(space, Discrete) else action
    return (
        isinstance(values, tuple)
        and len(values) == space.size
        and all(
            isinstance(value, int) and start <= value < start + n
            for value, (n, start) in zip(values, space.choices, strict=True)
        )
    )
