"""SMACv2 scenarios (Ellis et al. 2022): {protoss, terran, zerg} x {5v5, 10v10, 10v11, 20v20, 20v23}.

Backend `smax` plays them in SMAX, the field's StarCraft-free stand-in. Backend `sc2` is the real game.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from agentmixer.config import Settings, about
from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import ScenarioInfo, Task, check_known
from agentmixer.tasks.smacv2 import sc2_install
from agentmixer.tasks.smacv2.smacv2_facts import (
    CONTROL_PERIOD_S,
    EPISODE_LIMIT,
    MOVES,
    SIZES,
    TEAMS,
    action_names,
    obs_elements,
    obs_names,
    split,
    state_size,
)

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.tasks.scene import Scene


class Options(Settings, frozen=True):
    """Settings of the real game."""

    unsighted_wipe: Annotated[
        bool,
        about(
            "backend sc2: observe as smacv2 and published figures do, where an enemy whom nobody has seen yet, or who is dead, "
            "hides all enemies before it"
        ),
    ] = False


backends = ("smax", "sc2")
names_code = False
takes_workers = ("sc2",)
notes = (
    "Backend smax is JaxMARL's SMAX with a scripted enemy, not StarCraft II. It does not model healing "
    "(medivac left out), self-destruction (baneling left out), splash (the colossus hits one target), "
    "shields and armour (health is the sum), terrain or collisions with walls other than death at the map's "
    "edge. The medivac's and baneling's weight of .1 is shared by the race's other two units. Episodes end "
    "after 100 steps of 0.5 s (real game: 200 of 0.357 s); the observation has SMAX's layout and sizes, not "
    "the real game's. Win rates are not comparable with published SMACv2 figures. "
    "Backend sc2 is the real game: observations, states and masks of the package smacv2, 200 steps of 0.357 s; "
    "docs/tasks.md says what it needs and where it departs from smacv2."
)


def scenarios() -> list[ScenarioInfo]:
    """Every scenario with its sizes under the default backend."""
    rows = []
    for race in TEAMS:
        for size, (allies, enemies) in SIZES.items():
            name = f"{race}_{size}"
            rows.append(
                ScenarioInfo(
                    scenario=name,
                    agents=allies,
                    obs_sizes=tuple(map(len, obs_names(name))),
                    state_size=state_size(name),
                    actions=f"{len(MOVES) + enemies} discrete, masked",
                    episode_limit=EPISODE_LIMIT,
                    source="SMACv2 (Ellis et al. 2022), played in SMAX (JaxMARL)",
                )
            )
    return rows


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return sc2_install.problems() if backend == "sc2" else missing_packages(["jax", "jaxmarl"])


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError for an unknown scenario, an option of another backend, and where the real game is not complete."""
    check_known("smacv2", scenario, [info.scenario for info in scenarios()])
    if backend != "sc2":
        if options.unsighted_wipe:
            raise AgentMixerError("option unsighted_wipe is of the real game; leave it out, or add --backend sc2")
        return
    for problem in sc2_install.problems():
        raise AgentMixerError(f"backend 'sc2': {problem}")


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """An episode as shapes: see `tasks.scene`."""
    from agentmixer.tasks.smacv2 import battle_scene

    return battle_scene.scene(spec, states, obs, actions)


def make(
    scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu", workers: str = "processes"
) -> Task:
    """Build the task. The real game's arrays are the host's, whatever `device` is.

    Actions of backend smax: 0-3 move north, east, south, west; 4 stop; 5+j attack enemy j. A dead agent may only stop. Those of
    backend sc2: `sc2_game.specification`."""
    if backend == "sc2":
        from agentmixer.tasks.smacv2 import sc2_game
        from agentmixer.tasks.workers.worker_task import WorkerTask

        return WorkerTask(
            sc2_game.specification(scenario, options.unsighted_wipe),
            num_envs,
            sc2_game.maker(scenario, options.unsighted_wipe),
            workers=num_envs,
            patience=sc2_game.PATIENCE_S,
            ray=workers == "ray",
        )
    from agentmixer.tasks.jax_task import JaxTask
    from agentmixer.tasks.smacv2.smax_game import game

    _race, allies, enemies = split(scenario)
    spec = TaskSpec(
        name="smacv2",
        scenario=scenario,
        backend=backend,
        options={},
        agents=tuple(f"agent_{i}" for i in range(allies)),
        obs_names=obs_names(scenario),
        state_size=state_size(scenario),
        action_spaces=(Discrete(len(MOVES) + enemies),) * allies,
        has_action_mask=True,
        reports_wins=True,
        episode_limit=EPISODE_LIMIT,
        control_period_s=CONTROL_PERIOD_S,
        fallback_actions=(MOVES.index("stop"),) * allies,
        shared="reward",
        obs_elements=obs_elements(scenario),
        action_names=(action_names(scenario),) * allies,
    )
    return JaxTask(spec, game(scenario), num_envs, device)
