"""The command line. ``advreg --help`` imports no torch: verbs import what they need when they run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import typer

from advreg.errors import AdvregError

_INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    The exit status is 0 for success, 1 where a gate or a check failed, 2 for wrong use (one line, no traceback), and 130 after
    Ctrl-C.
    """
    try:
        from advreg.cli.app import app

        status = app(prog_name="advreg", standalone_mode=False)
    except AdvregError as error:
        print(f"advreg: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors of use have one, and no public class
            raise
        print(_wrong_use(error), end="", file=sys.stderr)
        sys.exit(2)
    if status == _INTERRUPTED:  # typer turns Ctrl-C into a status without a message
        told = "\nadvreg: interrupted; finished work is saved, continue with:"
        print(told, continuation(sys.argv[1:]), file=sys.stderr)
    sys.exit(status)


def continuation(words: Sequence[str]) -> str:
    """Return the command that continues an interrupted one: trainings need ``--resume``, the others continue by themselves.

    Args:
        words: arguments of the interrupted command.

    Returns:
        The command.

    Example:
        >>> continuation(["train", "run.toml"]), continuation(["evaluate", "runs/my net"])
        ('advreg train run.toml --resume', "advreg evaluate 'runs/my net'")
    """
    trains = "train" in words[:2] and "--resume" not in words
    return shlex.join(["advreg", *words, *(["--resume"] if trains else [])])


def _wrong_use(error: Exception) -> str:
    """Return an error of use as one line with the command that helps; nothing where typer has printed the help itself."""
    message = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    if not message:
        return ""
    end = "" if message.endswith((".", "?")) else "."
    return f"advreg: {message}{end} See {error.ctx.command_path} --help\n"  # type: ignore[attr-defined]
