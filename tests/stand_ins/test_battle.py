"""The stand-in's battles and its orders to misbehave, without any of the packages that playing needs."""

from __future__ import annotations

import pytest
from battle import ALLY, BURST_RADIUS, ENEMY, KINDS, MAP_SIZE, Attack, Battle, Heal, Move
from misbehaviour import parse


def battle_of(*units: tuple[str, int, float, float]) -> Battle:
    """units: name, owner, x and y of each; their tags are 1, 2, ..."""
    battle = Battle()
    for name, owner, x, y in units:
        battle.create(KINDS[name], 0, owner, x, y)
    return battle


def test_a_unit_walks_at_its_speed_and_stays_on_the_map():
    battle = battle_of(("marine", ALLY, 31, 5))
    battle.units[1].order = Move(33, 5)
    battle.step(1)
    assert battle.units[1].x == pytest.approx(31 + KINDS["marine"].speed)
    battle.step(50)
    assert battle.units[1].x == MAP_SIZE


def test_damage_takes_the_shield_first_and_the_shield_alone_grows_again():
    battle = battle_of(("stalker", ALLY, 5, 5), ("zealot", ENEMY, 9, 5))
    battle.peaceful = True
    for _ in range(4):
        battle.hurt(battle.units[2], KINDS["stalker"].damage)
    assert (battle.units[2].shield, battle.units[2].health) == (0, 98)
    battle.step(200)
    assert 0 < battle.units[2].shield < KINDS["zealot"].shield
    assert battle.units[2].health == 98


def test_the_enemy_goes_for_the_nearest_ally_and_an_ally_does_what_it_is_told():
    battle = battle_of(("marine", ALLY, 2, 2), ("marine", ALLY, 20, 20), ("marine", ENEMY, 24, 20))
    battle.step(30)
    assert battle.units[2].health < battle.units[1].health == KINDS["marine"].health
    assert battle.units[3].health == KINDS["marine"].health  # nobody was told to shoot
    battle.units[2].order = Attack(3)
    battle.step(1)
    assert battle.units[3].health < KINDS["marine"].health


def test_a_medivac_heals_while_it_has_energy_and_never_shoots():
    battle = battle_of(("medivac", ALLY, 5, 5), ("marauder", ALLY, 6, 5), ("marine", ENEMY, 30, 30))
    battle.peaceful = True
    battle.units[2].health = 1.0
    battle.units[1].order = Heal(2)
    battle.step(400)
    assert battle.units[2].health > 1
    assert battle.units[1].energy < KINDS["medivac"].energy
    battle.units[1].order = Attack(3)
    battle.step(1000)
    assert battle.units[3].health == KINDS["marine"].health


def test_a_baneling_bursts_where_it_arrives_and_where_it_is_shot():
    near, far = 10 + BURST_RADIUS - 0.1, 10 + BURST_RADIUS + 3
    battle = battle_of(("baneling", ALLY, 10, 10), ("zergling", ENEMY, near, 10), ("zergling", ENEMY, far, 10))
    battle.hurt(battle.units[1], 1000)
    assert {tag: unit.health for tag, unit in battle.units.items()} == {2: 35 - 16, 3: 35}

    battle = battle_of(("baneling", ALLY, 10, 10), ("hydralisk", ENEMY, 15, 10))
    battle.peaceful = True
    battle.units[1].order = Attack(2)
    battle.step(100)
    assert {tag: unit.health for tag, unit in battle.units.items()} == {2: 90 - 16}


def test_banelings_that_burst_together_each_burst_once():
    battle = battle_of(*[("baneling", ALLY, 10, 10)] * 3, *[("baneling", ENEMY, 10, 10)] * 3)
    battle.hurt(battle.units[1], 1000)
    assert {tag: unit.health for tag, unit in battle.units.items()} == {2: 30, 3: 30} | dict.fromkeys(
        (4, 5, 6), 30 - 16
    )
    battle.hurt(battle.units[2], 1000)
    assert not battle.units


def test_a_misbehaviour_happens_when_all_it_names_does():
    crash, late = parse("crash episode=10 step=30\n\nlate seconds=0.5 step=any\n")
    assert (crash.moment, late.moment) == ("step", "step")
    assert crash.holds(game=7, episode=10, step=30) and late.holds(game=1, episode=1, step=5)
    assert not crash.holds(game=7, episode=9, step=30)
    assert [fault.moment for fault in parse("hang\nhang game=2\nhang game=2 episode=3")] == ["game", "game", "episode"]


@pytest.mark.parametrize(
    "line", ["explode", "late step=3", "crash seconds=2", "version name=4.9.3", "hang stop=3", "hang 3"]
)
def test_a_misbehaviour_that_is_not_understood_is_refused(line):
    with pytest.raises(ValueError, match=r"not a misbehaviour|dictionary"):
        parse(line)
