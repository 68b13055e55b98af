"""Progress on standard error: bars on a terminal, elsewhere one line an epoch or every 10 seconds."""

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
    from advreg.diagnosis.result import DiagnosisProgress
    from advreg.evaluation.evaluate import EvaluationProgress
    from advreg.trainer.events import Event


def bars(console: Console) -> Progress:
    """Return a progress display with the time left; it is disabled where the console is no terminal.

    Args:
        console: standard error.

    Returns:
        The display.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def training(*, quiet: bool = False, label: str = "training") -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows training events on standard error.

    Args:
        quiet: show nothing.
        label: name of the job.
    """
    from advreg.trainer.events import Checkpointed, Finished, Guarded, Resumed, Started, Step

    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar:
        task = bar.add_task(label, total=None)
        write = partial(console.print, soft_wrap=True, highlight=False)

        def watch(event: Event) -> None:
            if isinstance(event, Started):
                bar.update(task, total=event.epochs * event.steps)
                if event.seconds:
                    write(f"{label}: {event.epochs} epochs, about {minutes(event.seconds)} on this machine")
            elif isinstance(event, Resumed):
                write(f"{label}: resumed after epoch {event.epoch}")
            elif isinstance(event, Step):
                done = (event.epoch - 1) * event.steps + event.step
                bar.update(task, completed=done, description=f"{label}: {_step(event)}")
            elif isinstance(event, Guarded):
                write(f"  {event.trouble} in epoch {event.epoch}, step {event.step}: {event.message}; {event.action}")
            elif isinstance(event, Checkpointed) and "loss" in event.record:
                write(f"  {_epoch(event)}")
            elif isinstance(event, Finished):
                bar.update(task, visible=False)

        yield watch


def _epoch(event: CheckpointedEvent) -> str:
    record = event.record
    place = f"epoch {event.epoch}/{event.epochs}" if "epoch" in record else f"step {event.step}/{event.steps}"
    figures = [place, _loss(record["loss"])]
    for name in ("clean", "robust"):
        value = record.get(f"{name}_accuracy")
        if value is not None:
            figures.append(f"{name} {value:.2%}")
    left = f", {minutes(event.seconds_left)} left" if event.seconds_left else ""
    return "  ".join(figures) + f"  ({record['seconds']:.0f} s{left})" + ("  best" if event.best else "")


def _step(event: StepEvent) -> str:
    accuracy = "" if event.train_accuracy is None else f", train accuracy {event.train_accuracy:.1%}"
    return f"loss {event.loss:.3f}{accuracy}"


def _loss(loss: float | None) -> str:
    return "rolled back" if loss is None else f"loss {loss:.3f}"


@contextmanager
def evaluating(*, quiet: bool = False, label: str = "evaluating") -> Iterator[Callable[[EvaluationProgress], None]]:
    """Yield a callback that shows the progress and the robust accuracy so far of an evaluation on standard error.

    Args:
        quiet: show nothing.
        label: name of the job.
    """
    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar, _logged(console, label) as lines:
        task = bar.add_task(label, total=None)

        def watch(at: EvaluationProgress) -> None:
            text = f"{label}: {at.stage}, robust so far {at.robust_accuracy:.1%}"
            bar.update(task, total=at.total, completed=round(at.share * at.total), description=text)
            lines.update(ProgressState(at.stage, f"{at.done:,} of {at.total:,} examples", at.share, at.robust_accuracy))

        yield watch


@contextmanager
def counting(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows the progress of a job on standard error, given the forwards done and in all.

    Args:
        label: name of the job.
        quiet: show nothing.
    """
    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar, _logged(console, label) as lines:
        task = bar.add_task(label, total=None)

        def watch(done: int, total: int) -> None:
            bar.update(task, total=total, completed=done)
            lines.update(ProgressState(label, f"{done:,} of {total:,} forwards", done / total))

        yield watch


@contextmanager
def stages(label: str, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yield a callback that shows the progress of a job in stages: the stage, what is done, its total, and a line to print.

    Args:
        label: name of the job.
        quiet: show nothing.
    """
    console = Console(file=sys.stderr, quiet=quiet)
    with bars(console) as bar:
        task = bar.add_task(label, total=None)

        def watch(stage: str, done: int, total: int, line: str = "") -> None:
            if line:
                console.print(line, soft_wrap=True, highlight=False)
                bar.reset(task)
            bar.update(task, description=f"{label}: {stage}", completed=done, total=total)

        yield watch


@contextmanager
def diagnosing(*, quiet: bool = False) -> Iterator[Callable[[DiagnosisProgress], None]]:
    """Yield a callback that shows the current check and the robust accuracy so far of a diagnosis on standard error.

    Args:
        quiet: show nothing.
    """
    console, label = Console(file=sys.stderr, quiet=quiet), "diagnosing"
    with console.status(label) as status, _logged(console, label) as lines:

        def watch(at: DiagnosisProgress) -> None:
            amount = f"check {at.done + 1} of {at.total}"
            status.update(f"{label}: {at.check}, {amount}")
            lines.update(ProgressState(at.check, amount, at.done / at.total, at.robust_accuracy))

        yield watch


@contextmanager
def _logged(console: Console, label: str) -> Iterator[LineProgress]:
    """Yield lines of progress that are written only where the console is no terminal."""
    silent = console.is_terminal or console.quiet
    lines = LineProgress(_nothing if silent else partial(console.print, soft_wrap=True, highlight=False), label)
    with nullcontext() if silent else line_progress(lines):
        yield lines


def _nothing(line: str) -> None:
    """Write nothing: a bar shows the progress, or the output is quiet."""


if TYPE_CHECKING:
    from advreg.trainer.events import Checkpointed as CheckpointedEvent
    from advreg.trainer.events import Step as StepEvent
