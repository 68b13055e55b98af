"""Progress of a run on disk: ``checkpoint.pt`` is the reference, and all other files follow from it.

A round is complete once ``checkpoint.pt`` is replaced. The weights files and the lines of metrics.jsonl are written after it
and written again on resume, so a kill between any two writes loses nothing and doubles nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from advreg.distributed import SINGLE, Ranks
from advreg.errors import AdvregError, RunError
from advreg.runs import RunFolder
from advreg.runs.files import remove_leftovers

P = TypeVar("P")

NAME, METRICS = "checkpoint.pt", "metrics.jsonl"


def commit_checkpoint(
    run: RunFolder, state: Callable[[], Mapping[str, Any]], publish: Callable[[], None], ranks: Ranks = SINGLE
) -> None:
    """Write a complete round in the main process: the checkpoint first, then the files that follow from it.

    Args:
        run: the run folder.
        state: returns tensors and plain values, nested.
        publish: writes the files that follow.
        ranks: rank of this process; all wait for the main one.
    """
    if ranks.is_main:
        write_checkpoint(run, state())
        publish()
    ranks.barrier()


def restore_checkpoint(
    run: RunFolder,
    weights: Sequence[str],
    load: Callable[[dict[str, Any]], P],
    publish: Callable[[P], None],
    ranks: Ranks = SINGLE,
) -> P | None:
    """Restore the last complete round of a run, and write the files that a kill left unwritten.

    Args:
        run: the run folder.
        weights: names of the weights files; what a kill left of their writing is removed.
        load: takes the state that `commit_checkpoint` wrote into the session, and returns the progress.
        publish: writes the files that follow from the progress.
        ranks: rank of this process; the main one writes.

    Returns:
        The progress; None where no round is complete.

    Raises:
        RunError: the checkpoint is damaged, or does not belong to the session.
    """
    if ranks.is_main:
        remove_leftovers(run.path, (NAME, *weights))
    if not (run / NAME).exists():
        return None
    with read_checkpoint(run) as state:
        progress = load(state)
    if ranks.is_main:
        publish(progress)
    ranks.barrier()
    return progress


def write_checkpoint(run: RunFolder, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a run.

    Args:
        run: the run folder.
        state: tensors and plain values, nested.
    """
    content = io.BytesIO()
    torch.save(dict(state), content)
    run.write(NAME, content.getvalue())


@contextmanager
def read_checkpoint(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield the state that `write_checkpoint` wrote; an error inside the block means that the file is damaged.

    Args:
        run: the run folder.

    Yields:
        The state.

    Raises:
        RunError: the file cannot be read, or its state cannot be used; other errors of advreg pass.
    """
    try:
        yield torch.load(run / NAME, map_location="cpu", weights_only=True)
    except AdvregError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in torch's reader
        raise RunError(f"{run / NAME} is damaged; train again in another folder") from error


def append_missing(run: RunFolder, records: Sequence[dict[str, Any]]) -> None:
    """Append the lines of metrics.jsonl that an interrupted write left out.

    Args:
        run: the run folder.
        records: lines that belong to the checkpoint.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(f"{tempfile.mkdtemp()}/run")
        >>> run.append("metrics.jsonl", {"epoch": 1})
        >>> append_missing(run, [{"epoch": 1}, {"event": "guard", "epoch": 1}, {"epoch": 2}])
        >>> run.read_log("metrics.jsonl")
        [{'epoch': 1}, {'event': 'guard', 'epoch': 1}, {'epoch': 2}]
    """
    written = {_identity(record) for record in run.read_log(METRICS)}
    missing = [record for record in records if _identity(record) not in written]
    if missing:
        run.append(METRICS, *missing)


def _identity(record: dict[str, Any]) -> tuple[object, ...]:
    """Return the values that no two lines of one run have in common."""
    return tuple(record.get(key) for key in ("event", "epoch", "step", "trouble"))
