"""The verb ``export``: a trained model as an ONNX file or a torch.export program."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from advreg import export, models
from advreg.errors import ConfigError, RunError
from advreg.report.record import load_or_empty


def run_export(run: Path, onnx: Path | None, program: Path | None, as_json: bool) -> None:
    """Write the model of a run folder for other programs.

    Args:
        run: the run folder.
        onnx: ONNX file to write.
        program: file of torch.export to write.
        as_json: print one JSON object instead of text.

    Raises:
        ConfigError: neither file is named.
        RunError: ``model.json`` does not hold the shape of the input.

    Example:
        >>> run_export(Path("run"), None, None, as_json=False)
        Traceback (most recent call last):
        ...
        advreg.errors.ConfigError: nothing to export; give --onnx FILE, --torch FILE or both
    """
    if onnx is None and program is None:
        raise ConfigError("nothing to export; give --onnx FILE, --torch FILE or both")
    model, shape = models.load(str(run)), _input_shape(run)
    writers = {"onnx": (export.onnx_file, onnx), "torch": (export.torch_file, program)}
    files = {name: str(write(model, shape, path)) for name, (write, path) in writers.items() if path is not None}
    typer.echo(json.dumps({"files": files}) if as_json else "\n".join(files.values()))


def _input_shape(run: Path) -> list[int]:
    shape = load_or_empty(run / "model.json").get("shape")
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        raise RunError(f'{run}/model.json does not hold the shape of the input; train again, or add "shape": [C, H, W]')
    return shape
