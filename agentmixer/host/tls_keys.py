"""Certificates for a team's devices and their host: a small certificate authority of the team's own.

    KEYS/authority/   ca.pem, key.pem    makes certificates; stays with whoever made it
    KEYS/host/        ca.pem, cert.pem, key.pem    for the machine that runs deploy-sim --devices
    KEYS/agent_0/     ca.pem, cert.pem, key.pem    for agent_0's device, and so on

A certificate of an agent names the agent and is for answering alone; the host's names `host` and is for calling alone.
Needs `cryptography`; a device does not.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agentmixer.contract.spec import Name
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular, write_whole
from agentmixer.runtime.tls import CA_FILE, CERTIFICATE_FILE, HOST, KEY_FILE

AUTHORITY = "authority"
#: Certificates hold from this long before they are made, so that a device whose clock lags accepts them.
LAG = datetime.timedelta(days=2)
#: Days that certificates hold unless told.
DAYS = 365
_LARGEST = 1 << 16


class Made(NamedTuple):
    """Folders with certificates that are new, those that were there before, and until when the new ones hold."""

    new: tuple[Path, ...]
    old: tuple[Path, ...]
    until: datetime.datetime


def make(folder: Path, agents: Sequence[str], days: int = DAYS) -> Made:
    """A folder for the host and one for each agent; the authority is made where there is none.

    A folder that is there is left as it is: remove it to have a new certificate made. days: how long the new ones hold.
    Raises AgentMixerError if a name cannot be a folder's, the authority's files are not usable, or nothing can be written."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise AgentMixerError(
            "certificates need 'cryptography', which is not installed; pip install 'agentmixer[sign]'"
        ) from error
    for name in agents:
        _checked(name)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    begin, until = now - LAG, now + datetime.timedelta(days=days)

    def named(name: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def pem(key: Any) -> bytes:
        return bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def certified(name: str, key: Any, issuer: Any, signing: Any, until: datetime.datetime, *extensions: Any) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(signing, hashes.SHA256())

    def usage(authority: bool) -> Any:
        others = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **others)

    authority = folder / AUTHORITY
    if not os.path.lexists(authority):
        key = ec.generate_private_key(ec.SECP256R1())
        # The authority outlives what it certifies; only its own folder can make more.
        constraints = (x509.BasicConstraints(ca=True, path_length=0), True)
        title = "AgentMixer team authority"
        own = certified(
            title, key, named(title), key, until + datetime.timedelta(days=3650), constraints, (usage(True), True)
        )
        _write(authority, {CA_FILE: own.public_bytes(serialization.Encoding.PEM), KEY_FILE: pem(key)})
    again = f"remove {folder} and make all certificates anew"
    ca = read_regular(authority / CA_FILE, _LARGEST, again=again)
    try:
        issuer = x509.load_pem_x509_certificate(ca)
        signing = serialization.load_pem_private_key(read_regular(authority / KEY_FILE, _LARGEST, again=again), None)
    except ValueError as error:
        raise AgentMixerError(f"{authority} holds no certificate authority that can be used; {again}") from error
    new: list[Path] = []
    old: list[Path] = []
    for name in (HOST, *agents):
        place = folder / name
        if os.path.lexists(place):
            old.append(place)
            continue
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if name == HOST else ExtendedKeyUsageOID.SERVER_AUTH
        made = certified(
            name, key, issuer.subject, signing, until,
            (x509.BasicConstraints(ca=False, path_length=None), True), (usage(False), True),
            (x509.ExtendedKeyUsage([purpose]), True), (x509.SubjectAlternativeName([x509.DNSName(name)]), True),
        )  # fmt: skip
        _write(
            place, {CA_FILE: ca, CERTIFICATE_FILE: made.public_bytes(serialization.Encoding.PEM), KEY_FILE: pem(key)}
        )
        new.append(place)
    return Made(tuple(new), tuple(old), until)


def _checked(name: str) -> None:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        raise AgentMixerError(f"'{name}' is no name of an agent; a name has letters, digits, - and _") from error
    if name in (HOST, AUTHORITY):
        raise AgentMixerError(
            f"an agent called '{name}' would share its folder with the {name}'s own; rename the agent"
        )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """A folder that its owner alone can read."""
    try:
        folder.mkdir(mode=0o700, parents=True)
        for name, data in files.items():
            write_whole(folder / name, data, 0o600, replace=False)
    except OSError as error:
        raise AgentMixerError(f"{folder} cannot be written ({error.strerror}); choose another place") from error
