"""SMACv2 scenarios in SMAX: teams, sizes, seeds, episode ends, masks."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
import torch
from conftest import tiny_spec

from agentmixer.contract.spec import Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import jax_task, make, smacv2
from agentmixer.tasks.base import TaskStep, to_torch
from agentmixer.tasks.jax_task import Game, JaxTask, Outcome, View
from agentmixer.tasks.smacv2.smacv2_facts import EPISODE_LIMIT, MOVES, TEAMS
from agentmixer.tasks.smacv2.smax import UNITS, MirroredTeams, environment, packages_left_empty

ENVS = 8


def protoss(num_envs: int = ENVS) -> JaxTask:
    task = make("smacv2", "protoss_5v5", num_envs)
    assert isinstance(task, JaxTask)
    return task


@pytest.fixture(scope="module")
def task() -> JaxTask:
    return protoss()


def legal_actions(step: TaskStep, generator: np.random.Generator) -> torch.Tensor:
    noise = generator.random(np.shape(step.action_mask)) * np.asarray(step.action_mask)
    return torch.from_numpy(noise.argmax(-1).astype(np.int32))


def walk(task: JaxTask, seed: int, steps: int, episodes: np.ndarray | None = None) -> list[TaskStep]:
    generator = np.random.default_rng(0)
    seen = [task.reset(seed, episodes)]
    for _ in range(steps):
        seen.append(task.step(legal_actions(seen[-1], generator)))
    return seen


def test_published_sizes_of_the_stand_in() -> None:
    """protoss_5v5 with three unit types: observation 97, state 90, 10 actions."""
    info = {row.scenario: row for row in smacv2.scenarios()}
    assert len(info) == 15
    assert (info["protoss_5v5"].obs_sizes, info["protoss_5v5"].state_size) == ((97,) * 5, 90)
    assert info["protoss_5v5"].actions.startswith("10 ")


@pytest.mark.parametrize("scenario", [row.scenario for row in smacv2.scenarios()])
def test_listed_sizes_are_the_simulators(scenario: str) -> None:
    game, info = environment(scenario), {row.scenario: row for row in smacv2.scenarios()}[scenario]
    assert (game.obs_size,) * game.num_agents == info.obs_sizes
    assert game.num_agents == info.agents
    # SMAX's own state_size attribute counts a team and a type number a unit, as ours does.
    assert game.state_size == info.state_size
    assert int(info.actions.split()[0]) == game.num_ally_actions


def test_arrays_are_what_the_specification_says(task: JaxTask) -> None:
    spec, step = task.spec, task.reset(0)
    space = spec.action_spaces[0]
    assert isinstance(space, Discrete)
    assert step.obs.shape == (5, ENVS, spec.obs_sizes[0])
    assert step.state.shape == (ENVS, spec.state_size)
    assert step.action_mask.shape == (5, ENVS, space.n)
    assert (step.obs.dtype, step.state.dtype, step.action_mask.dtype) == (np.float32, np.float32, np.bool_)


def test_torch_reads_the_simulators_memory_without_a_copy(task: JaxTask) -> None:
    step = task.reset(0)
    assert to_torch(step.obs).data_ptr() == step.obs.unsafe_buffer_pointer()


def test_the_enemy_copies_the_composition_and_weights_are_smacv2s() -> None:
    weights = tuple(TEAMS["protoss"].values())
    teams = jax.vmap(MirroredTeams(5, 6, weights).generate)(jax.random.split(jax.random.PRNGKey(0), 4000))
    assert (teams[:, :5] == teams[:, 5:10]).all()
    share = np.bincount(np.asarray(teams[:, :5]).ravel(), minlength=3) / 20_000
    np.testing.assert_allclose(share, (0.45, 0.45, 0.10), atol=0.0106)  # three standard errors


def test_the_colossus_has_its_real_figures() -> None:
    unit = UNITS["colossus"]
    assert (unit.health, unit.attack_range, unit.velocity, unit.cooldown) == (350.0, 7.0, 3.15, 1.07)


def test_units_in_play_have_the_tables_health() -> None:
    game = environment("protoss_5v5")
    _, state = game.reset(jax.random.PRNGKey(4))
    health = np.array([UNITS[name].health for name in TEAMS["protoss"]])
    np.testing.assert_array_equal(state.state.unit_health, health[np.asarray(state.state.unit_types)])


def test_starts_are_surrounded_or_reflected_half_of_the_time() -> None:
    game = environment("protoss_5v5")
    _, states = jax.vmap(game.reset)(jax.random.split(jax.random.PRNGKey(1), 1000))
    where = np.asarray(states.state.unit_positions)
    ours, theirs = where[:, :5], where[:, 5:]
    reflected = np.abs(ours[..., 0] + theirs[..., 0] - 32).max(1) < 2.0  # collisions push units a little
    centred = (np.abs(ours - 16).max((1, 2)) < 4) | (np.abs(theirs - 16).max((1, 2)) < 4)
    assert abs(reflected.mean() - 0.5) < 0.06
    assert (reflected | centred).mean() > 0.98


def test_the_same_seed_is_the_same_episode_bit_for_bit(task: JaxTask) -> None:
    first, second, other = walk(task, 7, 120), walk(protoss(), 7, 120), walk(task, 8, 5)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(first[0].obs, other[0].obs)


def test_an_episode_does_not_depend_on_its_neighbours(task: JaxTask) -> None:
    """Episode 5 starts alike wherever it runs, which is what pairs two policies' episodes."""
    alone = protoss(1).reset(3, np.array([5]))
    among = task.reset(3)
    np.testing.assert_array_equal(alone.obs[:, 0], among.obs[:, 5])


def test_a_snapshot_continues_exactly(task: JaxTask) -> None:
    walk(task, 2, 10)
    kept = task.snapshot()
    generator = np.random.default_rng(1)
    actions = [torch.from_numpy(generator.integers(0, 5, (5, ENVS)).astype(np.int32)) for _ in range(60)]
    want = [task.step(a) for a in actions]
    fresh = protoss()
    fresh.restore(kept)
    for a, w in zip(actions, want, strict=True):
        for x, y in zip(fresh.step(a), w, strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_limit_truncates_when_nobody_can_win() -> None:
    """Without weapons the battle lasts until the limit, which is a truncation and no win."""
    task = protoss()
    step = task.reset(0)
    game = task.state()
    # Nobody's weapon is ever ready.
    endless = jax.numpy.full_like(game.state.unit_weapon_cooldowns, 1e6)
    changed = game.replace(state=game.state.replace(unit_weapon_cooldowns=endless))
    task._running[:-2] = jax.tree.leaves(changed)
    for t in range(1, EPISODE_LIMIT + 1):
        step = task.step(torch.full((5, ENVS), 4, dtype=torch.int32))
        assert np.asarray(step.truncated).all() == (t == EPISODE_LIMIT)
        assert not np.asarray(step.terminated).any()
    assert not np.asarray(step.won).any()
    assert not np.array_equal(step.obs, step.final_obs)


def test_wins_and_losses_are_terminations_with_their_reward(task: JaxTask) -> None:
    ends = {"won": 0, "lost": 0}
    for step in walk(task, 21, 400)[1:]:
        terminated, won, reward = (np.asarray(a) for a in (step.terminated, step.won, step.reward))
        assert not (won & ~terminated).any()
        assert (reward[won] > 1.0).all()
        assert (reward[~won] <= 1.0).all()
        ends["won"] += won.sum()
        ends["lost"] += (terminated & ~won).sum()
    assert ends["lost"] > 10  # nobody wins by acting at random


def test_dead_agents_may_only_stop_and_are_marked(task: JaxTask) -> None:
    dead = 0
    for step in walk(task, 5, 60):
        active, mask = np.asarray(step.active), np.asarray(step.action_mask)
        assert mask.any(-1).all()
        only_stop = np.eye(mask.shape[-1], dtype=bool)[MOVES.index("stop")]
        assert (mask[~active] == only_stop).all()
        assert mask[active][:, :5].all()
        dead += (~active).sum()
    assert dead > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("smacv", "protoss_5v5"), "unknown task 'smacv'; did you mean 'smacv2'"),
        (("smacv2", "protos_5v5"), "no scenario 'protos_5v5'; did you mean 'protoss_5v5'"),
        (("smacv2", "protoss_5v5", 8, "smacs"), "no backend 'smacs'"),
        (("smacv2", "protoss_5v5", 0), "num_envs is 0"),
    ],
)
def test_what_does_not_exist_is_named_with_the_nearest(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        make(*((*arguments, 8)[:3] if len(arguments) == 2 else arguments))  # type: ignore[arg-type]


def test_importing_the_simulator_leaves_standard_output_alone() -> None:
    code = "import io, sys; sys.stdout = mine = io.StringIO(); import agentmixer.tasks.smacv2.smax_game; assert sys.stdout is mine and mine.getvalue() == ''"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == ""


def test_a_packages_own_imports_are_left_out_and_made_up_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("large", "large/inside"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("complete = True")
    (tmp_path / "large" / "inside" / "wanted.py").write_text("value = object()")
    monkeypatch.syspath_prepend(tmp_path)
    with packages_left_empty("large", "large.inside"):
        wanted = importlib.import_module("large.inside.wanted")
        assert not hasattr(sys.modules["large.inside"], "complete")
    large = importlib.import_module("large.inside")
    assert large.complete and sys.modules["large"].complete
    assert importlib.import_module("large.inside.wanted") is wanted
    with packages_left_empty("large", "large.inside"):
        assert sys.modules["large.inside"] is large
    with pytest.raises(ModuleNotFoundError), packages_left_empty("absent_package"):
        pass


def test_smax_imports_no_other_environment_of_jaxmarl() -> None:
    """Those take seconds, in every command that plays."""
    code = "import sys, agentmixer.tasks.smacv2.smax; print('jaxmarl.environments.storm' in sys.modules, 'jaxmarl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_what_was_traced_before_plays_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A game with a key is traced once, then read from disk; a file that cannot be used, and another key, are traced anew."""

    def counter(rate: float, key: str) -> Game:
        def step(key: jax.Array, state: jax.Array, actions: jax.Array) -> Outcome:
            after = state + rate * actions.sum() + jax.random.uniform(key)
            return Outcome(after, after, after > 9, after > 9)

        def look(state: jax.Array) -> View:
            seen = jnp.full((2, 3), state)
            return View(seen, seen[0], seen > -1, seen[:, 0] > -1)

        return Game(lambda key: jax.random.uniform(key), step, look, key=key)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = msgspec.structs.replace(tiny_spec(agents=2, obs=3, state=3, actions=3), episode_limit=7)

    def played(game: Game) -> list[np.ndarray]:
        task = JaxTask(spec, game, 4)
        steps = [task.reset(3)] + [task.step(torch.full((2, 4), t % 3, dtype=torch.int32)) for t in range(20)]
        kept = task.snapshot()
        after = task.step(torch.zeros(2, 4, dtype=torch.int32))
        again = JaxTask(spec, game, 4)
        again.restore(kept)
        np.testing.assert_array_equal(again.step(torch.zeros(2, 4, dtype=torch.int32)).obs, after.obs)
        return [np.asarray(array) for step in steps for array in step]

    wanted = played(counter(0.5, ""))
    folder = tmp_path / "agentmixer" / "jax"
    assert not list(folder.glob("traced-*"))
    traced = []
    monkeypatch.setattr(jax_task, "_trace", lambda *given, trace=jax_task._trace: traced.append(1) or trace(*given))
    for times in (1, 1):  # the second time from disk: another game, so that nothing is left in this process
        for ours, theirs in zip(played(counter(0.5, "one")), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert len(traced) == times
    (file,) = folder.glob("traced-*")
    file.write_bytes(file.read_bytes()[:-100])
    for ours, theirs in zip(played(counter(0.5, "one")), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(traced) == 2
    assert not all(np.array_equal(a, b) for a, b in zip(played(counter(0.25, "two")), wanted, strict=True))
    assert len(traced) == 3 and len(list(folder.glob("traced-*"))) == 2
