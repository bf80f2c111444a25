"""Scenes, drawn from recorded arrays: each against what the game itself has, or against numbers by hand."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from conftest import tiny_spec, unlike_spec

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make
from agentmixer.tasks.mamujoco.mujoco_team import MujocoTeam
from agentmixer.tasks.registry import scene
from agentmixer.tasks.scene import Scene
from agentmixer.tasks.smacv2 import sc2_facts, sc2_game


def labels(drawn: Scene) -> dict[str, int]:
    """Where each shape with a label is."""
    return {shape.label: k for k, shape in enumerate(drawn.shapes) if shape.label}


def spec_of(task: str, scenario: str) -> TaskSpec:
    made = make(task, scenario, 1)
    made.close()
    return made.spec


def test_predators_see_prey_in_their_square_and_a_catch_is_marked() -> None:
    """5x5: predator_0 at row 0, column 1; predator_1 at row 4, column 4; the prey at row 1, column 3, then caught."""
    spec = spec_of("predator_prey", "5x5")
    state = np.array([0, 0.25, 1, 1, 0.25, 0.75, 1, 0], np.float32)
    gone = np.array([0, 0.25, 1, 1, 0, 0, 0, 1 / 128], np.float32)
    obs = np.zeros((2, 2, 28), np.float32)
    obs[0, 0, list(spec.obs_names[0]).index("prey.row+1.col+2")] = 1  # one down, two to the right: predator_0 sees it
    drawn = scene(spec, np.stack([state, gone]), obs, np.zeros((1, 2), np.int32))
    at = labels(drawn)
    assert (drawn.width, drawn.height) == (5, 5)
    np.testing.assert_array_equal(drawn.at[0, at["predator_0"]], (1.5, 4.5))
    np.testing.assert_array_equal(drawn.at[0, at["predator_1"]], (4.5, 0.5))
    np.testing.assert_array_equal(drawn.at[0, at["prey_0"]], (3.5, 3.5))
    np.testing.assert_array_equal(drawn.to[0, at["what predator_1 sees"]], (5, 5))
    assert drawn.seen[0, :, at["prey_0"]].tolist() == [True, False]
    assert drawn.seen[0, :, at["predator_1"]].tolist() == [False, True]
    assert drawn.shown[:, at["prey_0"]].tolist() == [True, False]
    assert drawn.shown[:, at["prey_0 caught"]].tolist() == [False, True]
    np.testing.assert_array_equal(drawn.at[1, at["prey_0 caught"]], (3.5, 3.5))


def test_a_big_agent_jams_a_passage_that_another_takes_too() -> None:
    spec, states = spec_of("passage", "two_agents"), np.array([[1, 0, 0, 1]] * 2, np.float32)  # small, big
    obs = states.reshape(2, 2, 2)
    jam, cross = (scene(spec, states, obs, np.array([both], np.int32)) for both in ((0, 0), (0, 1)))
    assert jam.captions[1] == "stuck: the team gets 0"
    assert cross.captions[1] == "crossed: the team gets 9"  # 10, less what the detour costs a big agent_1
    big = labels(cross)["agent_1, big"]
    assert cross.at[1, big, 0] > 11 > jam.at[1, labels(jam)["agent_1, big"], 0]
    assert cross.seen[0, :, big].tolist() == [False, True]


def test_a_matrix_shows_its_payoffs_and_what_was_played() -> None:
    spec, ones = spec_of("matrix", "climbing"), np.ones((2, 1), np.float32)
    drawn = scene(spec, ones, np.ones((2, 2, 1), np.float32), np.array([[2, 0]], np.int32))
    at = labels(drawn)
    best, worst = (at[f"agent_0 does {row}, agent_1 does {column}"] for row, column in ((2, 0), (1, 0)))
    assert (drawn.level[0, best], drawn.level[0, worst]) == (1, 0)  # 11 and -30
    np.testing.assert_array_equal(drawn.at[1, at["played"]], drawn.at[1, best])
    assert drawn.shown[:, at["played"]].tolist() == [False, True]
    assert drawn.captions[1] == "agent_0 does 2, agent_1 does 0: worth 11"


def test_numbers_are_laid_end_to_end_up_to_their_sum() -> None:
    spec = spec_of("coordsum", "3x10-30")
    states = np.zeros((2, 41), np.float32)
    states[0, 12] = states[1, 3] = 1  # the target is 12, then 3
    states[0, -10 + 4] = 0.1  # for 12, agent_0 has played 4 once
    obs = np.zeros((2, 3, 31), np.float32)
    drawn = scene(spec, states, obs, np.array([[4, 3, 5]], np.int32))
    at = labels(drawn)
    ends = [
        drawn.at[1, at[f"number of agent_{i}"], 0] + drawn.to[1, at[f"number of agent_{i}"], 0] / 2 for i in range(3)
    ]
    assert ends == [4, 7, 12]
    assert (drawn.at[1, at["target answered"], 0], drawn.at[1, at["next target"], 0]) == (12, 3)
    assert drawn.captions == ("next target 12", "4 + 3 + 5 = 12, target 12 guessed; next target 3")


@pytest.mark.parametrize("scenario", ["Ant-4x2", "HalfCheetah-6x1", "Pusher-3p"])
def test_a_figure_has_the_shape_that_the_physics_has(scenario: str) -> None:
    task = make("mamujoco", scenario, 1)
    assert isinstance(task, MujocoTeam)
    spec, model, data = task.spec, task._layout.model, task._data[0]
    generator, fresh = np.random.default_rng(0), mujoco.MjData(model)
    step = task.reset(3)
    states, obs, actions, places = [step.state[0].copy()], [step.obs[:, 0].copy()], [], [data.geom_xpos.copy()]
    for _ in range(12):
        action = generator.uniform(-0.4, 0.4, (spec.num_agents, 1, spec.action_size)).astype(np.float32)
        step = task.step(torch.from_numpy(action))
        fresh.qpos[:] = data.qpos  # what stepping leaves in geom_xpos is a part of a step old
        mujoco.mj_kinematics(model, fresh)
        for kept, new in zip(
            (states, obs, actions, places), (step.state[0], step.obs[:, 0], action[:, 0], fresh.geom_xpos), strict=True
        ):
            kept.append(np.array(new))
    task.close()
    drawn = scene(spec, np.stack(states), np.stack(obs), np.stack(actions))
    shapes = [k for k, shape in enumerate(drawn.shapes) if shape.role != "ground"]
    geoms = [g for g in range(model.ngeom) if model.geom_type[g] != mujoco.mjtGeom.mjGEOM_PLANE]
    middle, true = (drawn.at[:, shapes] + drawn.to[:, shapes]) / 2, np.stack(places)[:, geoms]
    np.testing.assert_allclose(middle - middle[:, :1], true - true[:, :1], atol=1e-6)  # relative to the torso
    np.testing.assert_allclose(middle[:, :, 2], true[:, :, 2], atol=1e-6)
    moved, went = (places_of[:, 0] - places_of[0, 0] for places_of in (middle, true))
    np.testing.assert_allclose(moved, went, atol=0.05)  # summed up from the velocity
    if scenario == "Ant-4x2":
        leg = next(k for k in shapes if drawn.shapes[k].label.startswith("left_leg_geom"))
        assert drawn.shapes[leg].label == "left_leg_geom, agent_0 drives hip_1" and drawn.shapes[leg].agent == 0
        assert drawn.seen[0, :, leg].tolist() == [True, False, False, False]
        length = np.linalg.norm(drawn.to[0, leg] - drawn.at[0, leg])
        assert length == pytest.approx(2 * model.geom_size[model.geom("left_leg_geom").id, 1], abs=1e-6)


def test_a_battle_of_the_real_game_is_read_from_its_state() -> None:
    """protoss_5v5 by hand: agent_1, a zealot with 40 of 100 health and 25 of 50 shield, attacks enemy_2."""
    spec = sc2_game.specification("protoss_5v5", False)
    ours, theirs = np.zeros((5, 8), np.float32), np.zeros((5, 7), np.float32)
    ours[1] = (0.4, 0.0, 0.25, -0.25, 0.5, 0, 1, 0)
    theirs[2] = (1.0, 0.25, -0.125, 1.0, 1, 0, 0)
    state = np.concatenate([ours.ravel(), theirs.ravel(), np.zeros(5 * 11, np.float32)])
    obs = np.zeros((2, 5, len(spec.obs_names[0])), np.float32)
    obs[:, 1, spec.obs_names[1].index("enemy_2.distance")] = 0.4
    actions = np.array([[0, len(sc2_facts.MOVES) + 2, 0, 0, 0]], np.int32)
    drawn = scene(spec, np.stack([state, state]), obs, actions)
    zealot, stalker, attack = 1, 5 + 2, 10 + 1
    assert drawn.shapes[zealot].label == "agent_1, zealot" and drawn.shapes[stalker].label == "enemy_2, stalker"
    np.testing.assert_array_equal(drawn.at[1, zealot], (24, 8))
    assert drawn.level[1, zealot] == pytest.approx(65 / 150)
    assert drawn.shown[1, :10].tolist() == [k in (zealot, stalker) for k in range(10)]
    assert drawn.shown[:, attack].tolist() == [False, True]
    np.testing.assert_array_equal(drawn.to[1, attack], (24, 12))
    assert drawn.seen[1, :, stalker].tolist() == [False, True, False, False, False]


def test_a_task_that_cannot_be_drawn_has_its_numbers_drawn() -> None:
    """A bar is as high as its number is large, as a share of the largest in the episode."""
    spec = tiny_spec(agents=2, obs=2, state=3)
    obs = np.array([[[1, 0], [0, 0]], [[-4, 5], [0, 0]]], np.float32)
    drawn = scene(spec, np.zeros((2, 3), np.float32), obs, np.array([[3, 0]], np.int32))
    at = labels(drawn)
    bars = [drawn.to[:, at[f"agent_0 {what}"], 1] for what in ("observes x0", "observes x1", "does, element 0")]
    np.testing.assert_allclose(np.stack(bars, -1) / 3, [[0.25, 0, 0], [1, 1, 1]])
    assert drawn.seen[1, :, at["agent_0 observes x0"]].tolist() == [True, False]
    mixed = unlike_spec()
    drawn = scene(mixed, np.zeros((2, 11), np.float32), np.zeros((2, 4, 7), np.float32), np.ones((1, 4, 2), np.float32))
    assert np.isfinite(drawn.at).all() and np.isfinite(drawn.to).all()


def test_arrays_of_another_scenario_are_refused_in_a_sentence() -> None:
    spec = spec_of("predator_prey", "5x5")
    with pytest.raises(AgentMixerError, match="cannot be drawn as an episode of predator_prey 5x5"):
        scene(spec, np.zeros((2, 3), np.float32), np.zeros((2, 2, 28), np.float32), np.zeros((1, 2), np.int32))
