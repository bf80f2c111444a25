"""`agentmixer`: begins a command, and ends it with its exit code.

Little is imported before `main` runs: whoever stops a command while the rest is still loaded gets a line, not a traceback."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line. Exit codes: 0 as promised, 1 a failed verdict, 2 bad input, and 128 + the signal that
    interrupted: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
    signals = _Signals()
    try:
        from agentmixer_cli.app import run

        code = run(sys.argv[1:] or ["--help"])
    except KeyboardInterrupt:  # while that was loaded
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    finally:
        signals.restore()
    sys.exit(signals.exit_code if code == 128 + signal.SIGINT else code)


class _Signals:
    """SIGTERM and SIGHUP, while a command runs, do what Ctrl-C does, but for the exit code. Either is left alone where
    somebody has told this process to ignore it (nohup).

    An interruption that Python cannot raise, since it comes in a finalizer or in a callback of the garbage collector, is
    raised a moment later."""

    def __init__(self) -> None:
        self.exit_code = 128 + signal.SIGINT
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self._old = {}
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                try:
                    self._old[number] = signal.signal(number, self._interrupt)
                except ValueError:  # only the main thread may handle signals
                    break

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        signal.raise_signal(signal.SIGINT)

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            from threading import Timer

            Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            self._hook(what)

    def restore(self) -> None:
        """As it was before."""
        sys.unraisablehook = self._hook
        for number, handler in self._old.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
