"""`agentmixer agent`."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentmixer_cli.opening import TrustedOption, agent_folder
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.host.events import Events
    from agentmixer.runtime.agent import Agent
    from agentmixer.runtime.control import Device, Ticks
    from agentmixer.runtime.tls import Address

#: The device of `runtime.control.GoldenDevice`, on the command line.
GOLDEN = "golden"


def agent(
    folder: Annotated[Path, typer.Argument(help="One agent's folder, such as bundles/NAME/agents/agent_0.")],
    listen: Annotated[
        str | None,
        typer.Option(
            help="Answer a host: where it reaches this device, such as 0.0.0.0:7447; port 0 takes any that is free.",
            metavar="ADDRESS",
        ),
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option(
            help="With --listen: this device's certificate and key, the folder that keygen --tls made for the agent.",
            metavar="KEYS",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            help="Run the control loop here, without a host: your function takes the agent and returns an object with observe() "
            "and apply(action). 'golden' observes the golden trace and moves nothing.",
            metavar="MODULE:FUNCTION",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="With --control: so many ticks, and not until it is stopped.", min=1)
    ] = None,
    rate_hz: Annotated[
        float | None,
        typer.Option(help="With --control: ticks a second; one every control period unless given.", min=1e-6, max=1e4),
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="With --control: SCHED_FIFO and locked memory.")] = False,
    trusted: TrustedOption = None,
    require_isolation: Annotated[
        bool,
        typer.Option("--require-isolation", help="With --listen: refuse to start unless the agent is fully sandboxed."),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the noise that actions are drawn by, where the agent was exported with --sampled; the system's unless given.",
            min=0,
            max=2**62 - 1,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Serve this device's counts as Prometheus text, such as at 127.0.0.1:9464.", metavar="ADDRESS"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --control: print the counts as JSON at the end.")
    ] = False,
) -> None:
    """Run one agent on this device: for a host on another machine (--listen), or alone, from sensors to motors (--control).

    Writes one line an event to the error output. Ends with Ctrl-C or SIGTERM. Needs the base install.
    Example: agentmixer agent agent_0 --listen 0.0.0.0:7447 --tls keys/agent_0
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.runtime.tls import parse_address

    if (listen is None) == (control is None):
        raise AgentMixerError(
            "say what this agent is to do: --listen ADDRESS --tls KEYS to answer a host, or --control MODULE:FUNCTION to run "
            "its loop here"
        )
    counted = parse_address(metrics) if metrics else None
    if listen is not None:
        if tls is None:
            raise AgentMixerError(
                "an agent on a network shows its certificate; give --tls KEYS (make them: agentmixer keygen --tls)"
            )
        if steps or rate_hz or realtime or as_json:
            raise AgentMixerError("--steps, --rate-hz, --realtime and --json belong to --control; leave them out")
        _listen(folder, parse_address(listen), tls, trusted, require_isolation, seed, counted)
    elif control is not None:
        if tls or require_isolation:
            raise AgentMixerError("--tls and --require-isolation belong to --listen; leave them out")
        _control(folder, control, steps, rate_hz, realtime, trusted, seed, counted, as_json)


def _listen(
    folder: Path, address: Address, tls: Path, trusted: Path | None, require_isolation: bool, seed: int | None,
    metrics: Address | None,
) -> None:  # fmt: skip
    from agentmixer.host.device_server import DeviceServer
    from agentmixer.runtime.health import serve_metrics

    with contextlib.ExitStack() as open_:
        server = open_.enter_context(
            DeviceServer(agent_folder(folder), address, tls, trusted, require_isolation, seed=seed)
        )
        open_.enter_context(_until_stopped(server.stop))
        if metrics:
            open_.callback(serve_metrics(metrics, server.files.manifest.agent, server.health).shutdown)
        server.serve()


def _control(
    folder: Path, named: str, steps: int | None, rate_hz: float | None, realtime: bool, trusted: Path | None,
    seed: int | None, metrics: Address | None, as_json: bool,
) -> None:  # fmt: skip
    from agentmixer.host.events import Events
    from agentmixer.runtime import control as loop
    from agentmixer.runtime.agent import Agent
    from agentmixer.runtime.bundle import read_agent
    from agentmixer.runtime.health import Health, serve_metrics, temperature_c

    files = read_agent(agent_folder(folder), trusted)
    deciding, ticks, stop, events = Agent(files, seed), loop.Ticks(), threading.Event(), Events()
    device: Device = loop.GoldenDevice(files) if named == GOLDEN else _device(named, deciding)
    period_s = 1 / rate_hz if rate_hz else files.manifest.control_period_s

    def health() -> Health:
        return Health(
            steps=ticks.applied + ticks.late, late=ticks.late, fallbacks=ticks.fallbacks, refused=ticks.refused,
            silent=ticks.silent, failed=ticks.failed, skipped=ticks.skipped, temperature_c=temperature_c(),
        )  # fmt: skip

    with contextlib.ExitStack() as open_:
        open_.enter_context(_until_stopped(stop.set))
        if metrics:
            open_.callback(serve_metrics(metrics, files.manifest.agent, health).shutdown)
        if realtime:
            loop.real_time()
        events("control", agent=files.manifest.agent, device=named, period_s=f"{period_s:g}")
        loop.notify("READY=1")
        told = _told_once(events)
        loop.control(deciding, device, steps, period_s, ticks, stop, told)
        events("stopped", agent=files.manifest.agent)
    _report(ticks, period_s, as_json)


def _told_once(events: Events) -> Callable[[BaseException], None]:
    """Write a line for an error of the device when it is another one than the last: at 50 a second, no more is of use."""
    last = [""]

    def tell(error: BaseException) -> None:
        what = f"{type(error).__name__}: {error}"
        if what != last[0]:
            last[0] = what
            events("device_failed", why=what)

    return tell


def _device(named: str, deciding: Agent) -> Device:
    """What the user's function makes of the agent. Modules of the working directory are found."""
    from agentmixer.errors import AgentMixerError

    module, colon, function = named.partition(":")
    if not (module and colon and function):
        raise AgentMixerError(f"--control {named} names no function; write MODULE:FUNCTION, such as my_robot:device")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise AgentMixerError(
                f"--control {named}: {module} needs '{error.name}', which is not installed"
            ) from error
        raise AgentMixerError(
            f"--control {named}: there is no module {module} here; run this where {module}.py is"
        ) from error
    if not callable(found):
        raise AgentMixerError(f"--control {named}: {module} has no function {function}")
    try:
        made = found(deciding)
    except Exception as error:
        raise AgentMixerError(f"--control {named}: {function} raised {type(error).__name__}: {error}") from error
    for method in ("observe", "apply"):
        if not callable(getattr(made, method, None)):
            raise AgentMixerError(f"--control {named}: what {function} returns has no method {method}")
    return made


@contextlib.contextmanager
def _until_stopped(stop: Callable[[], object]):  # type: ignore[no-untyped-def]
    """Meanwhile Ctrl-C and SIGTERM call `stop`."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(ticks: Ticks, period_s: float, as_json: bool) -> None:
    shares = (0.5, 0.99, 0.999, 0.9999)
    start, end = ticks.quantiles(*shares)
    names = ("applied", "late", "silent", "refused", "failed", "skipped")
    if as_json:
        counts = {name: getattr(ticks, name) for name in names}
        times = {
            name: dict(zip(("p50", "p99", "p99.9", "p99.99"), (1e6 * values).tolist(), strict=True))
            | {"max": 1e6 * longest}
            for name, values, longest in (("start_us", start, ticks.longest_start_s), ("end_us", end, ticks.longest_s))
        }
        typer.echo(json.dumps(counts | times | {"period_s": period_s}))
        return
    console = Terminal()
    console.sentence(", ".join(f"{name} {getattr(ticks, name):,}" for name in names))
    for what, values, longest in (
        ("to the start of the tick", start, ticks.longest_start_s), ("to the action applied", end, ticks.longest_s),
    ):  # fmt: skip
        figures = ", ".join(f"p{100 * share:g} {1e6 * value:,.0f}" for share, value in zip(shares, values, strict=True))
        console.sentence(f"from when a tick is due {what}: {figures}, longest {1e6 * longest:,.0f} µs")
