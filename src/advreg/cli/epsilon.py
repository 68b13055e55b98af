"""The verb ``epsilon``: which eps suits these data and this model, and where to start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import typer
from PIL import Image
from safetensors.torch import load_file

from advreg import data as datasets
from advreg import models
from advreg.cli import tables
from advreg.cli.resolution import ModelSource, parse_radii
from advreg.diagnosis import EpsilonChoice, choose_epsilon
from advreg.threat import ThreatModel


def run_epsilon(
    model: str,
    data: str | None,
    norm: str,
    eps: str,
    box: str,
    weights: Path | None,
    n: int,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure a grid of eps; arguments as on the command line."""
    source = ModelSource.of(model)
    name, folder = source.data(data), source.output(out)
    network = models.load(model, weights=weights)
    train, test = datasets.load(name)
    grid = parse_radii(eps, norm, box) or None
    among = ThreatModel.parse(f"{norm}:0@{box}")
    choice = choose_epsilon(
        network, test, norm=among.norm, eps=grid, box=among.box, n=n, train=train, seed=seed, out=folder
    )
    if folder is not None:
        print(f"pictures: {_sheet(folder, among.box)}", file=sys.stderr)
    if as_json:
        typer.echo(json.dumps(choice.record()))
        return
    _show(choice)


def _show(choice: EpsilonChoice) -> None:
    rows = [
        (
            f"{row.eps:.4g}",
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
    typer.echo(f"start at eps {choice.recommended:.4g}: {choice.why}")


def _sheet(folder: Path, box: tuple[float, float]) -> Path:
    """Write example images as one picture, a row for each eps below the clean ones; return its path."""
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
