"""A preprocessing stated once, in the terms of any library, gives the network of the closed form ``(x - mean) / std``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import advreg
from advreg.errors import ModelError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
EXPECTED = (X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Identity(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Scaler:
    """A fitted scaler as sklearn's: attributes that end with an underscore."""

    def __init__(self, **fitted: Any) -> None:
        vars(self).update(fitted)


SOURCES: dict[str, Any] = {
    "foolbox": {"mean": MEAN, "std": STD, "axis": -3},
    "foolbox array": {"mean": np.array(MEAN), "std": np.array(STD), "axis": -3},
    "timm configuration": {"input_size": (3, 224, 224), "mean": tuple(MEAN), "std": tuple(STD), "crop_pct": 0.9},
    "art": (MEAN, STD),
    "art arrays": (np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]),
    "art arrays of images": (
        np.zeros((3, 4, 4)) + np.array(MEAN)[:, None, None],
        np.ones((3, 4, 4)) * np.array(STD)[:, None, None],
    ),
    "torchvision": SimpleNamespace(mean=MEAN, std=STD, crop_size=[224]),
    "transformers": SimpleNamespace(image_mean=MEAN, image_std=STD, do_normalize=True, rescale_factor=1 / 255),
}


@pytest.mark.parametrize("source", SOURCES)
def test_preprocessing_of_other_libraries_is_the_closed_form(source: str) -> None:
    torch.testing.assert_close(advreg.normalized(Identity(), preprocessing=SOURCES[source])(X), EXPECTED)


def test_a_rescale_factor_changes_the_unit_of_mean_and_std() -> None:
    processor = SimpleNamespace(image_mean=[1.0] * 3, image_std=[1.0] * 3, do_normalize=True, rescale_factor=1 / 127.5)
    found = advreg.normalized(Identity(), preprocessing=processor)(X)
    torch.testing.assert_close(found, 2 * X - 1)


def test_a_processor_that_does_not_normalise_changes_nothing() -> None:
    processor = SimpleNamespace(image_mean=MEAN, image_std=STD, do_normalize=False)
    assert torch.equal(advreg.normalized(Identity(), preprocessing=processor)(X), X)


ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
CENTRE, SCALE, LEAST = np.array([1.0, 2, 3]), np.array([2.0, 4, 8]), np.array([0.5, 0, 1])
SCALERS: dict[str, tuple[Scaler, np.ndarray]] = {
    "standard": (Scaler(mean_=CENTRE, scale_=SCALE), (ROWS.numpy() - CENTRE) / SCALE),
    "robust": (Scaler(center_=CENTRE, scale_=SCALE), (ROWS.numpy() - CENTRE) / SCALE),
    "min-max": (Scaler(min_=LEAST, scale_=SCALE), ROWS.numpy() * SCALE + LEAST),
    "largest": (Scaler(scale_=SCALE), ROWS.numpy() / SCALE),
}


@pytest.mark.parametrize("scaler", SCALERS)
def test_a_fitted_scaler_comes_before_the_network(scaler: str) -> None:
    source, expected = SCALERS[scaler]
    found = advreg.normalized(Identity(), before=source)(ROWS)
    torch.testing.assert_close(found, torch.from_numpy(expected).float())


def test_scalers_of_sklearn_are_read() -> None:
    sklearn = pytest.importorskip("sklearn.preprocessing", reason="scikit-learn is not installed")
    rows = ROWS.double().numpy()
    for kind in (sklearn.StandardScaler, sklearn.MinMaxScaler, sklearn.RobustScaler, sklearn.MaxAbsScaler):
        scaler = kind().fit(rows)
        found = advreg.normalized(Identity(), before=scaler)(ROWS)
        torch.testing.assert_close(found, torch.from_numpy(scaler.transform(rows)).float(), rtol=1e-4, atol=1e-5)


def test_a_module_prepares_the_input_and_keeps_the_mode() -> None:
    model = advreg.normalized(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval(), before=nn.InstanceNorm2d(3).eval())
    assert not model.training
    assert model(X).shape == (2, 2)


def test_numbers_along_the_last_axis() -> None:
    found = advreg.normalized(Identity(), preprocessing={"mean": MEAN, "std": STD, "axis": -1})(X.permute(0, 2, 3, 1))
    torch.testing.assert_close(found, EXPECTED.permute(0, 2, 3, 1))


def test_signals_are_normalised_by_channel() -> None:
    found = advreg.normalized(Identity(), MEAN, STD)(X.flatten(2))
    torch.testing.assert_close(found, EXPECTED.flatten(2))


def test_the_configuration_of_a_timm_network_is_read() -> None:
    net = Identity()
    net.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 4, 4)}  # type: ignore[assignment]
    torch.testing.assert_close(advreg.normalized(net)(X), EXPECTED)


def test_the_processor_stored_beside_a_transformers_network_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra language is missing")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD, "do_normalize": True, "rescale_factor": 1 / 255})
    )
    net = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    x = torch.rand(2, 3, 8, 8)
    shifted = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        expected = net(shifted).logits
        torch.testing.assert_close(advreg.normalized(net)(x), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "carries no preprocessing of timm or transformers"),
        ({"mean": MEAN}, "go together"),
        ({"mean": MEAN, "std": STD, "before": nn.Identity()}, "prepared twice"),
        ({"preprocessing": {"flip_axis": -3, "mean": MEAN}}, "flips an axis"),
        ({"preprocessing": {"size": 3}}, "the preprocessing holds size"),
        ({"preprocessing": object()}, "object without mean and std"),
        ({"before": Scaler(components_=np.eye(3))}, "Scaler without mean and std"),
        ({"mean": MEAN, "std": [0.0, 1.0, 1.0]}, "std positive"),
    ],
)
def test_preprocessing_that_is_none_raises_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        advreg.normalized(Identity(), **options)
    assert "\n" not in str(caught.value)
