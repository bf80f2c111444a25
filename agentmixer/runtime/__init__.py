"""What runs on a device: load, act, answer. Needs numpy, onnxruntime and msgspec; never torch, JAX or a task."""

from agentmixer.runtime.agent import Agent

__all__ = ["Agent"]
