"""Law: an interrupted run, resumed, ends with the same bytes as one that was not - wherever it was interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from advreg.errors import RunError
from advreg.language.training.fit import fit_language
from advreg.runs import folder
from advreg.trainer.events import Checkpointed, Step
from tests import processes
from tests.language import lessons


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return lessons.write_data(tmp_path_factory.mktemp("texts"))


def outcome(out: Path) -> tuple[bytes, list[dict[str, object]]]:
    """Return what must be equal: the weights, and the metrics without their times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return (out / "adapter_model.safetensors").read_bytes(), [{**line, "seconds": 0} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    fit_language(lessons.config(data, out))
    return outcome(out)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def test_two_equal_runs_end_with_equal_bytes_and_another_seed_elsewhere(data, tmp_path, uninterrupted):
    fit_language(lessons.config(data, tmp_path / "again"))
    assert outcome(tmp_path / "again") == uninterrupted
    fit_language(lessons.config(data, tmp_path / "other", "seed=1"))
    assert outcome(tmp_path / "other")[0] != uninterrupted[0]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5])
def test_killed_by_the_system_in_the_middle_of_a_stretch(data, tmp_path, uninterrupted, step):
    out = tmp_path / "run"
    code = f"""
import os, signal, torch
from pathlib import Path
from advreg.language.training.fit import fit_language
from tests.language import lessons
torch.set_num_threads(1)
def kill(event):
    if type(event).__name__ == "Step" and event.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
fit_language(lessons.config(Path({str(data)!r}), Path({str(out)!r})), on_event=kill)
"""
    died = processes.run(code=code)
    assert died.returncode == -9
    fit_language(out, resume=True)
    assert outcome(out) == uninterrupted


@pytest.mark.parametrize("write", [0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 15])
def test_killed_before_any_write(data, tmp_path, uninterrupted, monkeypatch, write):
    """A run of three stretches writes about that often: a write never happens, nor anything after it."""
    out, left = tmp_path / "run", iter(range(write))

    def counted(original):
        def call(*arguments):
            if next(left, None) is None:
                raise Killed
            return original(*arguments)

        return call

    configuration = lessons.config(data, out)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_atomic", counted(folder.write_atomic))
        patch.setattr(folder, "append_lines", counted(folder.append_lines))
        with pytest.raises(Killed):
            fit_language(configuration)
    begun = (out / "language.toml").exists()
    assert begun == (write > 1), "language.toml is written last of what a run starts with"
    if not begun:
        for leftover in out.iterdir():
            leftover.unlink()
    seen: list[object] = []
    fit_language(configuration, resume=begun, on_event=seen.append)
    assert outcome(out) == uninterrupted
    written = (write - 2) // 4 * 2  # the checkpoint and what follows from it: four writes for two steps
    assert {event.step for event in seen if isinstance(event, Step)} <= set(range(max(0, written - 2) + 1, 7))


def test_a_moved_folder_can_be_resumed(data, tmp_path, uninterrupted):
    def stop(event):
        if isinstance(event, Checkpointed) and event.step == 4:
            raise Killed

    with pytest.raises(Killed):
        fit_language(lessons.config(data, tmp_path / "here"), on_event=stop)
    there = (tmp_path / "here").rename(tmp_path / "there")
    seen: list[object] = []
    fit_language(there, resume=True, on_event=seen.append)
    assert outcome(there) == uninterrupted
    assert [event.step for event in seen if isinstance(event, Step)] == [5, 6]


def test_a_finished_run_is_returned_as_it_is_and_another_one_refused(data, tmp_path, uninterrupted):
    configuration = lessons.config(data, tmp_path / "run")
    fit_language(configuration)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    seen: list[object] = []
    fit_language(configuration, resume=True, on_event=seen.append)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert [type(event).__name__ for event in seen] == ["Started", "Finished"]
    with pytest.raises(RunError, match=r"started with train\.lr = 0\.01, not 0\.02"):
        fit_language(configuration.replace_with(["train.lr=0.02"]), resume=True)
    with pytest.raises(RunError, match="no run folder"):
        fit_language(lessons.config(data, tmp_path / "absent"), resume=True)
    whole = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        fit_language(configuration, resume=True)
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]
