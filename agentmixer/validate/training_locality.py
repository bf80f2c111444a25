"""Locality of the actors while they train: their decisions while Policy Modifier, critics and the global state are others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from agentmixer.tasks.base import to_torch
from agentmixer.train.algorithms import Algorithm
from agentmixer.train.team import Team
from agentmixer.validate.arms import ActorsArm
from agentmixer.validate.bit_tally import REPLACEMENTS, BitCheck, Tally, replaced
from agentmixer.validate.moments import LOCALITY_SEED, Moment

#: Where something was changed.
TRAINING = "training"


def training(algorithm: Algorithm, moments: list[Moment]) -> list[BitCheck]:
    """Every actor's decentralised decisions, their modes and samples and its memory, while Policy Modifier and critics
    have other weights and the global state is another one. Control: the joint policy, which reads both, of agents whose joint
    policy is more than the actor's own."""
    reference, joint = _actors(algorithm.team, moments), _joint(algorithm.team, moments)
    agents = algorithm.team.spec.agents
    checks = []
    moved = [Tally() for _ in agents]
    for kind in REPLACEMENTS:
        for change, context, how in (
            (f"Policy Modifier and critics: {kind}", _other_weights(algorithm, kind), moments),
            (f"global state: {kind}", contextlib.nullcontext(), _other_state(moments, kind)),
        ):
            with context:
                found, control = _actors(algorithm.team, how), _joint(algorithm.team, how)
            for i, name in enumerate(agents):
                tally = Tally()
                for ours, theirs in zip(reference, found, strict=True):
                    tally.compare(ours[i], theirs[i])
                checks.append(tally.check(TRAINING, change, name))
                for ours, theirs in zip(joint, control, strict=True):
                    moved[i].compare(ours[i], theirs[i])
    return checks + [
        tally.check(TRAINING, "control: the joint policy, which reads both", name, control=True)
        for i, (tally, name) in enumerate(zip(moved, agents, strict=True))
        if algorithm.team.pm.plays_a_part(i)
    ]


def _fresh(moments: list[Moment]) -> Iterator[tuple[Moment, bool]]:
    last = None
    for moment in moments:
        yield moment, moment.episode != last
        last = moment.episode


def _actors(team: Team, moments: list[Moment]) -> list[np.ndarray]:
    """Modes, samples and memories, each [N, ...], as the actors give them without anything central."""
    arm, found = ActorsArm(team), []
    generator = team.generators[0].get_state()
    team.generators[0].manual_seed(LOCALITY_SEED)
    for moment, fresh in _fresh(moments):
        if fresh:
            arm.reset(moment.episode)
        obs, mask = (to_torch(a, team.device) for a in (moment.step.obs, moment.step.action_mask))
        sample, _ = team.act_alone(obs, mask, arm.memory["actor"], greedy=False)
        mode = arm.act(moment.step)
        found += [mode, _numpy(sample), _numpy(arm.memory["actor"])]
    team.generators[0].set_state(generator)
    return found


def _joint(team: Team, moments: list[Moment]) -> list[np.ndarray]:
    """The joint policy's modes and their log-probabilities, each [N, ...]."""
    found = []
    memory = team.memory(1)
    for moment, fresh in _fresh(moments):
        if fresh:
            memory = team.memory(1)
        seen = moment.step
        obs, state, mask = (to_torch(a, team.device) for a in (seen.obs, seen.state, seen.action_mask))
        mode, log_prob, after = team.act_jointly(obs, state, memory["signal"], mask, memory, True)
        memory |= after
        found += [_numpy(mode), _numpy(log_prob)]
    return found


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _other_state(moments: list[Moment], kind: str) -> list[Moment]:
    generator = np.random.default_rng(LOCALITY_SEED)
    return [
        moment._replace(
            step=moment.step._replace(
                state=replaced(kind, moment.step.state, generator),
                final_state=replaced(kind, moment.step.final_state, generator),
            )
        )
        for moment in moments
    ]


@contextlib.contextmanager
def _other_weights(algorithm: Algorithm, kind: str) -> Iterator[None]:
    """Everything but the actors has other weights in here."""
    generator = np.random.default_rng(LOCALITY_SEED)
    tensors = [
        tensor
        for name, module in algorithm.modules.items()
        if name != "actor"
        for tensor in module.state_dict().values()
        if tensor.is_floating_point()
    ]
    kept = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.copy_(torch.from_numpy(replaced(kind, _numpy(tensor), generator)))
    try:
        yield
    finally:
        for tensor, old in zip(tensors, kept, strict=True):
            tensor.copy_(old)
