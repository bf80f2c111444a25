"""Signatures of bundles. This build writes and checks none."""

from __future__ import annotations

from pathlib import Path

from agentmixer.errors import AgentMixerError

SIGNATURE_FILE = "team.sig"
AGENT_SIGNATURE_FILE = "agent.sig"


def check(bundle: Path, team_bytes: bytes, trusted: Path | None) -> str:
    """Judge a bundle's signature. Raises AgentMixerError if a key is given."""
    return _check(bundle / SIGNATURE_FILE, trusted)


def check_agent(folder: Path, agent_bytes: bytes, trusted: Path | None, name: str | None = None) -> str:
    """Judge the signature in one agent's folder. Raises AgentMixerError if a key is given."""
    return _check(folder / AGENT_SIGNATURE_FILE, trusted)


def _check(file: Path, trusted: Path | None) -> str:
    if trusted is not None:
        raise AgentMixerError(f"{file} cannot be checked by this build; leave out --trusted")
    return "signed, not checked: no --trusted key given" if file.exists() else "unsigned"
