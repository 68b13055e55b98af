"""The verb ``export``: a trained model as an ONNX file or a torch.export program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer
from torch import nn

from advreg import export, models
from advreg.cli.resolution import ModelSource
from advreg.errors import ConfigError, RunError
from advreg.report.record import load_or_empty


@dataclass(frozen=True)
class Properties:
    """VNN-LIB properties to write: folder, threat (the run's own if None) and number of test examples."""

    folder: Path
    threat: str | None = None
    n: int = 10


def run_export(
    run: Path, onnx: Path | None, program: Path | None, as_json: bool, properties: Properties | None = None
) -> None:
    """Write the model of a run folder for other programs.

    Args:
        run: the run folder.
        onnx: ONNX file to write.
        program: file of torch.export to write.
        as_json: print one JSON object instead of text.
        properties: properties of its test examples for other verifiers.

    Raises:
        ConfigError: neither file is named.
        RunError: ``model.json`` does not hold the shape of the input.

    Example:
        >>> run_export(Path("run"), None, None, as_json=False)
        Traceback (most recent call last):
        ...
        advreg.errors.ConfigError: nothing to export; give --onnx FILE, --torch FILE or --vnnlib FOLDER
    """
    if onnx is None and program is None and properties is None:
        raise ConfigError("nothing to export; give --onnx FILE, --torch FILE or --vnnlib FOLDER")
    model, shape = models.load(str(run)), _input_shape(run)
    writers = {"onnx": (export.onnx_file, onnx), "torch": (export.torch_file, program)}
    if properties is not None:
        _write_properties(run, model, properties)
    files = {name: str(write(model, shape, path)) for name, (write, path) in writers.items() if path is not None}
    files |= {} if properties is None else {"vnnlib": str(properties.folder)}
    typer.echo(json.dumps({"files": files}) if as_json else "\n".join(files.values()))


def _write_properties(run: Path, model: nn.Module, properties: Properties) -> None:
    source = ModelSource.of(str(run))
    source.require_classes("VNN-LIB properties compare logits and are")
    sets = source.data_sets(None)
    x, y = sets[1].tensors(n=properties.n)
    export.vnnlib_files(model, x, y, source.threat(properties.threat, sets=lambda: sets), properties.folder)


def _input_shape(run: Path) -> list[int]:
    shape = load_or_empty(run / "model.json").get("shape")
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        raise RunError(f'{run}/model.json does not hold the shape of the input; train again, or add "shape": [C, H, W]')
    return shape
