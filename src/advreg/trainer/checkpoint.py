"""``checkpoint.pt``: written whole before the files that follow from it, and read without unpickling."""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from advreg.errors import AdvregError, RunError
from advreg.runs import RunFolder

NAME = "checkpoint.pt"


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


def append_missing(
    run: RunFolder, log: str, lines: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], Hashable]
) -> None:
    """Append the lines of a run's log that an interrupted write left out.

    Args:
        run: the run folder.
        log: name of the log, such as ``metrics.jsonl``.
        lines: records that belong to the checkpoint.
        key: returns what identifies a record.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(f"{tempfile.mkdtemp()}/run")
        >>> run.append("metrics.jsonl", {"epoch": 1})
        >>> append_missing(run, "metrics.jsonl", [{"epoch": 1}, {"epoch": 2}], lambda line: line["epoch"])
        >>> run.read_log("metrics.jsonl")
        [{'epoch': 1}, {'epoch': 2}]
    """
    written = {key(line) for line in run.read_log(log)}
    missing = [line for line in lines if key(line) not in written]
    if missing:
        run.append(log, *missing)
