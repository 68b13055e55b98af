"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from advreg.plugins import trusting


def _trust(context: typer.Context, allowed: bool) -> bool:
    """Let the verb import code that files name, until it ends."""
    context.with_resource(trusting(allowed))
    return allowed


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        envvar="ADVREG_TRUST_CODE",
        callback=_trust,
        help="Import and call the code (pkg.module:factory) that files of a run name; only for runs of your own.",
    ),
]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.epochs=3; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
