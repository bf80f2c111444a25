"""A stand-in for smacv2's `StarCraftCapabilityEnvWrapper`, ours: what a caller sees of that class, and a battle of a few lines.

It shows plumbing: sizes, seeds, masks, ends, and what goes wrong. Its fights say nothing about win rates. Units stand where
they are put, everybody reaches everybody within 6, and each enemy hits the nearest ally. Positions, teams, points and types are
as in the game.

Things go wrong where the folder that SMACV2_STAND_IN names has a file `<what>.<episode>.<step>` (counted from 1 in each game;
step 0 is the start of the episode). The first game that comes to it removes the file, and then
    kill   is killed with its process
    hang   does not answer for an hour
    die    finds that StarCraft ended, and starts StarCraft again, as smacv2 does
    draw   starts StarCraft again too, but in the midst of setting up units, so that `reset` returns None
"""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

#: Points of health and shield, and damage of a hit.
UNITS = {
    "stalker": (80, 80, 13), "zealot": (100, 50, 16), "colossus": (200, 150, 20), "marine": (45, 0, 6),
    "marauder": (125, 0, 10), "medivac": (150, 0, 0), "zergling": (35, 0, 5), "hydralisk": (90, 0, 12), "baneling": (30, 0, 16),
}  # fmt: skip
SIGHT, REACH, LIMIT, SIZE = 9.0, 6.0, 200, 32


class Teams:
    """Draws the types of both teams."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.rng = config, np.random.default_rng()

    def generate(self) -> dict[str, Any]:
        config, alone = self.config["team_gen"], self.config["team_gen"].get("exception_unit_types", [])
        drawn = list(alone) or [""]
        while all(kind in (*alone, "") for kind in drawn):
            drawn = self.rng.choice(config["unit_types"], self.config["n_enemies"], p=config["weights"]).tolist()
        return {"ally": drawn[: self.config["n_units"]], "enemy": drawn}


class Places:
    """Draws where units start; made of a part with a source of its own, as smacv2's is."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.part = config, SimpleNamespace(rng=np.random.default_rng(), generate=None)

    def generate(self) -> dict[str, Any]:
        ally, enemy = ((self.config[name], 2) for name in ("n_units", "n_enemies"))
        return {"ally_at": self.part.rng.uniform(8, 20, ally), "enemy_at": self.part.rng.uniform(12, 24, enemy)}


class StarCraftCapabilityEnvWrapper:
    def __init__(self, **kwargs: Any):
        config = kwargs["capability_config"]
        self.config, self.race = config, kwargs["map_name"].removeprefix("10gen_")
        self.limit_told = kwargs.get("continuing_episode", False)
        assert not kwargs["reward_scale"] and kwargs["obs_own_pos"] and kwargs["state_last_action"]
        self.kinds = sorted(config["team_gen"]["unit_types"], key=["stalker", "zealot", "colossus", "marine", "marauder", "medivac", "zergling", "hydralisk", "baneling"].index)  # fmt: skip
        self.env_key_to_distribution_map = {"team_gen": Teams(config), "start_positions": Places(config)}
        self.env = SimpleNamespace(obs_enemies=np.zeros((config["n_enemies"], config["n_units"])), force_restarts=0)
        self.episode, self.peace = 0, False

    def get_env_info(self) -> dict[str, int]:
        return {
            "n_agents": self.config["n_units"], "n_actions": 6 + self.config["n_enemies"], "episode_limit": LIMIT,
            "obs_shape": self._sizes()[0], "state_shape": self._sizes()[1], "cap_shape": 3,
        }  # fmt: skip

    def reset(self) -> Any:
        self.episode, self.steps = self.episode + 1, 0
        drawn = {k: v for d in self.env_key_to_distribution_map.values() for k, v in d.generate().items()}
        self.units = [
            SimpleNamespace(kind=kind, at=np.array(place), health=UNITS[kind][0], shield=UNITS[kind][1], ally=ally)
            for ally, side in ((True, "ally"), (False, "enemy"))
            for kind, place in zip(drawn[side], drawn[f"{side}_at"], strict=True)
        ]
        self.allies = [unit for unit in self.units if unit.ally]
        self.enemies = [unit for unit in self.units if not unit.ally]
        self.last_action = np.zeros((len(self.allies), 6 + len(self.enemies)))
        self.env.obs_enemies[:] = 0
        return None if self._goes_wrong() else (self.get_obs(), self.get_state())

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        self.steps += 1
        if self._goes_wrong():
            return 0, True, {}
        for i, (mask, action) in enumerate(zip(self.get_avail_actions(), actions, strict=True)):
            assert mask[action] == 1, f"Agent {i} cannot perform action {action}"
        self.last_action = np.eye(self.last_action.shape[1])[actions]
        reward = 0.0
        for unit, action in zip(self.allies, actions, strict=True):
            if 2 <= action < 6:
                unit.at = np.clip(unit.at + [(0, 1), (0, -1), (1, 0), (-1, 0)][action - 2], 0, SIZE - 1)
            elif action >= 6 and unit.kind != "medivac":
                reward += self._hit(unit, self.enemies[action - 6])
        for unit in self.enemies:
            living = [ally for ally in self.allies if ally.health > 0]
            if unit.health > 0 and living and not self.peace:
                self._hit(unit, min(living, key=lambda ally: math.dist(ally.at, unit.at)))
        ours, theirs = (any(unit.health > 0 for unit in side) for side in (self.allies, self.enemies))
        won, ended = ours and not theirs, not (ours and theirs)
        info = {"battle_won": won, "dead_allies": 0, "dead_enemies": 0}
        if not ended and self.steps >= LIMIT:
            ended = True
            info |= {"episode_limit": True} if self.limit_told else {}
        return reward + 200.0 * won, ended, info

    def get_obs(self) -> list[np.ndarray]:
        return [self._obs(i) for i in range(len(self.allies))]

    def get_state(self) -> np.ndarray:
        rows = []
        for unit in self.units:
            own = [unit.health / UNITS[unit.kind][0], *([0.0] if unit.ally else []), *(unit.at / SIZE - 0.5)]
            rows.append(np.array(own + self._points(unit)[1:] + self._type(unit)) * (unit.health > 0))
        return np.concatenate([*rows, self.last_action.ravel()]).astype(np.float32)

    def get_avail_actions(self) -> list[list[int]]:
        return [
            [0, 1, 1, 1, 1, 1, *(int(e.health > 0 and math.dist(e.at, unit.at) <= REACH) for e in self.enemies)]
            if unit.health > 0
            else [1] + [0] * (5 + len(self.enemies))
            for unit in self.allies
        ]

    def close(self) -> None:
        pass

    def _goes_wrong(self) -> bool:
        """Do what a file says of this moment. Whether StarCraft was started again."""
        for what in ("kill", "hang", "die", "draw"):
            try:
                Path(os.environ.get("SMACV2_STAND_IN", "nowhere"), f"{what}.{self.episode}.{self.steps}").unlink()
            except OSError:
                continue
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "hang":
                time.sleep(3600)
            self.env.force_restarts += what == "die"
            return True
        return False

    def _hit(self, by: Any, unit: Any) -> float:
        """Points of damage, and 10 for a death."""
        alive, damage = unit.health > 0, min(UNITS[by.kind][2], unit.health + unit.shield)
        through = max(0, damage - unit.shield)
        unit.shield, unit.health = max(0, unit.shield - damage), unit.health - through
        return damage + 10 * (alive and unit.health <= 0)

    def _type(self, unit: Any) -> list[float]:
        return [float(unit.kind == kind) for kind in self.kinds]

    def _points(self, unit: Any) -> list[float]:
        health, shield, _ = UNITS[unit.kind]
        return [unit.health / health] + ([unit.shield / shield] if self.race == "protoss" else [])

    def _obs(self, i: int) -> np.ndarray:
        own = self.allies[i]
        others = self.enemies + [unit for unit in self.allies if unit is not own]
        rows = np.zeros((len(others), 4 + len(self._points(own)) + 3))
        for j, unit in enumerate(others):
            distance = math.dist(unit.at, own.at)
            if unit.health > 0 and distance < SIGHT:
                if not unit.ally:
                    self.env.obs_enemies[j] = 1
                near = 1.0 if unit.ally else float(distance <= REACH)
                rows[j] = [
                    near,
                    distance / SIGHT,
                    *((unit.at - own.at) / SIGHT),
                    *self._points(unit),
                    *self._type(unit),
                ]
            if not unit.ally and not self.env.obs_enemies[j, i]:
                rows[:] = 0  # an enemy whom nobody has seen hides all before it
        whole = [1.0] * 4, rows.ravel(), self._points(own), own.at / SIZE, self._type(own)
        return np.concatenate(whole).astype(np.float32) * (own.health > 0)

    def _sizes(self) -> tuple[int, int]:
        allies, enemies, points = self.config["n_units"], self.config["n_enemies"], 1 + (self.race == "protoss")
        row = 4 + points + 3
        state = allies * (6 + points) + enemies * (5 + points) + allies * (6 + enemies)
        return 4 + row * (enemies + allies - 1) + points + 5, state
