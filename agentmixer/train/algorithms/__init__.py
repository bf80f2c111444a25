"""One file an algorithm; `ALGORITHMS` is where a new one gets its line."""

from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO

__all__ = ["ALGORITHMS", "AgentMixerPPO"]

ALGORITHMS = {"agentmixer_ppo": AgentMixerPPO}
