"""The agent's process: one folder, one descriptor, nothing else.

Started by `runtime.launch` as `python -I process.py FOLDER [--require-isolation]` with an empty environment in an
empty directory; its standard input is the link. It verifies its folder, enters the sandbox, loads its model from the
bytes it verified and answers frames until told to stop.
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
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles, read_agent
from agentmixer.runtime.frames import MAX_FRAME, MAX_REASON, NOWHERE, Kind, decision, observation, pack, unpack
from agentmixer.runtime.launch import Ready
from agentmixer.runtime.sandbox import Isolation


def start(
    link: socket.socket, folder: Path, required: bool = False, enter: Callable[[int], Isolation] = sandbox.enter
) -> tuple[AgentFiles, Agent] | None:
    """Verify `folder`, give up everything but `link`, load the agent, announce READY.

    required: refuse before the model is touched unless isolation is full. Returns None, having told the host why,
    if there is no agent to be had."""
    index, digest = 0, bytes(8)
    try:
        files = read_agent(folder)
        index, digest = files.manifest.index, bytes.fromhex(files.digest)[:8]
        isolation = enter(link.fileno())
        if required:
            isolation.require(files.manifest.agent)
        agent = Agent(files)
    except Exception as error:  # whatever it is, the host must hear of it
        link.send(pack(Kind.REFUSE, index, digest, str(error).encode()[:MAX_REASON]))
        return None
    link.send(pack(Kind.READY, index, digest, msgspec.json.encode(Ready(files.manifest.agent, isolation))))
    return files, agent


def serve(link: socket.socket, files: AgentFiles, agent: Agent) -> None:
    """Answer until STOP or until the host is gone.

    A frame of a later episode than the last one's resets the agent first, so that no lost message can
    leave it with the recurrent state of an episode that is over. A frame that comes twice, or after a later one, is
    refused, so that the recurrent state takes each step at most once and in order."""
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
                agent.reset()
            last = (episode, step)
            action = agent.act(*seen)
            now = clock()
            link.send(pack(Kind.ACT, index, digest, decision(action, now - begin), episode, step, now))
        except ConnectionError:
            raise
        except Exception as error:  # one bad frame must not end the agent
            link.send(pack(Kind.REFUSE, index, digest, str(error).encode()[:MAX_REASON], episode, step))


def main(
    link: socket.socket, folder: Path, required: bool = False, enter: Callable[[int], Isolation] = sandbox.enter
) -> None:
    """Start and serve, see there."""
    with contextlib.suppress(ConnectionError):  # the host is gone, so there is nobody left to act for
        started = start(link, folder, required, enter)
        if started:
            serve(link, *started)


if __name__ == "__main__":
    main(socket.socket(fileno=sys.stdin.fileno()), Path(sys.argv[1]), "--require-isolation" in sys.argv[2:])
