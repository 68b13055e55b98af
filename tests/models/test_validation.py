"""A model that cannot be measured is rejected with one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import advreg
from advreg.errors import ModelError
from advreg.models import check_model

X = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def _net(*after, classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes), *after).eval()


class _Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


def _half_trained():
    model = _net(nn.Dropout(0.5))
    model[2].train()
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_net().train(), "the model is in train mode.*model.eval()"),
        (_half_trained(), r"in train mode: 2 \(Dropout\); outputs then depend on the batch: call model.eval\(\)"),
        (_net(nn.Softmax(1)), "outputs probabilities; attacks need logits: drop the softmax"),
        (_net(nn.Sigmoid(), nn.Softmax(1)), "outputs probabilities"),
        (_net(classes=2), "has 2 classes, the data has 3"),
        (_net(classes=1), r"returns shape \(8, 1\)"),
        (_net().to("meta"), "the model is on meta, the inputs are on cpu"),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval(), "takes 3 channels, inputs .* have 1; .*channels=1"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).eval(), "cannot take inputs of shape .*RuntimeError"),
        (_Returns(lambda x: x.flatten(1)[:, :3] / 0).eval(), "NaN or infinity"),
        (_Returns(lambda x: x).eval(), r"returns shape \(8, 1, 4, 4\)"),
        (_Returns(lambda x: x.flatten(1)[:3]).eval(), r"returns shape \(3, 16\) for 8 inputs"),
        (_Returns(lambda x: (x,)).eval(), "returns tuple; it must return logits"),
        (torch.nn.functional.relu, "is a function; it must be a torch.nn.Module"),
    ],
)
def test_a_model_that_cannot_be_measured_is_rejected_in_one_line(model, message):
    with pytest.raises(ModelError, match=message) as caught:
        check_model(model, X, classes=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [_net(), _net(nn.LogSoftmax(1)), _net(nn.ReLU()), _net(classes=5)])
def test_logits_of_any_kind_pass(model):
    check_model(model, X, classes=3)
    check_model(model, X)


def test_the_zoo_passes_and_its_frozen_copies_too():
    x = torch.rand(2, 1, 28, 28)
    model = advreg.load_model("zoo:mnist-cnn")
    check_model(model, x, classes=10)
    check_model(advreg.freeze(model), x, classes=10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_another_floating_type_are_cast(dtype):
    assert check_model(_net().to(dtype), X) == 3
    assert check_model(_net(), X.to(dtype)) == 3
