"""A device for an agent's control loop. Copy this file, and put your sensors and motors in.

    agentmixer agent bundles/<bundle>/agents/agent_0 --control control_loop:device --steps 1000

This one has neither: it observes zeros, and keeps the action that it was given last.
"""

import numpy as np

from agentmixer.runtime import Agent


class Device:
    """The sensors and the motors of one agent."""

    def __init__(self, agent: Agent):
        self.size = agent.manifest.tensor("obs").shape[0]
        self.actions = agent.manifest.action_space.n
        self.masked = agent.manifest.mask_rule == "forbid"
        self.action: np.ndarray | None = None

    def observe(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The newest observation and the action mask; None if a sensor is silent. Must not wait for long."""
        obs = np.zeros(self.size, np.float32)
        return obs, np.ones(self.actions, bool) if self.masked else None

    def apply(self, action: np.ndarray) -> None:
        """Hand the action to the motors. Must not wait."""
        self.action = action


def device(agent: Agent) -> Device:
    """What `--control control_loop:device` calls."""
    return Device(agent)
