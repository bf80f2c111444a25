"""Who sees and moves what in a scenario, learnt from mamujoco_v1, which is built once and closed again."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.mamujoco.channels import flatten
from agentmixer.tasks.mamujoco.mamujoco_facts import REGROUPED, split
from agentmixer.tasks.mamujoco.robots import ROBOTS

# MuJoCo would print its warnings and write MUJOCO_LOG.TXT into the working directory.
mujoco.set_mju_user_warning(logging.getLogger("mujoco").debug)


def reference(scenario: str, agent_obsk: str = "0") -> Any:
    """mamujoco_v1's own environment (a PettingZoo parallel environment) for one of our scenarios."""
    robot, factorisation = split(scenario)
    with contextlib.redirect_stderr(io.StringIO()):  # importing it announces changes to unrelated tasks
        import gymnasium
        from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant, many_segment_swimmer, mujoco_multi, obsk

    settings: dict[str, Any] = {"agent_obsk": None if agent_obsk == "none" else int(agent_obsk)}
    if scenario in REGROUPED:
        listed, groups = REGROUPED[scenario]
        parts, edges, common = obsk.get_parts_and_edges(robot, listed)
        joints = {node.label: node for part in parts for node in part}
        groups = groups or tuple((label,) for label in joints)
        partition = [tuple(joints[label] for label in group) for group in groups]
        settings["agent_factorization"] = {"partition": partition, "edges": edges, "globals": common}
    if robot.startswith("ManySegment"):
        # mamujoco_v1 would write the model's file into its own package.
        agents, segments = map(int, factorisation.split("x"))
        kind = {
            "ManySegmentAnt": ("Ant-v5", many_segment_ant),
            "ManySegmentSwimmer": ("Swimmer-v5", many_segment_swimmer),
        }
        name, generator = kind[robot]
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.xml")
            generator.gen_asset(n_segs=agents * segments, asset_path=path)
            settings["gym_env"] = gymnasium.make(name, xml_file=path)
    built = mujoco_multi.parallel_env(robot, factorisation, **settings)
    if built.agent_obsk is not None:
        # Labels order an agent's joints; Pusher has two alike, which would come in any order.
        built.k_dicts = [
            {k: sorted(nodes, key=lambda node: (node.label, node.act_ids)) for k, nodes in seen.items()}
            for seen in built.k_dicts
        ]
    return built


class Layout(NamedTuple):
    """Who sees and moves what. Indices point into `flatten`; `agent_of[j]` and `element_of[j]` name the action
    element that drives actuator j."""

    model: mujoco.MjModel
    qpos: np.ndarray
    frame_skip: int
    limit: int
    obs: tuple[np.ndarray, ...]
    state: np.ndarray
    agent_of: np.ndarray
    element_of: np.ndarray


@functools.cache
def layout(scenario: str, agent_obsk: str) -> Layout:
    """Learn from mamujoco_v1 which quantity each element of each observation is.

    Its physics arrays are filled with random numbers, once small and once large, and every element is
    recognised by its two values: small ones tell quantities apart, large ones whether they are clipped.
    Raises AgentMixerError if mamujoco_v1 observes something that is not among the robot's channels."""
    robot = ROBOTS[split(scenario)[0]]
    built = reference(scenario, agent_obsk)
    single = built.single_agent_env.unwrapped
    qpos, rng = single.init_qpos.copy(), np.random.default_rng(0)
    flat, seen = [], []
    for low, high in ((-1.0, 1.0), (20.0, 30.0)):
        for field in robot.fields:
            array = getattr(single.data, field)
            array[...] = rng.uniform(low, high, array.shape)
        flat.append(flatten(robot.channels, {field: getattr(single.data, field)[None] for field in robot.fields})[0])
        seen.append([built._get_obs_agent(i) for i in range(len(built.possible_agents))] + [built.state()])
    indices = []
    for one in zip(*seen, strict=True):
        apart = np.abs(np.array(flat)[:, :, None] - np.array(one)[:, None]).max(0)
        if apart.min(0).max() > 1e-9:
            raise AgentMixerError(
                f"the installed gymnasium-robotics observes something new in {scenario}; install gymnasium-robotics 1.4"
            )
        indices.append(apart.argmin(0))

    parts = built.agent_action_partitions
    owner = {node.act_ids: (agent, element) for agent, part in enumerate(parts) for element, node in enumerate(part)}
    agent_of, element_of = zip(*(owner[actuator] for actuator in range(single.model.nu)), strict=True)
    limit = built.single_agent_env.spec.max_episode_steps
    model, frame_skip = single.model, single.frame_skip
    built.close()
    # Broken physics must stay visible; MuJoCo would quietly start over.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return Layout(
        model, qpos, frame_skip, limit, tuple(indices[:-1]), indices[-1], np.array(agent_of), np.array(element_of)
    )
