"""One file an algorithm; `ALGORITHMS` is where a new one gets its line."""

from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO
from agentmixer.train.algorithms.agentmixer_sac import AgentMixerSAC
from agentmixer.train.algorithms.base import Algorithm
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.algorithms.mappo_full import MAPPOFull
from agentmixer.train.algorithms.maven import MAVEN

__all__ = ["ALGORITHMS", "MAPPO", "MAVEN", "AgentMixerPPO", "AgentMixerSAC", "Algorithm", "MAPPOFull"]

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm for algorithm in (AgentMixerPPO, AgentMixerSAC, MAPPO, MAPPOFull, MAVEN)
}
