"""One archive for one device: what can be told of it without a network. The rest is tests/wheel."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from commands import agentmixer
from made_bundle import made_bundle

from agentmixer.errors import AgentMixerError
from agentmixer.export.device_archive import _archive, _pinned, newest_wheel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("packed") / "bundle") / "agents" / "a"


def test_an_archive_depends_on_its_files_alone() -> None:
    files = {"b.txt": b"two", "install.sh": b"one"}
    packed = _archive("a-device", files)
    assert packed == _archive("a-device", dict(reversed(files.items())))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert [(entry.name, entry.mode, entry.mtime) for entry in archive] == [
            ("a-device/b.txt", 0o644, 0), ("a-device/install.sh", 0o755, 0)
        ]  # fmt: skip


def test_a_wheel_is_pinned_by_its_bytes(tmp_path: Path) -> None:
    wheel = tmp_path / "numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl"
    wheel.write_bytes(b"abc")
    # The SHA-256 of "abc", from FIPS 180-2.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert _pinned(wheel) == f"numpy==2.4.6 --hash=sha256:{digest}\n"


def test_no_wheel(tmp_path: Path) -> None:
    with pytest.raises(
        AgentMixerError, match=r"no wheel of agentmixer in dist/; make one where its sources are .make dist."
    ):
        newest_wheel([tmp_path])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--machine", "z80"], "--machine z80 is not known; choose one of x86_64, aarch64"),
        (["--python", "three"], "--python three is no version"),
        (["--glibc", "2"], "--glibc 2 is no version"),
        ([], "there is no wheel of agentmixer in dist/"),
    ],
)
def test_what_cannot_be_packed(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = agentmixer("pack", folder, *words, cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
