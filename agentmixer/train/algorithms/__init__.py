"""One file an algorithm; `ALGORITHMS` is where a new one gets its line."""

from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO
from agentmixer.train.algorithms.agentmixer_sac import AgentMixerSAC
from agentmixer.train.algorithms.base import Algorithm

__all__ = ["ALGORITHMS", "AgentMixerPPO", "AgentMixerSAC", "Algorithm"]

ALGORITHMS: dict[str, type[Algorithm]] = {"agentmixer_ppo": AgentMixerPPO, "agentmixer_sac": AgentMixerSAC}
