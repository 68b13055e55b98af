"""The command line on other tasks: figures printed, a report with masks, and one line for what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advreg.cli.diagnose import DiagnoseOptions, run_diagnose
from advreg.cli.evaluate import EvaluateOptions, run_evaluate
from advreg.data import load_targets
from advreg.errors import AdvregError

MODULE = """
import torch
def net():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 3, 3, padding=1).eval()
def mask():
    return (torch.rand(4, 3, 8, 8), torch.zeros(4, 8, 8).long()), (torch.rand(4, 3, 8, 8), torch.zeros(4, 8, 8).long())
def task():
    from advreg import tasks
    return tasks.pixels(ignore=0)
def wrong():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "scenes_module.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (20, 8, 8))
    np.savez(tmp_path / "scenes.npz", x=rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), y=masks)
    return tmp_path


def options(**changes: object) -> EvaluateOptions:
    shared = {"model": "scenes_module:net", "data": "npz:scenes.npz", "threat": "linf:8/255", "device": "cpu"}
    return EvaluateOptions(**{**shared, "task": "pixels", "protocol": "basic", **changes})  # type: ignore[arg-type]


def test_a_segmentation_has_a_report_with_masks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluate(options(out=folder / "run"))
    printed = capsys.readouterr().out
    assert "pixels-linf-0.0313725-basic@1" in printed
    assert "miou: clean" in printed
    page = (folder / "run" / "report.html").read_text()
    assert "Score under attack" in page
    assert "Attacked scenes" in page
    assert "predicted under attack of example" in page


def test_a_factory_gives_data_and_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AdvregError, match="no pixel but those of class 0"):
        run_evaluate(options(data="scenes_module:mask", task="scenes_module:task"))
    run_evaluate(options(data="scenes_module:mask"))
    assert "4 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "pixel"}, "allowed: classes"),
        ({"task": "scenes_module:wrong"}, "return an advreg.Task"),
        ({"data": "mnist", "n": 4}, "takes 3 channels"),
        ({"corruptions": "fog"}, "corruptions and distances are for classes"),
        ({"data": "npz:missing.npz"}, "no file"),
    ],
)
def test_what_does_not_fit_is_one_line(folder: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(AdvregError) as caught:
        run_evaluate(options(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_targets_keep_their_shape_and_split(folder: Path) -> None:
    train, test = load_targets("npz:scenes.npz")
    assert (len(train) + len(test), train.labels.shape[1:], test.labels.shape[1:]) == (20, (8, 8), (8, 8))
    assert train.span[1] <= 1.0


def test_a_diagnosis_of_a_task_says_what_it_skips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_diagnose(
        DiagnoseOptions("scenes_module:net", "npz:scenes.npz", "linf:8/255", n=4, task="pixels", out=folder / "run")
    )
    printed = capsys.readouterr().out
    assert "pixels-linf-0.0313725-quick@1 reports" in printed
    assert "for classes" in (folder / "run" / "diagnosis.json").read_text()
