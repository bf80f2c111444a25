"""Matrix games: payoffs, ragged teams, files and what is wrong with them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agentmixer.contract.spec import Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make, matrix
from agentmixer.tasks.matrix.payoffs import CHANCE, MAX_FILE, PAYOFFS, SUFFIXES, payoff, payoff_tables


def every_joint_action(shape: tuple[int, ...]) -> torch.Tensor:
    """[N, A_0 * ... * A_(N-1)], last agent fastest."""
    return torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.int32).T.contiguous()


@pytest.mark.parametrize(
    ("scenario", "best", "worst"),
    [("climbing", 11, -30), ("penalty_25", 10, -25), ("penalty_100", 10, -100), ("nonmonotonic", 8, -12)],
)
def test_published_payoffs(scenario: str, best: float, worst: float) -> None:
    cells = payoff(scenario)
    assert cells.shape == (3, 3) and cells.max() == best and cells.min() == worst


def test_climbing_is_indexed_by_agent_0_then_agent_1() -> None:
    assert payoff("climbing")[2, 0] == 11 and payoff("climbing")[0, 2] == 5 and payoff("climbing")[1, 1] == 7


def test_every_joint_action_pays_its_cell_and_ends_the_episode() -> None:
    task = make("matrix", "climbing", 9)
    first = task.reset(0)
    assert np.asarray(first.obs).tolist() == [[[1.0]] * 9] * 2 and np.asarray(first.state).tolist() == [[1.0]] * 9
    for _ in range(2):  # the next episode is like the first
        step = task.step(every_joint_action((3, 3)))
        assert np.asarray(step.reward).tolist() == [0, 6, 5, -30, 7, 0, 11, -30, 0]
        assert np.asarray(step.won).tolist() == [cell == 6 for cell in range(9)]
        assert np.asarray(step.terminated).all() and not np.asarray(step.truncated).any()
        assert np.asarray(step.active).all() and np.asarray(step.action_mask).all()


def test_means_that_differ_by_rounding_alone_are_equal(tmp_path: Path) -> None:
    """.1 * 1 + .2 * 11 + .7 * 13 and .1 * 4 + .2 * 6 + .7 * 14 are both 11.4, and one of them rounds to less."""
    file = tmp_path / "equal.json"
    tables = [[[1, 4], [0, 0]], [[11, 6], [0, 0]], [[13, 14], [0, 0]]]
    file.write_text(json.dumps({"payoffs": tables, "probabilities": [0.1, 0.2, 0.7]}))
    assert payoff_tables(str(file)).best.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    ("scenario", "means"),
    [
        ("climbing_stochastic_partly", [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        ("climbing_stochastic", [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
    ],
)
def test_payoffs_of_chance_have_the_published_means(scenario: str, means: list[list[float]]) -> None:
    assert payoff(scenario).tolist() == means


def test_chance_draws_a_table_an_episode_and_the_best_mean_wins() -> None:
    """Of 4,000 episodes a fair coin gives 2,000 heads with a standard deviation of 32."""
    task = make("matrix", "climbing_stochastic", 4000)
    for cell, pays in (((0, 0), (10, 12)), ((1, 1), (14, 0)), ((0, 1), (5, -65))):
        task.reset(1)
        for _ in range(2):
            step = task.step(torch.tensor(cell, dtype=torch.int32)[:, None].repeat(1, 4000))
            reward = np.asarray(step.reward)
            assert set(reward.tolist()) == set(pays) and abs((reward == pays[0]).sum() - 2000) < 200
            assert np.asarray(step.won).all() == (cell == (0, 0))


def test_payoffs_of_chance_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chance.json"
    tables = [[[1, 2], [3, 4]], [[5, 6], [7, 0]]]
    file.write_text(json.dumps({"payoffs": tables, "probabilities": [0.25, 0.75]}))
    np.testing.assert_allclose(payoff(str(file)), [[4, 5], [6, 1]])
    task = make("matrix", str(file), 8000)
    task.reset(0)
    reward = np.asarray(task.step(torch.zeros(2, 8000, dtype=torch.int32)).reward)
    assert set(reward.tolist()) == {1, 5} and abs((reward == 1).sum() - 2000) < 250
    for wrong, words in (
        ({"payoffs": tables}, 'must have "payoffs"'),
        ({"payoffs": tables, "probabilities": [1.0]}, "has 2 tables of payoffs"),
        ({"payoffs": tables, "probabilities": [1.5, -0.5]}, "none below 0, with the sum 1"),
        ({"payoffs": tables, "probabilities": [0.5, 0.6]}, "with the sum 1"),
        ({"payoffs": tables, "probabilities": "half"}, "has 2 tables of payoffs"),
        ({"payoffs": tables, "probabilities": [10**400, 1]}, "has 2 tables of payoffs"),
        ({"payoffs": 3, "probabilities": [1]}, "nested"),
        ({"payoffs": [], "probabilities": []}, "chance.json"),
        ({"payoffs": [[[1, 2], [3, 4]], [[5, 6], [7]]], "probabilities": [0.5, 0.5]}, "cannot be read as payoffs"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(AgentMixerError, match=words):
            payoff(str(file))


def test_three_agents_with_different_numbers_of_actions_from_a_file(tmp_path: Path) -> None:
    cells = np.random.default_rng(0).normal(size=(2, 4, 3))
    file = tmp_path / "three.json"
    file.write_text(json.dumps(cells.tolist()))
    task = make("matrix", str(file), 24)
    assert task.spec.action_spaces == (Discrete(2), Discrete(4), Discrete(3))
    assert task.spec.scenario == "three.json" and not task.spec.has_action_mask
    mask = np.asarray(task.reset(0).action_mask)
    assert mask.shape == (3, 24, 4) and mask[:, 0].sum(-1).tolist() == [2, 4, 3]
    assert mask[0, 0].tolist() == [True, True, False, False]
    step = task.step(every_joint_action((2, 4, 3)))
    np.testing.assert_array_equal(step.reward, cells.ravel().astype(np.float32))
    assert np.asarray(step.won).nonzero()[0].tolist() == [cells.argmax()]


def test_the_three_file_formats_mean_the_same(tmp_path: Path) -> None:
    cells = np.array([[1.5, -2, 3], [0, 4, 1e3]])
    (tmp_path / "a.json").write_text("[[1.5, -2, 3], [0, 4, 1000]]")
    (tmp_path / "a.csv").write_text("1.5,-2,3\n0, 4, 1e3\n\n")
    np.save(tmp_path / "a.npy", cells)
    for suffix in SUFFIXES:
        np.testing.assert_array_equal(payoff(str(tmp_path / f"a{suffix}")), cells)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file, rewards = tmp_path / "a.csv", []
    for text in ("1,2\n3,4\n", "5,6\n7,8\n"):
        file.write_text(text)
        task = make("matrix", str(file), 4)
        task.reset(0)
        rewards.append(np.asarray(task.step(every_joint_action((2, 2))).reward).tolist())
    assert rewards == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "[[1, 2], [3]]", "equally long"),
        ("a.csv", "1,2\n3\n", "equally long"),
        ("a.csv", "1,x\n3,4\n", "numbers only"),
        ("a.json", "[[1, 2", "cannot be read"),
        ("a.npy", "no array", "cannot be read"),
        ("a.json", '[["1", "2"], ["3", "4"]]', "not a number"),
        ("a.json", "[[true, false], [true, true]]", "not a number"),
        ("a.json", "[[1, NaN], [3, 4]]", "not a finite"),
        ("a.json", "[[1, 1e39], [3, 4]]", "not a finite"),
        ("a.csv", "1,inf\n3,4\n", "not a finite"),
        ("a.json", "[[1, 1e18], [3, 4]]", r"not a finite number of at most 1e\+15"),
        (
            "a.json",
            "[[100000005, 100000006], [100000007, 100000011]]",
            "the payoffs 100000007.0 and 100000011.0, which",
        ),
        ("a.json", "[[1, 2], [3, 3.00000001]]", "the payoffs 3.0 and 3.00000001, which are the same 32-bit number"),
        ("a.json", "[[1e-60, 2e-60], [0, 3e-60]]", "the same 32-bit number"),
        ("a.json", "[[1], [2]]", "fewer than 2 actions"),
        ("a.json", "[1, 2]", "nested 1 deep"),
        ("a.json", json.dumps(np.zeros((2,) * 9).tolist()), "nested 9 deep"),
        ("a.csv", "", "nested 1 deep"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_sentence(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(AgentMixerError, match=words) as raised:
        make("matrix", str(tmp_path / name), 1)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_payoffs_may_be_rounded(tmp_path: Path) -> None:
    """What rounding to 32 bits takes away is nothing beside the differences between payoffs."""
    cells = np.random.default_rng(0).normal(size=(100, 100))
    assert len(np.unique(cells.astype(np.float32))) < cells.size
    np.save(tmp_path / "a.npy", cells)
    np.testing.assert_array_equal(payoff(str(tmp_path / "a.npy")), cells)


def test_too_many_payoffs_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1000, 1001), np.float32))
    with pytest.raises(AgentMixerError, match="1,001,000 payoffs; at most 1,000,000"):
        payoff(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("clmbing", "did you mean 'climbing'"),
        ("payoffs.txt", "neither a matrix game known by name nor"),
        ("nowhere/payoffs.json", "no file nowhere/payoffs.json"),
    ],
)
def test_an_unknown_scenario_is_named(scenario: str, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        make("matrix", scenario, 1)


def test_listed_sizes_are_the_specifications() -> None:
    assert [row.scenario for row in matrix.scenarios()] == [*PAYOFFS, *CHANCE]
    for row in matrix.scenarios():
        spec = make("matrix", row.scenario, 1).spec
        assert (row.agents, row.obs_sizes, row.state_size) == (spec.num_agents, spec.obs_sizes, spec.state_size)


def test_listing_the_small_tasks_does_not_load_a_simulator() -> None:
    code = "import sys; from agentmixer.tasks import coordsum, matrix, passage, predator_prey; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "content"), [("empty.npy", b""), ("wide.csv", b'"' + b"1" * 200_000 + b'",2\n3,4\n')])
def test_a_file_that_is_no_matrix_is_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AgentMixerError, match="cannot be read as payoffs"):
        payoff(str(tmp_path / name))


@pytest.mark.parametrize("content", [b"[[1, 2], [3, \xff]]", "1,2\n3,4\n".encode("utf-16")])
@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_file_that_is_not_utf_8_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    with pytest.raises(AgentMixerError, match=f"a{suffix} is not text in UTF-8"):
        payoff(str(file))


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.json")
    Path(name).write_text("[[1, 2], [3, 4]]")
    with pytest.raises(AgentMixerError, match="is not UTF-8"):
        payoff(name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_regular_file_is_named_and_not_waited_for(suffix: str, tmp_path: Path) -> None:
    fifo, device, folder = (tmp_path / f"{name}{suffix}" for name in ("fifo", "device", "folder"))
    os.mkfifo(fifo)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    for file in (fifo, device, folder):
        with pytest.raises(AgentMixerError, match="give a file of payoffs"):
            payoff(str(file))


def test_a_file_may_be_a_link_but_not_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (tmp_path / "link.csv").symlink_to("a.csv")
    np.testing.assert_array_equal(payoff(str(tmp_path / "link.csv")), [[1, 2], [3, 4]])
    with (tmp_path / "large.npy").open("wb") as file:
        file.truncate(MAX_FILE + 1)  # takes no room
    with pytest.raises(AgentMixerError, match="has more than 67,108,864 bytes"):
        payoff(str(tmp_path / "large.npy"))


def test_a_damaged_header_is_a_sentence(tmp_path: Path) -> None:
    """Every byte of it changed to others; what still reads has as many payoffs as before, or says what is wrong."""
    np.save(tmp_path / "a.npy", np.arange(4.0).reshape(2, 2))
    good, refused = (tmp_path / "a.npy").read_bytes(), 0
    for place in range(128):
        for value in (0, ord("("), ord("9"), 255):
            (tmp_path / "b.npy").write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            try:
                assert payoff(str(tmp_path / "b.npy")).size <= 4
            except AgentMixerError:
                refused += 1
    assert refused > 200
