"""MAT-Dec (Wen et al. 2022, arXiv 2205.14953): what is left of MAT where every agent must act on its own observation.

What differs from `mat`: actors are MLPs, each over its agent's own observation alone, as in `mappo` without memory; the
transformer's encoder only gives values while the team learns.
"""

from __future__ import annotations

from agentmixer.contract.spec import TaskSpec
from agentmixer.train.algorithms.base import Sees
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.algorithms.mat import MAT
from agentmixer.train.networks import Actor
from agentmixer.train.team import Team


class MATDec(MAT):
    """MAPPO whose values are a transformer's over all agents' observations."""

    name, source = "mat_dec", "Wen et al. 2022, arXiv 2205.14953 (MAT-Dec)"
    execution_sees = Sees.OWN_OBSERVATION
    kind_of_team = Team
    make_team = MAPPO.make_team

    def make_actor(self, spec: TaskSpec, teams: int) -> Actor:
        """Actors as in `mappo`."""
        return MAPPO.make_actor(self, spec, teams)
