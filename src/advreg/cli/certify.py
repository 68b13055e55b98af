"""The verb ``certify``: robust accuracy from both sides, proved from below and attacked from above."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from torch import nn

from advreg import models, report
from advreg.certification import (
    Certification,
    CertificationProgress,
    CertifySettings,
    certified_curve,
    certify,
    certify_smoothed,
)
from advreg.cli import progress, tables
from advreg.cli.resolution import ModelSource, parse_radii
from advreg.errors import ConfigError
from advreg.evaluation.examples import threat_on
from advreg.report.formatting import eps_text
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class CertifyOptions:
    """Options of ``advreg certify``.

    Attributes:
        model: a run folder or the name of a model.
        data, threat: the run's own if None.
        method: ibp, crown, alpha, complete or auto.
        budget: domains of branch and bound for each margin.
        at_least: certified accuracy below which the exit status is 1; None for any.
        weights: safetensors or state dict.
        n: test examples, from the first.
        out: folder to write into; the run folder if None.
        seed: of all random draws.
        as_json: print one JSON object instead of text.
        box: lowest and highest valid value of an input, ``low,high``; that of data or run if empty.
        smoothing: deviation of the noise and noisy copies of each example, to certify the smoothed model instead.
        eps: radii separated by commas, for a curve with both ends; empty for the threat's alone.
        verdicts: results of another verifier, None for none.
    """

    model: str
    data: str | None = None
    threat: str | None = None
    method: str = "auto"
    budget: int = 1000
    at_least: float | None = None
    weights: Path | None = None
    n: int = 1000
    out: Path | None = None
    seed: int = 0
    as_json: bool = False
    box: str = ""
    smoothing: tuple[float, int] | None = None
    eps: str = ""
    verdicts: Path | None = None


def run_certify(options: CertifyOptions) -> bool:
    """Return whether enough is proved, after a certification of a run folder or a model by name.

    Args:
        options: options of ``advreg certify``.

    Returns:
        False where less than ``at_least`` is proved.

    Raises:
        ConfigError: a method beside the noise.
    """
    if options.smoothing is not None and options.verdicts is not None:
        raise ConfigError("--verdicts are of the model itself, and --sigma certifies another; leave one of them out")
    if options.smoothing is not None and options.method != "auto":
        raise ConfigError(f"--sigma certifies by votes, and --method is {options.method!r}; leave one of them out")
    source = ModelSource.of(options.model)
    source.require_classes("certificates bound margins, which no other task has, so they are")
    sets = cache(lambda: source.data_sets(options.data))
    threat = source.threat(options.threat, options.box, sets=sets)
    folder = source.output(options.out)
    model, test = models.load(options.model, weights=options.weights), sets()[1]
    n = min(options.n, len(test))
    if options.eps:
        return _run_curve(options, (model, test), threat_on(test, threat), n, folder)
    with _watch_chunks(n, quiet=options.as_json) as watch:
        run = partial(_certifier(options), n=n, seed=options.seed, out=folder, on_progress=watch)
        found = run(model, test, threat)
    if options.as_json:
        typer.echo(json.dumps(found.record()))
    else:
        _print(found, folder)
    enough = options.at_least is None or found.certified_accuracy >= options.at_least
    if not enough:
        print(f"proved {found.certified_accuracy:.2%}, below --at-least {options.at_least:.2%}", file=sys.stderr)
    return enough


def _certifier(options: CertifyOptions) -> Callable[..., Certification]:
    """Return the certification of the model itself, or of its smoothed version."""
    if options.smoothing is not None:
        sigma, samples = options.smoothing
        return partial(certify_smoothed, sigma=sigma, samples=samples)
    return partial(certify, method=options.method, budget=options.budget, verdicts=options.verdicts)


def _print_radii(done: int, total: int) -> None:
    print(f"certify: {done} of {total} eps", file=sys.stderr)


def _run_curve(
    options: CertifyOptions, subject: tuple[nn.Module, Any], threat: ThreatModel, n: int, folder: Path | None
) -> bool:
    """Certify at every radius and print both ends; the least eps counts for ``at_least``."""
    if options.smoothing is not None or options.verdicts is not None:
        raise ConfigError("--eps certifies the model itself at several radii; leave out --sigma and --verdicts")
    settings = CertifySettings(options.method, options.budget, options.seed)
    shared: dict[str, Any] = {"norm": threat.norm, "box": threat.box, "n": n, "settings": settings, "out": folder}
    curve = certified_curve(*subject, eps=parse_radii(options.eps), on_progress=_print_radii, **shared)
    if options.as_json:
        typer.echo(json.dumps(curve.record()))
    else:
        cells = [
            (eps_text(p.eps), tables.percent(p.certified_accuracy or 0.0), tables.percent(p.robust_accuracy))
            for p in curve.points
        ]
        tables.show(tables.table(f"{curve.attack}, {n} examples", ("eps", "proved", "not broken"), cells))
    if folder is not None:
        print(f"report: {report.write(folder)}", file=sys.stderr)
    return options.at_least is None or (curve.points[0].certified_accuracy or 0.0) >= options.at_least


@contextmanager
def _watch_chunks(total: int, *, quiet: bool) -> Iterator[Callable[[CertificationProgress], None]]:
    """Yield a callback that shows how far a certification is on standard error: a bar on a terminal, else a line a chunk."""
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("certify", total=total)

        def watch(at: CertificationProgress) -> None:
            text = f"certify: {at.proved} proved, {at.broken} broken"
            bar.update(task, completed=at.done, description=text)
            if not console.is_terminal:
                console.print(f"{text}, {at.done} of {at.total}", soft_wrap=True, highlight=False)

        yield watch


def _print(found: Certification, folder: Path | None) -> None:
    rows = [(m.name, str(m.tried), str(m.proved), str(m.broken), f"{m.seconds:.1f}") for m in found.by_method]
    title = f"{found.protocol}, {found.n} examples"
    tables.show(tables.table(title, ("method", "undecided before", "proved", "broken", "processor s"), rows))
    both = f"{tables.percent(found.certified_accuracy)} (proved) and {tables.percent(found.robust_accuracy)}"
    rest = f"{int(found.open.sum())} of {found.n} open; 95% interval {tables.span(found.interval)}"
    if "sigma" in found.facts:
        typer.echo(f"the smoothed model, another model: robust accuracy between {both} (its clean accuracy); {rest}")
        typer.echo(f"each certificate is wrong with chance {found.facts['error']:g} at most; no attack was run")
    else:
        typer.echo(f"robust accuracy between {both} (attacked); {rest}")
    if not found.certified_accuracy:
        typer.echo("nothing proved: that is a limit of the bounds on this network, not a sign that attacks break it")
    if folder is not None:
        print(f"written: {folder / 'evaluation' / found.protocol}", file=sys.stderr)
