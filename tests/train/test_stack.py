"""A stack of S networks computes what S separate networks compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agentmixer.train.stack import (
    ROWS,
    StackedGRUCell,
    StackedLayerNorm,
    StackedLinear,
    StackedRunningNorm,
    clip_stack_grad_norm,
)


@pytest.mark.parametrize("stack", [1, 3])
def test_stacked_linear_equals_separate_linears(stack: int) -> None:
    layer = StackedLinear(stack, 5, 4)
    nn.init.normal_(layer.bias)
    x = torch.randn(stack, 6, 5)
    for i in range(stack):
        plain = nn.Linear(5, 4)
        plain.weight.data, plain.bias.data = layer.weight.data[i].T, layer.bias.data[i]
        torch.testing.assert_close(layer(x)[i], plain(x[i]))


def test_stacked_linear_is_orthogonal_with_its_gain() -> None:
    weight = StackedLinear(2, 4, 9, gain=0.5).weight.data[1]
    torch.testing.assert_close(weight @ weight.T, 0.25 * torch.eye(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [5, ROWS])
@pytest.mark.parametrize("stack", [1, 3])
def test_stacked_layer_norm_equals_torch(stack: int, rows: int) -> None:
    norm = StackedLayerNorm(stack, 7)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 * torch.randn(stack, rows, 7) + 1
    for i in range(stack):
        want = nn.functional.layer_norm(x[i], (7,), norm.weight[i], norm.bias[i])
        torch.testing.assert_close(norm(x)[i], want)


@pytest.mark.parametrize("stack", [1, 3])
def test_stacked_gru_equals_torch_gru_cell(stack: int) -> None:
    cell = StackedGRUCell(stack, 6, 4)
    for parameter in cell.parameters():
        nn.init.normal_(parameter)
    x, h = torch.randn(stack, 5, 6), torch.randn(stack, 5, 4)
    for i in range(stack):
        plain = nn.GRUCell(6, 4)
        plain.weight_ih.data, plain.bias_ih.data = cell.input.weight.data[i].T, cell.input.bias.data[i]
        plain.weight_hh.data, plain.bias_hh.data = cell.hidden.weight.data[i].T, cell.hidden.bias.data[i]
        torch.testing.assert_close(cell(x, h)[i], plain(x[i], h[i]))


def test_gradients_are_clipped_network_by_network() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 1))]
    parameters[0].grad = torch.tensor([[3.0, 0.0, 0.0], [0.3, 0.0, 0.0]])
    parameters[1].grad = torch.tensor([[4.0], [0.4]])
    norms = clip_stack_grad_norm(parameters, 2, max_norm=1.0)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5]))
    # The first network's norm of 5 becomes 1; the second's 0.5 stays.
    torch.testing.assert_close(parameters[0].grad, torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.0, 0.0]]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([[0.8], [0.4]]))


def test_a_padded_layer_norm_is_the_unpadded_one_network_by_network() -> None:
    sizes, widest = (3, 5), 5
    norm = StackedLayerNorm(2, widest, sizes)
    for p in norm.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 6, widest) * 3 + 1
    x[0, :, 3:] = 0
    x.requires_grad_()
    y = norm(x)
    for i, size in enumerate(sizes):
        plain = torch.nn.functional.layer_norm(x[i, :, :size], (size,), norm.weight[i, :size], norm.bias[i, :size])
        torch.testing.assert_close(y[i, :, :size], plain)
        assert (y[i, :, size:] == 0).all()


def test_the_running_norm_knows_the_moments_of_everything_seen() -> None:
    norm = StackedRunningNorm(2, 3)
    batches = [torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n)) * 4 + 7 for n in (5, 50, 500)]
    for batch in batches:
        batch[1, :, 2] = 0.0  # padding
        norm.update(batch)
    everything = torch.cat(batches, 1)
    torch.testing.assert_close(norm.mean, everything.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.variance, everything.var(1, correction=0), rtol=1e-4, atol=1e-5)
    y = norm(everything)
    assert (y[1, :, 2] == 0).all()
    torch.testing.assert_close(y[0].std(0, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    assert norm(torch.full((2, 1, 3), 1e9)).max() == 10
