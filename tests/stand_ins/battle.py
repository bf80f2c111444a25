"""A small battle on a flat map, for the stand-in of StarCraft II: units walk, shoot, heal and burst; nothing is random.

Lengths are in the map's cells, times in game loops (22.4 a second). Numbers are about those of the real units, so that
battles end by themselves; nothing here says how good a team would be in the real game.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

#: The map's width and height in cells.
MAP_SIZE = 32
#: Players, as the game numbers them.
ALLY, ENEMY = 1, 2
#: What two units' bodies add to the distance at which they reach each other.
BODIES = 1.0
#: How far a baneling's burst reaches.
BURST_RADIUS = 2.2
#: Shields grow again after so many loops without a hit, by so much a loop.
SHIELD_DELAY, SHIELD_GROWTH = 160, 0.125
#: Health that a medivac gives in a loop, and the energy that it costs; energy grows by so much a loop.
HEALING, HEALING_COST, ENERGY_GROWTH, MAX_ENERGY = 0.5625, 0.1875, 0.035, 200.0


@dataclass(frozen=True)
class Kind:
    """What all units of a name have in common: speed in cells a loop, cooldown in loops."""

    name: str
    health: float
    shield: float
    reach: float
    damage: float
    cooldown: float
    speed: float
    energy: float = 0.0


KINDS = {
    kind.name: kind
    for kind in (
        Kind("baneling", 30, 0, 0.25, 16, 1, 0.156),
        Kind("colossus", 200, 150, 7, 20, 24, 0.141),
        Kind("hydralisk", 90, 0, 5, 12, 13, 0.141),
        Kind("marauder", 125, 0, 6, 10, 24, 0.141),
        Kind("marine", 45, 0, 5, 6, 14, 0.141),
        Kind("medivac", 150, 0, 4, 0, 0, 0.156, energy=50),
        Kind("stalker", 80, 80, 6, 13, 30, 0.184),
        Kind("zealot", 100, 50, 0.1, 16, 19, 0.141),
        Kind("zergling", 35, 0, 0.1, 5, 11, 0.184),
    )
}


@dataclass(frozen=True)
class Move:
    """Walk to a place."""

    x: float
    y: float


@dataclass(frozen=True)
class Attack:
    """Walk to the unit with this tag, and hit it whenever the weapon is ready."""

    tag: int


@dataclass(frozen=True)
class Heal:
    """Fly to the friend with this tag, and heal it."""

    tag: int


Order = Move | Attack | Heal | None


@dataclass
class Unit:
    """One unit on the map. unhurt: loops since it was last hit."""

    tag: int
    kind: Kind
    type_id: int
    owner: int
    x: float
    y: float
    health: float
    shield: float
    energy: float
    cooldown: float = 0.0
    unhurt: int = SHIELD_DELAY
    order: Order = None

    def distance(self, other: Unit) -> float:
        return math.hypot(self.x - other.x, self.y - other.y)


class Battle:
    """All units by tag, and the number of loops played. Tags are never used twice. peaceful: enemies do nothing."""

    def __init__(self) -> None:
        self.units: dict[int, Unit] = {}
        self.loop = 0
        self.last_tag = 0
        self.peaceful = False

    def create(self, kind: Kind, type_id: int, owner: int, x: float, y: float) -> None:
        self.last_tag += 1
        unit = Unit(self.last_tag, kind, type_id, owner, x, y, kind.health, kind.shield, kind.energy)
        self.units[unit.tag] = unit

    def step(self, loops: int) -> None:
        """Plays some loops. Units act one after the other, the oldest first."""
        for _ in range(loops):
            self.loop += 1
            for unit in list(self.units.values()):
                if unit.tag in self.units:
                    self.recover(unit)
                    self.act(unit)

    def recover(self, unit: Unit) -> None:
        unit.cooldown = max(0.0, unit.cooldown - 1)
        unit.unhurt += 1
        if unit.unhurt > SHIELD_DELAY:
            unit.shield = min(unit.kind.shield, unit.shield + SHIELD_GROWTH)
        if unit.kind.energy:
            unit.energy = min(MAX_ENERGY, unit.energy + ENERGY_GROWTH)

    def act(self, unit: Unit) -> None:
        order = self.order_of_the_computer(unit) if unit.owner == ENEMY else unit.order
        if isinstance(order, Move):
            self.walk(unit, order.x, order.y)
        elif order:
            self.deal_with(unit, order)

    def deal_with(self, unit: Unit, order: Attack | Heal) -> None:
        """Hits or heals the order's target, or walks towards it; the order ends with its target."""
        target = self.units.get(order.tag)
        if target is None:
            unit.order = None
        elif unit.distance(target) > unit.kind.reach + BODIES:
            self.walk(unit, target.x, target.y)
        elif isinstance(order, Heal):
            self.heal(unit, target)
        elif unit.cooldown == 0 and unit.kind.damage:
            self.hit(unit, target)

    def order_of_the_computer(self, unit: Unit) -> Order:
        """The enemy's medivacs heal the nearest hurt friend; everyone else attacks the nearest ally."""
        if self.peaceful:
            return None
        if unit.kind.name == "medivac":
            hurt = [friend for friend in self.others(unit, friends=True) if friend.health < friend.kind.health]
            return Heal(min(hurt, key=unit.distance).tag) if hurt else None
        foes = list(self.others(unit, friends=False))
        return Attack(min(foes, key=unit.distance).tag) if foes else None

    def others(self, unit: Unit, friends: bool) -> Iterator[Unit]:
        """Its foes, or those of its friends that can be healed: not medivacs."""
        for other in self.units.values():
            if (other.owner == unit.owner) == friends and not (friends and other.kind.name == "medivac"):
                yield other

    def walk(self, unit: Unit, x: float, y: float) -> None:
        """One loop's way towards a place, never off the map."""
        distance = math.hypot(x - unit.x, y - unit.y)
        part = min(1.0, unit.kind.speed / distance) if distance else 0.0
        unit.x = min(max(unit.x + part * (x - unit.x), 0.0), MAP_SIZE)
        unit.y = min(max(unit.y + part * (y - unit.y), 0.0), MAP_SIZE)

    def heal(self, medivac: Unit, target: Unit) -> None:
        if medivac.energy >= HEALING_COST and target.health < target.kind.health:
            medivac.energy -= HEALING_COST
            target.health = min(target.kind.health, target.health + HEALING)

    def hit(self, unit: Unit, target: Unit) -> None:
        if unit.kind.name == "baneling":
            self.die(unit)  # its burst is the hit
            return
        unit.cooldown = unit.kind.cooldown
        self.hurt(target, unit.kind.damage)

    def hurt(self, unit: Unit, damage: float) -> None:
        """Shields go first, then health."""
        unit.unhurt = 0
        kept_off = min(unit.shield, damage)
        unit.shield -= kept_off
        unit.health -= damage - kept_off
        if unit.health <= 0:
            self.die(unit)

    def die(self, unit: Unit) -> None:
        """Takes a unit off the map; a baneling bursts, whoever ended it."""
        del self.units[unit.tag]
        if unit.kind.name != "baneling":
            return
        for foe in list(self.others(unit, friends=False)):
            if foe.tag in self.units and unit.distance(foe) <= BURST_RADIUS:
                self.hurt(foe, unit.kind.damage)
