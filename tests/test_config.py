"""Settings: the paper's tables, and what a wrong value is answered with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agentmixer.config import parse_assignments
from agentmixer.errors import AgentMixerError
from agentmixer.train.algorithms import ALGORITHMS, AgentMixerPPO, AgentMixerSAC
from agentmixer.train.presets import resolve


def paper(task: str) -> SimpleNamespace:
    return SimpleNamespace(**AgentMixerPPO.configure("paper", task).as_dict())


def test_paper_preset_is_the_papers_tables() -> None:
    config = paper("smacv2")
    # Table 5
    assert (config.pm_agent_hidden, config.pm_channel_hidden, config.pm_lr) == (32, 256, 5e-5)
    # Table 8
    assert (config.adam_eps, config.max_grad_norm, config.chunk_length) == (1e-5, 10, 1)
    assert (config.clip, config.gamma, config.gae_lambda) == (0.2, 0.99, 0.95)
    # Table 10
    assert (config.actor_lr, config.critic_lr, config.entropy_coef) == (5e-4, 5e-4, 0.01)
    assert (config.layers, config.hidden, config.epochs, config.minibatches) == (1, 64, 5, 1)
    assert (config.total_steps, config.num_envs, config.rollout_length) == (10_000_000, 50, 200)
    assert not config.share_parameters
    # Tables 9 and 11
    config = paper("matrix")
    assert (config.epochs, config.actor_lr, config.entropy_coef, config.total_steps) == (15, 5e-4, 0.01, 200_000)
    config = paper("mamujoco")
    assert (config.epochs, config.actor_lr, config.entropy_coef, config.layers) == (5, 3e-4, 0.0, 2)
    assert (config.num_envs, config.rollout_length, config.total_steps) == (40, 100, 10_000_000)


def test_released_preset_is_the_paper_s_but_for_what_the_authors_scripts_and_code_say() -> None:
    def beside_paper(task: str) -> dict[str, object]:
        ours, theirs = (AgentMixerPPO.configure(preset, task).as_dict() for preset in ("released", "paper"))
        return {name: value for name, value in ours.items() if value != theirs[name]}

    always = {"pm": "recurrent", "u_scale": 0.5}
    assert beside_paper("passage") == always
    assert beside_paper("matrix") == always | {"pm_lr": 5e-4, "total_steps": 1_000_000}
    assert beside_paper("smacv2") == always | {
        "num_envs": 25, "clip": 0.05, "pm_lr": 5e-4, "tau_end": 5.0, "tau_schedule": "late",
    }  # fmt: skip
    assert beside_paper("predator_prey") == always | {"u_scale": 0.95, "epochs": 15, "total_steps": 1_000_000}
    assert beside_paper("mamujoco") == always | {"pm_lr": 3e-5, "std_high": 0.75, "sigmoid_gain": 0.3}


def test_paper_preset_names_every_setting_of_the_method() -> None:
    """A changed default must never leak into `paper`."""
    run_only = {
        "eval_interval",
        "checkpoint_interval",
        "eval_episodes",
        "final_episodes",
        "judge_limit",
        "huber_delta",
        "env_restarts",
        "workers",
    }
    assert set(AgentMixerPPO.configure().as_dict()) - run_only == set(resolve(AgentMixerPPO.presets, "paper", "smacv2"))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("actor_rl=1e-3", "did you mean 'actor_lr'"),
        ("gamma=1.5", "gamma must be a finite number between 0.0 and 1.0, got 1.5"),
        ("epochs=0", "epochs must be a whole number of at least 1, got 0"),
        ("epochs=2.5", "epochs must be a whole number"),
        ("epochs=nan", "epochs must be a whole number"),
        ("gamma=nan", "gamma must be a finite number between"),
        ("actor_lr=fast", "actor_lr must be a finite number"),
        ("lr_decay=yes", "lr_decay must be true or false"),
        ("ratio=both", "ratio must be one of agent, joint"),
        ("gamma", "--set takes key=value"),
        ("gamma=", "--set takes key=value"),
        ("seed=1", "unknown setting 'seed'; give it as --seed N"),
        ("learning_rate=1", "unknown setting 'learning_rate'; did you mean 'actor_lr' or 'critic_lr'?"),
    ],
)
def test_a_wrong_setting_is_answered_with_the_way_out(assignment: str, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        AgentMixerPPO.configure().replace(parse_assignments([assignment]))


def test_settings_are_parsed_to_their_types() -> None:
    config = AgentMixerPPO.configure().replace(
        parse_assignments(["total_steps=1e6", "lr_decay=false", "actor_lr=3e-4"])
    )
    assert (config.run.total_steps, config.algorithm.lr_decay, config.algorithm.actor_lr) == (1_000_000, False, 3e-4)
    assert isinstance(config.run.total_steps, int)


def test_every_setting_has_its_sentence_and_stands_in_one_part_alone() -> None:
    for algorithm in ALGORITHMS.values():
        parts = algorithm.configure().parts
        names = [name for part in parts.values() for name in part.names()]
        assert len(names) == len(set(names))
        assert [name for part in parts.values() for name in part.explained()] == names


def test_every_preset_of_every_algorithm_holds_on_every_task() -> None:
    for algorithm in ALGORITHMS.values():
        for preset, (_, by_task) in algorithm.presets.items():
            for task in (*by_task, "another"):
                algorithm.configure(preset, task).check()


def test_settings_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(AgentMixerError, match="chunk_length 5 does not divide rollout_length 16"):
        AgentMixerPPO.configure().replace({"chunk_length": 5, "rollout_length": 16}).check()
    with pytest.raises(AgentMixerError, match="minibatches is 1000, but a rollout has only 128 chunks"):
        AgentMixerPPO.configure().replace({"minibatches": 1000, "num_envs": 128}).check()


@pytest.mark.parametrize(
    ("given", "chunk_length", "minibatches"),
    [
        ({"num_envs": 2, "rollout_length": 16}, 16, 2),
        ({"rollout_length": 12}, 12, 4),
        ({"rollout_length": 20}, 10, 4),
        ({"rollout_length": 17, "num_envs": 2}, 1, 4),
        ({"num_envs": 2, "rollout_length": 16, "minibatches": 8}, 4, 8),
        ({"num_envs": 1, "rollout_length": 16, "chunk_length": 8}, 8, 2),
        ({"num_envs": 1, "rollout_length": 1}, 1, 1),
        ({"num_envs": 128, "rollout_length": 128}, 16, 4),
    ],
)
def test_settings_that_were_not_given_fit_those_that_were(given: dict, chunk_length: int, minibatches: int) -> None:
    """The preset has chunks of 16 steps and 4 minibatches."""
    config = AgentMixerPPO.configure("default", "predator_prey").replace(given).fitted(given)
    config.check()
    assert (config.algorithm.chunk_length, config.algorithm.minibatches) == (chunk_length, minibatches)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rollout_length": 12, "chunk_length": 5}, "chunk_length 5 does not divide rollout_length 12"),
        ({"num_envs": 1, "rollout_length": 4, "minibatches": 5}, "minibatches is 5, but a rollout has only 4 chunks"),
        ({"num_envs": 2, "rollout_length": 16, "chunk_length": 16, "minibatches": 3}, "a rollout has only 2 chunks"),
    ],
)
def test_settings_that_were_given_are_not_changed(given: dict, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        AgentMixerPPO.configure("default", "predator_prey").replace(given).fitted(given).check()


def test_a_replay_and_the_start_of_learning_fit() -> None:
    start = AgentMixerSAC.configure()
    for given, size, first in (
        ({"replay_size": 500}, 500, 500),
        ({"learning_starts": 300_000}, 300_000, 300_000),
        ({"replay_size": 5_000}, 5_000, 2_000),
    ):
        settings = start.replace(given).fitted(given).algorithm
        assert (settings.replay_size, settings.learning_starts) == (size, first)
    both = {"replay_size": 500, "learning_starts": 501}
    with pytest.raises(AgentMixerError, match="learning_starts is 501, more than replay_size"):
        start.replace(both).fitted(both).check()
