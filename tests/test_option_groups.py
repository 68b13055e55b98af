"""Options of a verb as one object: which options the verb gets, their defaults, and what it receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from advreg.cli.option_groups import with_groups

SEEN: list[object] = []


@dataclass(frozen=True)
class Size:
    """A group of options."""

    width: Annotated[int, typer.Option(help="The width.")] = 1
    height: Annotated[int, typer.Option(help="The height.")] = 2
    depth: Annotated[int, typer.Option(help="The depth.")] = 3


@with_groups(omit=("depth",), required=("width",), height=5)
def draw(name: Annotated[str, typer.Argument()], *, size: Size, colour: str = "red") -> None:
    """Draw."""
    SEEN.append((name, size, colour))


def run(*words: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(draw)
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_fields_become_options_with_defaults_of_the_verb() -> None:
    SEEN.clear()
    assert run("a", "--width", "7") == (0, "")
    assert run("a", "--width", "7", "--height", "8", "--colour", "blue") == (0, "")
    assert [("a", Size(7, 5), "red"), ("a", Size(7, 8), "blue")] == SEEN


def test_required_and_omitted_fields_are_rejected() -> None:
    for words, problem in ((("a",), "--width"), (("a", "--width", "7", "--depth", "9"), "--depth")):
        status, output = run(*words)
        assert status == 2
        assert problem in output
