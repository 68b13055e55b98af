"""Progress on the terminal: bars with the time left where there is one, elsewhere a line an epoch or every 10 seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from advreg.cli.heartbeat import LineProgress, ProgressState, line_progress
from advreg.cli.tables import minutes

if TYPE_CHECKING:
    from advreg.diagnosis.result import DiagnosisProgress as Asked
    from advreg.evaluation.evaluate import EvaluationProgress as Measured
    from advreg.training.events import Event


def bars(console: Console) -> Progress:
    """Return a display of progress that is not there where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def training(*, quiet: bool = False, label: str = "training") -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows training events on standard error."""
    from advreg.training.events import EpochEnd, Finished, Guarded, Resumed, Started, Step

    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar:
        task = bar.add_task(label, total=None)
        say = partial(console.print, soft_wrap=True, highlight=False)

        def watch(event: Event) -> None:
            if isinstance(event, Started) and event.seconds:
                bar.update(task, total=event.epochs * event.steps)
                say(f"{label}: {event.epochs} epochs, about {minutes(event.seconds)} on this machine")
            elif isinstance(event, Resumed):
                say(f"{label}: goes on after epoch {event.epoch}")
            elif isinstance(event, Step):
                accuracy = f"loss {event.loss:.3f}, train accuracy {event.train_accuracy:.1%}"
                bar.update(
                    task, completed=(event.epoch - 1) * event.steps + event.step, description=f"{label}: {accuracy}"
                )
            elif isinstance(event, Guarded):
                say(f"  {event.trouble} in epoch {event.epoch}, step {event.step}: {event.said}; {event.action}")
            elif isinstance(event, EpochEnd):
                say(f"  {_epoch(event)}")
            elif isinstance(event, Finished):
                bar.update(task, visible=False)

        yield watch


def _epoch(event: EpochEndEvent) -> str:
    record = event.record
    figures = [f"epoch {event.epoch}/{event.epochs}", _loss(record["loss"])]
    for name in ("clean", "robust"):
        value = record.get(f"{name}_accuracy")
        if value is not None:
            figures.append(f"{name} {value:.2%}")
    left = f", {minutes(event.seconds_left)} left" if event.seconds_left else ""
    return "  ".join(figures) + f"  ({record['seconds']:.0f} s{left})" + ("  best" if event.best else "")


def _loss(loss: float | None) -> str:
    return "taken back" if loss is None else f"loss {loss:.3f}"


@contextmanager
def evaluating(*, quiet: bool = False, label: str = "evaluating") -> Iterator[Callable[[Measured], None]]:
    """Yield a callback that shows how far an evaluation is, and the robust accuracy so far, on standard error."""
    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar, _logged(console, label) as lines:
        task = bar.add_task(label, total=None)

        def watch(at: Measured) -> None:
            text = f"{label}: {at.stage}, robust so far {at.robust_accuracy:.1%}"
            bar.update(task, total=at.total, completed=round(at.share * at.total), description=text)
            lines.update(ProgressState(at.stage, f"{at.done:,} of {at.total:,} examples", at.share, at.robust_accuracy))

        yield watch


@contextmanager
def counting(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows how much of a job is done, given the amount done and the total."""
    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar, _logged(console, label) as lines:
        task = bar.add_task(label, total=None)

        def watch(done: int, total: int) -> None:
            bar.update(task, total=total, completed=done)
            lines.update(ProgressState(label, f"{done:,} of {total:,} forwards", done / total))

        yield watch


@contextmanager
def diagnosing(*, quiet: bool = False) -> Iterator[Callable[[Asked], None]]:
    """Yield a callback that shows which check a diagnosis makes, and the robust accuracy so far, on standard error."""
    console, label = Console(file=sys.stderr, quiet=quiet), "diagnosing"
    with console.status(label) as status, _logged(console, label) as lines:

        def watch(at: Asked) -> None:
            far = f"check {at.done + 1} of {at.total}"
            status.update(f"{label}: {at.check}, {far}")
            lines.update(ProgressState(at.check, far, at.done / at.total, at.robust_accuracy))

        yield watch


@contextmanager
def _logged(console: Console, label: str) -> Iterator[LineProgress]:
    """Yield lines of progress that appear where there is no terminal, and nowhere else."""
    silent = console.is_terminal or console.quiet
    lines = LineProgress(_nothing if silent else partial(console.print, soft_wrap=True, highlight=False), label)
    with nullcontext() if silent else line_progress(lines):
        yield lines


def _nothing(line: str) -> None:
    """Write nothing: a bar shows it already, or the output was asked to be quiet."""


if TYPE_CHECKING:
    from advreg.training.events import EpochEnd as EpochEndEvent
