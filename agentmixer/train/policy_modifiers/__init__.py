"""The Policy Modifier in three exchangeable kinds (paper, Table 3); `POLICY_MODIFIERS` is where a new one is named."""

from agentmixer.train.policy_modifiers.attention import AttentionPM
from agentmixer.train.policy_modifiers.base import PolicyModifier
from agentmixer.train.policy_modifiers.hypernetwork import HyperPM
from agentmixer.train.policy_modifiers.mixer import MixerPM
from agentmixer.train.policy_modifiers.none import NoPM

__all__ = ["POLICY_MODIFIERS", "AttentionPM", "HyperPM", "MixerPM", "NoPM", "PolicyModifier"]

#: Setting `pm` -> the class. All take the same arguments.
POLICY_MODIFIERS: dict[str, type[PolicyModifier]] = {
    "mixer": MixerPM,
    "hypernetwork": HyperPM,
    "attention": AttentionPM,
}
