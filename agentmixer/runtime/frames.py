"""The frames that host and agents exchange: the same bytes over every link.

A fixed little-endian header, then a payload: an observation and its mask to the agent, a decision back. A checksum
covers both, so that a damaged frame is refused and never acted on.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from agentmixer.contract.spec import ActionSpace, Box, Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.actions import allowed

MAGIC = b"AMXR"
VERSION = 4
#: magic, version, kind, agent, episode, step, send time ns (sender's monotonic clock), deadline us after
#: it, observation bytes, mask bytes, first 8 bytes of the agent.json SHA-256; then CRC-32 of those and of the payload.
_FIELDS = struct.Struct("<4sHHIIIQIII8s")
_CHECKSUM = struct.Struct("<I")
_DEADLINE = slice(struct.calcsize("<4sHHIIIQ"), struct.calcsize("<4sHHIIIQI"))
HEADER = struct.Struct(_FIELDS.format + "I")
#: Before the action in a decision: time spent deciding in ns.
DECIDING = struct.Struct("<Q")
MAX_FRAME = 1 << 20
#: Bytes of text that a refusal, a fallback or an announcement may carry.
MAX_REASON = 4096
#: Episode and step of a refusal of a frame that cannot be trusted to say which it was.
NOWHERE = (2**32 - 1, 2**32 - 1)


class Kind(IntEnum):
    """What a frame is for."""

    READY = 1  # agent -> host: loaded and verified, payload: JSON of `launch.Ready`
    OBSERVE = 2  # host -> agent: obs and mask; another episode than the last one's resets the agent
    ACT = 3  # agent -> host: a decision, echoing episode and step
    REFUSE = 4  # agent -> host: why not, payload: text
    STOP = 5  # host -> agent: end
    FALLBACK = 6  # agent -> host: no valid decision; the fallback action, as ACT has its action, then text: why
    HEALTH = 7  # host -> device, empty: how are you? device -> host, payload: JSON of `health.Health`


class Frame(NamedTuple):
    """A frame taken apart. `payload` is a view into the received bytes."""

    kind: Kind
    agent: int
    episode: int
    step: int
    sent_ns: int
    deadline_us: int
    obs_bytes: int
    mask_bytes: int
    digest: bytes
    payload: memoryview


def pack(
    kind: Kind, agent: int, digest: bytes, payload: bytes = b"", episode: int = 0, step: int = 0,
    sent_ns: int = 0, deadline_us: int = 0, obs_bytes: int = 0, mask_bytes: int = 0,
) -> bytes:  # fmt: skip
    """A frame's bytes. digest: the 8 bytes of the contract."""
    fields = _FIELDS.pack(
        MAGIC, VERSION, kind, agent, episode, step, sent_ns, deadline_us, obs_bytes, mask_bytes, digest
    )
    return fields + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(fields))) + payload


def unpack(data: bytes) -> Frame:
    """Take a frame apart. Raises AgentMixerError if it is too short, foreign, of another version, damaged, of an
    unknown kind, or its length is not what its header says."""
    if len(data) < HEADER.size:
        raise AgentMixerError(f"frame of {len(data)} bytes is shorter than its header ({HEADER.size})")
    magic, version, kind, agent, episode, step, sent, deadline, obs_bytes, mask_bytes, digest, checksum = (
        HEADER.unpack_from(data)
    )
    if magic != MAGIC or version != VERSION:
        raise AgentMixerError(
            f"frame starts with {magic!r} version {version}; both ends must run agentmixer frames version {VERSION}"
        )
    payload = memoryview(data)[HEADER.size :]
    if checksum != zlib.crc32(payload, zlib.crc32(memoryview(data)[: _FIELDS.size])):
        raise AgentMixerError("frame was damaged on the way (its checksum differs)")
    if kind not in Kind._value2member_map_:
        raise AgentMixerError(f"frame has the unknown kind {kind}")
    if (
        (kind == Kind.OBSERVE and len(payload) != obs_bytes + mask_bytes)
        or (kind in (Kind.ACT, Kind.FALLBACK) and len(payload) <= DECIDING.size)
        or (kind in (Kind.READY, Kind.REFUSE, Kind.HEALTH) and len(payload) > MAX_REASON)
        or (kind == Kind.STOP and len(payload))
    ):
        raise AgentMixerError(f"frame of kind {Kind(kind).name} carries {len(payload)} bytes, not what its header says")
    return Frame(Kind(kind), agent, episode, step, sent, deadline, obs_bytes, mask_bytes, digest, payload)


def kind_of(data: bytes) -> int:
    """The kind that a frame says it is of, unchecked; 0 if it is too short to say."""
    return int.from_bytes(data[6:8], "little") if len(data) >= HEADER.size else 0


def deadline_of(data: bytes) -> int:
    """The deadline that a frame says it has, unchecked: us after it was sent. data: at least a header."""
    return int.from_bytes(data[_DEADLINE], "little")


def key_of(data: bytes) -> tuple[int, int]:
    """The episode and step that a frame says it is about, unchecked; NOWHERE if it is too short to say."""
    return struct.unpack_from("<II", data, 12) if len(data) >= HEADER.size else NOWHERE


def observation(frame: Frame) -> tuple[np.ndarray, np.ndarray | None]:
    """obs [D] float32 and mask [A] bool (None if the frame carries none). Raises AgentMixerError for
    an observation that is not whole floats or a mask byte other than 0 and 1."""
    if frame.obs_bytes % 4:
        raise AgentMixerError(f"observation of {frame.obs_bytes} bytes is not a whole number of float32")
    obs = np.frombuffer(frame.payload[: frame.obs_bytes], np.dtype("<f4"))
    if not frame.mask_bytes:
        return obs, None
    mask = np.frombuffer(frame.payload[frame.obs_bytes :], np.uint8)
    if mask.max() > 1:
        raise AgentMixerError("mask bytes must be 0 or 1")
    return obs, mask.view(np.bool_)


def decision(action: np.ndarray, deciding_ns: int) -> bytes:
    """The payload of an ACT frame. action: as `Agent.act` gives one."""
    return DECIDING.pack(deciding_ns) + action.astype(action.dtype.newbyteorder("<"), copy=False).tobytes()


def action_bytes(space: ActionSpace) -> int:
    """Bytes that an action takes in a frame."""
    return np.dtype(_action_type(space)).itemsize * space.size


def _action_type(space: ActionSpace) -> str:
    return "<f4" if isinstance(space, Box) else "<i8"


def reason_of(frame: Frame, space: ActionSpace) -> str:
    """Why a REFUSE or FALLBACK frame was sent, in the agent's words."""
    begin = DECIDING.size + action_bytes(space) if frame.kind == Kind.FALLBACK else 0
    return bytes(frame.payload[begin : begin + MAX_REASON]).decode(errors="replace")


def action_of(frame: Frame, space: ActionSpace, mask: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """The action of an ACT frame, as `Agent.act` returned it, and the time spent deciding in ns.

    mask: [A] bool, what was legal. Raises AgentMixerError if it is not an action of `space`, or not a legal one."""
    data = frame.payload[DECIDING.size :]
    (deciding,) = DECIDING.unpack_from(frame.payload)
    kind = _action_type(space)
    if len(data) != action_bytes(space):
        raise AgentMixerError(f"an action of {len(data)} bytes is none of this agent's")
    action = np.frombuffer(data, kind)
    if isinstance(space, Discrete):
        action = action[0]
        choice = int(action) - space.start
        fits = 0 <= choice < space.n and (mask is None or bool(mask[choice]))
    else:
        fits = bool(allowed(space, action[None], None if mask is None else mask[None])[0])
    if not fits:
        raise AgentMixerError(f"action {action} does not exist, is masked or out of bounds")
    return action, deciding
