"""The command line. ``advreg --help`` imports no torch: verbs import what they need when they run."""

from __future__ import annotations

import sys

from advreg.errors import AdvregError

_INTERRUPTED = 130


def main() -> None:
    """Run the command line: status 0 done, 1 a gate or a check refused, 2 wrong use (one line, no traceback)."""
    try:
        from advreg.cli.app import app

        app()
    except AdvregError as error:
        print(f"advreg: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if getattr(end, "code", _INTERRUPTED) != _INTERRUPTED:
            raise
        print(  # typer makes status 130 of Ctrl-C, and says nothing
            "\nadvreg: interrupted; what was finished is kept, and the same command (train: with --resume) goes on",
            file=sys.stderr,
        )
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(141)
