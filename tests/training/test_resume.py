"""Law: an interrupted run, resumed, ends with the same bytes as one that was not - wherever it was interrupted."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

import advreg
from advreg.errors import RunError
from advreg.runs import folder
from advreg.trainer import events
from tests import processes
from tests.training import small

TIMES = ("seconds", "examples_per_second", "peak_memory")


def outcome(out: Path) -> tuple[bytes, bytes, list[dict[str, object]]]:
    """Return what must be equal: both sets of weights, and the metrics without times and events."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines if "event" not in line]
    return (out / "model.safetensors").read_bytes(), (out / "last.safetensors").read_bytes(), metrics


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    advreg.fit(small.config(data, out))
    return outcome(out)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def test_two_equal_runs_end_with_equal_bytes(data, tmp_path, uninterrupted):
    advreg.fit(small.config(data, tmp_path / "again"), on_event=lambda event: None)
    assert outcome(tmp_path / "again") == uninterrupted
    assert len(uninterrupted[2]) == 3


def test_another_seed_ends_elsewhere(data, tmp_path, uninterrupted):
    advreg.fit(small.config(data, tmp_path / "other", "seed=1"))
    assert outcome(tmp_path / "other")[0] != uninterrupted[0]


@pytest.mark.parametrize(("epoch", "step"), [(1, 3), (3, 2)])
def test_killed_in_the_middle_of_an_epoch(data, tmp_path, uninterrupted, epoch, step):
    out = tmp_path / "run"
    code = f"""
import os, signal, torch, advreg
from pathlib import Path
from tests.training import small
torch.set_num_threads(1)
def kill(event):
    if (getattr(event, "epoch", 0), getattr(event, "step", 0)) == ({epoch}, {step}):
        os.kill(os.getpid(), signal.SIGKILL)
advreg.fit(small.config(Path({str(data)!r}), Path({str(out)!r})), on_event=kill)
"""
    died = processes.run(code=code)
    assert died.returncode == -9
    assert not (out / "metrics.jsonl").exists() or len(outcome(out)[2]) == epoch - 1
    seen: list[events.Event] = []
    advreg.fit(out, resume=True, on_event=seen.append)
    assert outcome(out) == uninterrupted
    assert {event.epoch for event in seen if isinstance(event, events.Step)} == set(range(epoch, 4))


@pytest.mark.parametrize("write", range(12))
def test_killed_before_any_write(data, tmp_path, uninterrupted, monkeypatch, write):
    """A run of three epochs writes about that often: each write in its turn never happens, nor anything after it."""
    out, left = tmp_path / "run", iter(range(write))

    def counted(original):
        def call(*arguments):
            if next(left, None) is None:
                raise Killed
            return original(*arguments)

        return call

    configuration = small.config(data, out)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_atomic", counted(folder.write_atomic))
        patch.setattr(folder, "append_lines", counted(folder.append_lines))
        with pytest.raises(Killed):
            advreg.fit(configuration)
    begun = (out / "run.toml").exists()
    assert begun == (write > 2), "run.toml is written last of what a run starts with"
    if not begun and write:
        with pytest.raises(
            RunError, match=r"holds no run\.toml: it was stopped before it started; train without resuming"
        ):
            advreg.fit(configuration, resume=True)
    advreg.fit(configuration, resume=begun)
    assert outcome(out) == uninterrupted


def test_ctrl_c_during_a_step_loses_only_that_epoch(data, tmp_path, uninterrupted):
    def interrupt(event):
        if isinstance(event, events.Step) and event.epoch == 2:
            raise KeyboardInterrupt

    configuration = small.config(data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        advreg.fit(configuration, on_event=interrupt)
    run = advreg.fit(configuration, resume=True)
    assert outcome(run.path) == uninterrupted
    assert {"event": "resumed", "epoch": 1, "changed": {}} in run.read_log("metrics.jsonl")


def test_a_full_disk_leaves_what_one_can_go_on_with(data, tmp_path, uninterrupted, monkeypatch):
    left, sync = iter(range(15)), os.fsync

    def fill(descriptor):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    configuration = small.config(data, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(RunError, match="No space left on device") as error:
            advreg.fit(configuration)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert len(outcome(tmp_path / "run")[2]) == 1, "it was in the second epoch"
    advreg.fit(configuration, resume=True)
    assert outcome(tmp_path / "run") == uninterrupted


def test_moved_folder_can_be_resumed(data, tmp_path, uninterrupted):
    def stop(event):
        if isinstance(event, events.Checkpointed):
            raise Killed

    with pytest.raises(Killed):
        advreg.fit(small.config(data, tmp_path / "here"), on_event=stop)
    there = (tmp_path / "here").rename(tmp_path / "there")
    advreg.fit(there, resume=True)
    assert outcome(there) == uninterrupted


def test_finished_run_is_returned_as_it_is(data, tmp_path, uninterrupted):
    configuration = small.config(data, tmp_path / "run")
    advreg.fit(configuration)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    seen: list[events.Event] = []
    advreg.fit(configuration, resume=True, on_event=seen.append)
    assert outcome(tmp_path / "run") == uninterrupted
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert [type(event) for event in seen] == [events.Started, events.Finished]


def test_existing_run_is_rejected_and_untouched(data, tmp_path, uninterrupted):
    configuration = small.config(data, tmp_path / "run")
    advreg.fit(configuration)
    with pytest.raises(RunError, match="already holds a run"):
        advreg.fit(configuration)
    with pytest.raises(RunError, match="or resume the run in it"):
        advreg.fit(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


def test_resume_with_another_configuration_is_rejected(data, tmp_path):
    advreg.fit(small.config(data, tmp_path / "run", "train.epochs=1"))
    with pytest.raises(RunError, match=r"started with train\.epochs = 1, not 3"):
        advreg.fit(small.config(data, tmp_path / "run"), resume=True)
    with pytest.raises(RunError, match="no run folder"):
        advreg.fit(small.config(data, tmp_path / "absent"), resume=True)


def stopped_after_an_epoch(configuration):
    def stop(event):
        if isinstance(event, events.Checkpointed):
            raise Killed

    with pytest.raises(Killed):
        advreg.fit(configuration, on_event=stop)
    return configuration


def test_other_data_are_rejected(tmp_path):
    configuration = stopped_after_an_epoch(small.config(small.write_data(tmp_path / "small.npz"), tmp_path / "run"))
    small.write_data(tmp_path / "small.npz", n=130)
    with pytest.raises(
        RunError, match=r"was started with other data: npz:.* has changed since; restore the data"
    ) as error:
        advreg.fit(configuration, resume=True)
    assert "\n" not in str(error.value)
    small.write_data(tmp_path / "small.npz")
    advreg.fit(configuration, resume=True)


def test_a_run_from_before_data_were_written_down_goes_on(data, tmp_path, uninterrupted):
    configuration = stopped_after_an_epoch(small.config(data, tmp_path / "run"))
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "data"}))
    advreg.fit(configuration, resume=True)
    assert outcome(tmp_path / "run") == uninterrupted


def test_a_run_that_started_from_weights_goes_on_without_them(data, tmp_path):
    base = advreg.fit(small.config(data, tmp_path / "base", "train.epochs=1", "seed=1"))
    start = f"model.weights={base / 'model.safetensors'}"
    advreg.fit(small.config(data, tmp_path / "whole", start))
    configuration = stopped_after_an_epoch(small.config(data, tmp_path / "cut", start))
    (base / "model.safetensors").unlink()
    advreg.fit(configuration, resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_another_network_of_the_same_name_is_rejected(data, tmp_path, monkeypatch):
    configuration = stopped_after_an_epoch(small.config(data, tmp_path / "run"))
    network = small.network
    monkeypatch.setattr(small, "network", lambda: torch.nn.Sequential(*network(), torch.nn.Linear(3, 3)))
    message = r"checkpoint\.pt: '6\.weight' of tests.* was not there when the run began and is of shape \(3, 3\) now"
    with pytest.raises(RunError, match=message):
        advreg.fit(configuration, resume=True)


def test_a_tilde_is_the_home_folder(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = advreg.fit(small.config(data, Path("~/run"), "train.epochs=1"))
    assert run.path == tmp_path / "run"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert advreg.fit(small.config(data, Path("~/run"), "train.epochs=1"), resume=True).path == run.path
    assert advreg.fit("~/run", resume=True).path == run.path


def test_damaged_checkpoint_is_one_line(data, tmp_path):
    configuration = small.config(data, tmp_path / "run", "train.epochs=1")
    run = advreg.fit(configuration)
    whole = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        advreg.fit(configuration, resume=True)
