"""Bundles as a stranger might make them, by class of attack, drawn at random; every digest is made right where it can be.

Each attack changes a bundle of `made_bundle` in place. elsewhere: a folder outside it that links may lead to.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import os
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hostile import SHAPES, hostile, reseal, spell
from made_bundle import made_bundle
from onnx import TensorProto, helper

from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.golden import Golden, dump, parse

Attack = Callable[[Path, random.Random, Path], object]


def rewritten(bundle: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest changed and spelled as export spells it."""
    tree = json.loads((bundle / name).read_text())
    change(tree)
    (bundle / name).write_bytes(spell(tree))


def manifests(bundle: Path) -> list[str]:
    return ["team.json", *(f"agents/{folder.name}/agent.json" for folder in sorted((bundle / "agents").iterdir()))]


# --- what a bundle says of where it comes from


def _source(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    run = bundle / "reports" / "run"
    (run / "checkpoints").mkdir(parents=True)
    marker = elsewhere / "code_ran"
    (run / "config.toml").write_text(
        f'task = "pettingzoo"\nscenario = "os:system"\n[options]\ncommand = "touch {marker}"\n'
    )
    value = rng.choice(
        [str(run), "reports/run", "..", "/", "~", "$HOME", "/dev/zero", "x" * 4000, "\x1b[2J", "os:system"]
    )
    for name in manifests(bundle):
        rewritten(
            bundle, name, lambda tree: tree["source"].update(run=value, checkpoint=rng.choice(["../../x", "step_1"]))
        )
    reseal(bundle)


# --- links and what is no file


def _link(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    kind = rng.choice(["symlink", "hard link", "fifo", "folder", "device", "dangling"])
    folder = bundle / "agents" / "a"
    file = rng.choice([bundle / "team.json", bundle / "team.sig", folder / "agent.sig", folder / "agent.json",
                       folder / "policy.onnx", folder / "golden.npz", bundle / "reports", bundle / "agents", folder])  # fmt: skip
    if file.is_dir():
        shutil.move(file, elsewhere / "moved")
    elif file.exists():
        file.rename(elsewhere / "moved")
    else:
        (elsewhere / "moved").write_bytes(bytes(64))
    if kind == "hard link" and (elsewhere / "moved").is_file():
        os.link(elsewhere / "moved", file)
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to(rng.choice(["/dev/zero", "/dev/full", "/proc/self/mem", "/dev/stdin"]))
    else:
        file.symlink_to(elsewhere / ("nowhere" if kind == "dangling" else "moved"))


def _many_files(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    place = rng.choice([bundle, bundle / "agents", bundle / "agents" / "a", bundle / "reports"])
    place.mkdir(exist_ok=True)
    for i in range(rng.choice([1, 70, 3000])):
        (place / f"{i}\x1b]0;{rng.random()}\x07").touch()


def _large_file(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    file = bundle / rng.choice(
        [
            *manifests(bundle),
            "team.sig",
            "agents/a/agent.sig",
            "agents/a/policy.onnx",
            "agents/a/golden.npz",
            "agents/a/profile.npz",
        ]
    )
    with open(file, "ab") as opened:
        opened.truncate(rng.choice([65, (1 << 20) + 1, 1 << 22, (1 << 24) + 1, 1 << 40]))  # sparse: takes no room


# --- archives


def _members(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle / "agents" / "a" / "golden.npz") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(
    bundle: Path,
    members: list[tuple[str, bytes]],
    method: int = zipfile.ZIP_DEFLATED,
    comment: bytes = b"",
    tail: bytes = b"",
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
        archive.comment = comment
    (bundle / "agents" / "a" / "golden.npz").write_bytes(buffer.getvalue() + tail)
    reseal(bundle)


def _compression(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """A gigabyte of zeros in a few bytes, by methods that expand a thousandfold and more."""
    members = list(_members(bundle).items())
    at = rng.randrange(len(members))
    zeros = members[at][1] + bytes(1 << 26)
    method = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
    if method == zipfile.ZIP_STORED:
        zeros = members[at][1]
    members[at] = (members[at][0], zeros)
    _archive(bundle, members, method)


def _many_members(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    members = list(_members(bundle).items())
    kind = rng.choice(["more", "order", "twice", "fewer", "names", "comment", "tail", "directory", "zip64"])
    if kind == "more":
        members += [(f"{i}.npy", b"") for i in range(rng.choice([1, 60_000]))]
    elif kind == "order":
        rng.shuffle(members)
    elif kind == "twice":
        members.insert(rng.randrange(6), members[rng.randrange(6)])
    elif kind == "fewer":
        members.pop(rng.randrange(6))
    elif kind == "names":
        members[0] = (rng.choice(["../../x.npy", "/etc/passwd", "obs.npy/", "obs.npy\0x"]), members[0][1])
    _archive(bundle, members, comment=b"c" * 60_000 if kind == "comment" else b"", tail=b"x" if kind == "tail" else b"")
    file = bundle / "agents" / "a" / "golden.npz"
    if kind == "directory":  # each of its entries a thousand times
        data = file.read_bytes()
        size, at = struct.unpack("<LL", data[-10:-2])
        entries = data[at : at + size] * 1000
        file.write_bytes(data[:at] + entries + data[-22:-10] + struct.pack("<LL", len(entries), at) + b"\0\0")
    if kind == "zip64":
        data = file.read_bytes()
        locator = b"PK\6\7" + struct.pack("<LQL", 0, 0, 1)
        file.write_bytes(data[:-22] + locator + data[-22:])
    reseal(bundle)


def _long_trace(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """Consistent, and far longer than evidence needs."""
    files = read_agent(bundle / "agents" / "a")
    golden, times = parse(files.golden, files.manifest), rng.choice([5, 30, 3000])
    (bundle / "agents" / "a" / "golden.npz").write_bytes(dump(Golden(*(np.concatenate([x] * times) for x in golden))))
    reseal(bundle)


def _wrong_trace(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """Steps and decisions that cannot be."""
    files = read_agent(bundle / "agents" / "a")
    golden = parse(files.golden, files.manifest)
    name = rng.choice(["action", "policy", "obs", "action_mask", "reset"])
    array = getattr(golden, name).copy()
    where = rng.randrange(len(array))
    if name == "action":
        array[where] = rng.choice([4, -1, 1 << 62, -(1 << 63), 10**6])
    elif name == "action_mask":
        array[where] = False
    elif name == "reset":
        array[0] = False
    else:
        array[where, 0] = rng.choice([np.nan, np.inf, 3e38])
    (bundle / "agents" / "a" / "golden.npz").write_bytes(dump(golden._replace(**{name: array})))
    reseal(bundle)


def _header(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """An array's own header: enormous shapes, deep expressions, objects to unpickle."""
    members = _members(bundle)
    text = rng.choice([
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (200, 1<<40), }", b"{'descr': '|O', 'fortran_order': False, 'shape': (200, 6), }",
        b"(" * 30_000, b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 20_000 + b"), }",
        b"{'descr': '<f4', 'fortran_order': True, 'shape': (200, 6), }", b"__import__('os').system('true')",
    ])  # fmt: skip
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65535)) + text[:65535] + members["obs.npy"][128:]
    _archive(bundle, [(name, data if name == "obs.npy" else old) for name, old in members.items()])


# --- JSON


def _json(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """A manifest that decoders understand in different ways, or that costs far more than its bytes."""
    name = rng.choice(manifests(bundle)[:2])
    file = bundle / name
    text = file.read_text()
    kind = rng.choice(["twice", "deep", "wide", "values", "spaces", "escapes", "values", "depends_on"])
    if kind == "twice":
        text = text.replace("{", '{"schema_version": 3, "agent": "b", "files": {}, ', 1)
    elif kind == "deep":
        text = text.replace('"release":', '"release": ' + "[" * 100_000 + "]" * 100_000 + ', "x":', 1)
    elif kind == "spaces":
        text = text.replace("\n", "\n" * rng.choice([2, 300]))
    elif kind == "escapes":
        text = text.replace('"made"', '"m\\u0061de"')
    if kind in ("twice", "deep", "spaces", "escapes"):
        file.write_text(text)
    else:
        tree = json.loads(text)
        if kind == "wide":
            tree["source"]["run"] = "x" * rng.choice([1 << 18, 1 << 21, 1 << 24])
        elif kind == "depends_on":
            tree["depends_on"] = {f"{i}": [] for i in range(rng.choice([1000, 60_000, 1_000_000]))}
        else:
            key = rng.choice(
                [
                    "release",
                    "team_id",
                    "agent",
                    "index",
                    "control_period_s",
                    "multiply_adds",
                    "action_space",
                    "fallback_action",
                ]
            )
            at = tree["task"] if key == "control_period_s" and name == "team.json" else tree
            at[key] = rng.choice(
                [1 << 70, -1, 1e-320, 2e6, 1e308, "a\n", "a/../b", "", "x" * 65, "\x1b[31m", None, {}, [0] * 1000, True]
            )
        file.write_bytes(_spelled(tree))
    _reseal_bytes(bundle, name)


def _spelled(tree: object) -> bytes:
    try:
        return spell(tree)
    except OverflowError:  # an integer that this encoder cannot write, and a stranger's can
        return json.dumps(tree, indent=1, sort_keys=True).encode()


def _reseal_bytes(bundle: Path, changed: str) -> None:
    """team.json gets the digest of a changed agent.json, without either being parsed."""
    if changed != "team.json":
        from agentmixer.contract.manifest import sha256

        digest = sha256((bundle / changed).read_bytes())
        rewritten(bundle, "team.json", lambda team: team["agents"]["a"].update(sha256=digest))


def _many_agents(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """A team of more agents than can be, all of them there."""
    count = rng.choice([40, 2000])
    for i in range(count):
        (bundle / "agents" / f"x{i}").mkdir()

    def change(team: dict[str, Any]) -> None:
        names = [f"x{i}" for i in range(count)]
        team["agents"] |= {name: {"folder": f"agents/{name}", "sha256": "0" * 64} for name in names}
        task = team["task"]
        task["agents"] += names
        for key in ("obs_names", "action_spaces", "fallback_actions"):
            task[key] += [task[key][0]] * count

    rewritten(bundle, "team.json", change)


# --- models


def _shape(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """One of the hostile shapes that suit a model without memory."""
    file = bundle / "agents" / "a" / "policy.onnx"
    shapes = ["a function", "training info", "a foreign operator set", "another operator set", "an unknown IR version", "a comment",
              "a declared size without the bytes", "sizes whose product overflows", "a negative size", "a data location alone",
              "settings for onnxruntime", "more nodes than can be", "a cycle", "a payload that nothing uses"]  # fmt: skip
    file.write_bytes(
        hostile(
            file.read_bytes(),
            rng.choice([name for name in shapes if name in SHAPES and name != "settings for onnxruntime"]),
        )[0]
    )
    reseal(bundle)


def _work(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """As much work as a file of a few megabytes can ask for, declared or not."""
    file = bundle / "agents" / "a" / "policy.onnx"
    proto = onnx.load(file)
    size, products = rng.choice([(64, 900), (64, 4000), (1024, 7), (1024, 12), (512, 30)])
    square = helper.make_tensor("square", TensorProto.FLOAT, (size, size), bytes(4 * size * size), raw=True)
    wide = helper.make_tensor("wide", TensorProto.FLOAT, (6, size), bytes(24 * size), raw=True)
    narrow = helper.make_tensor("narrow", TensorProto.FLOAT, (size, 6), bytes(24 * size), raw=True)
    proto.graph.initializer.extend([square, wide, narrow])
    nodes = [helper.make_node("MatMul", ["obs", "wide"], ["w0"])]
    nodes += [helper.make_node("MatMul", [f"w{i}", "square"], [f"w{i + 1}"]) for i in range(products)]
    nodes += [
        helper.make_node("MatMul", [f"w{products}", "narrow"], ["nothing"]),
        helper.make_node("Add", ["obs", "nothing"], ["seen"]),
    ]
    proto.graph.node[0].input[0] = "seen"
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    file.write_bytes(proto.SerializeToString(deterministic=True))
    if rng.random() < 0.7:
        declared = 6 * 8 + 8 * 4 + 12 * size + products * size * size
        rewritten(bundle, "agents/a/agent.json", lambda tree: tree.update(multiply_adds=declared))
    reseal(bundle)


def _broken_weights(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    file = bundle / "agents" / "a" / "policy.onnx"
    proto = onnx.load(file)
    value = np.float32(rng.choice([np.nan, np.inf, -np.inf, 3e38])).tobytes()
    proto.graph.initializer[rng.randrange(2)].raw_data = value * (len(proto.graph.initializer[0].raw_data) // 4)
    file.write_bytes(proto.SerializeToString(deterministic=True))
    reseal(bundle)


def _largest(bundle: Path, rng: random.Random, elsewhere: Path) -> None:
    """All that one agent may be: nothing is wrong with it."""
    shutil.rmtree(bundle)
    shutil.copytree(_made(*rng.choice([(20_000, 200, 3, 1), (4000, 1000, 4, 200), (500, 250, 4, 1000)])), bundle)


@functools.cache
def _made(obs: int, hidden: int, actions: int, between: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="agentmixer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return made_bundle(folder / "bundle", ("a",), obs, hidden, actions, between, 200)


ATTACKS: dict[str, Attack] = {
    "source": _source,
    "link": _link,
    "many files": _many_files,
    "large file": _large_file,
    "compression": _compression,
    "members": _many_members,
    "long trace": _long_trace,
    "wrong trace": _wrong_trace,
    "array header": _header,
    "json": _json,
    "many agents": _many_agents,
    "model": _shape,
    "work": _work,
    "broken weights": _broken_weights,
    "largest": _largest,
}


def attack(bundle: Path, seed: int, elsewhere: Path) -> str:
    """Make a bundle of `made_bundle` strange. Returns in which way."""
    rng = random.Random(seed)
    name = list(ATTACKS)[seed % len(ATTACKS)]
    ATTACKS[name](bundle, rng, elsewhere)
    return name
