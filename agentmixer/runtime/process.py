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
from agentmixer.runtime.frames import DECISION, MAX_FRAME, Kind, observation, pack, unpack


def serve(link: socket.socket, folder: Path) -> None:
    """Load the agent in `folder`, announce READY, then answer until STOP or until the host is gone."""
    try:
        files = read_agent(folder)
        agent = Agent(files)
    except AgentMixerError as error:
        link.send(pack(Kind.REFUSE, 0, bytes(8), str(error).encode()))
        return
    index, digest = files.manifest.index, bytes.fromhex(files.digest)[:8]
    link.send(pack(Kind.READY, index, digest, files.manifest.agent.encode()))
    clock = time.monotonic_ns
    while data := link.recv(MAX_FRAME):
        begin = clock()
        episode = step = 0
        try:
            frame = unpack(data)
            episode, step = frame.episode, frame.step
            if frame.agent != index or frame.digest != digest:
                raise AgentMixerError(f"frame for agent {frame.agent} with another contract reached agent {index}")
            if frame.kind == Kind.OBSERVE:
                action = int(agent.act(*observation(frame)))
                now = clock()
                link.send(pack(Kind.ACT, index, digest, DECISION.pack(action, now - begin), episode, step, now))
            elif frame.kind == Kind.RESET:
                agent.reset()
            elif frame.kind == Kind.STOP:
                return
            else:
                raise AgentMixerError(f"an agent does not take frames of kind {frame.kind.name}")
        except AgentMixerError as error:
            link.send(pack(Kind.REFUSE, index, digest, str(error).encode(), episode, step))


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # the host is gone, so there is nobody left to act for
        serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
