"""The attack self-test: a hostile process in one agent's place tries to reach the others, without the sandbox and with it.

Every attack has to succeed without the sandbox, or it shows nothing; none may succeed with it.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import msgspec

from agentmixer import __version__
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import sandbox
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.sandbox import Isolation, Offered
from agentmixer.validate.attack_aims import AIMS, READS_HOST
from agentmixer.validate.attack_stage import Stage
from agentmixer.validate.attacker import MAX_MESSAGE


@dataclass(frozen=True)
class Outcome:
    """One attack. control, sandboxed: whether it reached its aim, None if it was not tried.

    `not_shown` says why this machine cannot show it at all; such an attack is no evidence either way."""

    name: str
    aim: str
    control: bool | None
    sandboxed: bool | None
    #: What stopped it in the sandbox, in the kernel's words.
    refusal: str = ""
    not_shown: str = ""

    @property
    def passed(self) -> bool:
        """It worked without the sandbox and not with it, or this machine cannot show it."""
        return not self.sandboxed and (bool(self.control) or bool(self.not_shown))


@dataclass(frozen=True)
class SelfTest:
    """What the attacks came to. `passed` decides the exit code."""

    bundle: str
    agentmixer: str
    offered: Offered
    #: What the agents said of themselves in the sandboxed run.
    isolation: dict[str, Isolation]
    #: Whether, after all attacks in the sandbox, each of the others still answers a frame.
    still_answer: dict[str, bool]
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No attack got through, every control worked that can work here, and the others still answer."""
        return all(outcome.passed for outcome in self.outcomes) and all(self.still_answer.values())

    def to_json(self) -> str:
        """All of it as JSON."""
        data = {
            "passed": self.passed,
            "bundle": self.bundle,
            "agentmixer": self.agentmixer,
            "offered": self.offered._asdict(),
            "isolation": {
                name: {"level": isolation.level, **msgspec.to_builtins(isolation)}
                for name, isolation in self.isolation.items()
            },
            "still_answer": self.still_answer,
            "attacks": [{"passed": outcome.passed, **asdict(outcome)} for outcome in self.outcomes],
        }
        return json.dumps(data, indent=2) + "\n"


def attempt(stage: Stage, name: str) -> tuple[bool, str]:
    """Let the attacker try. Returns whether it reached its aim, and the refusal it met.

    Raises AgentMixerError if the attacker itself broke down."""
    # What the host's memory holds is what there is to steal there; elsewhere a mark of this attempt's own.
    target = stage.target(name, stage.secret if name in READS_HOST else secrets.token_hex(16))
    stage.attacker.link.send(msgspec.json.encode(target))
    data = stage.attacker.link.recv(MAX_MESSAGE)
    if not data:
        raise AgentMixerError(f"the attacker ended in attack {name}; see its message above")
    if data == target.token.encode():  # from a program that has taken the attacker's place
        return name == "execute", ""
    answer = json.loads(data)
    got = answer.get("got")
    try:
        reached = got == "open" or AIMS[name].reached(stage, target, got)
    except OSError:
        reached = False
    return reached, "" if got is not None else str(answer["error"])


def _run(stage: Stage) -> Iterator[tuple[str, tuple[bool, str]]]:
    for name in AIMS:
        if name not in stage.absent:
            yield name, attempt(stage, name)


def self_test(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> SelfTest:
    """Attack a copy of the bundle's team twice, without the sandbox and with it.

    Calls `progress` with each run's name. Raises AgentMixerError on a system without processes to inspect, for a
    team of one, or if an agent cannot be started."""
    if sys.platform != "linux":
        raise AgentMixerError("the isolation self-test attacks Linux processes; run it on Linux")
    if len(bundle.agents) < 2:
        raise AgentMixerError(f"{bundle.path} holds one agent, who has nobody to reach; choose a bundle of a team")
    progress("without the sandbox")
    with Stage(bundle, protected=False) as stage:
        control, absent = dict(_run(stage)), stage.absent
    progress("in the sandbox")
    with Stage(bundle, protected=True) as stage:
        sandboxed = dict(_run(stage))
        isolation = {member.files.manifest.agent: member.isolation for member in (stage.attacker, *stage.victims)}
        still_answer = {member.files.manifest.agent: member.answers() for member in stage.victims}
    outcomes = []
    for name, aim in AIMS.items():
        worked, why = control.get(name, (None, ""))
        got_through, refusal = sandboxed.get(name, (None, ""))
        not_shown = absent.get(name, "")
        if worked is False and aim.may_be_forbidden and why:
            not_shown = f"this machine refuses it without the sandbox too ({why})"
        outcomes.append(Outcome(name, aim.what, worked, got_through, refusal, not_shown))
    return SelfTest(str(bundle.path), __version__, sandbox.probe(), isolation, still_answer, outcomes)
