"""Accuracy under corruptions: counted on a model with known predictions, and independent of the batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advreg.attacks.corruptions import CORRUPTIONS, corrupt
from advreg.errors import DataError, ModelError
from advreg.evaluation import evaluate_corruptions


class BrightnessClassifier(nn.Module):
    """Class 1 where the mean pixel is above a half."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def grey(*values: float) -> tuple[Tensor, Tensor]:
    levels = torch.tensor(values)
    return levels[:, None, None, None].expand(-1, 1, 8, 8).clone(), (levels > 0.5).long()


def test_accuracy_falls_where_brightness_crosses_the_threshold() -> None:
    x, y = grey(0.05, 0.25, 0.45, 0.9)
    found = evaluate_corruptions(BrightnessClassifier().eval(), (x, y), corruptions=["brightness"])
    assert found.clean_accuracy == 1.0
    assert found.accuracy == {"brightness": (0.75, 0.75, 0.5, 0.5, 0.25)}  # it adds 0.1 to 0.5
    assert found.mean_accuracy == pytest.approx(0.55)


def test_forwards_are_counted() -> None:
    model = BrightnessClassifier().eval()
    found = evaluate_corruptions(model, grey(0.1, 0.9), corruptions=["fog", "contrast"], severities=[1, 4, 5])
    checked = 2  # the output is checked on the first examples
    assert found.forwards == 2 * (1 + 2 * 3) == model.calls - checked


def test_accuracy_is_that_of_the_corrupted_images() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    x, y = torch.rand(70, 1, 8, 8), torch.arange(70) % 3  # more than one batch
    found = evaluate_corruptions(net, (x, y), severities=[2], seed=5)
    assert list(found.accuracy) == list(CORRUPTIONS)
    for name, (accuracy,) in found.accuracy.items():
        assert accuracy == float((net(corrupt(x, name, 2, seed=5)).argmax(1) == y).double().mean())


def test_the_file_holds_every_figure(tmp_path: Path) -> None:
    model, progress = BrightnessClassifier().eval(), []
    found = evaluate_corruptions(
        model, grey(0.1, 0.9), severities=[3, 1], out=tmp_path, on_progress=lambda *at: progress.append(at)
    )
    record = json.loads((tmp_path / "corruptions.json").read_text())
    assert record == found.record()
    assert record["schema"] == "advreg/corruptions@1"
    assert record["severities"] == [1, 3]
    assert [row["name"] for row in record["corruptions"]] == list(CORRUPTIONS)
    assert all(len(row["accuracy"]) == 2 for row in record["corruptions"])
    assert progress[-1] == (found.forwards, found.forwards)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"corruptions": ["fogg"]}, "Did you mean 'fog'"),
        ({"severities": [0]}, "severity is 0; allowed: 1 to 5"),
        ({"corruptions": []}, "no corruption to measure"),
    ],
)
def test_unknown_corruptions_are_rejected(options: dict[str, list[str]], match: str) -> None:
    with pytest.raises(DataError, match=match):
        evaluate_corruptions(BrightnessClassifier().eval(), grey(0.1, 0.9), **options)


def test_inputs_that_are_no_images_and_train_mode_are_rejected() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.rand(4, 4), torch.tensor([0, 1, 0, 1])
    with pytest.raises(DataError, match="give images"):
        evaluate_corruptions(net.eval(), (x, y))
    with pytest.raises(ModelError, match="eval"):
        evaluate_corruptions(net.train(), (x.view(4, 1, 2, 2), y))
