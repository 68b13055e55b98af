"""Nothing written is lost: whole files, logs that survive a cut, one writer, a ledger that knows what it belongs to."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from advreg.errors import RunError
from advreg.runs import Ledger, RunFolder, files
from tests import processes

IDENTITY = {"model": "m1", "protocol": "linf-0.3-quick@2", "data": "d1"}


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


def test_existing_run_is_never_taken_over(run):
    RunFolder.create(run.path)  # still empty
    run.write("run.toml", "seed = 0\n")
    with pytest.raises(RunError, match=r"already holds a run \(run\.toml\); resume it"):
        RunFolder.create(run.path)
    assert run.read_text("run.toml") == "seed = 0\n"


def test_leftovers_alone_make_no_run(run):
    run.write("environment.json", "{}")
    RunFolder.create(run.path, leftovers=("environment.json", "model.json"))
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder.create(run.path)
    run.write("run.toml", "seed = 0\n")
    with pytest.raises(RunError, match=r"already holds a run \(run\.toml\)"):
        RunFolder.create(run.path, leftovers=("environment.json", "model.json"))


def test_absent_run_names_a_similar_one(run):
    with pytest.raises(RunError, match="Did you mean 'run'"):
        RunFolder.open(run.path.with_name("rum"))


def test_folder_in_place_of_a_file_is_rejected(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="cannot create"):
        RunFolder.create(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_unwritable_folder_is_rejected(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunError, match="cannot create"):
        RunFolder.create(tmp_path / "run")


def test_failed_write_leaves_the_old_file_whole(run, monkeypatch):
    run.write("results.json", "old")
    monkeypatch.setattr(files.os, "fsync", _disk_full)
    with pytest.raises(RunError, match="No space left on device"):
        run.write("results.json", "new")
    assert run.read_text("results.json") == "old"
    assert sorted(entry.name for entry in run.path.iterdir()) == [".lock", "results.json"]


def _disk_full(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_interrupted_write_leaves_the_old_file_whole(run, monkeypatch):
    run.write("results.json", "old")
    monkeypatch.setattr(files.os, "fsync", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.write("results.json", "new")
    assert run.read_text("results.json") == "old"


def _interrupt(_: int) -> None:
    raise KeyboardInterrupt


def test_written_file_has_the_permissions_of_any_new_file(run):
    (run / "plain").write_text("")
    assert run.write("careful", "").stat().st_mode == (run / "plain").stat().st_mode


@pytest.mark.parametrize("kept", range(1, 13))
def test_cut_line_is_left_out_and_then_replaced(run, kept):
    run.append("metrics.jsonl", {"epoch": 1})
    run.append("metrics.jsonl", {"epoch": 2})
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + kept])
    with pytest.warns(RuntimeWarning, match="cut by a crash"):
        assert run.read_log("metrics.jsonl") == [{"epoch": 1}]
    assert len(path.read_bytes()) == len(whole) // 2 + kept, "reading must not write: another process may be appending"
    run.append("metrics.jsonl", {"epoch": 2})
    assert path.read_bytes() == whole


def test_damaged_line_is_not_passed_over(run):
    run.write("metrics.jsonl", '{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl line 2"):
        run.read_log("metrics.jsonl")


def test_absent_log_is_empty(run):
    assert run.read_log("metrics.jsonl") == []


def test_non_json_numbers_are_rejected_before_writing(run):
    with pytest.raises(ValueError, match="JSON"):
        run.append("metrics.jsonl", {"loss": float("nan")})
    assert not (run / "metrics.jsonl").exists()


def test_damaged_or_missing_json_is_one_line(run):
    with pytest.raises(RunError, match="cannot read"):
        run.read_json("results.json")
    run.write("results.json", "[1]")
    with pytest.raises(RunError, match="not a JSON object"):
        run.read_json("results.json")


def test_moved_folder_still_works(run, tmp_path):
    run.append("metrics.jsonl", {"epoch": 1})
    run.write_json("evaluation/quick/results.json", {"n": 1})
    moved = RunFolder.open(run.path.rename(tmp_path / "elsewhere"))
    assert moved.read_log("metrics.jsonl") == [{"epoch": 1}]
    assert moved.read_json("evaluation/quick/results.json") == {"n": 1}


def test_saved_weights_are_the_model_and_nothing_else(run):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    loaded = load_file(run.save_model(model))
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    first = (run / "model.safetensors").read_bytes()
    run.save_model(model.to(memory_format=torch.contiguous_format))
    assert (run / "model.safetensors").read_bytes() == first, "bytes must not depend on the memory layout"


def test_shared_weights_can_be_saved(run):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert load_file(run.save_model(tied)).keys() == tied.state_dict().keys()


def test_second_process_is_kept_out(run):
    code = f"from advreg.runs import RunFolder\nwith RunFolder.open({str(run.path)!r}).lock(): pass"
    with run.lock():
        other = processes.run(code=code)
        assert "in use by another process" in other.stderr
    assert processes.run(code=code).returncode == 0


def test_sweep_removes_leftovers_of_a_kill_only(run):
    leftover, other = run / ".last.safetensors.123.tmp", run / ".report.html.123.tmp"
    for path in (leftover, other, run / "last.safetensors"):
        path.write_bytes(b"")
    files.remove_leftovers(run.path, ["last.safetensors"])
    assert not leftover.exists()
    assert other.exists()
    assert (run / "last.safetensors").exists()


def test_ledger_goes_on_from_its_rows(tmp_path):
    path = tmp_path / "evaluation" / "quick" / "ledger.jsonl"
    rows = [{"id": 0, "broken": True}, {"id": 1, "broken": False}]
    Ledger.open(path, **IDENTITY).append(rows[:1])
    again = Ledger.open(path, **IDENTITY)
    again.append(rows[1:])
    assert again.rows() == rows


@pytest.mark.parametrize("part", sorted(IDENTITY))
def test_ledger_of_another_run_is_rejected(tmp_path, part):
    path = tmp_path / "ledger.jsonl"
    Ledger.open(path, **IDENTITY).append([{"id": 0}])
    before = path.read_bytes()
    with pytest.raises(RunError, match=f"belongs to {part} '{IDENTITY[part]}', not to 'other'"):
        Ledger.open(path, **{**IDENTITY, part: "other"})
    assert path.read_bytes() == before


def test_file_that_is_no_ledger_is_rejected(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n')
    with pytest.raises(RunError, match="belongs to schema None"):
        Ledger.open(path, **IDENTITY)


def test_ledger_cut_in_its_first_line_starts_again(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"schema": "advreg/led')
    with pytest.warns(RuntimeWarning, match="cut by a crash"):
        ledger = Ledger.open(path, **IDENTITY)
    assert ledger.rows() == []
