"""The attack self-test: a hostile process in one agent's place tries to reach the others, without the sandbox and with it.

Every attack has to succeed without the sandbox, or it shows nothing; none may succeed with it.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from agentmixer.contract.results import Check, Report, Status, judged
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import sandbox
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.sandbox import Offered
from agentmixer.validate.attack_aims import AIMS, READS_HOST
from agentmixer.validate.attack_stage import Stage
from agentmixer.validate.attacker import MAX_MESSAGE


@dataclass(frozen=True, kw_only=True)
class AttackCheck(Check):
    """One attack. outside, inside: whether it reached its aim without the sandbox and in it, None if it was not tried.

    It passes if it works outside and not inside. Where this machine cannot show that it works outside, the check does not
    apply, and its sentence says why; such an attack is no evidence either way."""

    aim: str
    outside: bool | None
    inside: bool | None
    #: What stopped it in the sandbox, in the kernel's words.
    refusal: str = ""


def attack_check(
    name: str, aim: str, outside: bool | None, inside: bool | None, refusal: str = "", not_shown: str = ""
) -> AttackCheck:
    """Judge one attack. not_shown: why this machine cannot show that it works outside."""
    status: Status
    if inside:
        status, sentence = "failed", "it gets through in the sandbox"
    elif not_shown:
        status, sentence = "does not apply", not_shown
    elif not outside:
        status, sentence = "failed", "it does not work without the sandbox either, so it shows nothing"
    elif inside is None:
        status, sentence = "does not apply", "not tried in the sandbox"
    else:
        status, sentence = "passed", f"works without the sandbox; in it refused: {refusal}"
    return AttackCheck(
        name=name, status=status, sentence=sentence, aim=aim, outside=outside, inside=inside, refusal=refusal
    )


@dataclass(frozen=True, kw_only=True)
class IsolationReport(Report):
    """What the attacks came to, and whether each of the other agents still answers after all attacks in the sandbox."""

    offered: Offered
    #: What the agents said of themselves in the sandboxed run, and the level that this is.
    isolation: dict[str, dict[str, Any]]

    @property
    def attacks(self) -> list[AttackCheck]:
        """The checks of the attacks, in the order in which they were tried."""
        return [check for check in self.checks if isinstance(check, AttackCheck)]

    @property
    def still_answer(self) -> dict[str, bool]:
        """Whether each of the others answers after the attacks, by its name."""
        return {check.subject: check.passed for check in self.checks if not isinstance(check, AttackCheck)}


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


def _run(stage: Stage, progress: Callable[[str], None]) -> Iterator[tuple[str, tuple[bool, str]]]:
    for number, name in enumerate(AIMS, 1):
        if name not in stage.absent:
            progress(f"attack {number} of {len(AIMS)}, {name}")
            yield name, attempt(stage, name)


def self_test(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> IsolationReport:
    """Attack a copy of the bundle's team twice, without the sandbox and with it.

    Calls `progress` with what it does, and how far it is. Raises AgentMixerError on a system without processes to inspect, for a
    team of one, or if an agent cannot be started."""
    if sys.platform != "linux":
        raise AgentMixerError("the isolation self-test attacks Linux processes; run it on Linux")
    if len(bundle.agents) < 2:
        raise AgentMixerError(f"{bundle.path} holds one agent, who has nobody to reach; choose a bundle of a team")
    with Stage(bundle, protected=False) as stage:
        control = dict(_run(stage, lambda attack: progress(f"without the sandbox: {attack}")))
        absent = stage.absent
    with Stage(bundle, protected=True) as stage:
        sandboxed = dict(_run(stage, lambda attack: progress(f"in the sandbox: {attack}")))
        isolation = {
            member.files.manifest.agent: {"level": member.isolation.level, **msgspec.to_builtins(member.isolation)}
            for member in (stage.attacker, *stage.victims)
        }
        still_answer = {member.files.manifest.agent: member.answers() for member in stage.victims}
    checks: list[Check] = []
    for name, aim in AIMS.items():
        worked, why = control.get(name, (None, ""))
        got_through, refusal = sandboxed.get(name, (None, ""))
        not_shown = absent.get(name, "")
        if worked is False and aim.may_be_forbidden and why:
            not_shown = f"this machine refuses it without the sandbox too ({why})"
        checks.append(attack_check(name, aim.what, worked, got_through, refusal, not_shown))
    for name, answers in still_answer.items():
        sentence = f"{'answers' if answers else 'does not answer'} after all attacks in the sandbox"
        checks.append(Check(name="still answers", subject=name, status=judged(answers), sentence=sentence))
    return IsolationReport(bundle=str(bundle.path), offered=sandbox.probe(), isolation=isolation, checks=tuple(checks))
