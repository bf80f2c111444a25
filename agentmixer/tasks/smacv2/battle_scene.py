"""A battle as shapes, from recorded states, observations and actions of either backend.

SMAX has no shields: health is the sum. In StarCraft II, the bar shows health and shield together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.scene import Drawing, Scene, Shape, seen_parts
from agentmixer.tasks.smacv2 import sc2_facts
from agentmixer.tasks.smacv2.smacv2_facts import MAP_SIZE, MOVES, OWN_FEATURES, TEAMS, UNITS, split

#: How far a unit sees in StarCraft II as smacv2 plays it, and a radius to draw where only that game knows it.
SC2_SIGHT, SC2_RADIUS = 9.0, 0.5


class _Units(NamedTuple):
    """All units, allies first. at [M, U, 2] on the map; level [M, U], share of full health; alive [M, U]; kinds: U names;
    target [M, U]: whom each attacked in the step before, -1 nobody."""

    at: np.ndarray
    level: np.ndarray
    alive: np.ndarray
    kinds: list[str]
    target: np.ndarray


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """The battle on its map, which is 32 wide and high. An attack is a line from whoever was ordered to attack, drawn at the
    moment that the order led to."""
    allies, moments = spec.num_agents, len(states)
    smax = spec.backend == "smax"
    units = (_smax_units if smax else _sc2_units)(spec, states, obs, actions)
    names = [*spec.agents, *(f"enemy_{j}" for j in range(len(units.kinds) - allies))]
    ids = [f"ally_{i}" for i in range(allies)] + names[allies:]
    parts = [seen_parts(spec.obs_names[i], obs[:, i]) for i in range(allies)]
    seen = np.zeros((moments, allies, len(names)), bool)
    for i, told in enumerate(parts):
        for j, name in enumerate(ids):
            seen[:, i, j] = (units.alive[:, i] if i == j else told[name]) & units.alive[:, i]
    drawing = Drawing(moments, allies)
    for j, (name, kind) in enumerate(zip(names, units.kinds, strict=True)):
        ours = j < allies
        radius = UNITS[kind].radius if kind in UNITS else SC2_RADIUS
        shape = Shape("circle", "agent" if ours else "other", f"{name}, {kind}", radius, j if ours else None)
        drawing.add(shape, units.at[:, j], shown=units.alive[:, j], level=units.level[:, j], seen=seen[..., j])
    for j, name in enumerate(names):
        target = units.target[:, j]
        attacks, whom = target >= 0, np.maximum(target, 0)
        both = seen[..., j] & np.take_along_axis(seen, whom[:, None, None], 2)[..., 0]
        to = np.take_along_axis(units.at, whom[:, None, None], 1)[:, 0]
        shape = Shape("line", "mark", f"{name} attacks", 0.12, j if j < allies else None)
        drawing.add(shape, units.at[:, j], to, shown=attacks, seen=both)
    sight = [UNITS[kind].sight_range if smax else SC2_SIGHT for kind in units.kinds[:allies]]
    standing = [f"{ours} of {allies} agents and {theirs} of {len(names) - allies} enemies stand" for ours, theirs in zip(
        units.alive[:, :allies].sum(1), units.alive[:, allies:].sum(1), strict=True)]  # fmt: skip
    return drawing.scene(MAP_SIZE, MAP_SIZE, sight, tuple(standing))


def _smax_units(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> _Units:
    race, allies, enemies = split(spec.scenario)
    kinds, count = list(TEAMS[race]), allies + enemies
    width = len(OWN_FEATURES) + len(kinds)
    rows = states[:, : count * width].reshape(len(states), count, width)
    alive = (rows[..., len(OWN_FEATURES) :] != 0).any(-1)
    types = np.clip(np.rint(states[0, -count:] * len(kinds)).astype(int), 0, len(kinds) - 1)
    target = _ordered(actions, len(MOVES), allies, count)
    # What an enemy was told to do is in the observation of every agent that sees it; it counts our units from the last.
    for j in range(enemies):
        for i, names in enumerate(spec.obs_names):
            order = np.rint(obs[:, i, names.index(f"enemy_{j}.last_target")] * (len(MOVES) - 1 + allies)).astype(int)
            known = (order >= len(MOVES)) & (order < len(MOVES) + allies)
            target[known, allies + j] = allies - 1 - (order[known] - len(MOVES))
    return _Units(_held(rows[..., 1:3] * MAP_SIZE, alive), rows[..., 0], alive, [kinds[k] for k in types], target)


def _sc2_units(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> _Units:
    race, allies, enemies = split(spec.scenario)
    kinds, shields = sc2_facts.KINDS[race], race == "protoss"
    own, other = 4 + shields + len(kinds), 3 + shields + len(kinds)
    ours = states[:, : allies * own].reshape(len(states), allies, own)
    theirs = states[:, allies * own : allies * own + enemies * other].reshape(len(states), enemies, other)
    rows = np.concatenate([np.delete(ours, 1, 2), theirs], 1)  # only ours have a cooldown
    bits = rows[..., -len(kinds) :]
    alive, types = (rows != 0).any(-1), bits[0].argmax(-1)
    points = np.array([(kind.health, kind.shield) for kind in kinds.values()], np.float32)[types]
    health = rows[..., 0] * points[:, 0] + (rows[..., 3] * points[:, 1] if shields else 0)
    target = _ordered(actions, len(sc2_facts.MOVES), allies, allies + enemies)
    names = [list(kinds)[k] for k in types]
    for i in range(allies):
        if names[i] == "medivac":  # heals an ally
            target[:, i] = np.where(target[:, i] >= 0, target[:, i] - allies, -1)
    return _Units(_held((rows[..., 1:3] + 0.5) * MAP_SIZE, alive), health / points.sum(1), alive, names, target)


def _ordered(actions: np.ndarray, moves: int, allies: int, count: int) -> np.ndarray:
    """Whom every unit was ordered to attack in the step that led to each moment, as far as actions say: [M, U], -1 nobody."""
    target = np.full((len(actions) + 1, count), -1)
    target[1:, :allies] = np.where(actions >= moves, actions - moves + allies, -1)
    return target


def _held(at: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Positions, the dead where they were last seen alive: states do not tell where they lie."""
    held = at.copy()
    for t in range(1, len(at)):
        held[t] = np.where(alive[t][:, None], at[t], held[t - 1])
    return held
