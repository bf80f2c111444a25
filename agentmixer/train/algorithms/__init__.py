"""One file an algorithm; `ALGORITHMS` is where a new one gets its line."""

from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO
from agentmixer.train.algorithms.agentmixer_sac import AgentMixerSAC
from agentmixer.train.algorithms.ail import AIL
from agentmixer.train.algorithms.base import Algorithm
from agentmixer.train.algorithms.happo import HAPPO
from agentmixer.train.algorithms.magpo import MAGPO
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.algorithms.mappo_full import MAPPOFull

__all__ = ["AIL", "ALGORITHMS", "HAPPO", "MAGPO", "MAPPO", "AgentMixerPPO", "AgentMixerSAC", "Algorithm", "MAPPOFull"]

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm for algorithm in (AgentMixerPPO, AgentMixerSAC, MAPPO, MAPPOFull, HAPPO, AIL, MAGPO)
}
