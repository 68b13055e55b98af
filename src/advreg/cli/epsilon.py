"""The verb ``epsilon``: measure a grid of eps on a model and its data, and recommend where to start."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from PIL import Image
from safetensors.torch import load_file

from advreg import models
from advreg.cli import tables
from advreg.cli.resolution import ModelSource, parse_box, parse_radii
from advreg.diagnosis import EpsilonChoice, choose_epsilon
from advreg.evaluation.examples import box_of
from advreg.report.formatting import eps_text
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class EpsilonOptions:
    """Options of ``advreg epsilon``.

    Attributes:
        model: a run folder or the name of a model.
        data: the run's own if None.
        norm: linf, l2 or l1.
        eps: radii separated by commas; a grid for images if empty.
        box: lowest and highest valid value of an input, ``low,high``; that of the data if empty.
        weights: safetensors or state dict.
        n: test examples, from the first.
        out: folder to write into; the run folder if None.
        seed: of all random draws.
        as_json: print one JSON object instead of text.
    """

    model: str
    data: str | None = None
    norm: str = "linf"
    eps: str = ""
    box: str = ""
    weights: Path | None = None
    n: int = 200
    out: Path | None = None
    seed: int = 0
    as_json: bool = False


def run_epsilon(options: EpsilonOptions) -> None:
    """Measure robust accuracy, visibility and ambiguous labels at each eps of a grid.

    Args:
        options: options of ``advreg epsilon``.
    """
    source = ModelSource.of(options.model)
    source.require_classes("the choice of eps counts wrong classes and is")
    folder = source.output(options.out)
    model = models.load(options.model, weights=options.weights)
    train, test = source.data_sets(options.data)
    box = options.box or source.own_box()
    low, high = parse_box(box) if box else box_of(test)
    zero = ThreatModel.parse(f"{options.norm}:0@{low!r},{high!r}")
    choice = choose_epsilon(
        model,
        test,
        norm=zero.norm,
        eps=parse_radii(options.eps, options.norm, f"{low!r},{high!r}") or None,
        box=zero.box,
        n=options.n,
        train=train,
        seed=options.seed,
        out=folder,
    )
    if folder is not None:
        print(f"pictures: {_write_sheet(folder, zero.box)}", file=sys.stderr)
    if options.as_json:
        typer.echo(json.dumps(choice.record()))
        return
    _print(choice)


def _print(choice: EpsilonChoice) -> None:
    rows = [
        (
            eps_text(row.eps),
            tables.percent(row.robust_accuracy),
            tables.span(row.interval),
            f"{row.linf:.3f}",
            f"{row.l2:.2f}",
            "-" if row.ssim is None else f"{row.ssim:.3f}",
            tables.percent(row.ambiguous),
        )
        for row in choice.rows
    ]
    columns = (
        f"eps ({choice.norm})",
        "robust (PGD-40)",
        "95% interval",
        "linf",
        "l2",
        "SSIM",
        "other class within 2 eps",
    )
    tables.show(tables.table(f"{choice.n} examples, clean {choice.clean_accuracy:.2%}", columns, rows))
    typer.echo(f"start at eps {eps_text(choice.recommended)}: {choice.why}")


def _write_sheet(folder: Path, box: tuple[float, float]) -> Path:
    """Write one picture with a row of clean images above a row for each eps; return its path."""
    stored = load_file(folder / "epsilon.safetensors")
    images = [stored["clean"], *stored["attacked"]]
    if images[0].ndim != 4 or images[0].shape[1] not in (1, 3):
        return folder / "epsilon.safetensors"
    low, high = box
    grey = [((row - low) / (high - low)).clamp(0, 1) for row in images]
    strips = [(255 * row).round().byte().permute(2, 0, 3, 1).flatten(1, 2) for row in grey]
    array = torch.cat(strips).numpy()
    path = folder / "epsilon.png"
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)
    return path
