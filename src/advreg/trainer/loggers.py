"""Loggers: callbacks that send the metrics of training to TensorBoard, MLflow or Weights & Biases, besides metrics.jsonl.

At the end of a run they also send its figures and its page, where the caller says how to make them.

Nothing leaves the run folder without one of these; each library sends metrics where it is configured to. A finished run opens
nothing, and a run that fails closes its logs as failed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from advreg._lazy import deprecated
from advreg.config.registry import Registry
from advreg.errors import ConfigError
from advreg.plugins import first_line, import_extra
from advreg.trainer.events import Checkpointed, Event, Failed, Finished, Guarded, OnEvent, Started

RunArtefacts = Callable[[Path], tuple[Mapping[str, bytes], Path]]
"""``run folder -> (PNG by name, page)``; see `advreg.report.figures.artefacts`."""


def _no_artefacts(run: Path) -> tuple[Mapping[str, bytes], Path | None]:
    return {}, None


def _image(png: bytes) -> Any:
    """Return a picture as every tracker takes it."""
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")


def combine_loggers(*sinks: OnEvent) -> OnEvent:
    """Return one callback that passes every event to each logger, in order.

    Args:
        sinks: callbacks.

    Example:
        >>> seen = []
        >>> combine_loggers(seen.append, seen.append)(Finished(epochs=1, best_epoch=1, step=5, steps=5))
        >>> len(seen)
        2
    """

    def watch(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return watch


def tensorboard(artefacts: RunArtefacts | None = None, folder: str | Path = "") -> OnEvent:
    """Return a callback that writes TensorBoard's files, into ``tensorboard`` in the run folder by default.

    Args:
        artefacts: makes the figures and the page of a run, for its end.
        folder: another folder for the files.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    library = import_extra("torch.utils.tensorboard", "advreg[tensorboard]")
    open_writers: list[Any] = []
    runs: list[Path] = []

    def watch(event: Event) -> None:
        if isinstance(event, Started) and not event.is_complete:
            runs.append(event.out)
            open_writers.append(library.SummaryWriter(str(folder or event.out / "tensorboard")))
        elif isinstance(event, Checkpointed):
            for name, value in logged_figures(event.record).items():
                open_writers[-1].add_scalar(name, value, event.record["step"])
        elif isinstance(event, Guarded):
            open_writers[-1].add_text("guard", _sentence(event), event.epoch)
        elif isinstance(event, Finished | Failed) and open_writers:
            pictures, page = (artefacts or _no_artefacts)(runs[-1]) if isinstance(event, Finished) else ({}, None)
            for name, png in pictures.items():
                open_writers[-1].add_image(f"figures/{name}", numpy.asarray(_image(png)), dataformats="HWC")
            if page is not None:
                open_writers[-1].add_text("report", str(page))
            open_writers.pop().close()

    return watch


def mlflow(artefacts: RunArtefacts | None = None) -> OnEvent:
    """Return a callback that logs to MLflow, one MLflow run for each training run, to its configured tracking URI.

    Args:
        artefacts: makes the figures and the page of a run, for its end.

    Raises:
        ConfigError: the tracking server or store cannot be reached.
        MissingExtraError: MLflow is not installed.
    """
    library = import_extra("mlflow", "advreg[mlflow]")
    try:
        library.search_experiments(max_results=1)
    except Exception as cause:  # each of its stores fails in its own way
        where = library.get_tracking_uri()
        raise ConfigError(f"MLflow cannot log to {where}: {first_line(cause)}; set MLFLOW_TRACKING_URI") from cause
    open_runs: list[Path] = []

    def watch(event: Event) -> None:
        if isinstance(event, Started) and not event.is_complete:
            library.start_run(run_name=event.out.name)
            open_runs.append(event.out)
            for config in event.out.glob("*.toml"):
                library.log_artifact(str(config))
        elif isinstance(event, Checkpointed):
            library.log_metrics(logged_figures(event.record), step=event.record["step"])
        elif isinstance(event, Guarded):
            library.set_tag(f"guard.{event.epoch}.{event.step}", _sentence(event))
        elif isinstance(event, Finished | Failed) and open_runs:
            run = open_runs.pop()
            pictures, page = (artefacts or _no_artefacts)(run) if isinstance(event, Finished) else ({}, None)
            for name, png in pictures.items():
                library.log_image(_image(png), f"figures/{name}.png")
            if page is not None:
                library.log_artifact(str(page))
            library.end_run("FINISHED" if isinstance(event, Finished) else "FAILED")

    return watch


def wandb(artefacts: RunArtefacts | None = None, project: str = "advreg") -> OnEvent:
    """Return a callback that logs to Weights & Biases.

    Args:
        artefacts: makes the figures and the page of a run, for its end.
        project: its project.

    Raises:
        MissingExtraError: its library is not installed.
    """
    library = import_extra("wandb", "advreg[wandb]")
    open_runs: list[Any] = []
    runs: list[Path] = []

    def watch(event: Event) -> None:
        if isinstance(event, Started) and not event.is_complete:
            runs.append(event.out)
            open_runs.append(library.init(project=project, name=event.out.name, dir=str(event.out)))
        elif isinstance(event, Checkpointed):
            open_runs[-1].log(logged_figures(event.record), step=event.record["step"])
        elif isinstance(event, Guarded):
            open_runs[-1].alert(title=event.trouble, text=_sentence(event))
        elif isinstance(event, Finished | Failed) and open_runs:
            pictures, page = (artefacts or _no_artefacts)(runs[-1]) if isinstance(event, Finished) else ({}, None)
            if pictures:
                open_runs[-1].log({f"figures/{name}": library.Image(_image(png)) for name, png in pictures.items()})
            if page is not None:
                stored = library.Artifact(f"report-{runs[-1].name}", type="report")
                stored.add_file(str(page))
                open_runs[-1].log_artifact(stored)
            open_runs.pop().finish(exit_code=int(isinstance(event, Failed)))

    return watch


LOGGERS: Registry[OnEvent] = Registry(
    "log", {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}, unknown="unknown log {name!r}"
)


def logged_figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl, to plot over its steps.

    Args:
        record: key -> value.

    Example:
        >>> logged_figures({"epoch": 1, "step": 5, "loss": 0.5, "robust_accuracy": None})
        {'epoch': 1.0, 'loss': 0.5}
    """
    return {name: float(value) for name, value in record.items() if name != "step" and isinstance(value, int | float)}


def _sentence(event: Guarded) -> str:
    return f"{event.trouble} in epoch {event.epoch}, step {event.step}: {event.message}; {event.action}"


if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"named": "LOGGERS.build"})
