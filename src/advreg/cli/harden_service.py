"""The verbs of ``advreg harden`` for the service, its tokens and its reviewers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Annotated

import typer

from advreg.cli.harden_options import HOME, HomeOption, Json, choose, open_store, open_workspace

app = typer.Typer()
tokens = typer.Typer(help="Bearer tokens of the service.", no_args_is_help=True)


@tokens.command("add")
def add_token(
    name: Annotated[str, typer.Argument(help="Name of its owner.")],
    role: Annotated[str, typer.Option(help="submit, review or admin.")],
    tier: Annotated[str, typer.Option(help="internal, customer or anonymous.")] = "customer",
    relay: Annotated[bool, typer.Option("--relay", help="May submit on behalf of others.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it to this new file, for its owner alone.")] = None,
    home: HomeOption = HOME,
) -> None:
    """Create a token and print it, or write it to a file; it cannot be shown again."""
    from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue

    bearer = ApiToken(name, Role(choose(role, list(Role), "role")), Tier(choose(tier, list(Tier), "tier")), relay)
    store = open_store(home)
    if out is None:
        typer.echo(issue(store, bearer))
        return
    with _new_private_file(out) as file:
        file.write(issue(store, bearer) + "\n")
    typer.echo(f"{name}: its token is in {out}")


@tokens.command("list")
def list_tokens(home: HomeOption = HOME) -> None:
    """List the tokens by name."""
    import sqlalchemy as sa

    from advreg.hardening.store.tables import tokens as table

    with open_store(home).reading() as db:
        for row in db.execute(sa.select(table).order_by(table.c.name)).mappings():
            state = "revoked" if row["revoked"] else "relay" if row["relay"] else ""
            typer.echo(f"{row['name']:>24}  {row['role']}  {row['tier']}  {state}".rstrip())


@tokens.command("revoke")
def revoke_token(name: Annotated[str, typer.Argument(help="Name of the token.")], home: HomeOption = HOME) -> None:
    """Revoke a token."""
    from advreg.hardening.store import tokens as store_tokens

    store_tokens.revoke_token(open_store(home), name)
    typer.echo(f"{name}: revoked; a running service forgets it within seconds")


@app.command()
def serve(
    home: HomeOption = HOME,
    host: Annotated[
        str, typer.Option(help="Address to listen on; put TLS in front of any other than this one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8471,
) -> None:
    """Collect examples beside the model server, and show them to reviewers at /review."""
    from advreg.hardening.service.server import run_server

    opened = open_workspace(home)
    typer.echo(f"listening on http://{host}:{port}, reviews at /review", err=True)
    run_server(opened.store(), opened.service_options(), opened.connection_limits(), host, port)


@app.command("seed")
def hide_known(
    count: Annotated[int, typer.Option(min=1, help="Number of known examples.")] = 20,
    known: Annotated[
        Path | None,
        typer.Option(help="npz with images and labels, or JSON lines with text and label; default: trusted images."),
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Hide known examples in the review queue; `advreg harden reviewers` counts the errors on them."""
    from advreg.errors import HardeningError
    from advreg.hardening.known_examples import known_images, known_texts, seed_known

    opened = open_workspace(home)
    options = opened.service_options()
    file = known or options.neighbours
    if file is None:
        raise HardeningError("there are no trusted examples with labels here; give a file with --known")
    read = known_texts if options.medium.name == "texts" else known_images
    new = seed_known(opened.store(), read(file, count), options.medium, options.limits)
    typer.echo(f"{new} known examples wait among the others; none of them is trained on")


@app.command()
def prune(home: HomeOption = HOME) -> None:
    """Delete bytes past service.keep_days, blobs without an example, and temporary files."""
    from advreg.hardening.retention import prune as prune_store

    opened = open_workspace(home)
    found = prune_store(opened.store(), opened.config.service.keep_days, home=opened.folder.path)
    typer.echo(
        f"deleted {found.bytes} bytes: {found.examples} old examples, {found.orphans} blobs without an example, "
        f"{found.temporary} temporary files"
    )


@app.command()
def reviewers(home: HomeOption = HOME, as_json: Json = False) -> None:
    """List each reviewer's reviews, errors on known examples, and agreement with other reviewers."""
    from dataclasses import asdict

    from advreg.hardening.known_examples import reviewer_quality

    with open_store(home).reading() as db:
        found = reviewer_quality(db)
    if as_json:
        typer.echo(json.dumps({"reviewers": [asdict(one) for one in found]}))
        return
    for one in found:
        low, high = one.error_interval
        typer.echo(
            f"{one.reviewer:>24}  {one.reviews} reviews  wrong on {one.errors} of {one.known} known ones "
            f"({low:.1%} to {high:.1%})  agrees with others on {one.agreed} of {one.pairs}"
        )


def _new_private_file(path: Path) -> IO[str]:
    from advreg.errors import ConfigError

    try:
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w")
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be created: {error.strerror}; give a new file") from error
