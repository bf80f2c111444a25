"""What a device tells of itself: counts for its host, and the same as Prometheus text."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from agentmixer.errors import AgentMixerError
from agentmixer.runtime.tls import Address


class Health(msgspec.Struct, kw_only=True):
    """Counts since the agent was started. Temperature in degrees Celsius, the hottest that the system tells; None where it
    tells none. Memory in MB of 2^20 bytes."""

    steps: int = 0
    late: int = 0
    fallbacks: int = 0
    refused: int = 0
    #: How often the agent's process ended by itself and was started anew.
    restarts: int = 0
    #: Of a control loop (`runtime.control`): ticks without an observation, ticks in which the device raised an error, and ticks
    #: that were left out.
    silent: int = 0
    failed: int = 0
    skipped: int = 0
    resident_mb: float = 0.0
    peak_mb: float = 0.0
    temperature_c: float | None = None


#: What each figure is, for whoever reads the metrics.
_HELP = {
    "steps": "Observations that were decided on.",
    "late": "Decisions later than their deadline.",
    "fallbacks": "Steps in which the fallback action was taken.",
    "refused": "Frames or observations that the agent refused.",
    "restarts": "Times the agent's process ended by itself and was started anew.",
    "silent": "Ticks without an observation.",
    "failed": "Ticks in which the device raised an error.",
    "skipped": "Ticks that were left out.",
    "resident_mb": "Resident memory of the agent's process, in 2^20 bytes.",
    "peak_mb": "Peak resident memory of the agent's process, in 2^20 bytes.",
    "temperature_c": "The hottest temperature that the system tells, in degrees Celsius.",
}


def temperature_c(root: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest zone's temperature in degrees Celsius; None where the system tells none."""
    found = []
    for file in root.glob("thermal_zone*/temp"):
        try:
            found.append(int(file.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(found, default=None)


def prometheus(agent: str, health: Health) -> str:
    """A health as Prometheus reads it (text format 0.0.4). Counts are counters, the rest gauges."""
    lines = []
    for name, value in msgspec.structs.asdict(health).items():
        if value is None:
            continue
        counts = isinstance(value, int)
        metric = f"agentmixer_{name}" + ("_total" if counts else "")
        lines += [
            f"# HELP {metric} {_HELP[name]}",
            f"# TYPE {metric} {'counter' if counts else 'gauge'}",
            f'{metric}{{agent="{agent}"}} {value:g}' if not counts else f'{metric}{{agent="{agent}"}} {value}',
        ]
    return "\n".join(lines) + "\n"


def serve_metrics(address: Address, agent: str, health: Callable[[], Health]) -> http.server.ThreadingHTTPServer:
    """Answer GET /metrics in a thread of its own, until `shutdown`. Raises AgentMixerError if nothing can listen there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in ("/", "/metrics")
            body = prometheus(agent, health()).encode() if known else b"see /metrics\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    try:
        server = http.server.ThreadingHTTPServer((address.host, address.port), Handler)
    except OSError as error:
        raise AgentMixerError(
            f"metrics cannot be served at {address} ({error.strerror}); choose another port"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
