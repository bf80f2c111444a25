"""Gradients written out by hand, or taken in parts, against those that autograd finds the plain way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_rollout, tiny_algorithm, tiny_spec
from torch import Tensor, nn

from agentmixer.train import blocks
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.policy_modifiers import mixer
from agentmixer.train.rollout import Batch
from agentmixer.train.stack import StackedGRUCell, StackedLayerNorm, StackedLinear, affine


def scrambled(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double()


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def same_gradients(first: Callable[[], Tensor], second: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    """Values, and gradients of a random weighting of them, agree to the rounding of double precision."""
    ours, theirs = first(), second()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    weights = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, weights), torch.autograd.grad(theirs, leaves, weights), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize(("rows", "stack"), [(3, 1), (3, 3), (6, 2), (6, 6)])
def test_the_unrolled_gru_is_its_cell_step_by_step(rows: int, stack: int, length: int) -> None:
    """Shared, one an agent, and two teams of three agents, with episodes that begin within a chunk."""
    torch.manual_seed(length)
    cell = scrambled(StackedGRUCell(stack, 5, 4))
    x, h = leaf(rows, length, 7, 5), leaf(rows, 7, 4)
    keep = (torch.rand(rows, length, 7) < 0.6).double()
    assert isinstance(cell, StackedGRUCell)

    def stepwise() -> Tensor:
        now, states = h, []
        for t in range(length):
            before = (now * keep[:, t].unsqueeze(-1)).reshape(stack, -1, 4)
            now = cell(x[:, t].reshape(stack, -1, 5), before).view(rows, 7, 4)
            states.append(now)
        return torch.stack(states, 1)

    same_gradients(lambda: cell.unroll(x, h, keep), stepwise, [x, h, *cell.parameters()])
    # Without a gradient to the first memory, as in training, the others stay what they are.
    h = h.detach()
    same_gradients(lambda: cell.unroll(x, h, keep), stepwise, [x, *cell.parameters()])


@pytest.mark.parametrize("teams", [1, 3])
def test_mixing_over_agents_is_two_plain_products(teams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where columns fall into several blocks, the last of them shorter."""
    torch.manual_seed(teams)
    x, w1, b1, w2, b2 = leaf(teams, 3, 11), leaf(teams, 3, 5), leaf(teams, 5), leaf(teams, 5, 3), leaf(teams, 3)
    leaves = [x, w1, b1, w2, b2]

    def plain() -> Tensor:
        hidden = (w1.transpose(1, 2) @ x + b1.unsqueeze(2)).relu()
        return w2.transpose(1, 2) @ hidden + b2.unsqueeze(2)

    for columns in (4, 11, 100):
        monkeypatch.setattr(mixer, "COLUMNS", columns)
        same_gradients(lambda: mixer._Mix.apply(*leaves), plain, leaves)
        assert torch.autograd.gradcheck(mixer._Mix.apply, leaves)


@pytest.mark.parametrize("sizes", [None, (3, 5)])
def test_a_norm_drawn_into_the_linear_map_behind_it_changes_nothing(sizes: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    norm, linear = scrambled(StackedLayerNorm(2, 5, sizes)), scrambled(StackedLinear(2, 5, 4))
    assert isinstance(norm, StackedLayerNorm)
    assert isinstance(linear, StackedLinear)
    data = torch.randn(2, 9, 5, dtype=torch.float64) * 3 + 1
    if sizes is not None:
        norm.exists = norm.exists.double() if norm.exists is not None else None
        data[0, :, 3:] = 0
    x = data.requires_grad_()
    same_gradients(lambda: norm.then(linear, x), lambda: linear(norm(x)), [x, *norm.parameters(), *linear.parameters()])


@pytest.mark.parametrize("size", [1, 5, 15, 16, 17, 48, 63, 64, 70])
@pytest.mark.parametrize("stack", [1, 3])
def test_padding_a_narrow_affine_map_changes_nothing(size: int, stack: int) -> None:
    torch.manual_seed(size)
    x, weight, bias = leaf(stack, 6, 7), leaf(stack, 7, size), leaf(stack, size)
    same_gradients(lambda: affine(x, weight, bias), lambda: x @ weight + bias.unsqueeze(1), [x, weight, bias])


def updated(algorithm: AgentMixerPPO) -> list[Tensor]:
    """Parameters after one update from a random rollout, always the same one."""
    algorithm.update(random_rollout(algorithm))
    return [p.detach().clone() for module in algorithm.modules.values() for p in module.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"minibatches": 1, "recurrent_critic": True, "ratio": "joint", "share_parameters": False, "team_critic": False},
    ],
    ids=["shared", "own"],
)
@pytest.mark.parametrize("teams", [1, 2])
def test_gradients_taken_in_blocks_are_those_of_the_whole(
    teams: int, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rows in (1, 100, 10**9):
        monkeypatch.setattr(blocks, "ROWS", rows)
        found.append(updated(tiny_algorithm(seeds=range(teams), **settings)))
    start = [
        p for module in tiny_algorithm(seeds=range(teams), **settings).modules.values() for p in module.parameters()
    ]
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(found[-1], start, strict=True))
    for other in found[:2]:
        for a, b in zip(other, found[-1], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_no_bit_depends_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", 8)
    found = []
    for threads in (1, 4):
        with ThreadPoolExecutor(threads) as pool:
            monkeypatch.setattr(blocks, "workers", lambda pool=pool: pool)
            found.append(updated(tiny_algorithm()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("teams", [1, 2])
def test_what_is_the_same_in_every_row_is_computed_once_and_counts_for_all(
    teams: int, recurrent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A game with one state. What the networks see never varies; actions, rewards and who began an episode do."""
    settings = {"chunk_length": 1, "recurrent_actor": recurrent, "minibatches": 1}
    constant = ("obs", "state", "signal", "mask", "actor_memory", "critic_memory")
    found = []
    for hidden in (False, True):
        algorithm = tiny_algorithm(tiny_spec(), seeds=range(teams), **settings)
        rollout = random_rollout(algorithm)
        for name in constant:
            array = getattr(rollout, name)
            setattr(rollout, name, array[:, :1, :1].expand_as(array).clone())
        rollout.episode_start = torch.ones_like(rollout.episode_start)
        rollout.action = torch.zeros_like(rollout.action) + rollout.mask.float().argmax(-1)
        assert Batch.cut(rollout, *algorithm.advantages(rollout), 1).all_alike()
        if hidden:
            monkeypatch.setattr(Batch, "all_alike", lambda _: False)
        algorithm = tiny_algorithm(tiny_spec(), seeds=range(teams), **settings)
        algorithm.update(rollout)
        found.append([p.detach() for module in algorithm.modules.values() for p in module.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_optimisers_are_made_for_the_first_update_and_step_sizes_fall() -> None:
    """A team that acts alone, as in an export, has no optimiser: making one costs its process 1 to 2 s."""
    algorithm = tiny_algorithm(lr_decay=True, critic_first=0.0)
    algorithm.schedule(0.75)
    assert "optimisers" not in vars(algorithm)
    algorithm.update(random_rollout(algorithm))
    sizes = {name: optimiser.param_groups[0]["lr"] for name, optimiser in algorithm.optimisers.items()}
    assert sizes == {name: pytest.approx(size / 4) for name, size in algorithm.step_sizes().items()}
