"""Laws of the loop that image and language training share: order of writes and events, failures, resumed runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from advreg.errors import RunError, TrainingError
from advreg.runs import RunFolder
from advreg.trainer import checkpoint, divergence, events
from advreg.trainer.events import Checkpointed, Failed, Finished, Started
from advreg.trainer.loop import run_rounds
from advreg.trainer.optimization import take_optimizer_step
from tests import processes


def rounds(first, last, log, *, fail_at=None):
    """Run a loop whose progress is a number, and log what it calls and emits."""

    def train_round(n):
        if n + 1 == fail_at:
            raise TrainingError("the loss is nan")
        log.append(f"train {n + 1}")
        return n + 1

    def commit(n):
        log.append(f"write {n}")
        return Checkpointed(n, last, 5, 5, {"epoch": n})

    return run_rounds(
        first,
        Started(Path("run"), last, 5, step=5 * first),
        lambda event: log.append(type(event).__name__),
        is_done=lambda n: n == last,
        train_round=train_round,
        commit=commit,
        finish=lambda n: Finished(last, n, 5, 5),
    )


def test_each_round_is_written_before_its_event_and_the_next():
    log = []
    assert rounds(0, 2, log) == 2
    assert log == [
        "Started", "train 1", "write 1", "Checkpointed", "train 2", "write 2", "Checkpointed", "Finished",
    ]  # fmt: skip


def test_a_complete_run_trains_and_writes_nothing():
    log = []
    assert rounds(2, 2, log) == 2
    assert log == ["Started", "Finished"]


def test_a_failed_round_is_not_written_and_is_reported():
    log = []
    with pytest.raises(TrainingError, match="the loss is nan"):
        rounds(0, 3, log, fail_at=2)
    assert log == ["Started", "train 1", "write 1", "Checkpointed", "Failed"]


def test_started_knows_whether_anything_is_left():
    assert Started(Path("run"), 2, 5, step=10).is_complete
    assert not Started(Path("run"), 2, 5, step=9).is_complete


def test_clipping_bounds_the_norm_over_all_weights():
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    take_optimizer_step(optimizer, lambda: sum(100 * w.sum() for w in weights).backward(), clip=0.5)
    assert torch.cat([w.detach() for w in weights]).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_gradients_of_the_last_step_do_not_add_up():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(3):
        take_optimizer_step(optimizer, lambda: weight.sum().backward())
    assert weight.item() == -3.0


def test_an_expected_infinity_is_no_divergence():
    tensors = {"mask": torch.tensor([-torch.inf]), "weight": torch.ones(1)}
    assert divergence.overflow(tensors) == "mask holds NaN or infinity"
    assert divergence.overflow(tensors, {"mask"}) is None
    assert divergence.nonfinite_loss(1.0) is None


@pytest.mark.parametrize("kill", ["checkpoint", "record"])
def test_a_kill_between_two_writes_is_made_up_for(tmp_path, kill):
    run, published = RunFolder.create(tmp_path / "run"), []
    records = [{"event": "guard", "epoch": 1, "step": 2, "trouble": "divergence"}, {"epoch": 1, "step": 5}]

    def publish(progress):
        published.append(progress)
        checkpoint.append_missing(run, records)

    checkpoint.commit_checkpoint(run, lambda: {"n": 1}, (lambda: None) if kill == "record" else lambda: publish(1))
    assert checkpoint.restore_checkpoint(run, (), lambda state: state["n"], publish) == 1
    assert run.read_log("metrics.jsonl") == records
    assert published[-1] == 1


def test_a_run_without_a_checkpoint_has_no_progress(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    assert checkpoint.restore_checkpoint(run, (), lambda state: state, lambda state: None) is None
    (run / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        checkpoint.restore_checkpoint(run, (), lambda state: state, lambda state: None)


OLD = [("averaging", "named"), ("schedules", "named"), ("loggers", "named"), ("events", "EpochEnd")]


@pytest.mark.parametrize(("module", "old"), OLD)
@pytest.mark.parametrize("how", ["from advreg.training import {0} as room", "import advreg.training.{0} as room"])
def test_an_old_home_and_name_warn_and_give_the_new(module, old, how):
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {how.format(module)}
    value = room.{old}
from advreg.trainer import averaging, events, loggers, schedules
new = {{"averaging": averaging, "schedules": schedules, "loggers": loggers, "events": events}}[{module!r}]
names = {{"averaging": "AVERAGES", "schedules": "SCHEDULES", "loggers": "LOGGERS"}}
assert value == (events.Checkpointed if {old!r} == "EpochEnd" else getattr(new, names[{module!r}]).build)
assert any("advreg.trainer" in str(each.message) for each in caught), caught
"""
    done = processes.run(code=code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("event", [Failed("why"), events.Guarded(1, 2, "divergence", "why", "none")])
def test_the_old_attribute_said_warns_and_reads_the_message(event):
    with pytest.warns(DeprecationWarning, match="said is now message"):
        assert event.said == "why"
