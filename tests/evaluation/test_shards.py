"""Several processes share an evaluation: the ledger they leave is, byte for byte, the one that a single process writes."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from advreg import ThreatModel, attacks, evaluate
from advreg.distributed import Ranks
from advreg.errors import ConfigError
from advreg.evaluation import Protocol, ProtocolStage
from advreg.results.ledger_order import complete_order
from advreg.results.ledger_order import next_ids as next_of_table
from advreg.results.ledger_table import table_of
from tests import processes
from tests.attacks.models import small_cnn
from tests.evaluation.test_evaluate import batch
from tests.evaluation.test_model_probe import Stepped

ROOT = Path(__file__).resolve().parents[2]
NAME = "evaluation/linf-0.02-basic@2"

WORK = """
import sys
from advreg import ThreatModel, evaluate
from advreg.distributed import join_processes
from tests.evaluation.test_evaluate import batch
from tests.attacks.models import small_cnn

with join_processes() as ranks:
    calls = []
    def watch(at):
        calls.append(at)
        if sys.argv[2] == "die" and ranks.rank == 1 and len(calls) == 2:
            import os; os._exit(9)
    found = evaluate(small_cnn(), batch(1300), threat=ThreatModel("linf", 0.02), protocol="basic", out=sys.argv[1],
                     ranks=ranks, on_progress=watch)
    print(ranks.rank, found.robust_accuracy, found.forwards, found.backwards, flush=True)
"""


def launched(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the work under ``torchrun``."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n}", "--master-port=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    script = Path(arguments[0]).parent / "work.py"
    script.write_text(WORK)
    return subprocess.run(
        [*command, "--standalone", str(script), *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )


def test_shards_leave_the_bytes_of_one_process(tmp_path) -> None:
    alone = evaluate(small_cnn(), batch(1300), threat=ThreatModel("linf", 0.02), protocol="basic", out=tmp_path / "one")
    died = processes.run_ranks(tmp_path / "two", "die", code=WORK)
    assert died[1].returncode == 9, died[1].stderr
    done = launched(2, str(tmp_path / "two"), "finish")
    assert done.returncode == 0, done.stderr
    lines = {tuple(line.split()[1:]) for line in done.stdout.splitlines()}
    assert lines == {(str(alone.robust_accuracy), str(alone.forwards), str(alone.backwards))}
    for name in ("ledger.jsonl", "examples.safetensors"):
        assert (tmp_path / "two" / NAME / name).read_bytes() == (tmp_path / "one" / NAME / name).read_bytes(), name
    assert not list((tmp_path / "two" / NAME).glob("*.[0-9].jsonl"))
    left, right = (json.loads((tmp_path / run / NAME / "results.json").read_text()) for run in ("one", "two"))
    times = {"seconds", "by_attack", "environment"}
    assert {k: v for k, v in left.items() if k not in times} == {k: v for k, v in right.items() if k not in times}


def test_one_process_takes_up_what_several_left(tmp_path) -> None:
    """What two ranks wrote before they died is joined and gone on with, whoever comes next."""
    options = {"threat": ThreatModel("linf", 0.02), "protocol": "basic"}
    evaluate(small_cnn(), batch(600), out=tmp_path / "one", **options)
    folder, cut = tmp_path / "one" / NAME, tmp_path / "cut" / NAME
    cut.mkdir(parents=True)
    header, *rows = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    ours = [row for row in rows if json.loads(row)["id"] < 256 or json.loads(row)["id"] >= 512]
    theirs = [row for row in rows if 256 <= json.loads(row)["id"] < 512]
    (cut / "ledger.0.jsonl").write_text(header + "".join(ours[:300]))
    (cut / "ledger.1.jsonl").write_text(header + "".join(theirs[:-7]))
    evaluate(small_cnn(), batch(600), out=tmp_path / "cut", **options)
    assert (cut / "ledger.jsonl").read_bytes() == (folder / "ledger.jsonl").read_bytes()


def test_several_processes_need_a_folder() -> None:
    x, y = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ConfigError, match="2 processes share this evaluation; they need a folder"):
        evaluate(small_cnn(), (x, y), threat=ThreatModel("linf", 0.02), ranks=Ranks(0, 2))


def test_complete_rows_orders_and_deduplicates() -> None:
    def row(attack: str, i: int, broken: bool = False) -> dict[str, object]:
        return {"attack": attack, "id": i, "broken": broken, "margin": -1.0}

    clean = [row("clean", i, broken=i == 1) for i in range(4)]
    first = [row("a", i) for i in (0, 2, 3)]
    stages = [("clean", 1.0), ("a", 1.0), ("b", 1.0)]
    cut = [row("b", 0), row("b", 3)]  # the row of example 2 is missing
    rows = [*cut, *first, *clean, *first]
    order, finished = complete_order(table_of(rows), stages, 4)
    assert [rows[i] for i in order] == clean + first
    assert finished.tolist() == [False]
    order, finished = complete_order(table_of([*rows, row("b", 2)]), stages, 4)
    assert len(order) == 10
    assert finished.tolist() == [True]


def next_ids(past: list[dict[str, object]], stage: tuple[str, float], survivors: Sequence[int]) -> list[int]:
    return next_of_table(table_of(past), stage, np.array(list(survivors), np.int64)).tolist()


def test_attack_on_the_nearest_goes_on_at_a_fifth() -> None:
    past = [{"attack": "clean", "id": i, "broken": False, "margin": -float(i)} for i in range(40)]

    def tried(ids: range, broken: set[int]) -> list[dict[str, object]]:
        return [{"attack": "a", "id": i, "broken": i in broken, "margin": 0.0} for i in ids]

    stage = ("a", 0.2)
    assert next_ids(past, stage, range(40)) == list(range(8))
    assert next_ids(past + tried(range(8), {1}), stage, [0, *range(2, 40)]) == []
    left = [0, *range(3, 40)]
    assert next_ids(past + tried(range(8), {1, 2}), stage, left) == list(range(8, 16))  # as many again, of those behind
    assert next_ids(past + tried(range(16), {1, 2}), stage, left) == []
    assert next_ids(past + tried(range(38), set(range(38))), stage, [38, 39]) == [38, 39]
    assert next_ids(past + tried(range(40), set(range(40))), stage, []) == []


def test_an_attack_for_the_nearest_begins_with_four_at_least() -> None:
    past = [{"attack": "clean", "id": i, "broken": False, "margin": -float(i)} for i in range(10)]
    assert next_ids(past, ("a", 0.05), range(10)) == [0, 1, 2, 3]
    assert next_ids(past, ("a", 0.05), [7, 9]) == [7, 9]


def test_strong_breaks_masked_examples_far_from_the_boundary() -> None:
    """Margins say nothing where gradients are masked: the protocol must not stop at the nearest."""
    x, y = batch(120)
    options = {"threat": ThreatModel("linf", 0.1), "n": 120}
    square = ProtocolStage("square", functools.partial(attacks.square, queries=300))
    near = Protocol("near", 1, (ProtocolStage("pgd", attacks.pgd), dataclasses.replace(square, nearest=0.05)))
    far = Protocol("all", 1, (ProtocolStage("pgd", attacks.pgd), square))
    few, many = (evaluate(Stepped().eval(), (x, y), protocol=p, **options).robust_accuracy for p in (near, far))
    assert few <= many + 0.05
