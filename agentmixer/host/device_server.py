"""One agent on its device: waits for its host on the network, and passes frames to the agent's process and back.

The process that speaks TLS holds the device's key and touches no model; the agent's process has its sandbox and neither key nor
network, as on the host's machine. The agent is started before a host calls, and anew after each host, so that nothing of
one host's episodes is left for the next.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from pathlib import Path

import msgspec

from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_link import START_TIMEOUT_S, HungUp
from agentmixer.host.agent_process import AgentProcess
from agentmixer.host.events import Events
from agentmixer.runtime import tls
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.frames import NOWHERE, Kind, deadline_of, key_of, kind_of, pack
from agentmixer.runtime.health import Health, temperature_c
from agentmixer.runtime.noise import Noise
from agentmixer.runtime.tls import Address, Closed, Stream, resolved, tuned

#: Seconds that a caller has for its handshake, and how many may be at it at once.
HANDSHAKE_S, MOST_CALLERS = 5.0, 16
#: Seconds after which an agent that ended by itself is started anew.
RESTART_S = 1.0


class _Caller:
    """A connection: at its handshake until it is the host's."""

    def __init__(self, stream: Stream, where: str):
        self.stream, self.where = stream, where
        self.until = time.monotonic() + HANDSHAKE_S
        self.known = False


class DeviceServer:
    """Serves one agent at an address. Use as a context manager; `serve` runs until `stop`.

    folder: the agent's; keys: the device's, from `agentmixer keygen --tls`; trusted: a public key that must have signed the
    agent; seed: of its noise, if it draws its actions, drawn from the system unless given. Raises AgentMixerError if the agent cannot be started, or nothing can listen at the address."""

    def __init__(
        self, folder: Path, address: Address, keys: Path, trusted: Path | None = None, require_isolation: bool = False,
        events: Events | None = None, seed: int | None = None,
    ):  # fmt: skip
        self.files = read_agent(folder, trusted)
        self._folder, self._required = folder, require_isolation
        self._seed = Noise(self.files.manifest.noise, seed, 0).seed
        self._context = tls.context(keys, server=True)
        self._events = events or Events()
        self._selector = selectors.DefaultSelector()
        self._listening: list[socket.socket] = []
        self._callers: set[_Caller] = set()
        self._host: _Caller | None = None
        self._agent: AgentProcess | None = None
        #: When an agent that ended is to be started anew.
        self._again: float | None = None
        #: When the step that the agent is at began, and its deadline, in ns.
        self._began = self._deadline = 0
        self._counts = Health()
        self._stopping = False
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        try:
            self._start()
            assert self._agent is not None
            self._agent.await_ready()
            for family, where in resolved(address, listening=True):
                self._listen(family, where, address)
        except BaseException:
            self.close()
            raise
        self._selector.register(self._woken, selectors.EVENT_READ)
        #: Where it listens: as asked for, with the port that the system chose if 0 was asked for.
        self.address: Address = Address(address.host, self._listening[0].getsockname()[1])

    def __enter__(self) -> DeviceServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> Health:
        """The counts until now."""
        agent = self._agent
        resident, peak = agent.resident_mb() if agent else (0.0, 0.0)
        return msgspec.structs.replace(
            self._counts, resident_mb=round(resident, 1), peak_mb=round(peak, 1), temperature_c=temperature_c()
        )

    def stop(self) -> None:
        """End `serve`; may be called from another thread or from a signal's handler."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def serve(self) -> None:
        """Answer hosts, one at a time, until `stop`."""
        name, agent = self.files.manifest.agent, self._agent
        self._events("listening", agent=name, address=self.address, isolation=agent and agent.isolation.level)
        while not self._stopping:
            for key, _ in self._selector.select(self._patience()):
                if self._stopping:
                    break
                if isinstance(key.data, _Caller):
                    self._heard(key.data)
                elif isinstance(key.data, AgentProcess):
                    if key.data is self._agent:
                        self._decided(key.data)
                elif key.fileobj in self._listening:
                    self._called(key.fileobj)
            self._tick()
        self._events("stopped", agent=name)

    def close(self) -> None:
        """Hang up, end the agent's process, and listen no more."""
        self._stopping = True
        for caller in list(self._callers):
            self._drop(caller, "this device stops")
        for listening in self._listening:
            listening.close()
        self._end_agent()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _listen(self, family: int, where: tuple, address: Address) -> None:
        listening = socket.socket(family, socket.SOCK_STREAM)
        self._listening.append(listening)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listening.bind(where)
            listening.listen(MOST_CALLERS)
        except OSError as error:
            raise AgentMixerError(
                f"nothing can listen at {address} ({error.strerror}); give another --listen"
            ) from error
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ)

    # The agent's process.

    def _start(self) -> None:
        self._again = None
        self._counts = Health(restarts=self._counts.restarts)
        self._agent = AgentProcess(self.files, self._folder, self._required, self._seed)
        self._selector.register(self._agent, selectors.EVENT_READ, self._agent)

    def _end_agent(self) -> None:
        if self._agent:
            self._selector.unregister(self._agent)
            self._agent.close()
            self._agent = None

    def _agent_lost(self, why: str) -> None:
        """The agent's process ended by itself: its host is hung up on, and a new one started after a while."""
        self._events("agent_lost", agent=self.files.manifest.agent, why=why)
        self._counts.restarts += 1
        self._end_agent()
        self._again = time.monotonic() + RESTART_S
        if self._host:
            self._drop(self._host)

    def _decided(self, agent: AgentProcess) -> None:
        """Something has come from the agent."""
        if not agent.announcement:
            if (data := agent.first()) is not None:
                try:
                    agent.announced(data)
                except AgentMixerError as error:
                    self._agent_lost(str(error))
                if self._host:
                    self._say(self._host, data)
            return
        try:
            while self._agent is agent and (data := agent.receive()) is not None:
                self._count(data)
                if self._host:
                    self._say(self._host, data)
        except HungUp as error:
            self._agent_lost(str(error))

    def _count(self, data: bytes) -> None:
        kind, counts = kind_of(data), self._counts
        if kind == Kind.REFUSE:
            counts.refused += 1
            return
        counts.steps += 1
        counts.fallbacks += kind == Kind.FALLBACK
        counts.late += time.monotonic_ns() - self._began > self._deadline

    # Hosts.

    def _called(self, listening: socket.socket) -> None:
        try:
            link, where = listening.accept()
        except OSError:
            return  # the caller has gone already
        if sum(not caller.known for caller in self._callers) >= MOST_CALLERS:
            link.close()
            return
        caller = _Caller(Stream(tuned(link), self._context, tls.HOST), str(Address(*where[:2])))
        self._callers.add(caller)
        self._selector.register(link, selectors.EVENT_READ, caller)

    def _heard(self, caller: _Caller) -> None:
        """Something has come from a caller, or there is room for what it is to be sent."""
        if caller not in self._callers:
            return  # hung up on a moment ago
        try:
            if caller.stream.behind:
                caller.stream.flush()
                self._watch_writes(caller)
            if not caller.known:
                if not caller.stream.handshake():
                    return
                self._welcome(caller)
            if caller is self._host:
                self._pass_on(caller.stream)
        except Closed as error:
            self._drop(caller, str(error))

    def _welcome(self, caller: _Caller) -> None:
        """The handshake is done, and the caller is the host, unless there is one."""
        caller.known = True
        if self._host:
            self._refuse(caller.stream, f"its device serves another host, {self._host.where}", NOWHERE)
            raise Closed(f"another host is served, {self._host.where}")
        self._host = caller
        self._events("host_connected", host=caller.where)
        if self._agent and self._agent.announcement:
            self._say(caller, self._agent.announcement)

    def _pass_on(self, stream: Stream) -> None:
        """The host's frames to the agent."""
        while (data := stream.receive()) is not None:
            agent, kind = self._agent, kind_of(data)
            if kind == Kind.STOP:
                raise Closed("done")
            if agent is None or not agent.announcement:
                raise Closed("spoke before the agent was ready")
            if kind == Kind.HEALTH:
                stream.send(pack(Kind.HEALTH, agent.index, agent.digest, msgspec.json.encode(self.health())))
                continue
            if kind == Kind.OBSERVE:
                self._began, self._deadline = time.monotonic_ns(), 1000 * deadline_of(data)
            try:
                if not agent.send(data):
                    self._counts.refused += 1
                    self._refuse(stream, "the agent has not taken the frames before this one", key_of(data))
            except HungUp as error:
                self._agent_lost(str(error))
                return

    def _refuse(self, stream: Stream, reason: str, place: tuple[int, int]) -> None:
        """Say why a frame does not reach the agent. place: the frame's episode and step."""
        index, digest = self.files.manifest.index, bytes.fromhex(self.files.digest)[:8]
        stream.send(pack(Kind.REFUSE, index, digest, reason.encode(), *place))

    def _say(self, caller: _Caller, data: bytes) -> None:
        """A frame to the host. A host that does not read is hung up on: its answers would come too late anyhow."""
        try:
            if not caller.stream.send(data):
                raise Closed("does not read what the agent answers")
            self._watch_writes(caller)
        except Closed as error:
            self._drop(caller, str(error))

    def _watch_writes(self, caller: _Caller) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if caller.stream.behind else 0)
        self._selector.modify(caller.stream.link, events, caller)

    def _drop(self, caller: _Caller, why: str = "") -> None:
        if caller not in self._callers:
            return
        self._callers.remove(caller)
        self._selector.unregister(caller.stream.link)
        caller.stream.close()
        if caller is not self._host:
            if why:
                self._events("caller_refused", caller=caller.where, why=why)
            return
        self._host = None
        self._events("host_gone", host=caller.where, why=why or "the agent was lost", steps=self._counts.steps)
        if self._agent and not self._stopping:
            self._end_agent()
            self._start()

    # Time.

    def _patience(self) -> float | None:
        """Seconds until something is due; None if nothing is."""
        dues = [caller.until for caller in self._callers if not caller.known]
        if self._again is not None:
            dues.append(self._again)
        if self._agent and not self._agent.announcement:
            dues.append(time.monotonic() + START_TIMEOUT_S)
        return max(min(dues) - time.monotonic(), 0.0) if dues else None

    def _tick(self) -> None:
        now = time.monotonic()
        for caller in [caller for caller in self._callers if not caller.known and caller.until <= now]:
            self._drop(caller, f"no handshake within {HANDSHAKE_S:g} s")
        if self._agent and not self._agent.announcement and self._agent.age_s() > START_TIMEOUT_S:
            self._agent_lost(f"not ready within {START_TIMEOUT_S:.0f} s")
        if self._again is not None and self._again <= now:
            try:
                self._start()
            except AgentMixerError as error:
                self._events("agent_lost", agent=self.files.manifest.agent, why=error)
                self._again = now + RESTART_S
