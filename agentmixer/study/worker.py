"""What a training process of `compare` does before it imports what takes seconds. This module imports next to nothing."""

from __future__ import annotations

import os
import signal


def begin() -> None:
    """Take a session of one's own: a terminal's Ctrl-C is for `compare`, which passes it on.

    The process begins with that signal blocked. From here on it ends the process at once and without a word, until the
    trainer takes it for a request to stop after the current update."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
