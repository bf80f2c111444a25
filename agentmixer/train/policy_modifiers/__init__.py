"""The Policy Modifier in three exchangeable kinds (paper, Table 3); `POLICY_MODIFIERS` is where a new one is named."""

from agentmixer.contract.spec import TaskSpec
from agentmixer.train.policy_modifiers.attention import AttentionPM
from agentmixer.train.policy_modifiers.base import PolicyModifier
from agentmixer.train.policy_modifiers.causal import CausalPM
from agentmixer.train.policy_modifiers.hypernetwork import HyperPM
from agentmixer.train.policy_modifiers.mixer import MixerPM
from agentmixer.train.policy_modifiers.none import NoPM
from agentmixer.train.policy_modifiers.recurrent import RecurrentPM
from agentmixer.train.settings import AgentMixerTeamSettings
from agentmixer.train.team import Modifier, most_actions

__all__ = [
    "POLICY_MODIFIERS",
    "AttentionPM",
    "CausalPM",
    "HyperPM",
    "MixerPM",
    "NoPM",
    "PolicyModifier",
    "RecurrentPM",
    "make_pm",
]

#: Setting `pm` -> the class. All take the same arguments.
POLICY_MODIFIERS: dict[str, type[PolicyModifier]] = {
    "mixer": MixerPM,
    "hypernetwork": HyperPM,
    "attention": AttentionPM,
}


def make_pm(spec: TaskSpec, settings: AgentMixerTeamSettings, teams: int) -> Modifier:
    """The Policy Modifiers of `teams` teams, their weights drawn from torch's global generator."""
    agents, actions = spec.num_agents, most_actions(spec)
    if settings.pm == "none":
        return NoPM(spec, teams)
    if settings.pm == "recurrent":
        return RecurrentPM(
            agents, spec.state_size, actions, settings.hidden, actions,
            settings.pm_width, settings.pm_agent_hidden, settings.pm_channel_hidden, teams,
            settings.signal, settings.input_norm, settings.layers,
        )  # fmt: skip
    if settings.pm == "causal":
        return CausalPM(
            agents, spec.state_size, actions, settings.hidden, actions if spec.discrete else 2 * actions,
            settings.pm_width, settings.pm_agent_hidden, settings.pm_channel_hidden, teams, settings.input_norm,
        )  # fmt: skip
    return POLICY_MODIFIERS[settings.pm](
        agents, spec.state_size, actions, settings.hidden, actions,
        settings.pm_width, settings.pm_agent_hidden, settings.pm_channel_hidden, teams,
        settings.signal, settings.input_norm,
    )  # fmt: skip
