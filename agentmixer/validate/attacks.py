"""What an attack is: a function that is told its target and returns what it got hold of."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Target(msgspec.Struct, frozen=True):
    """What the host knows and tells the attacker, so that only the sandbox is in the way. `victim` is the other
    agent's process; what is to be stolen follows `known` in its memory, and stands at `address` in the host's."""

    attack: str
    token: str
    victim: int
    victim_folder: str
    known: str
    host: int
    host_descriptor: int
    address: int
    scratch: str
    home: str
    shared: str
    abstract: str
    tcp_port: int
    udp_port: int
    segment: int
    queue: str
    key: int


#: Returns what it got hold of, or raises OSError.
Attack = Callable[[Target], str]


class Attacks(dict[str, Attack]):
    """Attacks by the names of their functions."""

    def add(self, attack: Attack) -> Attack:
        """Keep an attack. For use as a decorator."""
        self[attack.__name__] = attack
        return attack


class Open(Exception):
    """The attack was let through, though it found nothing to bring back."""
