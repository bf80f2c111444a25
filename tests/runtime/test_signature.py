"""A bundle is what the holder of the key exported, or it is refused; so is one agent's folder on its device."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentmixer_cli.app import app
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from ed25519_by_hand import verifies
from hostile import spell
from typer.testing import CliRunner

from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported, checked_team
from agentmixer.export.exporter import export as export_run
from agentmixer.runtime import Agent, signature
from agentmixer.runtime.bundle import (
    AGENT_LIMITS,
    check_agent_signature,
    check_team_signature,
    named_manifest,
    read_agent,
    read_bundle,
    read_raw,
    read_team_raw,
)
from agentmixer.train.run import Run

# RFC 8032, section 7.1, test 1: the empty message.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465"
    "5141438e7a100b"
)


def pem(kind: str, der: bytes) -> bytes:
    return f"-----BEGIN {kind} KEY-----\n{base64.b64encode(der).decode()}\n-----END {kind} KEY-----\n".encode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        signature.generate(folder / name)
    return folder


@pytest.fixture(scope="module")
def signed(exported: Exported, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle, not to be changed."""
    bundle = Path(shutil.copytree(exported.path, tmp_path_factory.mktemp("signed") / "bundle"))
    signature.sign(bundle, signature.private_key(keys / "ours"))
    return bundle


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def check(bundle: Path, trusted: Path | None) -> str:
    return check_team_signature(read_team_raw(bundle)[0], trusted)


def check_agent(folder: Path, trusted: Path | None, name: str | None = None) -> str:
    raw = read_raw(folder, AGENT_LIMITS)
    told = check_agent_signature(raw, trusted)
    named_manifest(raw, name)
    return told


def test_the_published_vector_comes_out_of_our_key_files(tmp_path: Path) -> None:
    """RFC 8032's seed and public key, wrapped by hand into PKCS #8 and SubjectPublicKeyInfo (RFC 8410)."""
    private, public = tmp_path / "rfc", tmp_path / "rfc.pub"
    private.write_bytes(pem("PRIVATE", bytes.fromhex("302e020100300506032b657004220420") + SEED))
    private.chmod(0o600)
    public.write_bytes(pem("PUBLIC", bytes.fromhex("302a300506032b6570032100") + PUBLIC))
    assert signature.private_key(private).sign(b"") == SIGNATURE
    signature.public_key(public).verify(SIGNATURE, b"")
    assert signature.fingerprint(signature.public_key(public)) == sha256(PUBLIC)[:32]
    assert verifies(PUBLIC, b"", SIGNATURE)
    assert not verifies(PUBLIC, b"x", SIGNATURE)


def test_another_implementation_accepts_what_we_sign(signed: Path, keys: Path) -> None:
    """What is signed is exactly the prefix and the file's bytes."""
    public = signature.public_key(keys / "ours.pub").public_bytes_raw()
    team, agent = signed / "team.json", signed / "agents/agent_2/agent.json"
    assert verifies(public, b"agentmixer team.json 1\0" + team.read_bytes(), (signed / "team.sig").read_bytes())
    assert verifies(public, b"agentmixer agent.json 1\0" + agent.read_bytes(), agent.with_suffix(".sig").read_bytes())
    assert not verifies(public, team.read_bytes(), (signed / "team.sig").read_bytes())


def test_a_signed_bundle_is_accepted_by_its_key(signed: Path, keys: Path) -> None:
    ours = keys / "ours.pub"
    name = signature.fingerprint(signature.public_key(ours))
    assert check(signed, ours) == f"signed by {name}"
    assert check(signed, None) == "signed, not checked: no --trusted key given"
    assert read_bundle(signed, ours).path == signed
    for folder in sorted((signed / "agents").iterdir()):
        assert check_agent(folder, ours, folder.name) == f"signed by {name}"
        assert Agent.load(folder, ours, folder.name).manifest.agent == folder.name


def test_an_unsigned_bundle_is_called_so_and_refused_where_a_key_is_asked_for(exported: Exported, keys: Path) -> None:
    folder = exported.path / "agents/agent_0"
    assert check(exported.path, None) == check_agent(folder, None) == "unsigned"
    for read in (lambda: read_bundle(exported.path, keys / "ours.pub"), lambda: read_agent(folder, keys / "ours.pub")):
        with pytest.raises(AgentMixerError, match=r"is not signed .*--sign"):
            read()


def flip(file: Path, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_bytes(spell(data))


def swap(bundle: Path) -> None:
    """agent_0 and agent_1 get each other's policies, and every digest is made to agree."""
    first, second = bundle / "agents/agent_0", bundle / "agents/agent_1"
    for name in ("policy.onnx", "golden.npz", "profile.npz"):
        (first / name).rename(bundle / "spare")
        (second / name).rename(first / name)
        (bundle / "spare").rename(second / name)
    for folder in (first, second):
        files = {name: sha256((folder / name).read_bytes()) for name in ("policy.onnx", "golden.npz", "profile.npz")}
        rewrite(folder / "agent.json", lambda manifest, files=files: manifest.update(files=files))
        digest = sha256((folder / "agent.json").read_bytes())
        rewrite(bundle / "team.json", lambda team, n=folder.name, d=digest: team["agents"][n].update(sha256=d))


def other_team(bundle: Path) -> None:
    """Everything is resigned by another key."""
    theirs = bundle.parent / "another"
    signature.generate(theirs)
    signature.sign(bundle, signature.private_key(theirs))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda b: (b / "team.sig").unlink(), "is not signed"),
        (lambda b: flip(b / "team.json", 8 * 40), "is no signature of team.json"),
        (lambda b: (b / "team.json").write_bytes((b / "team.json").read_bytes() + b"\n"), "is no signature of"),
        (lambda b: flip(b / "team.sig"), "is no signature of team.json"),
        (lambda b: flip(b / "team.sig", 8 * 63), "is no signature of team.json"),
        (lambda b: (b / "team.sig").write_bytes((b / "team.sig").read_bytes()[:63]), "is damaged: a signature has 64"),
        (lambda b: (b / "team.sig").write_bytes(b""), "is damaged: a signature has 64"),
        (lambda b: (b / "team.sig").write_bytes(bytes(65)), "more than 64 bytes"),
        (lambda b: shutil.copy(b / "agents/agent_0/agent.sig", b / "team.sig"), "is no signature of team.json"),
        (swap, "is no signature of team.json"),
        (other_team, "is no signature of team.json"),
        (lambda b: (b / "team.sig").unlink() or (b / "team.sig").symlink_to("nowhere"), "is a link"),
        (lambda b: (b / "team.sig").unlink() or os.mkfifo(b / "team.sig"), "not a regular file"),
        (lambda b: (b / "team.sig").unlink() or (b / "team.sig").mkdir(), "not a regular file"),
    ],
)
def test_a_bundle_that_is_not_what_was_signed_is_refused(
    copy: Path, keys: Path, attack: Callable[[Path], object], words: str
) -> None:
    read_bundle(copy, keys / "ours.pub")
    attack(copy)
    with pytest.raises(AgentMixerError, match=words):
        read_bundle(copy, keys / "ours.pub")


def test_without_a_key_a_consistent_forgery_reads_well(copy: Path) -> None:
    """What signatures are for: digests alone cannot tell a swapped team that was made consistent."""
    swap(copy)
    assert read_bundle(copy).agents["agent_0"].manifest.agent == "agent_0"


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda f: (f / "agent.sig").unlink(), "is not signed"),
        (lambda f: flip(f / "agent.json", 8 * 40), "is no signature of agent.json"),
        (lambda f: flip(f / "agent.sig", 100), "is no signature of agent.json"),
        (lambda f: shutil.copy(f.parents[1] / "team.sig", f / "agent.sig"), "is no signature of agent.json"),
        (lambda f: shutil.copy(f.parent / "agent_1/agent.sig", f / "agent.sig"), "is no signature of agent.json"),
        (lambda f: flip(f / "policy.onnx", 8 * 400), "policy.onnx is not what was exported"),
        (lambda f: (shutil.rmtree(f), shutil.copytree(f.parent / "agent_1", f)), "holds agent agent_1, not agent_0"),
    ],
)
def test_a_folder_that_is_not_what_was_signed_is_refused_on_its_device(
    copy: Path, keys: Path, attack: Callable[[Path], object], words: str
) -> None:
    folder = copy / "agents/agent_0"
    attack(folder)
    with pytest.raises(AgentMixerError, match=words):
        Agent.load(folder, keys / "ours.pub", "agent_0")


def test_another_member_is_told_by_its_name_alone(copy: Path, keys: Path) -> None:
    """The same swap without a name: a team mate's signature is a good one."""
    folder = copy / "agents/agent_0"
    shutil.rmtree(folder)
    shutil.copytree(copy / "agents/agent_1", folder)
    assert check_agent(folder, keys / "ours.pub").startswith("signed by")


def test_the_signature_of_another_bundle_does_not_fit(copy: Path, keys: Path) -> None:
    """Both are signed with the trusted key; the other one is of another checkpoint."""
    old = (copy / "team.sig").read_bytes()
    rewrite(copy / "team.json", lambda team: team["source"].update(checkpoint_sha256="0" * 64))
    signature.sign(copy, signature.private_key(keys / "ours"))
    read_bundle(copy, keys / "ours.pub")
    (copy / "team.sig").write_bytes(old)
    with pytest.raises(AgentMixerError, match=r"is no signature of team\.json"):
        read_bundle(copy, keys / "ours.pub")


def test_what_is_not_listed_is_not_signed(copy: Path, keys: Path) -> None:
    flip(copy / "agents/agent_3/agent.json", 8 * 40)
    with pytest.raises(AgentMixerError, match=r"agent_3/agent\.json is not what was exported"):
        signature.sign(copy, signature.private_key(keys / "ours"))


def test_no_bit_of_a_signature_is_free(signed: Path, keys: Path, tmp_path: Path) -> None:
    data = (signed / "team.json").read_bytes()
    for bit in range(0, 512, 7):
        (tmp_path / "team.sig").write_bytes((signed / "team.sig").read_bytes())
        flip(tmp_path / "team.sig", bit)
        with pytest.raises(AgentMixerError, match="is no signature"):
            signature.check(
                Path("team.json"), data, Path("team.sig"), (tmp_path / "team.sig").read_bytes(), keys / "ours.pub"
            )


def test_the_private_key_is_its_owners_and_is_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        signature.generate(tmp_path / "key")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key.pub").stat().st_mode) == 0o644
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(AgentMixerError, match=r"key exists already, and a key is never overwritten"):
        signature.generate(tmp_path / "key")
    (tmp_path / "key").unlink()
    with pytest.raises(AgentMixerError, match=r"key\.pub exists already"):
        signature.generate(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentMixerError, match="link exists already"):
        signature.generate(tmp_path / "link")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["key.pub", "link"]
    assert b"PRIVATE KEY" in before


def test_what_is_no_key_is_named(keys: Path, tmp_path: Path) -> None:
    encrypted, curve, empty = tmp_path / "encrypted", tmp_path / "curve", tmp_path / "empty"
    key = ed25519.Ed25519PrivateKey.generate()
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    other = ec.generate_private_key(ec.SECP256R1())
    curve.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    empty.touch()
    for file in (keys / "ours.pub", encrypted, curve, empty):
        with pytest.raises(AgentMixerError, match=f"{file} is not an Ed25519 private key"):
            signature.private_key(file)
    for file in (keys / "ours", curve, empty):
        with pytest.raises(AgentMixerError, match=f"{file} is not an Ed25519 public key"):
            signature.public_key(file)
    with pytest.raises(AgentMixerError, match="nowhere is missing"):
        signature.public_key(tmp_path / "nowhere")
    with pytest.raises(AgentMixerError, match="more than 4,096 bytes, which is too large"):
        signature.public_key(_large(tmp_path / "large"))


def _large(file: Path) -> Path:
    file.write_bytes(bytes(5000))
    return file


def test_without_cryptography_only_keys_are_out_of_reach(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert check(signed, None) == "signed, not checked: no --trusted key given"
    assert read_agent(signed / "agents/agent_0").manifest.agent == "agent_0"
    for use in (lambda: check(signed, keys / "ours.pub"), lambda: signature.generate(keys / "third")):
        with pytest.raises(AgentMixerError, match=r"pip install 'agentmixer\[sign\]'"):
            use()


def test_keygen_signed_export_and_refused_rehearsal_from_the_command_line(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert "next: agentmixer export --sign agentmixer.key" in run(app, ["keygen"]).output
    assert run(app, ["keygen", "other"]).exit_code == 0
    made = run(app, ["export", str(trained.path), "--out", "bundle", "--sign", "agentmixer.key"])
    assert "signed with agentmixer.key" in made.output, made.output
    assert read_bundle(Path("bundle"), Path("agentmixer.key.pub"))
    for command in ("deploy-sim", "parity", "locality", "mutations", "isolation"):
        refused = run(app, [command, "bundle", "--trusted", "other.pub"])
        assert isinstance(refused.exception, AgentMixerError) and "is no signature" in str(refused.exception)
    assert not Path("bundle/reports").exists()
    with pytest.raises(AgentMixerError, match="not an Ed25519 private key"):
        export_run(trained, tmp_path / "never", sign=Path("other.pub"))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("what", ["team.sig", "agents/agent_0/agent.sig"])
@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "short"])
def test_without_a_key_what_is_no_signature_is_refused_all_the_same(copy: Path, what: str, kind: str) -> None:
    file = copy / what
    data = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "link":
        (copy.parent / "moved").write_bytes(data)
        file.symlink_to(copy.parent / "moved")
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.write_bytes(data[:63])
    with pytest.raises(AgentMixerError, match=r"is a link|not a regular file|a signature has 64 bytes"):
        read_bundle(copy)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o777])
def test_a_private_key_that_others_can_reach_is_not_used(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "key"
    signature.generate(key)
    signature.private_key(key)
    key.chmod(mode)
    with pytest.raises(AgentMixerError, match=r"read or changed by others than you.*chmod 600"):
        signature.private_key(key)


@pytest.mark.parametrize("writes", [1, 2])
def test_a_full_disk_leaves_no_half_a_key_pair(tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, iter(range(1, 9))

    def full(descriptor: int) -> None:
        if next(calls) == writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AgentMixerError, match=r"key cannot be written \(No space left on device\)"):
        signature.generate(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
    signature.generate(tmp_path / "key")


def test_a_device_is_held_to_its_team_and_release(trained: Run, copy: Path, keys: Path, tmp_path: Path) -> None:
    """Everything is signed by the same key: another team's agent of the same name, and an older release, are not."""
    own = Path(shutil.copy(keys / "ours.pub", tmp_path / "device.pub"))
    folder, run = copy / "agents/agent_0", CliRunner().invoke

    def released(team_id: str, release: int) -> None:
        for file in (copy / "team.json", *copy.glob("agents/*/agent.json")):
            rewrite(file, lambda manifest: manifest.update(team_id=team_id, release=release))
        for agent in copy.glob("agents/*"):
            digest = sha256((agent / "agent.json").read_bytes())
            rewrite(copy / "team.json", lambda team, n=agent.name, d=digest: team["agents"][n].update(sha256=d))
        signature.sign(copy, signature.private_key(keys / "ours"))

    released("warehouse", 3)
    assert run(app, ["pin", str(own), "--team", "warehouse", "--release", "3"]).exit_code == 0
    for release in (3, 4):
        released("warehouse", release)
        assert Agent.load(folder, own, "agent_0").manifest.release == release
        assert read_bundle(copy, own).team.release == release
        assert run(app, ["verify", str(folder), "--trusted", str(own)]).exit_code == 0
    for team_id, release in (("warehouse", 2), ("warehouse", 0), ("other", 9)):
        released(team_id, release)
        for read in (lambda: read_bundle(copy, own), lambda: Agent.load(folder, own, "agent_0")):
            with pytest.raises(
                AgentMixerError, match=rf"is of team {team_id}, release {release}, but the key .* is pinned"
            ):
                read()
        result = run(app, ["verify", str(copy), "--trusted", str(own)])
        assert result.exit_code == 1
        assert "FAILED   team     pin" in result.output
        assert read_bundle(copy, keys / "ours.pub").team.team_id == team_id  # where nothing is pinned
        assert read_bundle(copy).team.release == release


def test_a_pin_is_only_raised_and_never_guessed(keys: Path, tmp_path: Path, copy: Path) -> None:
    own = Path(shutil.copy(keys / "ours.pub", tmp_path / "device.pub"))
    signature.pin(own, "warehouse", 3)
    signature.pin(own, "warehouse", 5)
    for team_id, release in (("warehouse", 4), ("other", 6)):
        with pytest.raises(AgentMixerError, match="pins team warehouse from release 5 on; a pin is only raised"):
            signature.pin(own, team_id, release)
    assert signature.read_pin(own) == signature.Pin("warehouse", 5)
    for wrong in (("a/b", 1), ("x", -1), ("x", 1 << 31), ("x\n", 1)):
        with pytest.raises(AgentMixerError, match="cannot be pinned"):
            signature.pin(Path(shutil.copy(own, tmp_path / "new.pub")), *wrong)
    with pytest.raises(AgentMixerError, match="not an Ed25519 public key"):
        signature.pin(keys / "ours", "warehouse", 1)
    for damage in (b"", b"{}", b'{"team_id": "warehouse"}', b"\xff"):  # a pin that cannot be read is not left out
        signature.pin_file(own).write_bytes(damage)
        with pytest.raises(AgentMixerError, match="is not a pin"):
            read_bundle(copy, own)


def test_what_a_team_and_its_release_may_be() -> None:
    for wrong in (("a b", 0), ("", 0), ("x" * 65, 0), ("x", -1), ("x", 1 << 31)):
        with pytest.raises(AgentMixerError, match="cannot stand in a bundle"):
            checked_team(*wrong)
    assert checked_team("warehouse", 7) == ("warehouse", 7)
