"""2,000 malformed models and bundles: each refused with a reason; no crash, no file outside opened, no memory kept."""

from __future__ import annotations

import gc
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from hostile import SHAPES, break_bundle, hostile, judge, mutant, sparse
from onnx import TensorProto, helper
from watch import Watch

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.golden import parse
from agentmixer.runtime.verify import verify

pytestmark = pytest.mark.soak

MODELS = BUNDLES = 1000
WARM_UP = 150


def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A working directory full of what hostile models name."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "secret.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    shutil.copy(tmp_path / "secret.bin", here)
    os.symlink(tmp_path / "secret.bin", here / "link.bin")
    os.link(tmp_path / "secret.bin", here / "hard.bin")
    return Watch(tmp_path, here)


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def told(what: str, begin: float, counts: Counter[str], reasons: Counter[str], opened: int, grown: float) -> None:
    seconds = time.monotonic() - begin
    print(
        f"\n{what}: {dict(counts)}, {len(reasons)} reasons, {opened} files opened outside, {grown:+.1f} MB, {seconds:.0f} s"
    )


def test_malformed_models(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_bundle(exported.path).agents["agent_0"]
    watch = canaries(tmp_path, monkeypatch)
    unguarded = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["stolen"], ["y"])],
            "g",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16])],
            sparse_initializer=[sparse()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnxruntime.InferenceSession(unguarded.SerializeToString(), providers=["CPUExecutionProvider"])
    assert "secret.bin" in watch.opened()  # the control: without the guard it is read

    counts, reasons, opened, base, begin = Counter[str](), Counter[str](), 0, 0.0, time.monotonic()
    for seed in range(100 * MODELS):
        rng = random.Random(seed)
        if counts["refused"] == WARM_UP and not base:
            base = resident()
        if counts["refused"] == MODELS:
            break
        if seed < 3 * len(SHAPES):
            model = hostile(files.model, list(SHAPES)[seed % len(SHAPES)])[0]
        else:
            model = mutant(files.model, rng) if seed % 20 else rng.randbytes(rng.randrange(4000))
        # A flipped weight makes a model that export could have written; only its digest gives it away.
        counts[judge(model, files)] += 1
        opened += len(watch.opened())
    grown = resident() - base
    told("models", begin, counts, reasons, opened, grown)
    assert counts["refused"] == MODELS
    assert opened == 0
    assert grown < 5


def test_malformed_bundles(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = canaries(tmp_path, monkeypatch)
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "work" / "bundle"
    counts, reasons, opened, base, begin = Counter[str](), Counter[str](), 0, 0.0, time.monotonic()
    wanted = {
        name: (a.manifest, a.model, parse(a.golden, a.manifest))
        for name, a in read_bundle(exported.path).agents.items()
    }
    for seed in range(10 * BUNDLES):
        rng = random.Random(seed)
        if counts["refused"] == WARM_UP and not base:
            base = resident()
        if counts["refused"] == BUNDLES:
            break
        for folder in (elsewhere, place.parent):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        shutil.copytree(exported.path, place)
        what = break_bundle(place, rng, elsewhere)
        outside = Watch(elsewhere, *(folder for folder in elsewhere.rglob("*") if folder.is_dir()))
        watch.opened()
        try:
            report = verify(place)
        except AgentMixerError as error:
            assert "is nothing to verify" in str(error)  # noqa: PT017 - team.json is gone
            counts["refused"] += 1
        else:
            failed = [check.sentence for check in report.checks if check.status == "failed"]
            counts["harmless" if report.passed else "refused"] += 1
            assert report.passed or all(failed), what
            reasons.update(detail.split(" ", 1)[1][:40] for detail in failed)
            if report.passed:  # a date inside an archive, a sentence in team.json: nothing that an agent uses
                for name, files in read_bundle(place).agents.items():
                    manifest, model, golden = wanted[name]
                    assert files.model == model, what
                    assert all(map(np.array_equal, parse(files.golden, files.manifest), golden)), what
                    assert (files.manifest.inputs, files.manifest.outputs) == (manifest.inputs, manifest.outputs), what
        opened += len(watch.opened()) + len(outside.opened())
        outside.close()
    grown = resident() - base
    told("bundles", begin, counts, reasons, opened, grown)
    assert counts["refused"] == BUNDLES
    assert opened == 0
    assert grown < 5
