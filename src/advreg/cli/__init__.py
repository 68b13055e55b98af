"""The command line. ``advreg --help`` imports no torch: verbs import what they need when they run."""

from __future__ import annotations

import sys

from advreg.errors import AdvregError

_INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    The exit status is 0 for success, 1 where a gate or a check failed, 2 for wrong use (one line, no traceback), and 130 after
    Ctrl-C.
    """
    try:
        from advreg.cli.app import app

        app()
    except AdvregError as error:
        print(f"advreg: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if getattr(end, "code", _INTERRUPTED) != _INTERRUPTED:
            raise
        print(  # typer turns Ctrl-C into status 130 without a message
            "\nadvreg: interrupted; finished work is saved, and the same command (train: with --resume) continues it",
            file=sys.stderr,
        )
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(141)
