"""What is worked out of episodes before they are packed."""

from __future__ import annotations

import msgspec
import numpy as np
from conftest import tiny_spec

from agentmixer.contract.spec import Box
from agentmixer.report.episode_scenes import over_payoff
from agentmixer.report.replay_data import packed, parted, shortened
from agentmixer.tasks.scene import Drawing, Shape
from agentmixer.validate.recording import Episode, Recording


def episode(arm: str = "joint", steps: int = 40, number: int = 0) -> Episode:
    """Noise, which nothing makes smaller."""
    random = np.random.default_rng(number)
    moments = steps + 1
    return Episode(
        arm, number, np.zeros((moments, 11), np.float32), random.normal(size=(moments, 3, 7)).astype(np.float32),
        np.ones((moments, 3, 4), bool), np.ones((moments, 3), bool), np.zeros((steps, 3), np.int32),
        np.ones((steps, 3), bool),
        np.ones(steps, np.float32), True, True,
    )  # fmt: skip


def test_as_many_episodes_as_fit_and_the_last_one_cut() -> None:
    spec, recording = tiny_spec(), Recording(tuple(episode(number=number) for number in range(3)), 5)
    whole = packed(recording, spec, lambda _: None, 10**6)
    size = len(whole.episodes[0]["packed"])
    assert whole.told == "As much as fits into this page: 3 of 5 episodes."
    some = packed(recording, spec, lambda _: None, int(1.75 * size))
    steps = some.episodes[1]["arms"][0]["steps"]
    assert [one["number"] for one in some.episodes] == [0, 1] and 20 <= steps < 40
    assert some.told == f"As much as fits into this page: 1 of 5 episodes and the first {steps} steps of another."
    assert some.episodes[1]["arms"][0]["outcome"] == "not to its end"
    assert sum(len(one["packed"]) for one in some.episodes) <= 1.75 * size
    assert packed(recording, spec, lambda _: None, size // 4).episodes == []


def test_the_first_step_in_which_two_arms_act_differently() -> None:
    one, other = episode(), episode("deployed")
    assert parted([one]) is None and parted([one, other]) is None
    other.actions[7, 2] = 1
    assert parted([one, other]) == 7
    assert parted([one, shortened(episode("deployed"), 9)]) == 9  # one ended, the other went on


def test_real_values_part_where_they_are_further_from_each_other_than_two_runtimes_compute() -> None:
    spec = msgspec.structs.replace(tiny_spec(), action_spaces=(Box((-1.0,), (1.0,)),) * 3)
    one = episode()._replace(actions=np.zeros((40, 3, spec.action_size), np.float32))
    other = one._replace(actions=one.actions.copy())
    other.actions[3], other.actions[5] = 5e-5, 2e-4
    assert parted([one, other]) == 5


def test_the_joint_policy_is_drawn_into_the_cells_of_its_payoff() -> None:
    drawing = Drawing(2, 2)
    for row, column in np.ndindex(2, 2):
        drawing.add(Shape("rectangle", "goal", f"{row}, {column}", 0.0), (column, -row), (0.9, 0.9))
    drawing.add(Shape("circle", "mark", "played", 0.4), (0, 0))
    scene = drawing.scene(2, 2, captions=("before", "after"))
    joint = np.array([[0.75, 0.0], [0.0, 0.25]])
    drawn = over_payoff(scene, joint)
    bars = drawn.shapes[5:]
    assert [bar.label for bar in bars] == [
        "0, 0: probability 0.750", "0, 1: probability 0.000", "1, 0: probability 0.000", "1, 1: probability 0.250",
    ]  # fmt: skip
    np.testing.assert_allclose(drawn.to[0, 5:, 0], 0.8 * joint.reshape(-1))
    assert drawn.shown[1, 5:].tolist() == [True, False, False, True]
    left = drawn.at[0, 5:, 0] - drawn.to[0, 5:, 0] / 2
    np.testing.assert_allclose(left, [-0.4, 0.6, -0.4, 0.6], atol=1e-6)
    assert over_payoff(scene, np.ones((3, 3)) / 9) is scene
