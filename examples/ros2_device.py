"""An agent as a ROS 2 node: observations come on one topic, and actions go out on another.

    agentmixer agent bundles/<bundle>/agents/agent_0 --control ros2_device:device

Needs a sourced ROS 2 (rclpy and std_msgs). `/agent_0/observation` is a Float32MultiArray: the observation, and for a task that masks the
mask after it, 1 for legal and 0 for illegal. One message holds both, so that they are of one moment. `/agent_0/action` is a
Float32MultiArray for real-valued actions and an Int64MultiArray for the others.
"""

import threading
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Float32MultiArray, Int64MultiArray

from agentmixer.contract.spec import Box
from agentmixer.runtime import Agent


class Device(Node):
    """The node. An observation that is older than two control periods counts as silence."""

    def __init__(self, agent: Agent):
        manifest = agent.manifest
        super().__init__(manifest.agent)
        self.size = manifest.tensor("obs").shape[0]
        self.masked = manifest.mask_rule == "forbid"
        self.oldest_s = 2 * manifest.control_period_s
        self.seen: tuple[float, np.ndarray] | None = None
        self.message = Float32MultiArray if isinstance(manifest.action_space, Box) else Int64MultiArray
        self.actions = self.create_publisher(self.message, "~/action", 1)
        self.create_subscription(Float32MultiArray, "~/observation", self.arrived, qos_profile_sensor_data)

    def arrived(self, message: Float32MultiArray) -> None:
        """A new observation. Runs in the thread that spins."""
        self.seen = time.monotonic(), np.asarray(message.data, np.float32)

    def observe(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The newest observation, with its mask."""
        if self.seen is None or time.monotonic() - self.seen[0] > self.oldest_s:
            return None
        data = self.seen[1]
        return data[: self.size], data[self.size :] > 0.5 if self.masked else None

    def apply(self, action: np.ndarray) -> None:
        """Publish the action."""
        self.actions.publish(self.message(data=np.atleast_1d(action).tolist()))


def device(agent: Agent) -> Device:
    """What `--control ros2_device:device` calls."""
    rclpy.init()
    node = Device(agent)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    return node
