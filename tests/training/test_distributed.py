"""Law: two processes train what one would at the same batch size, and one of them writes.

The gradient of a batch is a sum that two processes add up in another order: float32 rounds each term to 6e-8 of itself, and
21 steps let that grow to 2e-6 of a weight (measured). 1e-4 leaves room for other kernels; weight perturbations in
which parts of 8 and 7 examples counted alike moved weights by 4e-3.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import advreg
from advreg.attacks import craft
from advreg.data import Batches, Dataset
from advreg.training.loss_module import RecipeLoss
from tests import processes
from tests.training import small

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
SAME = ["model.name=tests.training.small:smooth", "train.batch_size=15", "train.guard_every=2"]

WORKER = """
import os, signal, sys, torch, advreg
from pathlib import Path
from advreg.training import epoch
from tests.training import small

torch.set_num_threads(1)
data, out, deadly, *changes = sys.argv[1:]
rank, taken, take_step, validate = os.environ["RANK"], [], epoch.take_step, epoch.validate

def counted(*arguments):
    taken.append(1)
    if (rank, len(taken)) == ("1", int(deadly)):
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(*arguments)

def measured(kept, *arguments):
    torch.save(kept.state_dict(), Path(out, f"kept-{rank}"))
    return validate(kept, *arguments)

epoch.take_step, epoch.validate = counted, measured
seen = []
advreg.fit(small.config(Path(data), Path(out), *changes), on_event=seen.append)
Path(out, f"events-{rank}").write_text(str(len(seen)))
names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").glob("*")]
Path(out, f"threads-{rank}").write_text("".join(name for name in names if "gloo" in name))
"""


def together(data, out, *changes, deadly=0):
    """Run two processes, of which one dies before step ``deadly``; return the first that failed, else the first."""
    group = processes.run_ranks(data, out, deadly, *changes, code=WORKER)
    return next((child for child in group if child.returncode), group[0])


def compare(one, two):
    """Hold metrics and weights of two runs to the tolerance."""
    lines = [[line for line in run.read_log("metrics.jsonl") if "event" not in line] for run in (one, two)]
    assert len(lines[0]) == len(lines[1])
    for a, b in zip(*lines, strict=True):
        for key in ("loss", "train_accuracy", "lr", "clean_accuracy", "robust_accuracy"):
            assert a[key] == pytest.approx(b[key], rel=TOLERANCE), key
        assert a["step"] == b["step"]
    for name in ("model.safetensors", "last.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        assert all(torch.allclose(a[key], b[key], rtol=TOLERANCE, atol=TOLERANCE) for key in a)


@pytest.mark.parametrize(
    "extra",
    [["train.accumulate=2", "average.name=ema", "policy.name=iaat"], ["train.awp=0.01"]],
    ids=["accumulate-ema-iaat", "awp"],
)
def test_two_processes_train_what_one_would(data, tmp_path, extra):
    one = advreg.fit(small.config(data, tmp_path / "one", *SAME, *extra))
    done = together(data, tmp_path / "two", *SAME, *extra)
    assert done.returncode == 0, done.stderr[-3000:]
    compare(one, advreg.RunFolder.open(tmp_path / "two"))
    assert [int((tmp_path / "two" / f"events-{rank}").read_text()) > 0 for rank in (0, 1)] == [True, False]
    outlived = [(tmp_path / "two" / f"threads-{rank}").read_text() for rank in (0, 1)]
    assert outlived == ["", ""], "a thread of the group that outlives the interpreter aborts the process"
    assert not list((tmp_path / "two").glob(".*.tmp"))


def test_all_processes_measure_the_same_average(data, tmp_path):
    """Each saw its own part of every batch, and so other statistics in its BatchNorms."""
    done = together(data, tmp_path / "run", "average.name=ema", "train.epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "run" / f"kept-{rank}", weights_only=True) for rank in (0, 1))
    assert any("running_mean" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_process_leaves_what_one_can_go_on_with(data, tmp_path):
    whole = advreg.fit(small.config(data, tmp_path / "whole", *SAME))
    died = together(data, tmp_path / "cut", *SAME, deadly=10)
    assert died.returncode != 0
    assert not (tmp_path / "cut" / "events-0").exists()
    run = advreg.fit(small.config(data, tmp_path / "cut", *SAME), resume=True)
    assert {"event": "resumed", "epoch": 1, "changed": {}} in run.read_log("metrics.jsonl")
    compare(whole, run)


@pytest.mark.parametrize(("n", "batch_size", "world"), [(20, 7, 2), (9, 4, 3), (5, 4, 2), (7, 3, 4)])
def test_parts_of_a_batch_make_the_batch(n, batch_size, world):
    dataset = Dataset.from_tensors(torch.rand(n, 1, 2, 2), torch.arange(n) % 3)
    whole = list(Batches(dataset, batch_size, seed=0).epoch(1))
    parts = [list(Batches(dataset, batch_size, seed=0, part=(rank, world)).epoch(1)) for rank in range(world)]
    for k, batch in enumerate(whole):
        mine = [part[k] for part in parts]
        ids = torch.cat([part.ids for part in mine if part.weight])
        assert torch.equal(ids, batch.ids)
        mean = sum(part.weight * part.ids.double().mean() for part in mine) / world
        assert float(mean) == pytest.approx(float(batch.ids.double().mean()))


@pytest.fixture
def alone_together(tmp_path):
    """A group of one process, so that the reducer can be watched without others."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_the_attack_stays_outside_the_reducer(alone_together):
    """The wrapper is asked once a step, however many steps the attack takes; the network, as often as the attack asks."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    queried = {"wrapper": 0, "network": 0, "reduced": 0}
    wrapped = DistributedDataParallel(RecipeLoss(network, advreg.recipes.madry()))
    wrapped.register_forward_hook(lambda *_: queried.__setitem__("wrapper", queried["wrapper"] + 1))
    network.register_forward_hook(lambda *_: queried.__setitem__("network", queried["network"] + 1))

    def reduced(state, bucket):
        queried["reduced"] += 1
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrapped.register_comm_hook(None, reduced)
    x, y = torch.rand(6, 1, 2, 2), torch.arange(6) % 3
    loss, _ = wrapped(x, y, lambda *a, **k: craft(*a, steps=5, **k), advreg.ThreatModel("linf", 0.1))
    assert queried == {"wrapper": 1, "network": 6, "reduced": 0}, (
        "no gradient was reduced before the loss's own backward"
    )
    loss.backward()
    assert queried["reduced"] == 1
