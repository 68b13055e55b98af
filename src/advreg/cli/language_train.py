"""The verb ``language train``: train a language model as a configuration and the options determine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from advreg.cli import progress
from advreg.cli.config_run import config_with_options, print_run
from advreg.language.config import LanguageConfig
from advreg.language.training.fit import fit_language
from advreg.language.training.folder import CONFIG
from advreg.trainer.events import Checkpointed, Event, Guarded, Step


def run_train(
    config: Path | None, options: Mapping[str, object | None], changes: Sequence[str], *, resume: bool, as_json: bool
) -> None:
    """Train and print the run folder.

    Args:
        config: a configuration file or a run folder; defaults if None.
        options: value of each configuration key that has an option of its own; None where it is absent.
        changes: further ``key=value``.
        resume: continue an interrupted run.
        as_json: print one JSON object instead of text.
    """
    chosen = config_with_options(LanguageConfig(), config, CONFIG, options, changes)
    with _progress_bar(quiet=as_json) as watch:
        run = fit_language(chosen, resume=resume, on_event=watch)
    print_run(run, f"advreg language evaluate {run.path} --harmful FILE --safe FILE", as_json=as_json)


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows training events on standard error."""
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("training", total=None)
        write = partial(console.print, soft_wrap=True, highlight=False)

        def watch(event: Event) -> None:
            if isinstance(event, Step):
                bar.update(
                    task, total=event.steps, completed=event.step, description=f"training: loss {event.loss:.3f}"
                )
            elif isinstance(event, Guarded):
                write(f"  guard, step {event.step}: {event.message}; {event.action}")
            elif isinstance(event, Checkpointed) and "loss" in event.record:
                write(f"  step {event.step}/{event.steps}  loss {event.record['loss']:.3f}")

        yield watch
