"""Frames over TCP with mutual TLS 1.3: what a device and its host speak across machines.

Each end has a folder of three files, made by `agentmixer keygen --tls`: `ca.pem`, the team's certificate authority;
`cert.pem`, its own certificate, which names it; and `key.pem`, its private key. A device's certificate names one agent and
may only answer; the host's names `host` and may only call. Both ends check the other's in the handshake, before a single
byte of a frame. Needs nothing beyond the standard library.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from pathlib import Path
from typing import Any, NamedTuple

from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular
from agentmixer.runtime.frames import MAX_FRAME

CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"
#: What the host's certificate names.
HOST = "host"
#: Seconds after which an end that no longer answers counts as gone.
SILENCE_S = 5
#: Before each frame: its length.
_LENGTH = struct.Struct("<I")
#: A longer frame ends the connection. Above MAX_FRAME, so that a frame which is too long is refused as any other damaged one.
_LONGEST = 2 * MAX_FRAME
_CHUNK = 1 << 16
#: Bytes of a certificate or key file; nothing larger is read.
_LARGEST_FILE = 1 << 16


class Closed(Exception):
    """The other end has gone, or said something that is not TLS or no frame. The text says which."""


class Untrusted(Closed):
    """The other end's certificate is refused, or the other end refuses this end's."""


class Address(NamedTuple):
    """Where a device listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`10.0.0.1:7447`, `robot.local:7447` or `[fe80::1]:7447`. Raises AgentMixerError for anything else."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise AgentMixerError(
            f"'{text}' is no address; write HOST:PORT with a port up to 65535, such as 192.168.1.10:7447"
        )
    return Address(found[1] or found[2], int(found[3]))


def resolved(address: Address, listening: bool = False) -> tuple[tuple[int, Any], ...]:
    """The families and socket addresses that an address stands for. Raises AgentMixerError if the name is not known."""
    flags = socket.AI_PASSIVE if listening else 0
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        raise AgentMixerError(
            f"{address} is not known here ({error.strerror}); give the device's IP address"
        ) from error
    return tuple(dict.fromkeys((int(family), where) for family, _, _, _, where in found))


def context(folder: Path, server: bool) -> ssl.SSLContext:
    """What an end accepts and shows. server: this end is a device, which is called; otherwise the host, which calls.

    Raises AgentMixerError if a file is missing or is not what it should be."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.check_hostname = False  # `Stream` compares names itself: exactly, where host names may differ in case
    if server:
        made.num_tickets = 0  # a connection is never resumed
    again = "make these files with agentmixer keygen --tls"
    files = [folder / name for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)]
    for file in files:
        read_regular(file, _LARGEST_FILE, links=None, again=again)
    authority, certificate, key = files
    try:
        made.load_verify_locations(authority)
        made.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        what = getattr(error, "reason", None) or str(error)
        raise AgentMixerError(f"the certificate and key in {folder} cannot be used ({what}); {again}") from error
    return made


def tuned(link: socket.socket) -> socket.socket:
    """A TCP socket that sends at once, never blocks, and notices within SILENCE_S that the other end is gone."""
    link.setblocking(False)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", SILENCE_S - 2), ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
    ):  # fmt: skip
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link


class Stream:
    """Frames over one connection; nothing waits. link: a connected socket, `tuned`. expected: the name that the other end's
    certificate must have, and no other: an agent's, or HOST.

    `handshake`, `send` and `receive` raise Closed."""

    def __init__(self, link: socket.socket, using: ssl.SSLContext, expected: str):
        self.link, self._expected = link, expected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = using.wrap_bio(self._incoming, self._outgoing, server_side=expected == HOST)
        self._unsent, self._read = b"", bytearray()
        #: Why nothing more will come; None as long as something may.
        self._ended: Closed | None = None

    @property
    def behind(self) -> bool:
        """Whether bytes wait until the other end reads: call `flush` when the socket can be written to."""
        return bool(self._unsent)

    @property
    def holds_frame(self) -> bool:
        """Whether `receive` has a whole frame without reading from the socket."""
        return len(self._read) >= _LENGTH.size + self._length() if len(self._read) >= _LENGTH.size else False

    def handshake(self) -> bool:
        """Go on with it. Returns whether it is done; then the other end's certificate has been checked."""
        self._take()
        try:
            self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        except (ssl.SSLError, ssl.CertificateError) as error:
            with contextlib.suppress(Closed):  # the alert says why
                self.flush()
            raise _closed(error) from error
        self.flush()
        if done:
            shown: dict[str, Any] = self._tls.getpeercert() or {}
            names = [str(entry[1]) for entry in shown.get("subjectAltName", ())]
            if names != [self._expected]:
                raise Untrusted(f"its certificate is that of {', '.join(names) or 'nobody'}, not of {self._expected}")
        return done

    def send(self, frame: bytes) -> bool:
        """Returns False, and sends nothing, while the other end has not read what came before."""
        if self._unsent and not self.flush():
            return False
        try:
            self._tls.write(_LENGTH.pack(len(frame)) + frame)
        except ssl.SSLError as error:
            raise _closed(error) from error
        self.flush()
        return True

    def flush(self) -> bool:
        """Send what waits. Returns whether nothing waits any more."""
        data = self._unsent + self._outgoing.read() if self._outgoing.pending else self._unsent
        if data:
            try:
                data = data[self.link.send(data) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise Closed(error.strerror or str(error)) from error
            self._unsent = data
        return not data

    def receive(self) -> bytes | None:
        """The next frame, None if none has come whole."""
        if not self.holds_frame and not self._ended:
            self._take()
            self._decrypt()
        if not self.holds_frame:
            if self._ended:
                raise self._ended
            return None
        end = _LENGTH.size + self._length()
        frame = bytes(self._read[_LENGTH.size : end])
        del self._read[:end]
        return frame

    def _decrypt(self) -> None:
        """What the TLS layer holds, as plain bytes. Frames that came before the end are kept."""
        try:
            while not self._ended and (self._incoming.pending or self._tls.pending()):
                data = self._tls.read(_CHUNK)
                self._read += data
                self._ended = None if data else Closed("hung up")
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = Closed("hung up")
        except ssl.SSLError as error:
            self._ended = _closed(error)
        if self._incoming.eof and not self._ended:
            self._ended = Closed("hung up")

    def close(self) -> None:
        """Say goodbye if that does not have to wait, and close the socket."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        with contextlib.suppress(Closed):
            self.flush()
        self.link.close()

    def _length(self) -> int:
        (length,) = _LENGTH.unpack_from(self._read)
        if not 0 < length <= _LONGEST:
            raise Closed(f"sent a frame of {length:,} bytes")
        return int(length)

    def _take(self) -> None:
        """What has arrived, into the TLS layer."""
        try:
            data = self.link.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def _closed(error: ssl.SSLError | ssl.CertificateError) -> Closed:
    """What TLS found wrong, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Untrusted(f"its certificate is refused: {error.verify_message or error.reason}")
    reason = (error.reason or str(error)).replace("_", " ")
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN CA" in reason):
        return Untrusted(f"it refuses this end's certificate ({reason.partition('ALERT ')[2].lower()})")
    return Closed("hung up" if "EOF" in reason.upper() else reason.lower())
