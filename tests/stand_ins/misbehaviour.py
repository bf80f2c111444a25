"""What the stand-in of StarCraft II does wrong, and when: lines of a file, read when a game starts.

    crash episode=10 step=30        killed by a signal at step 30 of episode 10 (all are counted from 1)
    crash                           dies as soon as it is launched
    hang step=30                    answers no more from step 30 on, of whichever episode comes there first
    hang game=2                     the second game that was launched never listens
    late seconds=2 step=any         2 s late, at every step
    refuse                          does not take the map
    no_units episode=2              units that are asked for do not appear
    no_kills episode=2              units that are to be killed between episodes stay
    peace                           enemies stand still and do nothing: an episode can last to its limit
    version name=4.9.3 build=75025  says that it is another version

A condition that is not there holds always. crash, hang and late happen at a step where `step` is given, at an episode's
start where only `episode` is, else at launch. Games are counted over all launches from a folder, episodes in a game.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CONDITIONS = ("game", "episode", "step")
#: Which words a line may begin with, and what else such a line must say.
KINDS = {
    "crash": (),
    "hang": (),
    "late": ("seconds",),
    "refuse": (),
    "no_units": (),
    "no_kills": (),
    "peace": (),
    "version": ("name", "build"),
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One line. conditions: game, episode and step as text, a number or "any"; details: what else it says."""

    kind: str
    conditions: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    @property
    def moment(self) -> str:
        """What has to begin for a crash, a hang or a delay to happen: "game", "episode" or "step"."""
        return next((name for name in reversed(CONDITIONS) if name in self.conditions), "game")

    def holds(self, **now: int) -> bool:
        """Whether every condition does. now: the numbers of the game, the episode and the step."""
        return all(value in ("any", str(now[name])) for name, value in self.conditions.items())


def parse(text: str) -> list[Fault]:
    """Faults, a line each; ValueError where a line is not understood."""
    return [parse_line(line) for line in text.splitlines() if line.strip()]


def parse_line(line: str) -> Fault:
    kind, *pairs = line.split()
    values = dict(pair.split("=", 1) for pair in pairs)
    details = {name: value for name, value in values.items() if name not in CONDITIONS}
    if kind not in KINDS or set(details) != set(KINDS[kind]):
        raise ValueError(
            f"not a misbehaviour: {line!r}; {kind} must have {' '.join(KINDS.get(kind, ())) or 'no details'}"
        )
    return Fault(kind, {name: values[name] for name in CONDITIONS if name in values}, details)
