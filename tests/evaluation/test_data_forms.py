"""An evaluation takes a pair of data in every clear form and layout, with equal figures, ledger and fingerprint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import advreg
from advreg import ThreatModel
from advreg.errors import DataError

THREAT = ThreatModel("linf", 0.05)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4)).eval()


X = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = network()(X).argmax(1)
FORMS = {
    "arrays": (X.numpy(), Y.numpy()),
    "lists": (X.tolist(), Y.tolist()),
    "int32 labels": (X, Y.int()),
    "a column of labels": (X, Y[:, None]),
    "permuted NHWC": (X.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), Y),
    "channels last": (X.contiguous(memory_format=torch.channels_last), Y),
    "every second row": (torch.stack([X, X], 1).flatten(0, 1)[::2], torch.stack([Y, Y], 1).flatten()[::2]),
    "an array turned around": (np.ascontiguousarray(X.numpy()[:, :, ::-1])[:, :, ::-1], Y.numpy()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_figures_of_plain_tensors(form: str, tmp_path: Path) -> None:
    expected = advreg.evaluate(network(), (X, Y), threat=THREAT, protocol="quick", out=tmp_path / "plain")
    found = advreg.evaluate(network(), FORMS[form], threat=THREAT, protocol="quick", out=tmp_path / "other")
    assert torch.equal(found.broken, expected.broken)
    again = advreg.evaluate(network(), (X, Y), threat=THREAT, protocol="quick", out=tmp_path / "other")  # the same data
    assert again.forwards == found.forwards


def test_a_table_in_columns_is_evaluated_with_out(tmp_path: Path) -> None:
    model = nn.Linear(5, 3).eval()
    table = torch.rand(5, 12, generator=torch.Generator().manual_seed(2)).t()
    y = model(table).argmax(1)
    found = advreg.evaluate(model, (table, y), threat=THREAT, protocol="quick", out=tmp_path / "run")
    assert torch.equal(
        found.broken, advreg.evaluate(model, (table.contiguous(), y), threat=THREAT, protocol="quick").broken
    )


def test_an_expanded_tensor_is_evaluated_with_out(tmp_path: Path) -> None:
    x = X[:1].expand(6, -1, -1, -1)
    found = advreg.evaluate(network(), (x, Y[:1].expand(6)), threat=THREAT, protocol="quick", out=tmp_path / "run")
    assert found.n == 6


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X, Y[:5]), r"x \(20, 3, 8, 8\) and y \(5,\)"),
        ((X[:0], Y[:0]), "N at least 1"),
        (([], []), "N at least 1"),
        ((X, 3), r"y \(\)"),
        ((X, "labels"), "not numbers"),
        ((None, None), "not numbers"),
        ((X, torch.rand(20, 4).softmax(1)), "evaluations need labels"),
        ((X, Y[:, None].float()), "labels 0 to classes-1"),
        (((255 * X).byte(), Y), r"images.float\(\) / 255"),
        ((255 * X.numpy(), Y.numpy()), "divide images by 255"),
        ((X * 2 - 1, Y), r"advreg.normalized\(model, mean, std\)"),
        ([X, Y], "give a data set of advreg.load_data, or a pair"),
        ((X, Y, Y), "give a data set of advreg.load_data, or a pair"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "diagnose", "curve", "norms"])
def test_data_that_do_not_fit_raise_one_line(verb: str, data, words: str) -> None:
    call = {
        "evaluate": lambda: advreg.evaluate(network(), data, threat=THREAT),
        "diagnose": lambda: advreg.diagnose(network(), data, THREAT, quick=True),
        "curve": lambda: advreg.robustness_curve(network(), data, norm="linf", eps=[0.05]),
        "norms": lambda: advreg.minimum_norms(network(), data, norm="linf"),
    }[verb]
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_examples_that_exceed_the_memory_raise_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    data = advreg.Dataset.from_tensors(X, Y)
    monkeypatch.setattr("advreg.runtime.total_memory", lambda: 1000)
    with pytest.raises(DataError, match=r"20 examples of 3x8x8 need .* GB; give a smaller n"):
        advreg.evaluate(network(), data, threat=THREAT)
