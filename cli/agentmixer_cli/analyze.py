"""`agentmixer analyze`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from agentmixer.tasks import Task
    from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO

#: Signals that the joint policy is averaged over; a power of two keeps Sobol points balanced.
SIGNALS = 2**13


def analyze(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory of task matrix; the newest run under runs/ unless given.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the deviation that attains each gap.")
    ] = False,
) -> None:
    """Say how far a matrix game's policies are from equilibrium: the joint policy, the actors, the actors' modes.

    A gap is the most that one agent gains by deviating alone. All are exact, but for a joint policy with a signal:
    that one is averaged over 8,192 signals.

    Example: agentmixer analyze
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.tasks import matrix
    from agentmixer.train import checkpoint
    from agentmixer.train import run as runs
    from agentmixer.validate.equilibrium import product

    chosen = (runs.load(run) if run else runs.newest()).on_cpu()
    if chosen.task != "matrix":
        raise AgentMixerError(
            f"{chosen.path} is a run of {chosen.task}, but equilibrium gaps are computed for matrix games only; "
            "name a run of task matrix (agentmixer runs lists them)"
        )
    payoff = matrix.payoff(chosen.scenario)
    with contextlib.closing(chosen.make_task(1)) as task:
        algorithm, step = checkpoint.load_weights(chosen, task, checkpoint.latest(chosen))
        actors, modes = actor_distributions(algorithm, task)
        found = {
            "joint": _judge(payoff, joint_distribution(algorithm, task)),
            "actors": _judge(payoff, product(actors), actors),
            "actors_greedy": _judge(payoff, product(modes), modes),
        }
    maximum = float(payoff.max())
    if as_json:
        head = {"run": str(chosen.path), "step": step, "scenario": chosen.scenario, "maximum": maximum}
        typer.echo(json.dumps({**head, "policies": found}))
        return
    console = Console()
    console.print(f"{chosen.path} at step {step:,}", soft_wrap=True, markup=False)
    console.print(_table(found, escape(f"{task.spec.scenario}: highest payoff {maximum:g}")))


def joint_distribution(algorithm: AgentMixerPPO, task: Task) -> np.ndarray:
    """The joint policy of a matrix game as the probability of every joint action, float64 [A_0, ..., A_(N-1)].

    Given the signal it is a product over agents, exactly. Where the run has a signal, these products are averaged
    over SIGNALS quasi-random ones."""
    import numpy as np
    import torch
    from scipy import stats

    state, mask, policy, features = _seen(algorithm, task)
    signals = torch.zeros(1, 0)
    if algorithm.config.signal:
        even = stats.qmc.Sobol(algorithm.config.signal, scramble=False).random(SIGNALS) + 0.5 / SIGNALS
        signals = torch.from_numpy(stats.norm.ppf(even)).float()
    total = np.zeros([space.n for space in task.spec.action_spaces])
    for signal in signals.split(1024):
        size = len(signal)
        with torch.no_grad():
            joint = algorithm.joint(
                state.expand(size, -1), signal, *(array.expand(-1, size, -1) for array in (policy, features, mask))
            )
        parts = _probabilities(joint.scores, task)
        operands = [x for axis, part in enumerate(parts, 1) for x in (part, [0, axis])]
        total += np.einsum(*operands, list(range(1, total.ndim + 1)), optimize=True)
    return total / len(signals)


def actor_distributions(algorithm: AgentMixerPPO, task: Task) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each actor's own policy in a matrix game, and its mode as a policy: one float64 [A_i] an agent, both."""
    import numpy as np

    _, _, policy, _ = _seen(algorithm, task)
    actors = [part[0] for part in _probabilities(policy, task)]
    modes = algorithm.joint_policy.actor_mode(policy)[:, 0].tolist()
    return actors, [np.eye(len(actor))[mode] for actor, mode in zip(actors, modes, strict=True)]


def _seen(algorithm: AgentMixerPPO, task: Task) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the only state of a matrix game makes PM see: state [1, S], mask, the actors' policies, features [N, 1, .]."""
    import torch

    from agentmixer.tasks.base import to_torch

    step = task.reset(0)
    obs, mask = (to_torch(array, algorithm.device)[:, :1] for array in (step.obs, step.action_mask))
    with torch.no_grad():
        raw, features, _ = algorithm.actor(obs, algorithm.initial_memory(1)["actor"])
    return to_torch(step.state, algorithm.device)[:1], mask, algorithm.joint_policy.policy(raw, mask), features


def _probabilities(logits: Tensor, task: Task) -> list[np.ndarray]:
    """Each agent's distributions over its own actions, float64 [B, A_i], from masked logits [N, B, A]."""
    parts = logits.double().softmax(-1).numpy()
    return [part[:, : space.n] for part, space in zip(parts, task.spec.action_spaces, strict=True)]


def _judge(payoff: np.ndarray, joint: np.ndarray, policies: list[np.ndarray] | None = None) -> dict[str, Any]:
    """Expected return and gaps of a joint policy; the NE gap where it is given as a product."""
    from agentmixer.validate.equilibrium import cce_gap, ce_gap, ne_gap, values

    return {
        "return": float(values(payoff, joint)[0]),
        "ce": ce_gap(payoff, joint)._asdict(),
        "cce": cce_gap(payoff, joint)._asdict(),
        "ne": ne_gap(payoff, policies)._asdict() if policies else None,
    }


def _table(found: dict[str, Any], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for column in ("policy", "expected return", "CE gap", "CCE gap", "NE gap"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=column != "policy")
    names = {
        "joint": "joint, sampled (PM, state)",
        "actors": "actors, sampled",
        "actors_greedy": "actors, greedy (exported)",
    }
    for policy, figures in found.items():
        gaps = (_number(figures[kind]["value"]) if figures[kind] else "-" for kind in ("ce", "cce", "ne"))
        table.add_row(names[policy], _number(figures["return"]), *gaps)
    return table


def _number(value: float) -> str:
    return f"{round(value, 6) + 0.0:.6f}"  # the sum turns -0.0 into 0.0
