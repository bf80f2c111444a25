"""An agent on another machine, as its host holds it: called, heard from, called again when it has gone."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_link import START_TIMEOUT_S, AgentLink, AgentLost, HungUp
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.frames import Kind, kind_of, pack, reason_of, unpack
from agentmixer.runtime.health import Health
from agentmixer.runtime.tls import Address, Closed, Stream, Untrusted, resolved, tuned

#: How long after a call in vain the next one is made.
CALL_AGAIN_S = 0.2
#: How long a call takes at most until the agent announces itself, and how long others of the same agent may still answer
#: once one has.
CALL_S, OTHERS_S = 5.0, 1.0
#: How long `health` waits.
HEALTH_S = 2.0


class _Call:
    """One attempt to reach an agent at one address."""

    def __init__(self, family: int, where: Any, context: ssl.SSLContext, agent: str):
        self.where = where
        self.until = time.monotonic() + CALL_S
        self.connected = self.trusted = False
        #: The agent's first message, once there is one.
        self.answer: bytes | None = None
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.stream = Stream(tuned(self.socket), context, agent)
        self.socket.connect_ex(where)

    def advance(self) -> None:
        """Go on with connecting, the handshake and the first message, as far as that goes without waiting. Raises Closed."""
        if not self.connected:
            found = self.socket.connect_ex(self.where)
            if found in (errno.EINPROGRESS, errno.EALREADY):
                return
            if found not in (0, errno.EISCONN):
                raise Closed(os.strerror(found))
            self.connected = True
        if not self.trusted:
            self.trusted = self.stream.handshake()
        if self.trusted and self.answer is None:
            self.answer = self.stream.receive()


class DeviceLink(AgentLink):
    """One agent on a device, over mutual TLS. Only the device whose certificate names the agent can speak for it.

    addresses: where its device may be reached; if devices answer at two of them at the same time, neither is used."""

    shares_clock = False

    def __init__(
        self, files: AgentFiles, addresses: Sequence[Address], context: ssl.SSLContext, require_isolation: bool = False
    ):
        super().__init__(files, require_isolation)
        self._context, self._addresses = context, addresses
        self._places = [place for address in addresses for place in resolved(address)]
        self._epoll = select.epoll()
        self._calls: dict[int, _Call] = {}
        self._stream: Stream | None = None
        #: When to call again, if no call is under way.
        self._again = 0.0
        self._answered: float | None = None
        #: Why nobody has answered yet, and whether somebody has whose certificate is refused. At the start that is an error; a
        #: device that comes back is called again, for on its way somebody else may answer for a while.
        self._why, self._untrusted = "nobody has answered", False
        self._watching_writes = False
        self._health: Health | None = None
        self._call()

    @property
    def where(self) -> str:
        """Its addresses, in words."""
        return " or ".join(map(str, self._addresses))

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def holds_frame(self) -> bool:
        return self._stream is not None and self._stream.holds_frame

    def await_ready(self) -> float:
        while (data := self.first()) is None:
            if self._untrusted:
                raise AgentMixerError(
                    f"agent {self.name} did not start: at {self.where}, {self._why}; give its device the folder that agentmixer "
                    f"keygen --tls made for {self.name}, and see that both clocks are right"
                )
            if self.age_s() > START_TIMEOUT_S:
                raise AgentMixerError(
                    f"agent {self.name} did not start: no device answers at {self.where} ({self._why}); start it there: "
                    "agentmixer agent FOLDER --listen ADDRESS --tls KEYS"
                )
            self.starting()
            self._epoll.poll(CALL_AGAIN_S / 2)
        return self.announced(data)

    def starting(self) -> None:
        if not self._calls and time.monotonic() >= self._again:
            self._call()

    def first(self) -> bytes | None:
        now = time.monotonic()
        for number, call in list(self._calls.items()):
            try:
                call.advance()
                if call.answer is not None and kind_of(call.answer) == Kind.REFUSE:
                    raise Closed(reason_of(unpack(call.answer), self.space))
                if call.answer is None and now > call.until:
                    raise Closed("no answer")
            except Closed as error:
                self._forget(number)
                self._why, self._untrusted = str(error), isinstance(error, Untrusted)
            else:
                events = select.EPOLLIN if call.connected else select.EPOLLOUT
                self._epoll.modify(number, events | (select.EPOLLOUT if call.stream.behind else 0))
        answered = [call for call in self._calls.values() if call.answer is not None]
        if len(answered) > 1:
            places = " and ".join(str(Address(*call.where[:2])) for call in answered)
            self.kill()
            raise AgentMixerError(
                f"agent {self.name} is answered for by two devices at the same time, at {places}; stop one"
            )
        if not answered:
            return None
        self._answered = self._answered or now
        if len(self._calls) > 1 and now < self._answered + OTHERS_S:
            return None
        for number, call in list(self._calls.items()):
            if call is answered[0]:
                del self._calls[number]
                self._epoll.modify(number, select.EPOLLIN)
            else:
                self._forget(number)
        self._stream = answered[0].stream
        return answered[0].answer

    def send(self, data: bytes) -> bool:
        stream = self._open()
        try:
            sent = stream.send(data)
        except Closed as error:
            raise HungUp(str(error)) from error
        self._watch_writes(stream)
        self.sent_bytes += len(data) * sent
        return sent

    def receive(self) -> bytes | None:
        stream = self._open()
        try:
            if stream.behind:
                stream.flush()
                self._watch_writes(stream)
            data = stream.receive()
        except Closed as error:
            raise HungUp(str(error)) from error
        if data is None:
            return None
        if kind_of(data) == Kind.HEALTH:
            self._take_health(data)
            return self.receive()
        self.received_bytes += len(data)
        return data

    def health(self) -> Health | None:
        """What the device counted since this host called it; None if it does not say so within HEALTH_S. Between steps."""
        self._health = None
        end = time.monotonic() + HEALTH_S
        try:
            self.send(pack(Kind.HEALTH, self.index, self.digest))
            while self._health is None and time.monotonic() < end:
                self._epoll.poll(max(end - time.monotonic(), 0))
                self.receive()
        except HungUp:
            pass
        return self._health

    def lost(self, what: str) -> AgentLost:
        return AgentLost(f"agent {self.name} {what}; its device is {self.where}")

    def resident_mb(self) -> tuple[float, float]:
        found = self._health or self.health() if self._stream else None
        return (found.resident_mb, found.peak_mb) if found else (0.0, 0.0)

    def signal(self, number: int) -> None:
        raise AgentMixerError(f"agent {self.name} runs on a device ({self.where}), where this host stops no process")

    def kill(self) -> None:
        for number in list(self._calls):
            self._forget(number)
        if self._stream:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Tell the device that this host is done, and hang up."""
        try:
            if self._stream:
                self._stream.send(pack(Kind.STOP, self.index, self.digest))
        except Closed:
            pass
        self.kill()
        self._epoll.close()

    def _open(self) -> Stream:
        if self._stream is None:
            raise HungUp("hung up")
        return self._stream

    def _call(self) -> None:
        self._answered = None
        for family, where in self._places:
            call = _Call(family, where, self._context, self.name)
            self._calls[call.socket.fileno()] = call
            self._epoll.register(call.socket.fileno(), select.EPOLLOUT)

    def _forget(self, number: int) -> None:
        self._epoll.unregister(number)
        self._calls.pop(number).stream.close()
        self._again = time.monotonic() + CALL_AGAIN_S

    def _watch_writes(self, stream: Stream) -> None:
        if stream.behind != self._watching_writes:
            self._watching_writes = stream.behind
            self._epoll.modify(stream.link.fileno(), select.EPOLLIN | (select.EPOLLOUT if stream.behind else 0))

    def _take_health(self, data: bytes) -> None:
        try:
            self._health = msgspec.json.decode(unpack(data).payload, type=Health)
        except (AgentMixerError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HungUp(f"said of its health what cannot be read ({error})") from error
