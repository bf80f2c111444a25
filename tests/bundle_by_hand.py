"""A bundle written by hand: agents that are alike, each with a graph and a golden trace that are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agentmixer.contract.manifest import (
    OPSET,
    SCHEMA_VERSION,
    AgentManifest,
    Source,
    StateSpec,
    TeamManifest,
    TensorSpec,
    Tolerances,
    WhenUnusual,
)
from agentmixer.contract.spec import Action, Box, Discrete, TaskSpec
from agentmixer.export.bundle_writer import AgentParts, certified, write_bundle
from agentmixer.runtime import profile
from agentmixer.runtime.actions import as_array


def any_profile(manifest: AgentManifest) -> bytes:
    """A profile that fits an agent: of one decision, the fallback action on an observation of zeros."""
    zeros = np.zeros(manifest.tensor("obs").shape, np.float32)[None]
    action = as_array(manifest.fallback_action, manifest.action_space)[None]
    return profile.dump(profile.measure(zeros, np.ones(1, bool), zeros, action, manifest.action_space))


def write_by_hand(
    path: Path, team: tuple[str, int], models: dict[str, bytes], goldens: dict[str, bytes],
    tensors: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]], space: Box | Discrete, fallback: Action,
    memory: int = 0, control_period_s: float = 0.2, episode_limit: int = 10, figures: bytes | None = None,
    when_unusual: WhenUnusual = "report",
) -> Path:  # fmt: skip
    """Write a team to `path`. team: its name and release; models, goldens: each agent's, by its name; tensors: inputs, the
    first of which is the observation, and outputs; memory: length of the recurrent state; figures: everybody's profile.npz,
    `any_profile` unless given."""
    source = Source("0", "none", "none", 0, 0, "none", "0" * 64, "none", "0" * 64)
    inputs, outputs = tensors
    masked = "action_mask" in [tensor.name for tensor in inputs]
    count = len(models)
    task = TaskSpec(
        name="none",
        scenario="none",
        backend="none",
        options={},
        agents=tuple(models),
        obs_names=(inputs[0].elements,) * count,
        state_size=1,
        action_spaces=(space,) * count,
        has_action_mask=masked,
        reports_wins=False,
        episode_limit=episode_limit,
        control_period_s=control_period_s,
        fallback_actions=(fallback,) * count,
        shared="nothing",
    )
    agents = {}
    for index, (name, model) in enumerate(models.items()):
        manifest = AgentManifest(
            schema_version=SCHEMA_VERSION,
            team_id=team[0],
            release=team[1],
            agent=name,
            index=index,
            task=task.name,
            scenario=task.scenario,
            inputs=inputs,
            outputs=outputs,
            state=StateSpec("state_in", "state_out", memory) if memory else None,
            mask_rule="forbid" if masked else "none",
            action_space=space,
            action_scaling="none" if isinstance(space, Discrete) else "graph",
            control_period_s=control_period_s,
            fallback_action=fallback,
            opset=OPSET,
            multiply_adds=0,
            depends_on={},
            files={},
            source=source,
            when_unusual=when_unusual,
        )
        found = any_profile(manifest) if figures is None else figures
        agents[name] = AgentParts(certified(manifest, model), model, goldens[name], found)
    write_bundle(path, TeamManifest(SCHEMA_VERSION, *team, task, {}, source, Tolerances()), agents)
    return path
