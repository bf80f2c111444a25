"""Agents of every kind with weights drawn at random, each with a trace of what its graph decides about noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from conftest import random_masks, tiny_algorithm, tiny_spec, unlike_spec

from agentmixer.contract.manifest import AgentManifest, Source
from agentmixer.contract.spec import TaskSpec
from agentmixer.export.bundle_writer import certified
from agentmixer.export.exporter import _manifest
from agentmixer.export.graph import export_graph
from agentmixer.export.graph_step import graph_step
from agentmixer.runtime.golden import Golden

SOURCE = Source("0", "none", "none", 0, 0, "none", "0" * 64, "none", "0" * 64)

#: Whole numbers with and without memory and mask, from 2 on; two elements; real values; numbers rounded half to even.
KINDS = {
    "masked, memory": (tiny_spec(), 0, {}),
    "masked, no memory": (tiny_spec(), 1, {"recurrent_actor": False, "layers": 2}),
    "from 2 on": (unlike_spec(), 0, {"share_parameters": False}),
    "two elements": (unlike_spec(), 1, {"share_parameters": False}),
    "real-valued, moments": (unlike_spec(), 2, {"share_parameters": False, "input_norm": "running"}),
    "whole numbers of a range": (unlike_spec(), 3, {"share_parameters": False}),
    "drawn, masked, memory": (tiny_spec(), 0, {"sampled": True}),
    "drawn, two elements": (unlike_spec(), 1, {"share_parameters": False, "sampled": True}),
}


class Traced(NamedTuple):
    manifest: AgentManifest
    model: bytes
    golden: Golden


def traced(spec: TaskSpec, index: int, sampled: bool = False, **settings: object) -> Traced:
    """One agent of a team that is built so. sampled: whether its actions are drawn."""
    team = tiny_algorithm(spec, **settings).team
    generator = np.random.default_rng(index)
    actor = team.deployed(index, sampled)
    with torch.no_grad():
        for p in actor.parameters():
            torch.nn.init.normal_(p, std=0.5)
        for name, moment in actor.named_buffers():
            if name.startswith("norm."):
                moment.uniform_(0.5, 1.5)
    data = export_graph(actor, {}).SerializeToString(deterministic=True)
    manifest = certified(_manifest(spec, index, actor, ("team", 1), SOURCE), data)
    steps, space = 200, spec.action_spaces[index]
    obs = generator.normal(size=(steps, spec.obs_sizes[index])).astype(np.float32)
    mask, reset, step = np.ones((steps, space.n), bool), np.arange(steps) % 50 == 0, graph_step(data)
    if actor.masked:
        mask = random_masks(generator, steps, space.n)
        mask[:, 0] = True
    noise = generator.gumbel(size=(steps, manifest.noise)).astype(np.float32)
    rows, state = [], np.zeros((1, actor.memory), np.float32)
    for t in range(steps):
        state = state * ~reset[t]
        rows.append(step(obs[t : t + 1], mask[t : t + 1], state, noise[t : t + 1]))
        state = rows[-1][2]
    action, policy, memory = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Traced(manifest, data, Golden(obs, mask, reset, action, policy, memory, noise))
