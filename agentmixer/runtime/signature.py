"""Ed25519 signatures over a bundle's manifests, which hold the digests of everything else.

Two kinds of files: `team.sig` in the bundle, over team.json, and `agent.sig` in each agent's folder, over its
agent.json, so that a device that has one folder only can check that. Each is the 64 bytes of the signature. A prefix
says what was signed: a signature over one kind of manifest is never one over the other.

Needs `cryptography`, which the base install does not bring; it is imported only where a key is used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentmixer.contract.manifest import AGENT_FILE, TEAM_FILE, AgentManifest, TeamManifest, decode, sha256
from agentmixer.errors import AgentMixerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = "team.sig"
AGENT_SIGNATURE_FILE = "agent.sig"
PUBLIC_SUFFIX = ".pub"
#: What precedes a manifest's bytes in what is signed.
TEAM_PREFIX = b"agentmixer team.json 1\x00"
AGENT_PREFIX = b"agentmixer agent.json 1\x00"

_LENGTH = 64
#: A PEM file of an Ed25519 key is about 120 bytes; nothing larger is read.
_LARGEST_KEY = 4096


def _cryptography() -> tuple[Any, Any]:
    """The two modules in use. Raises AgentMixerError saying how to install them."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise AgentMixerError(
            "keys and signatures need 'cryptography', which is not installed; pip install 'agentmixer[sign]'"
        ) from error
    return serialization, ed25519


def generate(path: Path) -> str:
    """Make a key pair: the private key at `path` (PEM, PKCS #8, mode 0600), the public one at `path`.pub (PEM).

    Returns the public key's fingerprint. Raises AgentMixerError if either file exists or cannot be written."""
    serialization, ed25519 = _cryptography()
    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    for file in (path, public_path):
        if os.path.lexists(file):
            raise AgentMixerError(f"{file} exists already, and a key is never overwritten; choose another name")
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        _create(path, private, 0o600)
        _create(public_path, public, 0o644)
    except OSError as error:
        raise AgentMixerError(f"{error.filename} cannot be written ({error.strerror}); choose another place") from error
    return fingerprint(key.public_key())


def _create(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file that `generate` wrote. Raises AgentMixerError if it is missing or something else."""
    serialization, ed25519 = _cryptography()
    wanted = f"{path} is not an Ed25519 private key without a password; make one: agentmixer keygen"
    try:
        key = serialization.load_pem_private_key(_read(path, _LARGEST_KEY), password=None)
    except (ValueError, TypeError) as error:
        raise AgentMixerError(wanted) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise AgentMixerError(wanted)
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a file that `generate` wrote. Raises AgentMixerError if it is missing or something else."""
    serialization, ed25519 = _cryptography()
    wanted = f"{path} is not an Ed25519 public key; give the {PUBLIC_SUFFIX} file that agentmixer keygen wrote"
    try:
        key = serialization.load_pem_public_key(_read(path, _LARGEST_KEY))
    except ValueError as error:
        raise AgentMixerError(wanted) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise AgentMixerError(wanted)
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Short name of a public key: the first 128 bits of the SHA-256 of its 32 bytes, hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def sign(bundle: Path, key: Ed25519PrivateKey) -> None:
    """Write team.sig, and agent.sig into every agent's folder.

    Raises AgentMixerError if an agent.json is not the one that team.json lists."""
    data = (bundle / TEAM_FILE).read_bytes()
    team = decode(data, TeamManifest, bundle / TEAM_FILE)
    for entry in team.agents.values():
        folder = bundle / entry.folder
        agent = (folder / AGENT_FILE).read_bytes()
        if sha256(agent) != entry.sha256:
            raise AgentMixerError(f"{folder / AGENT_FILE} is not what was exported (its SHA-256 differs); export again")
        (folder / AGENT_SIGNATURE_FILE).write_bytes(key.sign(AGENT_PREFIX + agent))
    (bundle / SIGNATURE_FILE).write_bytes(key.sign(TEAM_PREFIX + data))


def check(bundle: Path, team_bytes: bytes, trusted: Path | None) -> str:
    """Judge a bundle's signature over `team_bytes`, the very bytes of team.json that will be used.

    trusted: file of the public key that must have signed it; without one nothing is demanded. Returns "signed by
    <fingerprint>", "unsigned" or "signed, not checked: no --trusted key given". Raises AgentMixerError if a key is
    given and the signature is missing, damaged, over something else or by another key, or if the key is none."""
    return _check(bundle / SIGNATURE_FILE, TEAM_PREFIX + team_bytes, bundle / TEAM_FILE, trusted)


def check_agent(folder: Path, agent_bytes: bytes, trusted: Path | None, name: str | None = None) -> str:
    """Judge one agent's signature over `agent_bytes`, the bytes of its agent.json; all else as in `check`.

    name: which agent this must be. The signature of another member of the same team is as good as its own, so a
    device that knows who it is says so. Raises AgentMixerError as well if it is another one."""
    result = _check(folder / AGENT_SIGNATURE_FILE, AGENT_PREFIX + agent_bytes, folder / AGENT_FILE, trusted)
    if name is not None:
        found = decode(agent_bytes, AgentManifest, folder / AGENT_FILE).agent
        if found != name:
            raise AgentMixerError(f"{folder} holds agent {found}, not {name}; copy the folder of {name} here")
    return result


def _check(file: Path, message: bytes, signed: Path, trusted: Path | None) -> str:
    present = os.path.lexists(file)
    if trusted is None:
        return "signed, not checked: no --trusted key given" if present else "unsigned"
    key = public_key(trusted)
    if not present:
        raise AgentMixerError(
            f"{signed} is not signed (there is no {file.name}), but a signature by {trusted} is asked for; get the "
            "signed bundle, or export with --sign"
        )
    signature = _read(file, _LENGTH)
    if len(signature) != _LENGTH:
        raise AgentMixerError(f"{file} is damaged: a signature has {_LENGTH} bytes; copy or export the bundle again")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature as error:
        raise AgentMixerError(
            f"{file} is no signature of {signed.name} by {trusted} ({fingerprint(key)}): another key signed it, or one "
            "of the two was changed; do not use it, get the bundle again from its maker"
        ) from error
    return f"signed by {fingerprint(key)}"


def _read(path: Path, limit: int) -> bytes:
    """A small regular file, which no link leads to. Raises AgentMixerError if it is not that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise AgentMixerError(f"{path} is not a regular file; copy it again")
            data = os.read(descriptor, limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AgentMixerError(f"{path} cannot be read ({error.strerror}); say where the file is") from error
    if len(data) > limit:
        raise AgentMixerError(f"{path} is too large to be a key or a signature (over {limit} bytes); copy it again")
    return data
