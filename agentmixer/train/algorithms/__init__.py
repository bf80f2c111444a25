"""One file an algorithm; `ALGORITHMS` is where a new one gets its line."""

from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO
from agentmixer.train.algorithms.agentmixer_sac import AgentMixerSAC
from agentmixer.train.algorithms.ail import AIL
from agentmixer.train.algorithms.armappo import ARMAPPO
from agentmixer.train.algorithms.base import Algorithm
from agentmixer.train.algorithms.happo import HAPPO
from agentmixer.train.algorithms.magpo import MAGPO
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.algorithms.mappo_full import MAPPOFull
from agentmixer.train.algorithms.mat import MAT
from agentmixer.train.algorithms.mat_dec import MATDec
from agentmixer.train.algorithms.maven import MAVEN

__all__ = [
    "AIL", "ALGORITHMS", "ARMAPPO", "HAPPO", "MAGPO", "MAPPO", "MAT", "MAVEN", "AgentMixerPPO", "AgentMixerSAC", "Algorithm",
    "MAPPOFull", "MATDec",
]  # fmt: skip

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (AgentMixerPPO, AgentMixerSAC, MAPPO, MAPPOFull, HAPPO, MAT, MATDec, ARMAPPO, MAVEN, AIL, MAGPO)
}
