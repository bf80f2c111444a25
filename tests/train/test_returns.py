"""Advantages against numbers worked out by hand."""

from __future__ import annotations

import torch
from conftest import tiny_algorithm

from agentmixer.train.returns import ValueNorm, gae, standardised

NO = torch.zeros(3, 1, dtype=torch.bool)


def one(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1)


def run(terminated: torch.Tensor = NO, truncated: torch.Tensor = NO) -> list[float]:
    """Rewards 1, 2, 3; values 10, 20, 30; 40 follows; an episode cut off was worth 50; gamma .5, lambda .5."""
    value = one(10, 20, 30).unsqueeze(0)
    final = one(50, 50, 50).unsqueeze(0)
    out = gae(one(1, 2, 3), value, torch.tensor([[40.0]]), final, terminated, truncated, 0.5, 0.5)
    return out.flatten().tolist()


def test_gae_without_ends() -> None:
    # delta: 1+10-10 = 1, 2+15-20 = -3, 3+20-30 = -7; A2 = -7, A1 = -3 - 7/4 = -4.75, A0 = 1 - 4.75/4
    assert run() == [-0.1875, -4.75, -7.0]


def test_nothing_is_expected_after_termination() -> None:
    # delta1 = 2 - 20 = -18 and nothing of step 2 leaks back; A0 = 1 - 18/4
    assert run(terminated=torch.tensor([[False], [True], [False]])) == [-3.5, -18.0, -7.0]


def test_truncation_bootstraps_from_the_observation_it_was_cut_off_at() -> None:
    # delta1 = 2 + 25 - 20 = 7, not the next episode's 30; A0 = 1 + 7/4
    assert run(truncated=torch.tensor([[False], [True], [False]])) == [2.75, 7.0, -7.0]


def test_value_norm_matches_the_debiased_moments() -> None:
    norm = ValueNorm(beta=0.9)
    assert norm.moments()[1] == 1.0
    first, second = torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 5.0]])
    norm.update(first)
    norm.update(second)
    # weights .09 and .1: mean (.09*2 + .1*5)/.19, square (.09*5 + .1*25)/.19
    mean, square = (0.09 * 2 + 0.1 * 5) / 0.19, (0.09 * 5 + 0.1 * 25) / 0.19
    torch.testing.assert_close(norm.moments()[0], torch.tensor([mean]))
    torch.testing.assert_close(norm.moments()[1], torch.tensor([(square - mean**2) ** 0.5]))
    x = torch.tensor([[-4.0, 0.0, 9.0]])
    torch.testing.assert_close(norm.denormalise(norm.normalise(x)), x)


def test_each_team_has_moments_of_its_own() -> None:
    together, returns = ValueNorm(2, beta=0.9), torch.randn(2, 3, 5) * torch.tensor([1.0, 9.0]).view(2, 1, 1) + 4
    together.update(returns)
    for team in (0, 1):
        alone = ValueNorm(beta=0.9)
        alone.update(returns[team : team + 1])
        torch.testing.assert_close(
            together.normalise(returns)[team : team + 1], alone.normalise(returns[team : team + 1])
        )


def test_advantages_are_standardised_by_hand_and_their_mean_leaves_by_shares() -> None:
    """Of 1, 3 and 50, which does not count: mean 2 and variance 1 when centred, mean square 5 when not."""
    advantage = torch.tensor([1.0, 3.0, 50.0]).view(1, 1, 3, 1)
    counted = torch.tensor([True, True, False]).view(1, 1, 3, 1)
    for centring, want in ((1.0, [-1.0, 1.0]), (0.0, [1 / 5**0.5, 3 / 5**0.5]), (0.5, [0.0, 2 / 2**0.5])):
        found = standardised(advantage, counted, centring).flatten()[:2]
        torch.testing.assert_close(found, torch.tensor(want), atol=1e-4, rtol=1e-4)


def test_at_the_end_of_optimism_plain_ppo_remains() -> None:
    algorithm = tiny_algorithm(optimism=0.8)
    assert [(algorithm.schedule(p), algorithm.optimism, algorithm.centring)[1:] for p in (0.0, 0.5, 0.75, 1.0)] == [
        (0.8, 0.0), (0.8, 0.0), (0.4, 0.5), (0.0, 1.0)
    ]  # fmt: skip
    assert tiny_algorithm(optimism=0.0).centring == 1.0
