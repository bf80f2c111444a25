"""What runs on a device: load, act, answer. Needs numpy, onnxruntime and msgspec; never torch, JAX or a task."""

import os

# ONNX Runtime's telemetry starts a thread and keeps a database under the user's home, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from agentmixer.errors import AgentMixerError
from agentmixer.runtime.agent import Agent, InvalidDecision

__all__ = ["Agent", "AgentMixerError", "InvalidDecision"]
