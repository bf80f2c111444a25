"""The agent's process: one folder, one descriptor, nothing else.

Started by `runtime.launch` much as `python -I process.py FOLDER [--require-isolation] [--seed=N]`, with an empty environment in an
empty directory; its standard input is the link. It reads its folder's bytes, enters the sandbox, verifies and decodes
them there, loads its model from them and answers frames until told to stop.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    # Read when numpy is imported. The sandbox wants a single thread, and numpy's linear algebra would start others.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import contextlib
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from agentmixer.errors import AgentMixerError
from agentmixer.runtime import sandbox
from agentmixer.runtime.actions import as_array
from agentmixer.runtime.agent import Agent, InvalidDecision
from agentmixer.runtime.bundle import AGENT_LIMITS, AgentFiles, open_agent, read_raw
from agentmixer.runtime.frames import (
    MAX_FRAME,
    MAX_REASON,
    NOWHERE,
    Kind,
    decision,
    observation,
    pack,
    unpack,
)
from agentmixer.runtime.launch import Ready
from agentmixer.runtime.sandbox import Isolation


def start(
    link: socket.socket, folder: Path, required: bool = False, enter: Callable[[int], Isolation] = sandbox.enter,
    seed: int = 0,
) -> tuple[AgentFiles, Agent] | None:  # fmt: skip
    """Read the bytes in `folder`, give up everything but `link`, then decode and verify them, load the agent and
    announce READY.

    required: refuse before anything is decoded unless isolation is full; seed: of the agent's noise. Returns None, having told the host why,
    if there is no agent to be had."""
    index, digest = 0, bytes(8)
    try:
        raw = read_raw(folder, AGENT_LIMITS)
        isolation = enter(link.fileno())
        if required:
            isolation.require(folder.name)
        files = open_agent(raw)
        index, digest = files.manifest.index, bytes.fromhex(files.digest)[:8]
        agent = Agent(files, seed)
        sandbox.loaded()
    except Exception as error:  # whatever it is, the host must hear of it
        link.send(pack(Kind.REFUSE, index, digest, _reason(error)))
        return None
    link.send(
        pack(Kind.READY, index, digest, msgspec.json.encode(Ready(files.manifest.agent, isolation, agent.noise.seed)))
    )
    return files, agent


def _reason(error: Exception) -> bytes:
    """What is wrong, as a refusal carries it."""
    return (str(error) or type(error).__name__).encode(errors="replace")[:MAX_REASON]


def serve(link: socket.socket, files: AgentFiles, agent: Agent) -> None:
    """Answer until STOP or until the host is gone.

    A frame of a later episode than the last one's resets the agent first, so that no lost message can
    leave it with the recurrent state of an episode that is over. A frame that comes twice, or after a later one, is
    refused, so that the recurrent state takes each step at most once and in order. Where the policy gives no valid
    decision, the manifest's fallback action goes back in a frame that says so and why."""
    fallback = as_array(files.manifest.fallback_action, files.manifest.action_space)
    index, digest = files.manifest.index, bytes.fromhex(files.digest)[:8]
    clock = time.monotonic_ns
    last = (-1, -1)
    room = memoryview(bytearray(MAX_FRAME))  # once: allocated anew for every frame, it leaves holes in the heap
    while size := link.recv_into(room):
        begin = clock()
        episode, step = NOWHERE
        try:
            frame = unpack(bytes(room[:size]))
            episode, step = frame.episode, frame.step
            if frame.agent != index or frame.digest != digest:
                raise AgentMixerError(f"frame for agent {frame.agent} with another contract reached agent {index}")
            if frame.kind == Kind.STOP:
                return
            if frame.kind != Kind.OBSERVE:
                raise AgentMixerError(f"an agent does not take frames of kind {frame.kind.name}")
            if (episode, step) <= last:
                raise AgentMixerError(
                    f"step {step} of episode {episode} is over; step {last[1]} of episode {last[0]} was seen"
                )
            seen = observation(frame)
            if episode != last[0]:
                agent.reset(episode)
            last = (episode, step)
            action, kind, reason = fallback, Kind.FALLBACK, b""
            try:
                action, kind = agent.act(*seen), Kind.ACT
            except InvalidDecision as error:
                reason = _reason(error)
            now = clock()
            link.send(pack(kind, index, digest, decision(action, now - begin) + reason, episode, step, now))
        except ConnectionError:
            raise
        except Exception as error:  # one bad frame must not end the agent
            link.send(pack(Kind.REFUSE, index, digest, _reason(error), episode, step))


def main(
    link: socket.socket, folder: Path, required: bool = False, enter: Callable[[int], Isolation] = sandbox.enter,
    seed: int = 0,
) -> None:  # fmt: skip
    """Start and serve, see there."""
    with contextlib.suppress(ConnectionError):  # the host is gone, so there is nobody left to act for
        started = start(link, folder, required, enter, seed)
        if started:
            serve(link, *started)


if __name__ == "__main__":
    given = sys.argv[2:]
    seed = next((int(word.removeprefix("--seed=")) for word in given if word.startswith("--seed=")), 0)
    main(socket.socket(fileno=sys.stdin.fileno()), Path(sys.argv[1]), "--require-isolation" in given, seed=seed)
