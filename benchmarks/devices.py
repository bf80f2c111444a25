"""A lock-step of a whole team on devices of this machine, over mutual TLS, against bare echoes of as many processes.

    python benchmarks/devices.py [bundle] [--steps 3000]

The echoes carry frames of the same sizes: one over TLS as the devices use TLS, the same with the bare ONNX Runtime session run
before each answer, and one over Zenoh with mutual TLS if `eclipse-zenoh` is installed. All are measured in turn, in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lock_step import ANSWER, frame_bytes, golden_feed
from rich.console import Console
from table import Row, show

from agentmixer.host.device_server import DeviceServer
from agentmixer.host.devices import Devices
from agentmixer.host.events import Events
from agentmixer.host.lock_step import Host
from agentmixer.host.tls_keys import make
from agentmixer.runtime import tls
from agentmixer.runtime.agent import make_session
from agentmixer.runtime.bundle import AgentFiles, Bundle, newest, read_bundle
from agentmixer.runtime.golden import parse
from agentmixer.runtime.tls import Address, Closed, Stream, tuned


def device(folder: Path, keys: Path, port: Any) -> None:
    """One device, in a process of its own."""
    with (
        open(os.devnull, "w") as nowhere,
        DeviceServer(folder, Address("127.0.0.1", 0), keys, events=Events(nowhere)) as server,
    ):
        port.put((folder.name, server.address.port))
        server.serve()


def tls_echo(name: str, keys: Path, files: AgentFiles | None, port: Any) -> None:
    """Answers each frame with ANSWER bytes; with `files`, after one run of the agent's session on a golden step."""
    decide: Callable[[], Any] = lambda: None  # noqa: E731
    if files:
        session = make_session(files.model)
        feed = golden_feed(files, session)
        decide = lambda: session.run(None, feed)  # noqa: E731
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port.put((name, listening.getsockname()[1]))
        stream = Stream(tuned(listening.accept()[0]), tls.context(keys, server=True), tls.HOST)
    readable = select.poll()
    readable.register(stream.link, select.POLLIN)
    while not stream.handshake():
        readable.poll()
    with contextlib.suppress(Closed):
        while True:
            if data := stream.receive():
                decide()
                stream.send(data[:ANSWER])
            else:
                readable.poll()


def zenoh_config(keys: Path, listen: list[str], connect: list[str]) -> Any:
    """A peer with mutual TLS that finds nobody by itself."""
    import zenoh

    mine, key = str(keys / tls.CERTIFICATE_FILE), str(keys / tls.KEY_FILE)
    made = zenoh.Config()
    for name, value in {
        "mode": "peer",
        "listen/endpoints": listen,
        "connect/endpoints": connect,
        "scouting/multicast/enabled": False,
        "transport/link/tls": {
            "root_ca_certificate": str(keys / tls.CA_FILE), "listen_certificate": mine, "listen_private_key": key,
            "connect_certificate": mine, "connect_private_key": key, "enable_mtls": True, "verify_name_on_connect": False,
        },
    }.items():  # fmt: skip
        made.insert_json5(name, json.dumps(value))
    return made


def publisher(session: Any, key: str) -> Any:
    import zenoh

    return session.declare_publisher(
        key, congestion_control=zenoh.CongestionControl.BLOCK, priority=zenoh.Priority.REAL_TIME, express=True
    )


def zenoh_echo(name: str, keys: Path, port: Any) -> None:
    """The same over Zenoh."""
    import zenoh

    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    session = zenoh.open(zenoh_config(keys, [f"tls/127.0.0.1:{number}"], []))
    back = publisher(session, f"echo/{name}/out")
    _ = session.declare_subscriber(f"echo/{name}/in", lambda sample: back.put(bytes(sample.payload)[:ANSWER]))
    port.put((name, number))
    time.sleep(1e6)


@contextlib.contextmanager
def processes(target: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> Iterator[dict[str, int]]:
    """One process for each row of arguments; gives the ports that they listen on, by name."""
    fresh = multiprocessing.get_context("spawn")
    ports = fresh.Queue()
    started = [fresh.Process(target=target, args=(*row, ports), daemon=True) for row in arguments]
    for process in started:
        process.start()
    try:
        yield dict(ports.get(timeout=60) for _ in started)
    finally:
        for process in started:
            process.kill()
            process.join()


def timed(step: Callable[[int], None], steps: int) -> np.ndarray:
    """µs of each step, the first tenth left out."""
    times = np.zeros(steps)
    for number in range(steps):
        begin = time.perf_counter()
        step(number)
        times[number] = time.perf_counter() - begin
    return times[steps // 10 :] * 1e6


def devices(bundle: Bundle, keys: Path, steps: int) -> np.ndarray:
    """The team, each agent in a device's two processes."""
    goldens = [parse(files.golden, files.manifest) for files in bundle.agents.values()]
    masked = next(iter(bundle.agents.values())).manifest.mask_rule == "forbid"
    rows = [(bundle.folder(name), keys / name) for name in bundle.agents]
    with processes(device, rows) as ports:
        places: dict[str, tuple[Address, ...]] = {
            name: (Address("127.0.0.1", ports[bundle.folder(name).name]),) for name in bundle.agents
        }
        with Host(bundle, 1.0, devices=Devices(places, tls.context(keys / "host", server=False))) as host:

            def step(number: int) -> None:
                row = number % len(goldens[0].obs)
                masks = [golden.action_mask[row] for golden in goldens] if masked else None
                host.step(0, number, [golden.obs[row] for golden in goldens], masks)

            return timed(step, steps)


def bare_tls(
    names: list[str], keys: Path, steps: int, size: int, deciding: Mapping[str, AgentFiles] | None = None
) -> np.ndarray:
    """Frames of so many bytes to each echo, and an answer from each. deciding: whose sessions are run."""
    rows = [(name, keys / name, deciding[name] if deciding else None) for name in names]
    with processes(tls_echo, rows) as ports:
        context = tls.context(keys / "host", server=False)
        streams = [Stream(tuned(socket.create_connection(("127.0.0.1", ports[name]))), context, name) for name in names]
        readable = select.poll()
        for stream in streams:
            readable.register(stream.link, select.POLLIN)
            while not stream.handshake():
                time.sleep(0.001)
        data, by_number = bytes(size), {stream.link.fileno(): stream for stream in streams}

        def step(_: int) -> None:
            for stream in streams:
                stream.send(data)
            left = len(streams)
            while left:
                for number, _ in readable.poll():
                    left -= by_number[number].receive() is not None

        return timed(step, steps)


def bare_zenoh(names: list[str], keys: Path, steps: int, size: int) -> np.ndarray | None:
    """The same over Zenoh; None where it is not installed."""
    try:
        import zenoh
    except ImportError:
        return None
    with processes(zenoh_echo, [(name, keys / name) for name in names]) as ports:
        session = zenoh.open(zenoh_config(keys / "host", [], [f"tls/127.0.0.1:{ports[name]}" for name in names]))
        came, wake = socket.socketpair()
        held = [session.declare_subscriber(f"echo/{name}/out", lambda _: wake.send(b"x")) for name in names]
        there = [publisher(session, f"echo/{name}/in") for name in names]
        time.sleep(2)
        data = bytes(size)

        def step(_: int) -> None:
            for one in there:
                one.put(data)
            left = len(there)
            while left:
                left -= len(came.recv(left))

        try:
            return timed(step, steps)
        finally:
            for subscriber in held:
                subscriber.undeclare()


def measure(folder: Path | None, steps: int) -> list[Row]:
    """Rows of the table: medians and 99 % quantiles."""
    bundle = read_bundle(folder or newest())
    names = list(bundle.agents)
    size = frame_bytes(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        keys = Path(scratch) / "keys"
        make(keys, names, days=1)
        ours = devices(bundle, keys, steps)
        echoes: dict[str, np.ndarray | None] = {
            "bare TLS echo": bare_tls(names, keys, steps, size),
            "the same with the bare session": bare_tls(names, keys, steps, size, bundle.agents),
            "bare Zenoh echo": bare_zenoh(names, keys, steps, size),
        }
    return [
        Row(
            f"lock-step of {len(names)} devices, p{q}",
            float(np.percentile(ours, q)),
            "µs",
            name,
            float(np.percentile(times, q)),
        )
        for name, times in echoes.items()
        if times is not None
        for q in (50, 99)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    show(Console(), measure(arguments.bundle, arguments.steps))
    os._exit(0)  # Zenoh's threads do not end by themselves


if __name__ == "__main__":
    main()
