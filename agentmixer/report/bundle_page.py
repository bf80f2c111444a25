"""The page of a bundle: the verdict, then each proof with its figures."""

from __future__ import annotations

from agentmixer.report.page import Section
from agentmixer.runtime.bundle import Bundle


def sections(bundle: Bundle) -> tuple[Section, ...]:
    """Everything under the headline, in order."""
    return ()
