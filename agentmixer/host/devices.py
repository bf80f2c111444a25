"""Which agents run on other machines, and where: devices.toml.

    tls = "keys/host"              # the host's folder, made by agentmixer keygen --tls; relative to this file

    [devices]
    agent_0 = "192.168.1.10:7447"
    agent_1 = ["192.168.1.11:7447", "10.0.0.11:7447"]    # one device, by either of two ways

Agents that are not listed run in processes of the host's machine.
"""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agentmixer.errors import AgentMixerError, nearest
from agentmixer.files import read_regular
from agentmixer.runtime import tls
from agentmixer.runtime.tls import Address, parse_address

_LARGEST = 1 << 20
_EXAMPLE = 'write agent_0 = "192.168.1.10:7447" below [devices]'


class Devices(NamedTuple):
    """Addresses of the agents that run on devices, by name, and what the host shows and accepts."""

    addresses: dict[str, tuple[Address, ...]]
    context: ssl.SSLContext


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tls: str
    devices: dict[str, str | list[str]]


def read_devices(path: Path, agents: Sequence[str]) -> Devices:
    """What a devices.toml says of a team of these agents. Raises AgentMixerError naming what is wrong with it."""
    data = read_regular(path, _LARGEST, links=None, again="give the file's own name")
    try:
        found = msgspec.convert(tomllib.loads(data.decode()), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise AgentMixerError(f"{path} is not a list of devices ({error}); {_EXAMPLE}") from error
    if not found.devices:
        raise AgentMixerError(f"{path} lists no device; {_EXAMPLE}")
    addresses: dict[str, tuple[Address, ...]] = {}
    taken: dict[Address, str] = {}
    for name, where in found.devices.items():
        if name not in agents:
            raise AgentMixerError(f"{path} lists '{name}', which this team lacks{nearest(name, agents)}")
        addresses[name] = tuple(map(parse_address, [where] if isinstance(where, str) else where))
        if not addresses[name]:
            raise AgentMixerError(f"{path} lists {name} without an address; {_EXAMPLE}")
        for address in addresses[name]:
            if address in taken:
                raise AgentMixerError(
                    f"{path} lists {address} twice, for {taken[address]} and for {name}; a device runs one agent"
                )
            taken[address] = name
    return Devices(addresses, tls.context(path.parent / found.tls, server=False))
