"""Reports that commands have kept in a bundle's reports/, read back for a page.

A bundle is signed and its reports are not: whoever hands one over may have written anything into them. So they are read up to a
size, through no link, and into the fields below; what does not fit there is a sentence, and no figure.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from agentmixer.contract.manifest import REPORTS_FOLDER
from agentmixer.contract.results import Report, Status
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular
from agentmixer.intervals import Estimate
from agentmixer.runtime.bundle import listed

#: Most bytes of a report that is read, most checks in it, and most files that reports/ may hold.
MOST_BYTES, MOST_CHECKS, MOST_FILES = 8 << 20, 20_000, 4_096

#: A number that a chart can draw.
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
#: How the three arms of deploy-sim are called on a page.
ARMS = {"joint": "joint policy (training)", "actors": "trained actors", "deployed": "deployed agents"}
Any_ = TypeVar("Any_", bound=msgspec.Struct)


class Figure(msgspec.Struct, frozen=True):
    """A figure and the ends of its interval."""

    value: Number
    low: Number | None = None
    high: Number | None = None

    def told(self, form: str = ".3f") -> str:
        """See `Estimate.told`."""
        return Estimate(self.value, self.low, self.high).told(form)


class Buckets(msgspec.Struct, frozen=True):
    """See `validate.histogram.Histogram`."""

    first: Annotated[int, Meta(ge=-100, le=200)] = 0
    counts: Annotated[tuple[Count, ...], Meta(max_length=400)] = ()


class Counts(msgspec.Struct, frozen=True):
    """What a device counted (`runtime.health.Health`)."""

    steps: Count = 0
    late: Count = 0
    fallbacks: Count = 0
    refused: Count = 0
    restarts: Count = 0
    temperature_c: Number | None = None


class Device(msgspec.Struct, frozen=True):
    """An agent's device in deploy-sim (`validate.deploy_sim.DeviceFigures`)."""

    address: str
    lost: Count
    health: Counts | None


class Process(msgspec.Struct, frozen=True):
    """An agent's process in deploy-sim (`validate.deploy_sim.AgentFigures`)."""

    isolation: str
    start_s: Number
    peak_mb: Number
    deciding_us: dict[str, Number | None]
    missed_deadlines: Count
    bytes_to_agent: Count
    bytes_from_agent: Count
    deciding_histogram: Buckets = Buckets()
    device: Device | None = None


class Compared(msgspec.Struct, frozen=True):
    """The figures of the check of parity among deploy-sim's checks; other checks have none of them."""

    name: str
    episodes: Count = 0
    steps: Count = 0
    actions: Count = 0
    different: Count = 0


class Equivalence(msgspec.Struct, frozen=True):
    """See `validate.equivalence.Equivalence`."""

    margin: Number


class Rehearsal(msgspec.Struct, frozen=True):
    """What deploy-sim found (`validate.deploy_sim.DeploySimReport`)."""

    task: str
    scenario: str
    seed: int
    arms: dict[str, dict[str, Figure]]
    asymmetric_gap: dict[str, Figure]
    mode_agreement: dict[str, Figure]
    equivalence: Equivalence
    deadline_s: Number
    control_period_s: Number
    step_us: dict[str, Number | None]
    start_to_first_action_s: Number
    agents: dict[str, Process]
    checks: tuple[Compared, ...]
    step_histogram: Buckets = Buckets()

    def __post_init__(self) -> None:
        if set(self.arms) != set(ARMS) or not all(set(arm) == set(self.measures) for arm in self.arms.values()):
            raise ValueError("its arms are not those of deploy-sim")
        if set(self.asymmetric_gap) != set(self.measures):
            raise ValueError("its asymmetric gap is of other measures than its arms")

    @property
    def measures(self) -> list[str]:
        """What was measured, the win rate first where there is one."""
        return ["win_rate", "return"] if "win_rate" in self.arms["deployed"] else ["return"]

    @property
    def parity(self) -> Compared:
        """The check of parity."""
        return next((check for check in self.checks if check.name == "parity"), Compared("parity"))


class Incident(msgspec.Struct, frozen=True):
    """See `host.faulty_link.Incident`; agent: its name."""

    kind: str
    agent: str
    step: int
    for_s: Number


class Judged(msgspec.Struct, frozen=True):
    """A check of one rehearsal under faults."""

    name: str
    status: Status


class FaultSet(msgspec.Struct, frozen=True):
    """See `host.faulty_link.Faults`."""

    rates: dict[str, Number]
    delay_s: Number
    incidents: tuple[Incident, ...]


class AgentFaults(msgspec.Struct, frozen=True):
    """See `validate.faults.AgentFaults`."""

    decisions: Count
    fallbacks: Count
    lost: Count
    late: Count
    refused: Count


class FaultFigures(msgspec.Struct, frozen=True):
    """One rehearsal under faults (`validate.faults.FaultReport`)."""

    seed: int
    faults: FaultSet
    episodes: Count
    deadline_s: Number
    step_us: dict[str, Number | None]
    figures: dict[str, Figure]
    agents: dict[str, AgentFaults]
    checks: tuple[Judged, ...]

    def __post_init__(self) -> None:
        if "return" not in self.figures:
            raise ValueError("it has no return")

    def total(self, name: str) -> int:
        """A count, over all agents."""
        return sum(getattr(agent, name) for agent in self.agents.values())


class FaultMatrix(msgspec.Struct, frozen=True):
    """See `validate.faults.FaultMatrixReport`."""

    reports: tuple[FaultFigures, ...]


class WiringFlags(msgspec.Struct, frozen=True):
    """See `validate.wiring_rehearsal.Flags`. episodes: of each the first step that is flagged."""

    episodes: tuple[Count | None, ...]
    calm: Count

    @property
    def flagged(self) -> int:
        """How many episodes are flagged."""
        return sum(step is not None for step in self.episodes)


class WiringFigures(msgspec.Struct, frozen=True):
    """One rehearsal with observations that are put together wrongly (`validate.wiring_rehearsal.WiringReport`)."""

    seed: int
    faults: tuple[str, ...]
    episodes: Count
    figures: dict[str, Figure]
    calm: dict[str, Figure]
    difference: dict[str, Figure]
    fallen: Count | None
    flags: tuple[WiringFlags, ...]
    named: Literal["fault", "element", "no"]

    def __post_init__(self) -> None:
        if "return" not in self.measured:
            raise ValueError("it has no return")

    @property
    def measured(self) -> set[str]:
        """What was measured, with and without the fault."""
        return self.figures.keys() & self.calm.keys() & self.difference.keys()

    @property
    def step(self) -> int | None:
        """See `WiringReport.step`."""
        steps = sorted(step for flags in self.flags for step in flags.episodes if step is not None)
        return steps[(len(steps) - 1) // 2] if steps else None

    @property
    def in_time(self) -> bool | None:
        """See `WiringReport.in_time`."""
        return None if self.fallen is None else self.step is not None and self.step <= self.fallen


class WiringMatrix(msgspec.Struct, frozen=True):
    """See `validate.wiring_rehearsal.WiringMatrixReport`."""

    reports: tuple[WiringFigures, ...]


class LocalityFigures(msgspec.Struct, frozen=True):
    """What locality says beside its checks (`validate.locality.LocalityReport`)."""

    steps: Count
    observation: str


class Kept(NamedTuple):
    """One report. file: where it lies; report: None where it cannot be read, and then `problem` says why."""

    file: Path
    report: Report | None
    problem: str = ""
    data: bytes = b""

    def figures(self, kind: type[Any_]) -> Any_ | None:
        """What the report holds beside its checks; None where it has no such figures."""
        try:
            return msgspec.json.decode(self.data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


def newest(bundle: Path, name: str) -> Kept | None:
    """The newest report called `name`, `name`-2, `name`-3 and so on, by the time of the file, then by the number; None if
    there is none.

    Raises AgentMixerError if reports/ is a link, or holds far too many files."""
    folder = bundle / REPORTS_FOLDER
    if not os.path.lexists(folder):
        return None
    found: list[tuple[int, int, str]] = []
    for entry in listed(folder, MOST_FILES):
        if match := re.fullmatch(rf"{re.escape(name)}(?:-([1-9][0-9]{{0,8}}))?\.json", entry):
            found.append((int(os.lstat(folder / entry).st_mtime), int(match[1] or 1), entry))
    return read(folder / max(found)[2]) if found else None


def read(file: Path) -> Kept:
    """One report."""
    try:
        data = read_regular(file, MOST_BYTES, links=None, again="make it again")
    except AgentMixerError as error:
        return Kept(file, None, str(error))
    try:
        report = msgspec.json.decode(data, type=Report)
        if len(report.checks) > MOST_CHECKS:
            raise ValueError(f"it has {len(report.checks):,} checks")
    except (ValueError, RecursionError, UnicodeDecodeError) as error:  # msgspec's errors are ValueErrors
        return Kept(file, None, f"{file} is damaged, or of another version ({error}); make it again")
    return Kept(file, report, data=data)


def decoded(data: bytes, kind: type[Any_], file: Path) -> Any_:
    """JSON as a structure. Raises AgentMixerError if it is none."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        raise AgentMixerError(f"{file} is damaged, or of another version ({error}); make it again") from error


def plain(value: Any) -> str:
    """A number of a report as people read it; "-" where there is none."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
