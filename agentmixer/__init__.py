"""AgentMixer: train a team with everything you can see, ship each member with only what it will see.

This package imports nothing heavy. A device needs `agentmixer.runtime` and `agentmixer.contract`
alone; `train`, `export` and `tasks` need the `train` extra.
"""

__version__ = "0.1.0"
