"""Ed25519 signatures over a bundle's manifests, which hold the digests of everything else.

Two kinds of files: `team.sig` in the bundle, over team.json, and `agent.sig` in each agent's folder, over its
agent.json, so that a device that has one folder only can check that. Each is the 64 bytes of the signature. A prefix
says what was signed: a signature over one kind of manifest is never one over the other.

A key says who made a bundle, not which one it is: a team mate's folder, another team's and an older one are signed by
the same key. A device that knows its team keeps a pin beside the key (`KEY.pub.pin`, see `Pin`), and wherever the key is
asked for, the pin holds too.

Needs `cryptography`, which the base install does not bring; it is imported only where a key is used.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agentmixer.contract.manifest import AGENT_FILE, TEAM_FILE, AgentManifest, Release, TeamManifest, decode, sha256
from agentmixer.contract.spec import Name
from agentmixer.errors import AgentMixerError
from agentmixer.files import beside, read_regular, write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = "team.sig"
AGENT_SIGNATURE_FILE = "agent.sig"
PUBLIC_SUFFIX = ".pub"
#: What precedes a manifest's bytes in what is signed.
TEAM_PREFIX = b"agentmixer team.json 1\x00"
AGENT_PREFIX = b"agentmixer agent.json 1\x00"

PIN_SUFFIX = ".pin"
#: Bytes of a signature.
LENGTH = 64
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

    Returns the public key's fingerprint. Raises AgentMixerError if either file exists or cannot be written; then
    neither is left."""
    serialization, ed25519 = _cryptography()
    public_path = beside(path, PUBLIC_SUFFIX)
    for file in (path, public_path):
        if os.path.lexists(file):
            raise AgentMixerError(f"{file} exists already, and a key is never overwritten; choose another name")
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        write_whole(public_path, public, 0o644, replace=False)
        try:
            write_whole(path, private, 0o600, replace=False)
        except BaseException:
            public_path.unlink()
            raise
    except OSError as error:
        raise AgentMixerError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    return fingerprint(key.public_key())


def private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file that `generate` wrote.

    Raises AgentMixerError if it is missing or something else, or if others than its owner can read or change it."""
    serialization, ed25519 = _cryptography()
    wanted = f"{path} is not an Ed25519 private key without a password; make one: agentmixer keygen"
    try:
        key = serialization.load_pem_private_key(_key(path), password=None)
    except (ValueError, TypeError) as error:
        raise AgentMixerError(wanted) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise AgentMixerError(wanted)
    found = os.lstat(path)
    if found.st_mode & 0o077 or found.st_uid not in (os.geteuid(), 0):
        raise AgentMixerError(
            f"{path} can be read or changed by others than you, so it may not be yours alone any more; if it is: "
            f"chmod 600 {shlex.quote(str(path))}"
        )
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a file that `generate` wrote. Raises AgentMixerError if it is missing or something else."""
    serialization, ed25519 = _cryptography()
    wanted = f"{path} is not an Ed25519 public key; give the {PUBLIC_SUFFIX} file that agentmixer keygen wrote"
    try:
        key = serialization.load_pem_public_key(_key(path))
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


def check(signed: Path, data: bytes, file: Path, signature: bytes | None, trusted: Path | None) -> str:
    """Judge a manifest's signature. signed, data: team.json or agent.json and the very bytes of it that will be used;
    file, signature: team.sig or agent.sig and its bytes, None if it is not there.

    trusted: file of the public key that must have signed it; without one nothing is demanded, but what is there must be
    as long as a signature. Returns "signed by <fingerprint>", "unsigned" or "signed, not checked: no --trusted key given".
    Raises AgentMixerError if a key is given and the signature is missing, damaged, over something else or by another
    key, or if the key is none."""
    if signature is not None and len(signature) != LENGTH:
        raise AgentMixerError(f"{file} is damaged: a signature has {LENGTH} bytes; copy or export the bundle again")
    if trusted is None:
        return "unsigned" if signature is None else "signed, not checked: no --trusted key given"
    key = public_key(trusted)
    if signature is None:
        raise AgentMixerError(
            f"{signed} is not signed (there is no {file.name}), but a signature by {trusted} is asked for; get the "
            "signed bundle, or export with --sign"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, (TEAM_PREFIX if signed.name == TEAM_FILE else AGENT_PREFIX) + data)
    except InvalidSignature as error:
        raise AgentMixerError(
            f"{file} is no signature of {signed.name} by {trusted} ({fingerprint(key)}): another key signed it, or one "
            "of the two was changed; do not use it, get the bundle again from its maker"
        ) from error
    return f"signed by {fingerprint(key)}"


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """KEY.pub.pin, as JSON: the team that a device is of, and the lowest release of it that the device accepts."""

    team_id: Name
    lowest_release: Release


def pin_file(trusted: Path) -> Path:
    """Where the pin of a public key is kept. Raises AgentMixerError if the path is no file's."""
    return beside(trusted, PIN_SUFFIX)


def read_pin(trusted: Path) -> Pin | None:
    """What is pinned for a public key, None if nothing is. Raises AgentMixerError if the pin cannot be read."""
    file = pin_file(trusted)
    if not os.path.lexists(file):
        return None
    try:
        return msgspec.json.decode(_key(file), type=Pin)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AgentMixerError(
            f"{file} is not a pin ({error}); remove it and pin again: agentmixer pin {shlex.quote(str(trusted))}"
        ) from error


def pin(trusted: Path, team_id: str, lowest_release: int) -> None:
    """Pin a team for a public key. Raises AgentMixerError if the key is none, another team or a higher release is
    pinned already, or the pin cannot be what it should."""
    public_key(trusted)
    try:
        wanted = msgspec.convert({"team_id": team_id, "lowest_release": lowest_release}, Pin)
    except msgspec.ValidationError as error:
        raise AgentMixerError(
            f"team '{team_id}', release {lowest_release} cannot be pinned; a team's name has 1 to 64 letters, digits, _ and -, "
            "and a release is a number from 0 to 2,147,483,647"
        ) from error
    before = read_pin(trusted)
    if before and (before.team_id != wanted.team_id or before.lowest_release > wanted.lowest_release):
        raise AgentMixerError(
            f"{pin_file(trusted)} pins team {before.team_id} from release {before.lowest_release} on; a pin is only "
            "raised, so remove that file first if this is meant"
        )
    write_whole(pin_file(trusted), msgspec.json.encode(wanted) + b"\n", 0o644)


def pinned_for(trusted: Path | None) -> Pin | None:
    """What is pinned for the key that is asked for, if one is."""
    return read_pin(trusted) if trusted else None


def check_pin(manifest: AgentManifest | TeamManifest, place: Path, pinned: Pin | None) -> str:
    """Hold a manifest to a pin. Returns what it is, in words.

    Raises AgentMixerError if it is of another team than the pinned one or of an older release."""
    found = f"team {manifest.team_id}, release {manifest.release}"
    if pinned and (manifest.team_id != pinned.team_id or manifest.release < pinned.lowest_release):
        raise AgentMixerError(
            f"{place} is of {found}, but the key that is asked for is pinned to team {pinned.team_id} from release "
            f"{pinned.lowest_release} on; get the right bundle, or see agentmixer pin"
        )
    return found + (", as pinned" if pinned else "")


def _key(path: Path) -> bytes:
    return read_regular(path, _LARGEST_KEY, links=None, again="say where the file is")
