"""Agents on other machines: who may speak, what is decided, and what becomes of who goes away."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import agentmixer
from counting_bundle import FALLBACK, counting_bundle, seen

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.host import device_link, device_server, tls_keys
from agentmixer.host.device_server import DeviceServer
from agentmixer.host.devices import Devices, read_devices
from agentmixer.host.events import Events
from agentmixer.host.lock_step import Host
from agentmixer.runtime import health, tls
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.frames import Kind, action_of, pack, reason_of, unpack
from agentmixer.runtime.health import Health
from agentmixer.runtime.tls import Address, Closed, Stream, Untrusted, parse_address, tuned

TEAM = ("a", "b", "c")
AGENTMIXER = [sys.executable, "-m", "agentmixer_cli.main"]
HERE = Address("127.0.0.1", 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return counting_bundle(tmp_path_factory.mktemp("counting") / "bundle", TEAM)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "keys"
    tls_keys.make(folder, TEAM)
    return folder


class Device:
    """A device's server in a thread, and the lines that it wrote."""

    def __init__(self, bundle: Bundle, name: str, keys: Path, address: Address = HERE):
        self.lines = io.StringIO()
        self.server = DeviceServer(bundle.folder(name), address, keys, events=Events(self.lines))
        self.address = self.server.address
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join()
        self.server.close()

    def wrote(self, what: str) -> str:
        """The first line that has this in it, waited for."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for line in self.lines.getvalue().splitlines():
                if what in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no {what} in {self.lines.getvalue()}")


@contextlib.contextmanager
def served(bundle: Bundle, name: str, keys: Path, address: Address = HERE) -> Iterator[Device]:
    device = Device(bundle, name, keys, address)
    try:
        yield device
    finally:
        device.stop()


def devices_at(keys: Path, **addresses: Address | tuple[Address, ...]) -> Devices:
    places = {
        name: where if isinstance(where, tuple) and not isinstance(where, Address) else (where,)
        for name, where in addresses.items()
    }
    return Devices(places, tls.context(keys / "host", server=False))  # type: ignore[arg-type]


@pytest.fixture
def a(bundle: Bundle, keys: Path) -> Iterator[Device]:
    with served(bundle, "a", keys / "a") as device:
        yield device


def called(device: Device, keys: Path, name: str = "a") -> Stream:
    """A connection to a device whose handshake is done, as a host makes it."""
    link = socket.create_connection(device.address)
    stream = Stream(tuned(link), tls.context(keys, server=False), name)
    until(stream.handshake)
    return stream


def until(done):  # type: ignore[no-untyped-def]
    """What `done` returns as soon as that is something."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.001)
    raise AssertionError("nothing came")


# --- what is decided


def test_a_device_decides_what_a_process_decides_and_begins_each_episode_anew(
    bundle: Bundle, keys: Path, a: Device
) -> None:
    with served(bundle, "c", keys / "c") as c, Host(bundle, devices=devices_at(keys, a=a.address, c=c.address)) as host:
        for episode in range(3):
            for step in range(20):
                for decision in host.step(episode, step, seen(episode, step), None):
                    assert decision.in_time and decision.action.tolist() == [episode, step, step + 1]
                    assert 0 < decision.deciding_ns < decision.round_trip_ns
        assert [agent.isolation.level for agent in host.agents] == [host.agents[1].isolation.level] * 3
        told = host.agents[0].health()  # type: ignore[attr-defined]
        assert (told.steps, told.late, told.fallbacks, told.refused, told.restarts) == (60, 0, 0, 0, 0)
        assert 10 < told.resident_mb <= told.peak_mb
    a.wrote("host_gone")
    assert "why=done steps=60" in a.wrote("host_gone")


def test_the_next_host_meets_an_agent_that_remembers_nothing(bundle: Bundle, keys: Path, a: Device) -> None:
    for _ in range(2):
        with Host(bundle, devices=devices_at(keys, a=a.address)) as host:
            for step in range(3):
                assert host.step(0, step, seen(0, step), None)[0].action.tolist() == [0, step, step + 1]


def test_frames_that_meet_faults_on_the_way_are_counted_as_on_one_machine(
    bundle: Bundle, keys: Path, a: Device
) -> None:
    from agentmixer.host.faulty_link import Faults

    faults = Faults(dict.fromkeys(("drop", "duplicate", "corrupt", "truncate", "oversize"), 0.2))
    with Host(bundle, 0.05, faults, devices=devices_at(keys, a=a.address)) as host:
        for step in range(40):
            decision = host.step(0, step, seen(0, step), None)[0]
            assert decision.action.tolist()[:2] == ([0, step] if decision.in_time else list(FALLBACK[:2]))
        assert host.settle(10)
        tally, link = host.tallies[0], host.links[0]
        assert 0 < tally.fallbacks == tally.lost + tally.late
        assert 0 < link.damaged == link.refused
        assert 0 < link.damaged_back == tally.broken


# --- who may speak


def test_the_certificate_of_another_agent_does_not_speak_for_this_one(bundle: Bundle, keys: Path) -> None:
    with (
        served(bundle, "a", keys / "b") as device,
        pytest.raises(
            AgentMixerError, match=r"agent a did not start: .* its certificate is that of b, not of a; give its device"
        ),
        Host(bundle, devices=devices_at(keys, a=device.address)),
    ):
        pass


def test_a_certificate_that_has_expired_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    tls_keys.make(tmp_path, TEAM, days=-1)
    with (
        served(bundle, "a", tmp_path / "a") as device,
        pytest.raises(
            AgentMixerError, match=r"its certificate is refused: certificate has expired; .* both clocks are right"
        ),
        Host(bundle, devices=devices_at(tmp_path, a=device.address)),
    ):
        pass


def test_a_clock_that_lags_a_day_is_forgiven_and_a_week_is_not(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tls_keys.LAG.days == 2
    monkeypatch.setattr(tls_keys, "LAG", -tls_keys.LAG)  # as seen by a clock that lags by four days
    tls_keys.make(tmp_path, TEAM)
    with (
        served(bundle, "a", tmp_path / "a") as device,
        pytest.raises(AgentMixerError, match="certificate is not yet valid"),
        Host(bundle, devices=devices_at(tmp_path, a=device.address)),
    ):
        pass


def test_another_teams_host_is_refused_and_told_so(bundle: Bundle, keys: Path, a: Device, tmp_path: Path) -> None:
    tls_keys.make(tmp_path, TEAM)
    shutil.copy(
        keys / "host" / "ca.pem", tmp_path / "host" / "ca.pem"
    )  # it trusts the device; the device does not trust it
    with (
        pytest.raises(AgentMixerError, match=r"it refuses this end's certificate .unknown ca."),
        Host(bundle, devices=devices_at(tmp_path, a=a.address)),
    ):
        pass
    a.wrote("caller_refused")
    with Host(bundle, devices=devices_at(keys, a=a.address)) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time


def test_an_agents_certificate_does_not_call_and_the_hosts_does_not_answer(
    bundle: Bundle, keys: Path, a: Device
) -> None:
    stream = called(a, keys / "b")  # in TLS 1.3 the caller is done before it hears of its refusal
    with pytest.raises(Untrusted, match="unsupported certificate"):
        until(stream.receive)
    assert "unsuitable certificate purpose" in a.wrote("caller_refused")
    with served(bundle, "b", keys / "host") as device, pytest.raises(Untrusted, match="unsuitable certificate purpose"):
        called(device, keys / "host", "a")


def test_one_host_at_a_time(bundle: Bundle, keys: Path, a: Device) -> None:
    with Host(bundle, devices=devices_at(keys, a=a.address)) as host:
        second = called(a, keys / "host")
        refused = unpack(until(second.receive))
        assert refused.kind == Kind.REFUSE and b"its device serves another host, 127.0.0.1:" in bytes(refused.payload)
        with pytest.raises(Closed):
            until(second.receive)
        assert host.step(0, 0, seen(0, 0), None)[0].in_time


def test_two_devices_that_answer_for_one_agent_are_both_refused(bundle: Bundle, keys: Path, a: Device) -> None:
    with (
        served(bundle, "a", keys / "a") as twin,
        pytest.raises(
            AgentMixerError,
            match=f"by two devices at the same time, at {a.address} and {twin.address}|{twin.address} and {a.address}",
        ),
        Host(bundle, devices=devices_at(keys, a=(a.address, twin.address))),
    ):
        pass
    # One of two addresses is enough, and so is one device that is reached by both.
    with Host(bundle, devices=devices_at(keys, a=(a.address, twin.address))) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time
    with Host(bundle, devices=devices_at(keys, a=(a.address, Address("localhost", a.address.port)))) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time


def test_frames_that_are_replayed_or_of_another_version_are_refused(bundle: Bundle, keys: Path, a: Device) -> None:
    stream, files = called(a, keys / "host"), bundle.agents["a"]
    digest = bytes.fromhex(files.digest)[:8]
    assert unpack(until(stream.receive)).kind == Kind.READY
    frame = pack(Kind.OBSERVE, 0, digest, seen(0, 0)[0].tobytes(), 0, 0, 0, 10**6, 8)
    for data, expected in (
        (frame, None),
        (frame, "step 0 of episode 0 is over"),
        (frame[:4] + b"\x03\x00" + frame[6:], "version 3; both ends must run agentmixer frames version 4"),
        (frame[:8] + b"\x01" + frame[9:], "damaged"),
        (b"AMXR", "shorter than its header"),
    ):
        stream.send(data)
        answer = unpack(until(stream.receive))
        if expected is None:
            assert action_of(answer, files.manifest.action_space)[0].tolist() == [0, 0, 1]
        else:
            assert answer.kind == Kind.REFUSE and expected in reason_of(answer, files.manifest.action_space)
    stream.send(pack(Kind.HEALTH, 0, digest))
    assert b'"steps":1,' in bytes(unpack(until(stream.receive)).payload)
    stream.close()


def test_who_is_silent_or_speaks_no_tls_is_hung_up_on(
    bundle: Bundle, keys: Path, a: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_server, "HANDSHAKE_S", 0.2)
    with socket.create_connection(a.address) as silent, socket.create_connection(a.address) as loud:
        loud.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for caller in (silent, loud):
            caller.settimeout(10)
            while caller.recv(1000):
                pass
    a.wrote("no handshake within 0.2 s")
    with Host(bundle, devices=devices_at(keys, a=a.address)) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time


def test_a_device_with_another_export_is_told_apart(bundle: Bundle, keys: Path, tmp_path: Path) -> None:
    other = counting_bundle(tmp_path / "other", TEAM, control_period_s=2.0)
    with (
        served(other, "a", keys / "a") as device,
        pytest.raises(AgentMixerError, match="it runs another export of this agent"),
        Host(bundle, devices=devices_at(keys, a=device.address)),
    ):
        pass


# --- who goes away


def test_a_device_that_restarts_comes_back_and_its_agent_falls_back_meanwhile(bundle: Bundle, keys: Path) -> None:
    device = Device(bundle, "a", keys / "a")
    with Host(bundle, 0.2, devices=devices_at(keys, a=device.address)) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time
        device.stop()
        away = host.step(0, 1, seen(0, 1), None)
        assert [decision.in_time for decision in away] == [False, True, True]
        assert away[0].action.tolist() == list(FALLBACK)
        device = Device(bundle, "a", keys / "a", device.address)
        step = 2
        while not (back := host.step(0, step, seen(0, step), None))[0].in_time:
            step += 1
            assert step < 100
            time.sleep(0.05)
        assert back[0].action.tolist() == [0, step, 1], "its recurrent state begins anew"
        assert [event.what for event in host.events] == ["lost", "rejoined, recurrent state reset"]
        assert host.tallies[0].fallbacks == step - 1 and host.tallies[1].fallbacks == 0
    device.stop()


def comes_back(host: Host, step: int) -> None:
    """Play from `step` on until the first agent decides in time."""
    while not host.step(0, step, seen(0, step), None)[0].in_time:
        step += 1
        assert step < 200
        time.sleep(0.05)


def test_a_device_comes_back_though_its_second_address_is_silent(bundle: Bundle, keys: Path) -> None:
    device = Device(bundle, "a", keys / "a")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # whoever calls is connected, and hears nothing
        places = (device.address, Address(*silent.getsockname()))
        with Host(bundle, 0.2, devices=devices_at(keys, a=places)) as host:
            assert host.step(0, 0, seen(0, 0), None)[0].in_time
            device.stop()
            device = Device(bundle, "a", keys / "a", device.address)
            comes_back(host, 1)
    device.stop()


def test_who_answers_with_another_certificate_stays_out_and_the_device_comes_back(bundle: Bundle, keys: Path) -> None:
    device = Device(bundle, "a", keys / "a")
    with Host(bundle, 0.2, devices=devices_at(keys, a=device.address)) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time
        device.stop()
        with served(bundle, "a", keys / "b", device.address) as other:
            for step in range(1, 61):
                decisions = host.step(0, step, seen(0, step), None)
                assert [decision.in_time for decision in decisions] == [False, True, True]
                time.sleep(0.02)
            assert other.lines.getvalue().count("caller_refused") + other.lines.getvalue().count("host_gone") > 1
        device = Device(bundle, "a", keys / "a", device.address)
        comes_back(host, 61)
    assert [event.what for event in host.events] == ["lost", "rejoined, recurrent state reset"]
    device.stop()


def test_a_device_may_come_late(bundle: Bundle, keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address(*free.getsockname())
    late: list[Device] = []
    timer = threading.Timer(1.0, lambda: late.append(Device(bundle, "a", keys / "a", address)))
    timer.start()
    with Host(bundle, devices=devices_at(keys, a=address)) as host:
        assert host.start_seconds[0] > 0.9
        assert host.step(0, 0, seen(0, 0), None)[0].in_time
    timer.join()
    late[0].stop()


def test_nobody_there(bundle: Bundle, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_link, "START_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address(*free.getsockname())
    with (
        pytest.raises(
            AgentMixerError,
            match=f"no device answers at {address} .Connection refused.; start it there: agentmixer agent",
        ),
        Host(bundle, devices=devices_at(keys, a=address)),
    ):
        pass


def test_an_agent_that_dies_on_its_device_is_started_anew(bundle: Bundle, keys: Path, a: Device) -> None:
    with Host(bundle, 0.2, devices=devices_at(keys, a=a.address)) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time
        agent = a.server._agent
        assert agent is not None
        agent.process.kill()
        a.wrote("agent_lost")
        step = 1
        while not host.step(0, step, seen(0, step), None)[0].in_time:
            step += 1
            assert step < 100
            time.sleep(0.05)
        assert host.agents[0].health().restarts == 1  # type: ignore[attr-defined]


def test_a_host_that_dies_is_noticed(bundle: Bundle, keys: Path, a: Device) -> None:
    stream = called(a, keys / "host")
    until(stream.receive)
    stream.link.close()  # as the kernel does for a process that is killed
    a.wrote("host_gone")
    with Host(bundle, devices=devices_at(keys, a=a.address)) as host:
        assert host.step(0, 0, seen(0, 0), None)[0].in_time


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip, for a network of its own")
def test_a_cable_that_is_pulled_for_two_seconds(bundle: Bundle, keys: Path) -> None:
    """The device sits in a network namespace of its own; the cable is a veth pair."""
    space, near, far = (f"amx{kind}{os.getpid() % 100000}" for kind in "snf")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    net = os.getpid() % 200 + 20
    try:
        ip("netns", "add", space)
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
    except subprocess.CalledProcessError:
        pytest.skip("this machine makes no network namespaces")
    try:
        ip("addr", "add", f"10.213.{net}.1/24", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", space, "addr", "add", f"10.213.{net}.2/24", "dev", far)
        ip("-n", space, "link", "set", far, "up")
        command = ["agent", str(bundle.folder("a")), "--listen", f"10.213.{net}.2:7447", "--tls", str(keys / "a")]
        device = subprocess.Popen(
            ["ip", "netns", "exec", space, *AGENTMIXER, *command], stderr=subprocess.PIPE, text=True
        )
        try:
            with Host(bundle, 0.1, devices=devices_at(keys, a=Address(f"10.213.{net}.2", 7447))) as host:
                in_time = []
                begin, step, pulled, plugged = time.monotonic(), 0, False, False
                while not in_time or not (plugged and in_time[-1]):
                    now = time.monotonic() - begin
                    assert now < 20
                    if now > 0.5 and not pulled:
                        ip("link", "set", near, "down")
                        pulled = True
                    if now > 2.5 and not plugged:
                        ip("link", "set", near, "up")
                        plugged = True
                    in_time.append(host.step(0, step, seen(0, step), None)[0].in_time)
                    step += 1
                    time.sleep(0.02)
                away = in_time.count(False)
                assert 10 <= away == host.tallies[0].fallbacks
                assert host.tallies[1].fallbacks == 0
        finally:
            device.terminate()
            device.communicate(timeout=20)
    finally:
        ip("netns", "del", space)


# --- files and commands


def test_a_rehearsal_with_two_devices_and_three_processes(exported: Exported, tmp_path: Path) -> None:
    bundle, keys = exported.path, tmp_path / "keys"
    made = agentmixer("keygen", "--tls", "--bundle", bundle, "--json", cwd=tmp_path)
    assert json.loads(made.stdout)["new"] == ["keys/host", *(f"keys/agent_{i}" for i in range(5))]
    opened = read_bundle(bundle)
    with served(opened, "agent_0", keys / "agent_0") as first, served(opened, "agent_3", keys / "agent_3") as second:
        (tmp_path / "devices.toml").write_text(
            f'tls = "keys/host"\n[devices]\nagent_0 = "{first.address}"\nagent_3 = "{second.address}"\n'
        )
        words = ["deploy-sim", bundle, "--devices", "devices.toml", "--episodes", 2, "--deadline-ms", 10_000]
        done = agentmixer(*words, "--report", tmp_path / "found.json", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        checks = {check["name"]: check for check in report["checks"]}
        assert checks["devices"]["sentence"] == "2 agents on devices, over mutual TLS: none went away"
        assert checks["parity"]["status"] == "passed" and checks["parity"]["not_compared"] == 0
        assert [name for name, agent in report["agents"].items() if agent["device"]] == ["agent_0", "agent_3"]
        told = report["agents"]["agent_3"]["device"]
        assert (told["address"], told["lost"]) == (str(second.address), 0)
        assert told["health"]["steps"] == checks["parity"]["steps"]
        refused = agentmixer(*words, "--fault", "kill=agent_0@3", cwd=tmp_path)
        assert refused.returncode == 2 and "agent_0 runs on a device; stop it there" in " ".join(refused.stderr.split())
        under = agentmixer(
            *words, "--fault", "duplicate=0.5", "--report", tmp_path / "faults.json", "--json", cwd=tmp_path
        )
        assert json.loads(under.stdout)["agents"]["agent_0"]["duplicates"] > 0
    for words in (["--fault-matrix"], ["--wiring-matrix"], ["--fault", "freeze=agent_0:own.health@1"]):
        done = agentmixer("deploy-sim", bundle, "--devices", "devices.toml", *words, cwd=tmp_path)
        assert done.returncode == 2 and "leave out" in done.stderr


def test_stopped_by_a_signal(bundle: Bundle, keys: Path) -> None:
    command = ["agent", str(bundle.folder("a")), "--listen", "127.0.0.1:0", "--tls", str(keys / "a")]
    process = subprocess.Popen([*AGENTMIXER, *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert " listening agent=a address=127.0.0.1:" in process.stderr.readline()
    process.terminate()
    assert " stopped agent=a" in process.stderr.read()
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('tls = "host"\n[devices]\nd = "x:1"', "lists 'd', which this team lacks; known: a, b, c"),
        ('tls = "host"\n[devices]\na = "x"', "'x' is no address; write HOST:PORT"),
        ('tls = "host"\n[devices]\na = "x:1"\nb = "x:1"', "lists x:1 twice, for a and for b"),
        ('tls = "host"\n[devices]\na = []', "lists a without an address"),
        ('tls = "host"\n[devices]', "lists no device"),
        ('tls = "host"\nhost = 1\n[devices]\na = "x:1"', "unknown field `host`"),
        ("tls = ", "is not a list of devices"),
        (
            'tls = "nowhere"\n[devices]\na = "x:1"',
            "nowhere/ca.pem is missing; make these files with agentmixer keygen --tls",
        ),
    ],
)
def test_what_is_wrong_with_a_list_of_devices(tmp_path: Path, keys: Path, text: str, message: str) -> None:
    shutil.copytree(keys / "host", tmp_path / "host")
    (tmp_path / "devices.toml").write_text(text)
    with pytest.raises(AgentMixerError, match=re.escape(message)):
        read_devices(tmp_path / "devices.toml", TEAM)


def test_a_list_of_devices(tmp_path: Path, keys: Path) -> None:
    shutil.copytree(keys / "host", tmp_path / "host")
    (tmp_path / "devices.toml").write_text(
        'tls = "host"\n[devices]\na = "robot.local:7447"\nb = ["10.0.0.1:1", "[fe80::1]:2"]'
    )
    found = read_devices(tmp_path / "devices.toml", TEAM).addresses
    assert found == {"a": (Address("robot.local", 7447),), "b": (Address("10.0.0.1", 1), Address("fe80::1", 2))}
    assert [str(address) for address in found["b"]] == ["10.0.0.1:1", "[fe80::1]:2"]


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:65536", "a b:1", "http://host:1", "fe80::1:2", "host:-1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AgentMixerError, match="is no address; write HOST:PORT"):
        parse_address(text)


def test_certificates_are_their_owners_alone_and_are_kept(tmp_path: Path) -> None:
    made = tls_keys.make(tmp_path / "keys", ["a"])
    assert [place.name for place in made.new] == ["host", "a"] and not made.old
    for file in (tmp_path / "keys").glob("*/*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    before = (tmp_path / "keys" / "a" / "cert.pem").read_bytes()
    again = tls_keys.make(tmp_path / "keys", ["a", "b"])
    assert [place.name for place in again.new] == ["b"] and [place.name for place in again.old] == ["host", "a"]
    assert (tmp_path / "keys" / "a" / "cert.pem").read_bytes() == before
    assert not list((tmp_path / "keys" / "a").glob("ca.key")), "a device cannot make certificates"


@pytest.mark.parametrize("name", ["host", "authority", "../x", ""])
def test_names_that_no_certificate_gets(tmp_path: Path, name: str) -> None:
    with pytest.raises(AgentMixerError, match=r"rename the agent|is no name of an agent"):
        tls_keys.make(tmp_path / "keys", [name])
    assert not (tmp_path / "keys").exists()


def test_the_hottest_zone_is_the_temperature(tmp_path: Path) -> None:
    assert health.temperature_c(tmp_path) is None
    for zone, text in (("thermal_zone0", "48250\n"), ("thermal_zone1", "51000\n"), ("thermal_zone2", "broken")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "temp").write_text(text)
    assert health.temperature_c(tmp_path) == 51.0


def test_metrics_as_prometheus_reads_them() -> None:
    counted = Health(steps=7, late=1, resident_mb=63.5, temperature_c=51.0)
    server = health.serve_metrics(HERE, "agent_0", lambda: counted)
    try:
        port = server.server_address[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            lines = answer.read().decode().splitlines()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other")
    finally:
        server.shutdown()
        server.server_close()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples['agentmixer_steps_total{agent="agent_0"}'] == "7"
    assert samples['agentmixer_resident_mb{agent="agent_0"}'] == "63.5"
    assert samples['agentmixer_temperature_c{agent="agent_0"}'] == "51"
    types = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    assert types["agentmixer_late_total"] == "counter" and types["agentmixer_peak_mb"] == "gauge"


def test_events_are_lines_with_both_clocks() -> None:
    lines = io.StringIO()
    Events(lines)("host_gone", host="10.0.0.1:7", why="hung up", steps=3)
    wall, monotonic, *rest = lines.getvalue().split(maxsplit=2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", wall)
    assert abs(float(monotonic) - time.monotonic()) < 10
    assert rest == ['host_gone host=10.0.0.1:7 why="hung up" steps=3\n']


def test_what_an_observation_is_on_the_way_is_what_was_seen(bundle: Bundle, keys: Path, a: Device) -> None:
    """A frame of 200 kB comes whole, and one that is longer than any ends the connection."""
    stream = called(a, keys / "host")
    until(stream.receive)
    stream.send(np.zeros(50_000, np.float32).tobytes())
    until(lambda: stream.flush())
    assert unpack(until(stream.receive)).kind == Kind.REFUSE
    stream._tls.write((1 << 31).to_bytes(4, "little"))
    stream.flush()
    assert "sent a frame of 2,147,483,648 bytes" in a.wrote("host_gone")
