"""How far a trained matrix game is from equilibrium: the joint policy, the actors, and the modes that are exported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentmixer.errors import AgentMixerError
from agentmixer.study.equilibrium import cce_gap, ce_gap, ne_gap, product, values
from agentmixer.tasks import Task
from agentmixer.tasks.base import to_torch
from agentmixer.tasks.matrix import payoffs
from agentmixer.train import checkpoint
from agentmixer.train.causal_team import CausalTeam
from agentmixer.train.guided_team import GuidedTeam
from agentmixer.train.joint_policy import ILLEGAL
from agentmixer.train.run import Run
from agentmixer.train.team import ActorStep, Team

#: Signals that the joint policy is averaged over; a power of two keeps Sobol points balanced.
SIGNALS = 2**13


def analyze(run: Run, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Expected return and exact gaps of a run's newest checkpoint: step, maximum payoff, and of the policies
    `joint`, `actors` and `actors_greedy` each return, ce, cce and ne (None for the joint policy). Calls `progress` with how far
    it is.

    Raises AgentMixerError if the run is not one of task matrix."""
    if run.task != "matrix":
        raise AgentMixerError(
            f"{run.path} is a run of {run.task}, but equilibrium gaps are computed for matrix games only; "
            "name a run of task matrix (agentmixer runs lists them)"
        )
    payoff, run = payoffs.payoff(run.scenario), run.on_cpu()
    with contextlib.closing(run.make_task(1)) as task:
        algorithm, step = checkpoint.load_weights(run, task, checkpoint.latest(run))
        actors, modes = actor_distributions(algorithm.team, task)
        joint = joint_distribution(algorithm.team, task, progress)
    policies = {
        "joint": _judge(payoff, joint),
        "actors": _judge(payoff, product(actors), actors),
        "actors_greedy": _judge(payoff, product(modes), modes),
    }
    return {"step": step, "maximum": float(payoff.max()), "policies": policies}


def joint_distribution(team: Team, task: Task, progress: Callable[[str], None] = lambda _: None) -> np.ndarray:
    """The joint policy of a matrix game as the probability of every joint action, float64 [A_0, ..., A_(N-1)].

    Given the signal it is a product over agents, exactly. Where the run has a signal, these products are averaged
    over SIGNALS quasi-random ones. Calls `progress` with how far it is."""
    state, mask, actors = _seen(team, task)
    if isinstance(team, GuidedTeam | CausalTeam):
        return _distribution_in_turn(team, state, actors)
    signals = torch.zeros(1, 0)
    if team.signal:
        from scipy import stats  # here, for importing that takes long and most teams have no signal

        even = stats.qmc.Sobol(team.signal, scramble=False).random(SIGNALS) + 0.5 / SIGNALS
        signals = torch.from_numpy(stats.norm.ppf(even)).float()
    total = np.zeros([space.n for space in task.spec.action_spaces])
    for done, signal in enumerate(signals.split(1024)):
        progress(f"averaging over signals: {1024 * done:,} of {len(signals):,}")
        size = len(signal)
        with torch.no_grad():
            many = ActorStep(*(array.expand(-1, size, -1) for array in actors))
            joint = team.joint(many, state.expand(size, -1), signal, mask.expand(-1, size, -1))
        parts = _probabilities(joint.log_pi, task)
        operands = [x for axis, part in enumerate(parts, 1) for x in (part, [0, axis])]
        total += np.einsum(*operands, list(range(1, total.ndim + 1)), optimize=True)
    return total / len(signals)


def _distribution_in_turn(team: GuidedTeam | CausalTeam, state: Tensor, actors: ActorStep) -> np.ndarray:
    """The same where agents are told of each other: the product of every agent's policy given the actions before its own."""
    sizes = [space.n for space in team.spec.action_spaces]
    action = torch.from_numpy(np.indices(sizes).reshape(len(sizes), -1))
    many = ActorStep(*(array.expand(-1, action.shape[1], -1) for array in actors))
    with torch.no_grad():
        logits = team.given(many, state.expand(action.shape[1], -1), action).double()
    kind: Any = team.joint_policy
    joint = kind.joint(many.policy, logits, many.policy > ILLEGAL / 2)
    found: np.ndarray = kind.log_prob(joint, action).sum(0).exp().numpy().reshape(sizes)
    return found


def actor_distributions(team: Team, task: Task) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each actor's own policy in a matrix game, and its mode as a policy: one float64 [A_i] an agent, both."""
    policy = _seen(team, task)[2].policy
    own = [part[0] for part in _probabilities(policy, task)]
    modes = team.joint_policy.actor_mode(policy)[:, 0].tolist()
    return own, [np.eye(len(actor))[mode] for actor, mode in zip(own, modes, strict=True)]


def _seen(team: Team, task: Task) -> tuple[Tensor, Tensor, ActorStep]:
    """The only state of a matrix game [1, S], its mask [N, 1, A], and what the actors make of it."""
    step = task.reset(0)
    obs, mask = (to_torch(array, team.device)[:, :1] for array in (step.obs, step.action_mask))
    with torch.no_grad():
        actors = team.step(obs, mask, team.memory(1)["actor"])
    return to_torch(step.state, team.device)[:1], mask, actors


def _probabilities(logits: Tensor, task: Task) -> list[np.ndarray]:
    """Each agent's distributions over its own actions, float64 [B, A_i], from masked logits [N, B, A]."""
    parts = logits.double().softmax(-1).numpy()
    return [part[:, : space.n] for part, space in zip(parts, task.spec.action_spaces, strict=True)]


def _judge(payoff: np.ndarray, joint: np.ndarray, policies: list[np.ndarray] | None = None) -> dict[str, Any]:
    """Expected return and gaps of a joint policy; the NE gap where it is given as a product."""
    return {
        "return": float(values(payoff, joint)[0]),
        "ce": ce_gap(payoff, joint)._asdict(),
        "cce": cce_gap(payoff, joint)._asdict(),
        "ne": ne_gap(payoff, policies)._asdict() if policies else None,
    }
