"""Named settings: what they are for every task, and what a task changes.

`default` is tuned here, for results per minute on a small machine (docs/results.md says how). `paper` holds the
paper's Tables 5 and 8-11. What those leave open (width of PM's encoders: the actors' 64; Huber loss and value
clipping) is as in MAPPO, on which the paper builds. `released` holds what the authors' scripts set and their code does
where the paper's text is silent or says something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentmixer.errors import AgentMixerError, nearest

#: preset -> (settings for every task, settings by task, or by task/backend). Settings not named are the algorithm's own defaults.
Presets = Mapping[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]]

#: What continuous control wants: a normaliser that keeps scales apart, no memory, long rollouts, small parts.
_CONTROL: dict[str, Any] = {
    "total_steps": 2_000_000,
    "num_envs": 32,
    "rollout_length": 128,
    "chunk_length": 1,
    "epochs": 5,
    "minibatches": 8,
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
    "pm_lr": 3e-4,
    "max_grad_norm": 0.5,
    "entropy_coef": 0.0,
    "share_parameters": False,
    "recurrent_actor": False,
    "input_norm": "running",
    "eval_episodes": 32,
    "final_episodes": 64,
}
#: Games of one decision: nothing to remember, and agents that see alike must be able to differ. The critic must keep
#: ahead of the actors, for its optimistic value is what a joint action has to beat.
_ONE_DECISION: dict[str, Any] = {
    "total_steps": 100_000,
    "num_envs": 500,
    "rollout_length": 1,
    "chunk_length": 1,
    "minibatches": 1,
    "critic_lr": 5e-3,
    "entropy_coef": 0.05,
    "optimism": 0.99,
    "critic_first": 0.2,
    "share_parameters": False,
    "recurrent_actor": False,
}
#: And all agents see all that there is: the joint policy may correlate, and its most likely plan is the actors' in the end.
_CORRELATED: dict[str, Any] = _ONE_DECISION | {
    "pm": "causal",
    "actor_lr": 5e-3,
    "pm_lr": 5e-3,
    "entropy_coef": 0.01,
    "optimism": 0.0,
    "critic_first": 0.0,
    # As wide as smacv2's: the best cells are found as often, in less time (docs/results.md).
    "pm_width": 16,
    "pm_agent_hidden": 8,
    "pm_channel_hidden": 32,
}
#: Teams nobody here has seen: independent networks, scales kept apart.
_FOREIGN: dict[str, Any] = {
    "num_envs": 16,
    "rollout_length": 128,
    "share_parameters": False,
    "input_norm": "running",
    "eval_episodes": 32,
    "final_episodes": 100,
}
_PAPER_PPO: dict[str, Any] = {
    "num_envs": 50,
    "pipelined": False,
    "rollout_length": 200,
    "epochs": 5,
    "minibatches": 1,
    "chunk_length": 1,
    "actor_lr": 5e-4,
    "critic_lr": 5e-4,
    "pm_lr": 5e-5,
    "lr_decay": False,
    "adam_eps": 1e-5,
    "max_grad_norm": 10.0,
    "clip": 0.2,
    "ratio": "joint",
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 0.01,
    "joint": "gumbel",
    "reach": 3.0,
    "u_scale": 1.0,
    "sigmoid_gain": 1.0,
    "tau": 1.0,
    "tau_end": 1.0,
    "tau_schedule": "constant",
    "signal": 0,
    "signal_per": "step",
    "optimism": 0.0,
    "critic_first": 0.0,
    "first_entropy": 3.0,
    "cooled": 0.7,
    "first_reach": 1000.0,
    "pulled": 0.9,
    "std_low": 1e-4,
    "std_high": 0.5,
    "share_parameters": False,
    "team_critic": False,
    "recurrent_actor": True,
    "recurrent_critic": True,
    "input_norm": "layer",
    "hidden": 64,
    "layers": 1,
    "pm": "mixer",
    "pm_width": 64,
    "pm_agent_hidden": 32,
    "pm_channel_hidden": 256,
    "total_steps": 10_000_000,
}

AGENTMIXER_PPO: Presets = {
    "default": (
        {},
        {
            # A PM that may change much costs wins here: .445 with reach 3 where 1 reached .565 (seed 1).
            # Three passes with twice the usual step: .54 after 700,000 steps where 4 and 7e-4 needed a million.
            "smacv2": {
                "reach": 1.0,
                "epochs": 3,
                "actor_lr": 1.5e-3,
                "critic_lr": 1.5e-3,
                "total_steps": 800_000,
                "pipelined": True,
                # Half as wide everywhere: a tenth less time than 32, 16 and 64, and as many wins (docs/results.md).
                "pm_width": 16,
                "pm_agent_hidden": 8,
                "pm_channel_hidden": 32,
            },
            # A game of StarCraft fills a core and a gigabyte; a rollout is as long as in SMAX.
            "smacv2/sc2": {
                "reach": 1.0,
                "epochs": 3,
                "actor_lr": 1.5e-3,
                "critic_lr": 1.5e-3,
                "num_envs": 8,
                "rollout_length": 256,
                "total_steps": 10_000_000,
                "eval_episodes": 32,
            },
            "mamujoco": _CONTROL,
            # A lone predator is punished for being early: without optimism some teams learn to keep away.
            "predator_prey": {"optimism": 0.8},
            "gymnasium": _FOREIGN,
            "pettingzoo": _FOREIGN,
            "matrix": _CORRELATED,
            # What an agent cannot see is chance to it, and optimism takes chance for skill: with it, 6.62 of 8.5.
            "passage": _ONE_DECISION | {"optimism": 0.0, "critic_first": 0.0},
        },
    ),
    "paper": (
        _PAPER_PPO,
        {
            "matrix": {"epochs": 15, "total_steps": 200_000},
            "mamujoco": {
                "num_envs": 40,
                "rollout_length": 100,
                "actor_lr": 3e-4,
                "critic_lr": 3e-4,
                "entropy_coef": 0.0,
                "layers": 2,
            },
        },
    ),
    "released": (
        _PAPER_PPO | {"pm": "recurrent", "u_scale": 0.5},
        {
            "smacv2": {
                "num_envs": 25,
                "clip": 0.05,
                "pm_lr": 5e-4,
                "tau": 1.0,
                "tau_end": 5.0,
                "tau_schedule": "late",
            },
            "matrix": {"epochs": 15, "pm_lr": 5e-4, "total_steps": 1_000_000},
            "predator_prey": {"epochs": 15, "u_scale": 0.95, "total_steps": 1_000_000},
            "mamujoco": {
                "num_envs": 40,
                "rollout_length": 100,
                "actor_lr": 3e-4,
                "critic_lr": 3e-4,
                "pm_lr": 3e-5,
                "entropy_coef": 0.0,
                "layers": 2,
                "std_high": 0.75,
                "sigmoid_gain": 0.3,
            },
        },
    ),
}

_COMMON, _BY_TASK = AGENTMIXER_PPO["default"]
#: What other algorithms on PPO begin with: not the authors' scripts of AgentMixer, and not what suits `pm=causal`.
ON_PPO: Presets = {
    "default": (_COMMON, _BY_TASK | {"matrix": _ONE_DECISION}),
    "paper": AGENTMIXER_PPO["paper"],
}

#: The paper names no setting of AgentMixer-SAC, so there is no `paper` here.
AGENTMIXER_SAC: Presets = {
    "default": (
        {},
        {
            "mamujoco": {"share_parameters": False, "input_norm": "running", "eval_episodes": 8, "final_episodes": 64},
            "gymnasium": {"share_parameters": False, "input_norm": "running", "final_episodes": 100},
            "pettingzoo": {"share_parameters": False, "input_norm": "running", "final_episodes": 100},
            "matrix": {"total_steps": 20_000, "share_parameters": False},
            "passage": {"total_steps": 20_000, "share_parameters": False},
        },
    ),
}

#: Games of one decision, off-policy by values: half of a short run explores.
_ONE_DECISION_BY_VALUES: dict[str, Any] = {
    "total_steps": 20_000,
    "rollout_length": 1,
    "batch_size": 128,
    "updates": 2,
    "epsilon_steps": 10_000,
    "share_parameters": False,
    "recurrent_actor": False,
}
#: Of MAVEN the paper names noise_dim and target_update_interval (Table 7), which are the settings' defaults; no `paper`.
MAVEN: Presets = {
    "default": (
        {},
        {
            "gymnasium": {"share_parameters": False, "input_norm": "running", "final_episodes": 100},
            "pettingzoo": {"share_parameters": False, "input_norm": "running", "final_episodes": 100},
            "matrix": _ONE_DECISION_BY_VALUES,
            "passage": _ONE_DECISION_BY_VALUES,
        },
    ),
}


def shared(presets: Presets, names: Iterable[str]) -> Presets:
    """Another algorithm's presets, with the settings `names` alone."""
    known = set(names)

    def kept(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key in known}

    return {
        name: (kept(common), {task: kept(own) for task, own in by_task.items()})
        for name, (common, by_task) in presets.items()
    }


def apart(presets: Presets) -> Presets:
    """Another algorithm's presets, but that every agent has a network of its own."""
    own = {"share_parameters": False}
    return {
        name: (common | own, {task: settings | own for task, settings in by_task.items()})
        for name, (common, by_task) in presets.items()
    }


#: The algorithm's own defaults hold the constants of the authors' code; tasks change what they change for AgentMixer, but for how
#: it learns.
MAGPO: Presets = shared(
    {"default": AGENTMIXER_PPO["default"]},
    (
        *("total_steps", "num_envs", "rollout_length", "chunk_length", "minibatches", "pipelined"),
        *("share_parameters", "recurrent_actor", "input_norm", "eval_episodes", "final_episodes"),
    ),
)


def resolve(presets: Presets, preset: str, task: str, backend: str = "") -> dict[str, Any]:
    """The settings that `preset` gives on `task`, where it plays in that backend. Raises AgentMixerError naming the nearest preset."""
    if preset not in presets:
        raise AgentMixerError(f"unknown preset '{preset}'{nearest(preset, presets)}")
    common, by_task = presets[preset]
    return common | by_task.get(f"{task}/{backend}", by_task.get(task, {}))
