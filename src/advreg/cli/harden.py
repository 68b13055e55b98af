"""The verbs of ``advreg harden``: harden a model in production against the attacks that it meets."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import harden_service
from advreg.cli.harden_options import HOME, HomeOption, Json, open_store, open_workspace
from advreg.cli.options import TrustCode

app = typer.Typer(
    help="Collect attacks from production, review, retrain, evaluate, promote, roll back.", no_args_is_help=True
)
app.add_typer(harden_service.tokens, name="token")
app.add_typer(harden_service.app)


@app.command()
def init(
    home: Annotated[Path, typer.Argument(help="New folder of the loop.")],
    base: Annotated[Path, typer.Option(help="Run folder of the deployed model, which is trusted.")],
    attack: Annotated[
        list[str] | None, typer.Option(help="linf:8/255, l2:1, spatial:DEGREES:PIXELS, patch:SIZE; repeat for several.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as caps.total=0.02.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Create a workspace for a deployed model."""
    from advreg.hardening.config import HardeningConfig
    from advreg.hardening.secrets_in_urls import require_no_password
    from advreg.hardening.workspace import create_workspace

    os.umask(0o077)  # the workspace is for its owner alone
    require_no_password(changes or [])
    config = HardeningConfig().replace_with(changes or [])
    config = config.replace_with({"attacks": attack}) if attack else config
    create_workspace(home, base, config)
    typer.echo(f"home: {home}\nnext: advreg harden token add NAME --role submit --home {home}")


@app.command()
def step(
    home: HomeOption = HOME,
    every: Annotated[str, typer.Option(metavar="1h", help="Repeat for ever, every 30s, 10m, 1h or 1d.")] = "",
    trust_code: TrustCode = False,
) -> None:
    """Run every stage that is due, once: admit, retrain, evaluate, promote. Safe from cron, and twice at once."""
    from advreg.hardening.cycle import run_cycle as tick
    from advreg.hardening.lease import Busy
    from advreg.hardening.store import StoreDown

    pause = _seconds(every)
    while True:
        try:
            if not tick(open_workspace(home), say=typer.echo).lines:
                typer.echo("nothing to do")
        except Busy as error:
            typer.echo(str(error), err=True)
        except StoreDown as error:
            if not pause:
                raise
            typer.echo(f"advreg: {error}", err=True)
        if not pause:
            return
        time.sleep(pause)


@app.command()
def challenge(
    run: Annotated[Path, typer.Argument(help="Run folder of a language model, evaluated as the champion was.")],
    snapshot: Annotated[
        str | None, typer.Option(help="What it was trained on; the newest snapshot if left out.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Hand in a challenger in a home that keeps texts; the next step compares it with the champion."""
    from advreg.hardening.texts.challenge import hand_in as hand_in

    version = hand_in(open_workspace(home), run, snapshot=snapshot)
    typer.echo(f"{version} is handed in\nnext: advreg harden step --home {home}")


@app.command()
def gate(
    champion: Annotated[Path, typer.Argument(help="Run folder of the deployed model.")],
    challenger: Annotated[Path, typer.Argument(help="Run folder of the one to replace it.")],
    protocol: Annotated[str | None, typer.Option(help="Id of the protocol, where the runs hold several.")] = None,
    clean_margin: Annotated[float, typer.Option(help="Accepted loss of clean accuracy.")] = 0.01,
    slice_margin: Annotated[float, typer.Option(help="Accepted loss on each guarded slice.")] = 0.05,
    alpha: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05,
    guard: Annotated[list[int] | None, typer.Option(metavar="CLASS", help="Guard a class separately; repeat.")] = None,
    slices: Annotated[Path | None, typer.Option(help="JSON file: name of a slice -> example ids.")] = None,
    waive: Annotated[list[str] | None, typer.Option(metavar="EXAMPLE", help="An incident it may get wrong.")] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="Required evidence, such as diagnosis, incidents, drift.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Decide whether a challenger may replace the champion: status 0 promote, 1 rejected; writes decision.json."""
    from advreg.cli.gate import show
    from advreg.hardening.gate import gate as decide

    decision = decide(
        champion,
        challenger,
        protocol=protocol,
        clean_margin=clean_margin,
        slice_margin=slice_margin,
        alpha=alpha,
        classes=guard or (),
        slices=_slices(slices),
        waivers=waive or (),
        require=require or (),
        out=challenger,
    )
    show(decision, challenger, as_json=as_json)
    raise typer.Exit(0 if decision.promote else 1)


@app.command()
def models(home: HomeOption = HOME, as_json: Json = False) -> None:
    """List the model versions, and which one is the champion."""
    from advreg.hardening import registry

    rows = registry.list_models(open_store(home))
    if as_json:
        typer.echo(json.dumps({"models": rows}))
        return
    for row in rows:
        typer.echo(f"{row['version']}  {row['stage']:<9}  {row['run']}  {row['snapshot'] or '-'}")


@app.command()
def promote(version: Annotated[str, typer.Argument(help="Such as m-0003.")], home: HomeOption = HOME) -> None:
    """Make a version that passed the gate the champion."""
    from advreg.hardening import registry
    from advreg.hardening.mlflow_sync import sync_to_mlflow

    opened = open_workspace(home)
    store = opened.store()
    with store.reading() as db:
        run = registry.model(db, version)["run"]
    opened.run(run)  # verifies its signature
    registry.promote(store, version, "admin")
    sync_to_mlflow(opened, store)
    typer.echo(f"{version} is the champion")


@app.command()
def rollback(home: HomeOption = HOME) -> None:
    """Make the previous champion the champion again; nothing is trained."""
    from advreg.hardening import registry
    from advreg.hardening.mlflow_sync import sync_to_mlflow

    opened = open_workspace(home)
    store = opened.store()
    with store.reading() as db:
        previous = registry.alias(db, registry.PREVIOUS)
        run = registry.model(db, previous)["run"] if previous is not None else None
    if run is not None:
        opened.run(run)  # verifies its signature
    version = registry.rollback(store, "admin")
    sync_to_mlflow(opened, store)
    typer.echo(f"{version} is the champion again")


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(help="A model version, or the SHA-256 of an example.")], home: HomeOption = HOME
) -> None:
    """Show the examples that a model was trained on, or the models that an example influenced."""
    from advreg.hardening import registry

    store = open_store(home)
    if what.startswith("m-"):
        typer.echo("\n".join(registry.examples_of(store, what)) or "trained on no submitted example")
        return
    found = registry.trace_example(store, what)
    typer.echo(f"snapshots: {' '.join(found.snapshots) or 'none'}\nmodels: {' '.join(found.models) or 'none'}")


@app.command()
def revoke(
    example: Annotated[str, typer.Argument(help="Its SHA-256.")],
    roll_back: Annotated[
        bool, typer.Option("--rollback", help="Also roll back, if the previous champion was not trained on it.")
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Revoke an example, and list every snapshot and model that it influenced."""
    from advreg.hardening import registry

    store = open_store(home)
    found = registry.revoke(store, example, "admin")
    typer.echo(f"snapshots: {' '.join(found.snapshots) or 'none'}\nmodels: {' '.join(found.models) or 'none'}")
    if not found.champion:
        typer.echo("the champion is free of it")
    elif found.rollback_to is None:
        typer.echo(
            "the champion was trained on it, and so was the previous one, or there is none: run advreg harden step"
        )
    elif roll_back:
        rollback(home)
    else:
        typer.echo(f"the champion was trained on it; {found.rollback_to} was not: advreg harden rollback --home {home}")


@app.command()
def audit(
    home: HomeOption = HOME,
    anchor: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Also verify the heads anchored there, then anchor this one: a file, git:FOLDER or rfc3161:FOLDER.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Replay the audit log and compare tables, blobs, models and snapshots: status 0 intact, 1 broken; prints the first."""
    from advreg.hardening.store.anchors import anchor_head
    from advreg.hardening.store.audit import head_of
    from advreg.hardening.store.replay import imported_rows
    from advreg.hardening.workspace_audit import audit_workspace

    opened = open_workspace(home)
    store = opened.store()
    broken = audit_workspace(opened, store, anchor)
    with store.reading() as db:
        entries, digest = anchor_head(db, anchor) if anchor and broken is None else head_of(db)
        imported = imported_rows(db)
    if as_json:
        rows = {"count": imported.count, "sha256": imported.rows.hexdigest()}
        facts = {"intact": broken is None, "entries": entries, "head": digest, "imported": rows}
        typer.echo(json.dumps({**facts, "why": broken and broken.why}))
    elif broken is not None:
        typer.echo(f"BROKEN at entry {broken.seq}: {broken.why}")
    else:
        typer.echo(f"intact: {entries} entries, head {digest}{f', anchored at {anchor}' if anchor else ''}")
        if imported.count:
            typer.echo(
                f"imported from an older version at entry {imported.seq}: {imported.count} rows, sha256 "
                f"{imported.rows.hexdigest()}"
            )
    raise typer.Exit(1 if broken is not None else 0)


@app.command()
def sign(
    key: Annotated[
        Path | None, typer.Option(help="Create a private key in this new file; print its public key.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Sign every model and snapshot of a workspace, after verifying it; with --key, only create a key."""
    from advreg.errors import HardeningError
    from advreg.hardening.signatures import create_key
    from advreg.hardening.workspace_audit import sign_workspace

    if key is not None:
        typer.echo(f'[signing]\nkey = {json.dumps(str(key.resolve()))}\npublic = "{create_key(key)}"')
        return
    opened = open_workspace(home)
    if not opened.signing.key:
        raise HardeningError(
            "signing.key is empty; run `advreg harden sign --key FILE` and put its lines into harden.toml"
        )
    typer.echo("\n".join(sign_workspace(opened, opened.store())))


@app.command()
def demo(out: Annotated[Path, typer.Option(help="New folder for the runs.")] = Path("runs/harden-demo")) -> None:
    """Run the whole loop on MNIST: a new attack, reviews, poison, two ticks, a rollback. Some minutes."""
    from advreg.cli.harden_demo import run_demo

    run_demo(out)


def _slices(file: Path | None) -> dict[str, list[int]]:
    from advreg.errors import ConfigError

    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): [int(k) for k in ids] for name, ids in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read as slices: {error}; write {{'name': [ids]}} as JSON") from error


def _seconds(text: str) -> float:
    from advreg.errors import ConfigError

    if not text:
        return 0.0
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text[:-1], text[-1]
    if unit not in units or not number.isdigit() or not int(number):
        raise ConfigError(f"--every is {text!r}; write 30s, 10m, 1h or 1d")
    return float(int(number) * units[unit])
