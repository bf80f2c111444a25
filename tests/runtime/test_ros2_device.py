"""examples/ros2_device.py against a stand-in for rclpy and std_msgs, which no package index has."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bundle import made_bundle

from agentmixer.runtime import Agent
from agentmixer.runtime.control import control

EXAMPLES = Path(__file__).parents[2] / "examples"


class Message:
    """A message of numbers: built from `data` alone, as rclpy's messages are built from keyword arguments."""

    def __init__(self, *, data: list[Any]):
        self.data = data


class Float32MultiArray(Message):
    pass


class Int64MultiArray(Message):
    pass


class Node:
    """What the example uses of rclpy.node.Node."""

    def __init__(self, name: str):
        self.name, self.topics, self.published = name, {}, []  # type: ignore[var-annotated]

    def create_publisher(self, kind: type, topic: str, depth: int) -> Node:
        self.topics[topic] = kind
        return self

    def create_subscription(self, kind: type, topic: str, called: Any, profile: object) -> None:
        self.topics[topic] = (kind, called)

    def publish(self, message: Message) -> None:
        self.published.append(message)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    modules = {
        "rclpy": {"init": lambda: None, "spin": lambda node: None},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {"qos_profile_sensor_data": object()},
        "std_msgs": {},
        "std_msgs.msg": {"Float32MultiArray": Float32MultiArray, "Int64MultiArray": Int64MultiArray},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "ros2_device", raising=False)
    import ros2_device

    return ros2_device


def test_observations_come_and_actions_go_as_messages(example: Any, tmp_path: Path) -> None:
    agent = Agent.load(made_bundle(tmp_path / "bundle") / "agents" / "a")
    device, size = example.device(agent), agent.manifest.tensor("obs").shape[0]
    assert device.name == "a" and device.topics["~/action"] is Int64MultiArray
    kind, arrived = device.topics["~/observation"]
    assert kind is Float32MultiArray
    assert device.observe() is None, "nothing has come"
    arrived(Float32MultiArray(data=[0.5] * size + [0.0, 0.0, 1.0, 0.0]))  # action 2 alone is legal; the fallback is 0
    obs, mask = device.observe()
    assert obs.dtype == np.float32 and obs.tolist() == [0.5] * size and mask.tolist() == [False, False, True, False]
    device.oldest_s = 1e9
    ticks = control(agent, device, 3, period_s=1e-3, clock=lambda: 0.0, sleep=lambda _: None)
    assert ticks.applied == 3
    assert [message.data for message in device.published] == [[2], [2], [2], [0]]
    device.oldest_s = -1.0
    assert device.observe() is None, "too old"
