"""Two processes train what one does: each takes its part of every batch, and rank 0 writes the folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from advreg.language.training.fit import fit_language
from advreg.runs import RunFolder
from tests.language import lessons

SAME = ("model.name=tests.language.lessons:tiny", "train.steps=2", "train.every=2", "train.guard=off", "train.ema=0")
"""No dropout, whose draws depend on the place in a batch."""


def _rank(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    os.environ.update(group, MASTER_ADDR="127.0.0.1")
    seen: list[object] = []
    fit_language(lessons.config(Path(folder), Path(folder, "two"), *SAME), trust_code=True, on_event=seen.append)
    assert bool(seen) == (rank == 0), "events reach rank 0 alone"


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="forked processes import nothing again"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_learn_what_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    """Batches of 4 with one or two requests, so that a process can be without any."""
    one = fit_language(lessons.config(lessons.write_data(tmp_path), tmp_path / "one", *SAME), trust_code=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_rank, args=(str(tmp_path), port), nprocs=2, start_method="fork")
    two = RunFolder.open(tmp_path / "two")
    alone, together = (run.read_log("metrics.jsonl")[-1] for run in (one, two))
    for line in (alone, together):
        del line["seconds"]
    assert together == pytest.approx(alone, rel=1e-5)
    weights = lessons.weights(two)
    for name, weight in lessons.weights(one).items():
        torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=1e-4)
