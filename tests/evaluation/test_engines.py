"""Any engine, any number of workers, some of them killed: the ledger of one process, and hardly a pass more."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from advreg import ThreatModel, attacks, evaluate
from advreg.cli.app import app
from advreg.engines import engine_of
from advreg.engines.merge import find_shards, require_one_measurement
from advreg.errors import ConfigError, RunError
from advreg.evaluation import Protocol, ProtocolStage
from advreg.evaluation.shards import evaluate_shard, merge_shards
from advreg.runs import files
from advreg.version import __version__

N = 5 * 1024 + 100
THREAT = ThreatModel("linf", 0.05)
OWN = Protocol(
    "own",
    1,
    (
        ProtocolStage("pgd", partial(attacks.pgd, steps=2)),
        ProtocolStage("far", partial(attacks.pgd, steps=3), nearest=0.2),
    ),
)
PLACE = Path("evaluation/linf-0.05-own@1")
FILES = ("ledger.jsonl", "examples.safetensors")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def points(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(1))
    y = network()(x).argmax(1)
    y[::9] = (y[::9] + 1) % 3
    return x, y


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run folder of one process."""
    out = tmp_path_factory.mktemp("alone")
    evaluate(network(), points(), THREAT, protocol=OWN, out=out)
    return out


def without_times(file: Path) -> dict[str, Any]:
    record = json.loads(file.read_text())
    for attack in record["by_attack"]:
        attack.pop("seconds")
    return {key: value for key, value in record.items() if key not in ("seconds", "environment")}


def require_same(found: Path, expected: Path) -> None:
    for name in FILES:
        assert (found / PLACE / name).read_bytes() == (expected / PLACE / name).read_bytes(), name
    left, right = (without_times(run / PLACE / "results.json") for run in (found, expected))
    assert left == right


class LossyEngine:
    """Workers that take turns at random; a fifth of them are killed, each with the result that it is working on."""

    def __init__(self, workers: int, seed: int) -> None:
        self.workers, self.random, self.wasted = workers, random.Random(seed), 0

    def __call__(self, work, run_unit) -> Iterator[Any]:
        queue, lost, team = iter(work), [], {}
        deaths = set(self.random.sample(range(self.workers), max(1, self.workers // 5)))
        while True:
            for worker in set(range(self.workers)) - set(team):
                if item := lost.pop() if lost else next(queue, None):
                    team[worker] = (item[0], list(item[1]), run_unit(*item))
            if not team:
                return
            worker = self.random.choice(sorted(team))
            unit, done, results = team[worker]
            result = next(results, None)
            if result is None:
                del team[worker]
            elif worker in deaths and self.random.random() < 0.5:
                deaths.remove(worker)
                self.wasted += sum(row["forwards"] + row["backwards"] for row in result.rows)
                lost.append((unit, done))
                del team[worker]
            else:
                done.append(result)
                yield result


@pytest.mark.parametrize(("workers", "seed"), [(3, 1), (5, 2)])
def test_ledger_does_not_depend_on_the_workers(alone, tmp_path, workers, seed) -> None:
    engine = LossyEngine(workers, seed)
    found = evaluate(network(), points(), THREAT, protocol=OWN, out=tmp_path, engine=engine)
    require_same(tmp_path, alone)
    assert 0 < engine.wasted <= 0.02 * (found.forwards + found.backwards)


def test_processes_leave_the_ledger_of_one(tmp_path) -> None:
    """Real processes, one of which dies in the middle of a unit; the model and the attacks are pickled."""
    x, y = points(2100)
    own = Protocol("own", 1, (ProtocolStage("pgd", partial(dying_pgd, note=str(tmp_path / "died"))),))
    for out, engine in (("one", None), ("two", "local")):
        if engine is None:
            (tmp_path / "died").touch()
        else:
            (tmp_path / "died").unlink()
        evaluate(network(), (x, y), THREAT, protocol=own, out=tmp_path / out, engine=engine_of(engine))
    assert (tmp_path / "died").exists()
    require_same(tmp_path / "two", tmp_path / "one")


def dying_pgd(model, x, y, threat, *, seed, ids, note):
    """PGD that kills its process at example 1300 the first time."""
    if 1300 in ids.tolist() and not Path(note).exists():
        Path(note).touch()
        os._exit(9)
    return attacks.pgd(model, x, y, threat, steps=2, seed=seed, ids=ids)


def make_shards(out: Path, numbers: Sequence[int], count: int = 3, *, seed: int = 0, n: int = N) -> None:
    """Evaluate some shards, each in a folder of its own as on machines that share nothing."""
    for number in numbers:
        evaluate_shard(
            network(),
            points(n),
            THREAT,
            protocol=OWN,
            seed=seed,
            shard=f"{number}/{count}",
            out=out / str(number),
            command="advreg evaluate RUN --shard={shard}",
        )


def test_merged_shards_are_the_run_of_one_process(alone, tmp_path) -> None:
    make_shards(tmp_path / "parts", range(3))
    shards = find_shards([tmp_path / "parts"])
    require_one_measurement(shards)
    merge_shards(shards, tmp_path / "run")
    require_same(tmp_path / "run", alone)
    found = evaluate(network(), points(), THREAT, protocol=OWN, out=tmp_path / "run")  # nothing is left to do
    assert found.n == N
    require_same(tmp_path / "run", alone)


def merge(*parts: Path, out: Path) -> str:
    """Return what the command line says about these parts."""
    result = CliRunner().invoke(app, ["merge", *map(str, parts), "--out", str(out)])
    return f"{result.exit_code} {result.exception}"


def test_merge_reports_what_does_not_fit(tmp_path, monkeypatch) -> None:
    """Every line names the shard and the command that remedies it; nothing is written."""
    n = 2100
    parts = tmp_path / "parts"
    make_shards(parts, range(3), n=n)
    ledger = next(parts.rglob("ledger.1-of-3.jsonl"))
    own = ledger.read_bytes()

    def rejects(message: str, *paths: Path) -> None:
        assert re.search(message, merge(*(paths or (parts,)), out=tmp_path / "run")), merge(
            *paths, out=tmp_path / "run"
        )
        assert not list((tmp_path / "run").rglob("results.json"))

    rejects(r"shard 1/3 is missing \(and 1 more\); run: advreg evaluate RUN --shard=1/3", parts / "0")
    rejects("no ledger of a shard", tmp_path / "nothing")
    make_shards(tmp_path / "twice", [0], n=n)
    rejects("shard 0/3 is there twice", parts, tmp_path / "twice")
    make_shards(tmp_path / "other", [1], count=2, n=n)
    rejects("they overlap; merge parts of one number of shards", parts, tmp_path / "other")
    make_shards(tmp_path / "seed", [2], seed=1, n=n)
    rejects(
        "shard 2/3 .* made with seed 1, shard 0/3 with 0; remove it and run",
        parts / "0",
        parts / "1",
        tmp_path / "seed",
    )
    for old, new, message in (
        (b'"model": "', b'"model": "0', "shard 1/3 .* was made with model '0"),
        (f'"advreg": "{__version__}'.encode(), b'"advreg": "0.1', "was made with advreg '0.1"),
        (b'"data": "', b'"data": "0', "was made with data '0"),
    ):
        ledger.write_bytes(own.replace(old, new, 1))
        rejects(message)
    ledger.write_bytes(b"\n".join(own.splitlines()[:-9]) + b"\n")
    rejects(r"shard 1/3 is not finished \(examples 1024 to 2047\); run: advreg evaluate RUN --shard=1/3")
    ledger.write_bytes(own)
    assert merge(parts, out=tmp_path / "run").startswith("0")


def test_shard_resumes_after_a_full_disk(tmp_path, monkeypatch) -> None:
    """One node's disk is full: the line names the shard's file, and what was written counts."""
    make_shards(tmp_path / "whole", [1], n=2100)
    real, calls = files.append_lines, []

    def full(path: Path, records: object) -> None:
        calls.append(path)
        if len(calls) == 6:
            raise RunError(f"cannot append to {path}: No space left on device; choose a folder that can be written")
        real(path, records)

    monkeypatch.setattr("advreg.runs.ledger.append_lines", full)
    with pytest.raises(RunError, match=r"ledger\.1-of-3\.jsonl: No space left"):
        make_shards(tmp_path / "full", [1], n=2100)
    monkeypatch.undo()
    make_shards(tmp_path / "full", [1], n=2100)
    name = PLACE / "ledger.1-of-3.jsonl"
    assert (tmp_path / "full/1" / name).read_bytes() == (tmp_path / "whole/1" / name).read_bytes()


def test_worker_with_other_weights_or_version_is_rejected(tmp_path, monkeypatch) -> None:
    """The shard's own ledger says what it was made with."""
    make_shards(tmp_path, [1], n=2100)
    other = network()
    other[0].weight.data += 1
    options = {"protocol": OWN, "shard": "1/3", "out": tmp_path / "1"}
    with pytest.raises(RunError, match=r"ledger\.1-of-3\.jsonl belongs to model"):
        evaluate_shard(other, points(2100), THREAT, **options)
    monkeypatch.setattr("advreg.evaluation.journal.__version__", "0.0.1")
    with pytest.raises(RunError, match="belongs to advreg"):
        evaluate_shard(network(), points(2100), THREAT, **options)


def test_driver_that_dies_loses_one_batch(alone, tmp_path) -> None:
    def dying(work, run_unit):
        for k, result in enumerate(LossyEngine(5, 3)(work, run_unit)):
            if k == 40:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        evaluate(network(), points(), THREAT, protocol=OWN, out=tmp_path, engine=dying)
    evaluate(network(), points(), THREAT, protocol=OWN, out=tmp_path, engine=LossyEngine(5, 4))
    require_same(tmp_path, alone)


def test_shards_are_numbered_from_zero(tmp_path) -> None:
    for text, message in (("3/3", "numbered from 0: 0/3 to 2/3"), ("one", "write number/count"), ("0/0", "0/0")):
        with pytest.raises(ConfigError, match=message):
            evaluate_shard(network(), points(8), THREAT, shard=text, out=tmp_path)
