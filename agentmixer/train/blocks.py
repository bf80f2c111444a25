"""A large gradient in pieces: blocks small enough for a processor's cache, one core each."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from agentmixer.tasks.base import cores

#: Rows of a team's agents whose gradient is taken at once: what lies between the layers fits a processor's cache.
ROWS = 2500


def blocks(size: int, rows: int, at_once: int) -> list[slice]:
    """Cut `size` chunks, which have `rows` rows each, into equal blocks of about `at_once` rows."""
    count = min(size, -(-rows * size // at_once))
    return [slice(size * block // count, size * (block + 1) // count) for block in range(count)]


def descend(
    loss: Callable[[slice], tuple[Tensor, dict[str, Tensor]]], cut: Sequence[slice], parameters: list[nn.Parameter]
) -> dict[str, Tensor]:
    """Set every parameter's gradient to the sum of the blocks' gradients. Returns the sum of what they log.

    loss: a block's share of the whole loss, and numbers to log. The sum is in the blocks' order, whichever thread is done
    first, so that the result does not depend on how many threads there are."""

    def gradients(block: slice) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        share, numbers = loss(block)
        return numbers, torch.autograd.grad(share, parameters, allow_unused=True)

    totals: dict[str, Tensor] = {}
    for p in parameters:
        p.grad = None
    side_by_side = workers().map if len(cut) > 1 else map
    for numbers, found in side_by_side(gradients, cut):
        for p, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                p.grad = gradient.contiguous() if p.grad is None else p.grad + gradient
        add(totals, numbers)
    return totals


def add(totals: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    """Add numbers to the totals of their names."""
    for name, number in numbers.items():
        totals[name] = totals[name] + number if name in totals else number


def threads() -> int:
    """How many blocks have their gradients taken side by side: one a core, or as many as OMP_NUM_THREADS says."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(told)) if told.isdigit() and int(told) else cores()


@functools.cache
def workers() -> ThreadPoolExecutor:
    """The threads that take the gradients of blocks."""
    return ThreadPoolExecutor(threads(), "gradient", torch.set_num_threads, (1,))


def pick(array: Tensor, part: Tensor | None, block: slice = slice(None)) -> Tensor:
    """Each team's chunks of an array [K * G, L, all, ...] -> [K * G, L, B, ...].

    part: which chunks each team takes, [K, P]; None for all, in order. block: which of those."""
    if part is None:
        return array[:, :, block]
    part = part[:, block]
    if len(part) == 1:
        return array.index_select(2, part[0])
    return torch.cat([own.index_select(2, which) for own, which in zip(array.chunk(len(part)), part, strict=True)])


def chunks(array: Tensor, length: int) -> Tensor:
    """Cut time into chunks, keeping each chunk's steps together and in order.

    [G, T, E, ...] -> [G, L, (T / L) * E, ...]; entry [:, l, c * E + e] is step c * L + l of environment e.
    """
    groups, steps, envs = array.shape[:3]
    cut = array.view(groups, steps // length, length, envs, *array.shape[3:]).transpose(1, 2)
    return cut.reshape(groups, length, steps // length * envs, *array.shape[3:])


def fitting_chunks(steps: int, envs: int, length: int, parts: int, given: Collection[str]) -> tuple[int, int]:
    """Length of chunks and number of minibatches that a rollout of `steps` steps of `envs` environments can be cut into.

    The longest chunks, at most `length`, that divide a rollout; then as many minibatches, at most `parts`, as there are
    chunks. given: the settings that the user gave, which do not change; where that is minibatches, chunks are short
    enough for them, if they can be."""
    if "chunk_length" not in given:
        longest = min(length, max(1, steps * envs // parts)) if "minibatches" in given else length
        length = max(n for n in range(1, longest + 1) if steps % n == 0)
    if "minibatches" not in given:
        parts = max(1, min(parts, steps * envs // length))
    return length, parts
