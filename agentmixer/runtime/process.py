"""The agent's process: one folder, one descriptor, nothing else.

Started by `runtime.host` as `python -I -m agentmixer.runtime.process FD FOLDER` with an empty environment
in an empty directory. It verifies its folder, loads its model and answers frames until told to stop.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from pathlib import Path

from agentmixer.errors import AgentMixerError
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.frames import MAX_FRAME, MAX_REASON, NOWHERE, Kind, decision, observation, pack, unpack


def serve(link: socket.socket, folder: Path) -> None:
    """Load the agent in `folder`, announce READY, then answer until STOP or until the host is gone.

    A frame of a later episode than the last one's resets the agent first, so that no lost message can
    leave it with the recurrent state of an episode that is over. A frame that comes twice, or after a later one, is
    refused, so that the recurrent state takes each step at most once and in order."""
    index, digest = 0, bytes(8)
    try:
        files = read_agent(folder)
        index, digest = files.manifest.index, bytes.fromhex(files.digest)[:8]
        agent = Agent(files)
    except Exception as error:  # whatever it is, the host must hear of it
        link.send(pack(Kind.REFUSE, index, digest, str(error).encode()[:MAX_REASON]))
        return
    link.send(pack(Kind.READY, index, digest, files.manifest.agent.encode()))
    clock = time.monotonic_ns
    last = (-1, -1)
    while data := link.recv(MAX_FRAME):
        begin = clock()
        episode, step = NOWHERE
        try:
            frame = unpack(data)
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


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # the host is gone, so there is nobody left to act for
        serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
